"""The shop behind the gateway: what the edge keeps, and that nobody sees what a sale or an editor has changed."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from blackfriday.acts import prices
from blackfriday.acts.edge import Meter
from blackfriday.acts.prices import PriceChanges

pytestmark = pytest.mark.asyncio(loop_scope="session")


def told(answer: httpx2.Response) -> str:
    """The first word that the edge says of an answer; empty where it was not asked."""
    return answer.headers.get("cache-status", "").removeprefix("tenfold; ").partition(";")[0]


async def shelve(world: Any, product: int, stock: int) -> None:
    await world.connection.execute("UPDATE product SET stock = $2, initial_stock = $2 WHERE id = $1", product, stock)
    async with world.client("edge") as client:
        await client.post("/internal/clear")


async def buy(client: httpx2.AsyncClient, product: int, key: str) -> str:
    assert (await client.post("/cart/items", json={"product_id": product})).status_code == 201
    answer = await client.post("/checkout", headers={"Idempotency-Key": key})
    assert answer.status_code == 201
    order: str = answer.json()["order_id"]
    return order


async def test_public_pages_are_kept_and_own_data_is_not(world: Any) -> None:
    async with world.client("edge", customer=3) as client:
        for path in ("/products/7", "/products?sort=price", "/categories/1/products", "/search?q=lamp"):
            answers = [await client.get(path) for _ in range(2)]
            assert [told(answer) for answer in answers] == ["fwd=uri-miss", "hit"], path
            assert answers[0].content == answers[1].content
            assert answers[1].headers["cache-control"] == "public, max-age=0, s-maxage=30"
            assert "surrogate-key" not in answers[1].headers
        order = await buy(client, 4, "an-order-of-three")
        for path in ("/cart", f"/orders/{order}"):
            for answer in [await client.get(path) for _ in range(2)]:
                assert told(answer) == ""
                assert answer.headers["cache-control"] == "private, no-store"


async def test_own_data_is_private_by_whatever_route_it_comes(world: Any) -> None:
    async with httpx2.AsyncClient(base_url=world.shops["edge"].direct, trust_env=False) as client:
        answer = await client.get("/cart", headers={"X-Customer": "3"})
        assert answer.headers["cache-control"] == "private, no-store"
        assert (await client.get("/products/7")).headers["surrogate-key"] == "product:7"


async def test_a_sale_that_was_answered_is_on_the_next_page(world: Any) -> None:
    product = 11
    await shelve(world, product, 1000)
    answered = 0
    stale: list[tuple[int, int]] = []

    async def buyer(number: int) -> None:
        nonlocal answered
        async with world.client("edge", customer=20 + number) as client:
            for turn in range(6):
                await buy(client, product, f"sale-{number}-{turn}")
                answered += 1

    async def reader(running: asyncio.Event) -> None:
        async with world.client("edge") as client:
            while not running.is_set():
                least = answered
                stock = (await client.get(f"/products/{product}")).json()["stock"]
                if stock > 1000 - least:
                    stale.append((stock, least))

    over = asyncio.Event()
    readers = [asyncio.create_task(reader(over)) for _ in range(4)]
    try:
        await asyncio.gather(*map(buyer, range(4)))
    finally:
        over.set()
        await asyncio.gather(*readers)
    assert stale == []
    async with world.client("edge") as client:
        assert (await client.get(f"/products/{product}")).json()["stock"] == 1000 - 24


async def test_a_list_is_purged_when_its_word_changes_and_not_before(world: Any) -> None:
    async with world.client("edge", customer=40) as client:
        listed = (await client.get("/products?sort=price")).json()["items"][2]["id"]
        await shelve(world, listed, 7)
        await client.get("/products?sort=price")
        await buy(client, listed, "seven-to-six")
        assert told(await client.get("/products?sort=price")) == "hit"
        await buy(client, listed, "six-to-five")
        answer = await client.get("/products?sort=price")
        assert told(answer) == "fwd=uri-miss"
        assert answer.json()["items"][2]["availability"] == "low"


async def test_an_editors_change_is_everywhere(world: Any) -> None:
    async with world.client("edge") as client:
        items = (await client.get("/products?sort=newest")).json()["items"]
        product, price = items[0]["id"], items[0]["price_cents"]
        for _ in range(2):
            await client.get(f"/products/{product}")
        await world.connection.execute("UPDATE product SET price_cents = $2 WHERE id = $1", product, price + 1)
        try:
            await world.caught_up()
            await world.shops["edge"].edited(product)
            assert (await client.get(f"/products/{product}")).json()["price_cents"] == price + 1
            async with asyncio.timeout(5):  # the other worker is told in passing, and purged again after a second
                while (await client.get("/products?sort=newest")).json()["items"][0]["price_cents"] == price:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
        finally:
            await world.connection.execute("UPDATE product SET price_cents = $2 WHERE id = $1", product, price)
            await world.caught_up()
            await world.shops["edge"].edited(product)


async def test_a_gateway_that_takes_no_purges_loses_no_order(world: Any) -> None:
    shop = world.shops["edge"]
    before = (await shop.stats())["purge_failures"]
    headers = {"X-Customer": "41"}
    async with httpx2.AsyncClient(base_url=shop.direct, headers=headers, timeout=20, trust_env=False) as client:
        os.kill(shop.gate.pid, signal.SIGSTOP)
        try:
            await buy(client, 12, "while-it-is-frozen")
        finally:
            os.kill(shop.gate.pid, signal.SIGCONT)
    # A settler that was faster than this checkout tells of its sale too.
    assert (await shop.stats())["purge_failures"] > before


async def test_the_counters_of_the_edge_are_told_and_the_token_is_asked_for(world: Any) -> None:
    gate = world.shops["edge"].gate
    async with world.client("edge") as client:
        before = await gate.stats()
        for _ in range(3):
            await client.get("/products/13")
        after = await gate.stats()
    assert (after["misses"] - before["misses"], after["hits"] - before["hits"]) == (1, 2)
    async with httpx2.AsyncClient(base_url=gate.admin, trust_env=False) as stranger:
        assert (await stranger.post("/v1/purge", json={"all": True})).status_code == 401


@pytest.mark.parametrize("told_of", [True, False])
async def test_the_watcher_of_prices_sees_what_the_edge_was_not_told(
    world: Any, monkeypatch: pytest.MonkeyPatch, told_of: bool
) -> None:
    monkeypatch.setattr(prices, "WATCHED", 0.2)
    monkeypatch.setattr(prices, "BETWEEN", 0.0)
    shop = world.shops["edge"]
    if not told_of:
        monkeypatch.setattr(shop, "edited", lambda product: asyncio.sleep(0))
    async with world.client("edge") as client:
        for product in prices.PRODUCTS:
            await client.get(f"/products/{product}")
    stage = SimpleNamespace(connection=world.connection, servers=world.topology)
    try:
        async with PriceChanges(stage, shop, begin=0.0) as watched:  # type: ignore[arg-type] # all that it uses
            pass
    finally:
        await world.connection.execute("UPDATE product SET price_cents = price_cents - 1 WHERE id <= 3")
        await world.caught_up()
    found = watched.told()
    assert found.changes == 3
    assert found.reads > 0
    if told_of:
        assert found.late < found.reads  # one worker may hear late, for one of the products
    else:
        assert found.late == found.reads
    assert found.kept  # late or not, it was not later than promised


async def test_the_meter_counts_what_the_edge_answered_and_what_the_workers_did(world: Any) -> None:
    shop = world.shops["edge"]
    async with Meter(shop) as meter, world.client("edge") as client:
        for _ in range(4):
            await client.get("/products/17")
        await client.get("/products/18")
        await client.get("/cart", headers={"X-Customer": "3"})
    assert (meter.edge["hits"], meter.edge["misses"], meter.edge["requests"]) == (3, 2, 6)
    assert meter.reads == 2
    assert meter.told(6, 0.001).requests == 6
