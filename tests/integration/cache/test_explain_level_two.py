"""`explain` over a real Valkey: what level 2 has, why it would not serve, and that it is down."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tenfold.cache import Cache


class Process:
    def __init__(self, url: str, kind: type = dict) -> None:
        self.cache = cache = Cache("shop", redis=url, timeout="1s")
        self.go = asyncio.Event()
        self.go.set()

        async def product(number: int) -> Any:
            await self.go.wait()
            return {"number": number}

        product.__annotations__["return"] = kind
        self.product: Any = cache("1m", tags=["product:{number}", "catalog"], name="product")(product)


async def test_the_states_of_a_record(valkey: Any, until: Any) -> None:
    one, two = Process(valkey.url), Process(valkey.url)
    async with one.cache, two.cache:
        key = one.product.key(7)
        told = await two.cache.explain(key)
        assert (told.outcome, told.level2.partition(":")[0]) == ("miss", "not there")

        one.go.clear()
        loading = asyncio.create_task(one.product(7))
        await until(lambda: one.cache.stats().loads == 1)
        told = await two.cache.explain(key)
        assert told.outcome == "miss"
        assert told.level2.startswith("no value, but a lease")
        assert (await one.cache.explain(key)).outcome == "loading"
        one.go.set()
        await loading

        told = await two.cache.explain(key)
        assert told.outcome == "level2"
        assert told.level2.startswith("there, ")
        assert told.left is not None
        assert 50 < told.left <= 60
        assert (await one.cache.explain(key)).outcome == "memory"

        heard = two.cache.stats().remote_invalidations
        await one.cache.invalidate_tags("catalog")
        await until(lambda: two.cache.stats().remote_invalidations > heard)
        told = await two.cache.explain(key)
        assert told.outcome == "miss"
        assert told.level2 == "a value that no longer counts: tag 'catalog' invalidated"
        assert told.invalidated is not None  # it heard of it
        assert told.invalidated[0] == "tag 'catalog'"

        await two.product(8)  # makes a new nonce for the tag
        told = await two.cache.explain(key)
        assert told.level2.startswith("a value that no longer counts: one of its tags was invalidated")


class Other(msgspec.Struct):
    name: str


async def test_a_value_of_another_type_cannot_be_read(valkey: Any) -> None:
    one, two = Process(valkey.url), Process(valkey.url, Other)
    async with one.cache, two.cache:
        await one.product(7)
        before = two.cache.stats().undecodable
        told = await two.cache.explain(two.product.key(7))
        assert told.outcome == "miss"
        assert told.level2.startswith("a value that this program cannot read (")
        assert two.cache.stats().undecodable == before


async def test_down(valkey: Any) -> None:
    one = Process(valkey.url)
    async with one.cache:
        await one.product(7)
        await valkey.close()
        told = await one.cache.explain(one.product.key(8))
        assert told.level2.startswith("down: did")
        told = await one.cache.explain(one.product.key(8))
        assert told.level2.startswith("down: does not answer")
        assert (await one.cache.explain(one.product.key(7))).outcome == "memory"
