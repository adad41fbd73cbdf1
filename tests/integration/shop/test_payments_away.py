"""The payment service is frozen: checkouts go on without it, and the money is collected when it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
import pytest_asyncio

from blackfriday.domain import Scale, load
from blackfriday.payment import Behaviour
from blackfriday.shop import PaymentProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRY = 0.4  # seconds that one try of the shop's policy may take
WITHIN = 20.0


async def checkout(client: httpx2.AsyncClient, customer: int) -> tuple[str, float]:
    """The status of a new order, and the seconds that its answer took."""
    me = {"X-Customer": str(customer)}
    added = await client.post("/cart/items", json={"product_id": customer, "quantity": 1}, headers=me)
    assert added.status_code == 201
    began = time.monotonic()
    answer = await client.post("/checkout", headers={"Idempotency-Key": f"payments-away-{customer}", **me})
    assert answer.status_code == 201, answer.text
    return answer.json()["status"], time.monotonic() - began


@pytest_asyncio.fixture(loop_scope="session")
async def alone(world: Any) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """A database of its own: the cashiers of the other shops would collect this one's money."""
    await world.connection.execute("CREATE DATABASE payments_away")
    url = world.database.rpartition("/")[0] + "/payments_away"
    connection = await asyncpg.connect(url)
    try:
        await load(connection, Scale(products=100, customers=100))
        yield url, connection
    finally:
        await connection.close()
        await world.connection.execute("DROP DATABASE payments_away WITH (FORCE)")


async def unpaid(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM orders WHERE status <> 'paid'")
    return found


async def test_checkouts_are_pending_while_payments_are_frozen_and_paid_once_afterwards(
    world: Any, alone: tuple[str, asyncpg.Connection]
) -> None:
    database, connection = alone
    async with (
        PaymentProcess(Behaviour.prompt()) as payment,
        world.shop(variant="tuned", rung="shapes", payment=payment.url, database=database, replicas=[]) as shop,
        httpx2.AsyncClient(base_url=shop.url, timeout=20, trust_env=False) as client,
    ):
        assert (await checkout(client, 1))[0] == "paid"
        async with payment.frozen():
            found = [await checkout(client, customer) for customer in range(2, 14)]
            browsed = await client.get("/products/1")
        assert browsed.status_code == 200
        assert {status for status, _ in found} == {"payment_pending"}
        # The first ones wait for tries that time out; then the breaker is open and nobody waits for anything.
        assert max(seconds for _, seconds in found[:2]) > TRY
        assert max(seconds for _, seconds in found[-6:]) < TRY
        async with asyncio.timeout(WITHIN):
            while await unpaid(connection):  # noqa: ASYNC110 - the database cannot call
                await asyncio.sleep(0.05)
        same = "SELECT count(*) FROM payment p JOIN orders o ON o.id = p.order_id WHERE p.amount_cents = o.total_cents"
        assert await connection.fetchval(same) == await connection.fetchval("SELECT count(*) FROM payment") == 13
        async with asyncio.timeout(WITHIN):  # and, the breaker closed again, the next one is paid at once
            customer = 20
            while (await checkout(client, customer))[0] != "paid":
                customer += 1
