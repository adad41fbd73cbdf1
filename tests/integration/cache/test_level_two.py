"""Two caches on one Valkey, as two processes: what one stores the other finds, what one invalidates is gone
for both.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import redis.asyncio

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache


@dataclass
class Product:
    id: int
    name: str
    price: Decimal
    since: dt.datetime


class Sheet(msgspec.Struct):
    body: bytes
    tags: tuple[str, ...]


PRODUCT = Product(7, "Kettle", Decimal("12.30"), dt.datetime(2026, 11, 22, tzinfo=dt.UTC))


@asynccontextmanager
async def pair(url: str, **options: Any) -> AsyncIterator[tuple[Cache, Cache]]:
    options.setdefault("timeout", "2s")  # slowness is not what these tests are about
    async with Cache("shop", redis=url, **options) as one, Cache("shop", redis=url, **options) as other:
        yield one, other


async def test_values_keep_their_types(valkey: Any) -> None:
    async with pair(valkey.url) as (one, other):
        for value, kind in [
            (PRODUCT, Product),
            (Sheet(b"\x00\xff", ("a",)), Sheet),
            ({"1": [1, 2.5, None, True]}, Any),
            (None, Product | None),
            (b"raw \x00 bytes", bytes),
            (b"", bytes),
            ((1, "a"), tuple[int, str]),
        ]:
            key = f"k:{value!r}"

            async def load(value: Any = value) -> Any:
                return value

            async def fail() -> Any:
                raise AssertionError("the value was not shared")

            await one.get_or_load(key, load, kind=kind)
            found = await other.get_or_load(key, fail, kind=kind)
            assert found == value
            assert type(found) is type(value)
        assert other.stats().l2_hits == 7


async def test_what_level_two_cannot_carry_is_refused(valkey: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="2s") as cache:

        async def load() -> object:
            return object()

        with pytest.raises(MisuseError, match=r"k: expected a result that MessagePack can carry, got object"):
            await cache.get_or_load("k", load)


async def test_a_copy_never_outlives_the_original(valkey: Any) -> None:
    async with pair(valkey.url, jitter=0) as (one, other):

        async def load() -> int:
            return 1

        await one.get_or_load("k", load, ttl="10s")
        client = redis.asyncio.Redis.from_url(valkey.url)
        await client.pexpire("tenfold:1:shop:e:k", 3000)
        record = await client.get("tenfold:1:shop:e:k")
        seconds, microseconds = await client.time()
        expiry = seconds * 1000 + microseconds // 1000 + 2000
        await client.set("tenfold:1:shop:e:k", record[:9] + str(expiry).encode() + record[22:], px=2000)
        await client.aclose()
        await other.get_or_load("k", load, ttl="10s")
        left = other._memory._index["k"].until - other._shared.clock.monotonic()
        assert 0 < left <= 2.01


async def test_an_undecodable_record_is_a_miss_and_is_replaced(valkey: Any) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with pair(valkey.url) as (one, other):

        async def load() -> int:
            return 1

        await one.get_or_load("k", load, kind=int)
        assert await other.get_or_load("k", load, kind=int) == 1
        record = await client.get("tenfold:1:shop:e:k")
        for number, garbage in enumerate(
            [b"\x09" + record[1:], record[:-1] + b"\xc1", record[:24], b"", b"\x00abc"]
        ):
            await client.set("tenfold:1:shop:e:k", garbage)
            async with Cache("shop", redis=valkey.url, timeout="2s") as third:
                assert await third.get_or_load("k", load, kind=int) == 1, number
                assert third.stats().loads == 1, number
            async with Cache("shop", redis=valkey.url, timeout="2s") as fourth:
                assert await fourth.get_or_load("k", load, kind=int) == 1
                assert fourth.stats().l2_hits == 1, number
            if number != 2:
                assert third.stats().undecodable == 1, number
        await client.set("tenfold:1:shop:e:k2", b"x")
        await client.delete("tenfold:1:shop:e:k")
        await client.lpush("tenfold:1:shop:e:k", b"a list")  # another program's key of our name
        async with Cache("shop", redis=valkey.url, timeout="2s") as fifth:
            assert await fifth.get_or_load("k", load, kind=int) == 1
    await client.aclose()


async def test_one_turn_of_the_loop_is_one_mget(valkey: Any) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with pair(valkey.url) as (one, other):
        for cache in (one, other):

            @cache("1m", name="number", tags=["all"])
            async def number(n: int) -> int:
                return n

            await client.config_resetstat()
            assert await asyncio.gather(*[number(n) for n in range(100)]) == list(range(100))
        stats = await client.info("commandstats")
        assert stats["cmdstat_mget"]["calls"] == 1
        assert other.stats().l2_hits == 100
        assert other.stats().loads == 0
    await client.aclose()


async def test_invalidation_reaches_the_other_processes_copy(valkey: Any, until: Any) -> None:
    async with pair(valkey.url) as (one, other):
        value = 1

        def declare(cache: Cache) -> Any:
            @cache("1m", tags=["p:{a}"], name="f")
            async def f(a: int) -> int:
                return value

            return f

        f, g = declare(one), declare(other)
        for round_, invalidate in enumerate(
            [lambda: f.invalidate(1), lambda: one.invalidate_tags("p:1"), one.clear], 1
        ):
            assert await f(1) == await g(1) == value
            value += 1
            assert await invalidate() is True
            assert await f(1) == value
            await until(lambda round_=round_: other.stats().remote_invalidations == round_)
            assert await g(1) == value
        value += 1
        assert await f.refresh(1) == value
        await until(lambda: other.stats().remote_invalidations == 4)
        assert await g(1) == value
        assert other.stats().loads == 0


async def test_many_takes_from_level_two_what_it_can(valkey: Any, until: Any) -> None:
    async with pair(valkey.url) as (one, other):
        asked: list[list[int]] = []

        def declare(cache: Cache) -> Any:
            @cache.many("1m", name="products", tags=["p:{id}"])
            async def products(ids: list[int]) -> dict[int, Product]:
                asked.append(ids)
                return {one: PRODUCT for one in ids if one < 100}

            return products

        f, g = declare(one), declare(other)
        assert await f([1, 2, 100]) == {1: PRODUCT, 2: PRODUCT}
        assert await g([1, 2, 3]) == {1: PRODUCT, 2: PRODUCT, 3: PRODUCT}
        await one.invalidate_tags("p:1")
        await until(lambda: other.stats().remote_invalidations == 1)
        assert await g([3, 2, 1]) == {3: PRODUCT, 2: PRODUCT, 1: PRODUCT}
        assert asked == [[1, 2, 100], [3], [1]]


async def test_eviction_and_flush_count_as_invalidation(valkey: Any) -> None:
    """Whatever Valkey forgets, no older value comes back: tags whose nonce is gone take their entries with
    them.
    """
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with pair(valkey.url) as (one, other):
        calls = 0

        async def load() -> int:
            nonlocal calls
            calls += 1
            return calls

        assert await one.get_or_load("k", load, tags=["t"]) == 1
        await client.delete("tenfold:1:shop:t:t")
        assert await other.get_or_load("k", load, tags=["t"]) == 2
        await client.flushall()
        async with Cache("shop", redis=valkey.url, timeout="2s") as third:
            assert await third.get_or_load("k", load, tags=["t"]) == 3
    await client.aclose()


async def test_names_separate_caches(valkey: Any) -> None:
    async with (
        Cache("a", redis=valkey.url, timeout="2s") as one,
        Cache("b", redis=valkey.url, timeout="2s") as other,
    ):

        async def first() -> int:
            return 1

        async def second() -> int:
            return 2

        assert await one.get_or_load("k", first) == 1
        assert await other.get_or_load("k", second) == 2
        await one.clear()
        assert await other.get_or_load("k", first) == 2


def test_two_event_loops_one_after_another(valkey_sync: Any) -> None:
    cache = Cache("shop", redis=valkey_sync, timeout="2s")
    calls = 0

    @cache("1m")
    async def f() -> int:
        nonlocal calls
        calls += 1
        return calls

    async def use() -> int:
        async with cache:
            return await f()

    assert asyncio.run(use()) == asyncio.run(use()) == 1
