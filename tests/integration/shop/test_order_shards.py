"""Orders on shards and stock on the primary: nothing is lost, sold twice or left over, whoever dies in between."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx2
import pytest

from blackfriday.domain import audit
from blackfriday.tuned import sql
from blackfriday.tuned.replicated import named
from tenfold.db import create_async_cluster
from tenfold.db.shards import ShardMap, snowflake_parts

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOT = 2
WITHIN = 20.0
SHARDED: dict[str, Any] = {"variant": "tuned", "rung": "replicas", "warm": 0}


def buyer(shop: Any, customer: int, **options: Any) -> httpx2.AsyncClient:
    headers = {"X-Customer": str(customer)}
    return httpx2.AsyncClient(base_url=shop.url, headers=headers, timeout=WITHIN, trust_env=False, **options)


async def fill(shop: Any, customers: range, product: int) -> None:
    for customer in customers:
        async with buyer(shop, customer) as client:
            assert (await client.post("/cart/items", json={"product_id": product})).status_code == 201


async def checkout(shop: Any, customer: int, key: str) -> httpx2.Response:
    async with buyer(shop, customer) as client:
        return await client.post("/checkout", headers={"Idempotency-Key": key})


async def stock(world: Any, product: int) -> int:
    found: int = await world.connection.fetchval("SELECT stock FROM product WHERE id = $1", product)
    return found


async def reserved(world: Any) -> int:
    found: int = await world.connection.fetchval("SELECT count(*) FROM reservation")
    return found


async def counted(shops: list[Any], name: str, wanted: int) -> None:
    """Wait until these shops together have counted so many: any worker on these databases may settle."""
    async with asyncio.timeout(WITHIN):
        while (found := sum([(await shop.stats())[name] for shop in shops])) != wanted:
            assert found < wanted
            await asyncio.sleep(0.02)


@asynccontextmanager
async def no_new_orders(world: Any) -> AsyncIterator[None]:
    """While the block runs the shards answer reads, and let nobody insert an order's lines."""
    holding = [await asyncpg.connect(shard.url) for shard in world.topology.shards]
    try:
        for connection in holding:
            await connection.execute("BEGIN; LOCK TABLE order_line IN SHARE MODE")
        yield
    finally:
        for connection in holding:
            await connection.close()


async def test_an_order_lies_on_its_customers_shard_under_an_id_that_no_database_made(world: Any) -> None:
    shop = world.shops["edge"]
    told: dict[int, str] = {}
    await fill(shop, range(1, 41), 5)
    for customer in range(1, 41):
        answer = await checkout(shop, customer, f"on-its-shard-{customer}")
        assert answer.status_code == 201
        told[customer] = answer.json()["order_id"]
    names = [f"orders{place}" for place, _ in enumerate(world.order_shards, start=1)]
    where = ShardMap.hash(names)
    for name, shard in zip(names, world.order_shards, strict=True):
        rows = await shard.fetch("SELECT id, customer_id FROM orders")
        assert {row["customer_id"] for row in rows} == {one for one in told if where.shard_of(one) == name}
        assert all(told[row["customer_id"]] == str(row["id"]) for row in rows)
        assert await shard.fetchval("SELECT count(*) FROM order_line") == len(rows) > 0
    workers = {snowflake_parts(int(order))[1] for order in told.values()}
    assert 1 <= len(workers) <= shop.workers
    assert await world.connection.fetchval("SELECT count(*) FROM orders") == 0
    found = await world.audit(told.values())
    assert found.clean
    assert found.stored == sum(found.spread) == 40
    assert min(found.spread) > 0


async def test_the_cluster_knows_the_shops_reads_from_its_writes(world: Any) -> None:
    reads = ("NEWEST", "CHEAPEST", "CATEGORY", "SEARCH", "DETAILS", "CART", "ORDER", "NAMES")
    writes = ("CART_ADD", "CHECKOUT", "RESERVE", "SETTLED", "UNDO", "PAID")
    async with create_async_cluster(world.database, world.replicas) as cluster:
        await cluster.router.refresh()
        where = {name: cluster.explain_route(named(getattr(sql, name))) for name in (*reads, *writes)}
    assert {name for name, found in where.items() if found.to == "replica"} == set(reads), where


@pytest.mark.parametrize("kind", ["replicas", "edge"])
async def test_a_customer_reads_the_own_cart_and_order_from_a_replica(world: Any, kind: str) -> None:
    """Each request on a connection of its own; the cookie alone carries what was written."""
    shop, turns = world.shops[kind], 20
    before = await shop.stats()
    async with buyer(shop, 21, limits=httpx2.Limits(max_keepalive_connections=0)) as client:
        for turn in range(turns):
            added = await client.post("/cart/items", json={"product_id": turn + 1})
            assert "tenfold_causality" in added.cookies
            cart = await client.get("/cart")
            assert [line["product_id"] for line in cart.json()["items"]] == [turn + 1]
            assert "set-cookie" not in cart.headers, "who writes nothing gets no token"
            answer = await client.post("/checkout", headers={"Idempotency-Key": f"own-reads-{kind}-{turn}"})
            order = await client.get(f"/orders/{answer.json()['order_id']}")
            assert order.json()["status"] == answer.json()["status"] == "paid"
            assert (await client.get("/cart")).json()["items"] == []
    after = await shop.stats()
    read = after["token_reads"] - before["token_reads"]
    assert read >= 0.6 * 3 * turns
    assert after["replica_reads"] - before["replica_reads"] >= read


async def test_a_replica_that_has_stopped_replaying_is_not_asked_for_a_cart(world: Any) -> None:
    shop, replica = world.shops["edge"], world.topology.replicas[0]
    await replica.pause_replay()
    try:
        before = await shop.stats()
        async with buyer(shop, 22) as client:
            for product in range(1, 6):
                await client.post("/cart/items", json={"product_id": product})
                cart = await client.get("/cart")
                assert len(cart.json()["items"]) == product
        after = await shop.stats()
        assert after["primary_reads"] - before["primary_reads"] == 5
        assert after["token_reads"] == before["token_reads"]
    finally:
        await replica.resume_replay()
        await world.caught_up()


async def test_workers_killed_between_reservation_and_order_lose_nothing(world: Any) -> None:
    """The goods are reserved, the orders are not written, and all workers die. Others write them, once."""
    before = await stock(world, HOT)
    others = world.shops["edge"]
    settled = (await others.stats())["reservations_finished"]
    customers = range(1, 9)
    async with world.shop(**SHARDED) as shop:
        await fill(shop, customers, HOT)
        async with no_new_orders(world):
            waiting = [asyncio.create_task(checkout(shop, one, f"killed-between-{one}")) for one in customers]
            async with asyncio.timeout(WITHIN):
                while await reserved(world) < len(customers):  # noqa: ASYNC110 - the database cannot call
                    await asyncio.sleep(0.01)
            os.killpg(shop.pid, signal.SIGKILL)
            answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert not [answer for answer in answers if isinstance(answer, httpx2.Response) and answer.status_code == 201]
    assert await reserved(world) == len(customers)
    assert await stock(world, HOT) == before - len(customers)
    # The audit sees it: goods are gone and no order has them.
    found = await audit(world.connection, [], world.order_shards)
    assert (found.leaked, found.stored, found.clean) == (len(customers), 0, False)

    async with world.shop(**SHARDED) as shop:
        # One asks again at once, and is not made to wait for the settler.
        again = await checkout(shop, 3, "killed-between-3")
        assert again.status_code == 201
        found = await world.audit([again.json()["order_id"]])
        assert found.clean
        assert found.stored == len(customers)
        await counted([shop, others], "reservations_finished", settled + len(customers))
        for customer in customers:
            told = await checkout(shop, customer, f"killed-between-{customer}")
            assert told.status_code == 201
        assert (await world.audit([])).stored == len(customers)
        assert await stock(world, HOT) == before - len(customers)


@pytest.mark.slow
async def test_a_checkout_whose_shard_is_away_says_so_and_stands_when_it_is_back(world: Any) -> None:
    before = await stock(world, HOT)
    async with world.shop(**SHARDED) as shop:
        await fill(shop, range(9, 10), HOT)
        async with no_new_orders(world):
            refused = await checkout(shop, 9, "shard-away-9")
        assert refused.status_code == 503
        assert "Idempotency-Key" in refused.json()["detail"]
        found = await world.audit([])
        assert found.clean
        assert found.stored == 1
        answer = await checkout(shop, 9, "shard-away-9")
        assert answer.status_code == 201
        assert (await world.audit([answer.json()["order_id"]])).stored == 1
        assert await stock(world, HOT) == before - 1


async def test_of_two_reservations_of_one_key_one_is_undone(world: Any) -> None:
    """The second has passed the look for the key before the first was stored: made by hand, for it takes two at once
    and a cart that is filled between them.
    """
    before = await stock(world, HOT)
    others = world.shops["edge"]
    undone = (await others.stats())["reservations_undone"]
    async with world.shop(**SHARDED) as shop:
        await fill(shop, range(10, 11), HOT)
        first = (await checkout(shop, 10, "twice-reserved")).json()["order_id"]
        await world.audit([first])  # settled
        await world.connection.execute(
            "WITH taken AS (UPDATE product SET stock = stock - 2 WHERE id = $1 RETURNING id, price_cents) "
            "INSERT INTO reservation (order_id, customer_id, idempotency_key, products, quantities, prices, "
            "total_cents, made_at) SELECT 77, 10, 'twice-reserved', ARRAY[id], ARRAY[2], ARRAY[price_cents], "
            "2 * price_cents, now() - interval '1 minute' FROM taken",
            HOT,
        )
        found = await world.audit([first])
        assert found.clean
        assert found.stored == 1
        assert await stock(world, HOT) == before - 1
        await counted([shop, others], "reservations_undone", undone + 1)
        await world.caught_up()
        async with buyer(shop, 10) as client:
            cart = (await client.get("/cart")).json()["items"]
        assert [(line["product_id"], line["quantity"]) for line in cart] == [(HOT, 2)]


@pytest.mark.slow
async def test_workers_killed_at_random_while_customers_buy(world: Any) -> None:
    """Whatever was acknowledged is stored, every key has one order at most, and the shelves agree."""
    draw = random.Random(7)
    told: dict[str, str] = {}
    statuses: Counter[int] = Counter()

    async def shopper(shop: Any, customer: int, life: int) -> None:
        for turn in range(1000):
            key = f"random-kill-{life}-{customer}-{turn}"
            try:
                async with buyer(shop, customer) as client:
                    await client.post("/cart/items", json={"product_id": draw.randrange(1, 6)})
                    answer = await client.post("/checkout", headers={"Idempotency-Key": key})
            except httpx2.HTTPError:
                return  # killed
            statuses[answer.status_code] += 1
            if answer.status_code == 201:
                told[key] = answer.json()["order_id"]

    for life in range(3):
        async with world.shop(**SHARDED, workers=2) as shop:
            buying = [asyncio.create_task(shopper(shop, customer, life)) for customer in range(1, 13)]
            wanted = len(told) + draw.randrange(3, 40)
            async with asyncio.timeout(WITHIN):
                while len(told) < wanted:  # noqa: ASYNC110 - any moment will do, once customers buy
                    await asyncio.sleep(0.005)
            os.killpg(shop.pid, signal.SIGKILL)
            await asyncio.gather(*buying)
    async with world.shop(**SHARDED):
        found = await world.audit(told.values())
    assert found.clean, found
    assert found.stored >= len(told) >= 9
    assert set(statuses) <= {201, 409}
