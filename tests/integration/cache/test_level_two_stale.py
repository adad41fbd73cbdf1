"""Level 2 keeps values for their stale time too: another process, or this one after a restart, serves them at once and
refreshes them in the background. Real clocks, a real Valkey: states are waited for, not slept for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import redis.asyncio

from tenfold.cache import Cache, load_context

QUIET = "1h"


class Origin:
    def __init__(self) -> None:
        self.loads = 0
        self.broken = False
        self.etags: list[str | None] = []
        self.go = asyncio.Event()
        self.go.set()

    async def load(self) -> int:
        self.loads += 1
        number = self.loads
        ctx = load_context()
        self.etags.append(ctx.etag)
        await self.go.wait()
        if self.broken:
            raise ConnectionError("down")
        ctx.etag = f"v{number}"
        return number


def process(url: str, origin: Origin, ttl: str = QUIET, **options: Any) -> tuple[Cache, Any]:
    cache = Cache("shop", redis=url, timeout="2s", jitter=0)

    @cache(ttl, name="f", tags=["t"], **options)
    async def f() -> int:
        return await origin.load()

    return cache, f


async def put_back(server: Any, seconds: float) -> None:
    """Make the one record of the server that much older."""
    client = redis.asyncio.Redis.from_url(server.url)
    key = b"tenfold:1:shop:e:f()"
    record = await client.get(key)
    expiry = int(record[9:22]) - int(seconds * 1000)
    await client.set(key, record[:9] + b"%013d" % expiry + record[22:], keepttl=True)
    await client.aclose()


async def life_of(server: Any, name: str) -> float:
    client = redis.asyncio.Redis.from_url(server.url)
    left = await client.pttl(f"tenfold:1:shop:{name}")
    await client.aclose()
    return left / 1000


async def test_another_process_serves_it_stale_and_refreshes_it(valkey: Any, until: Any) -> None:
    origin = Origin()
    first, f = process(valkey.url, origin, stale="2h")
    async with first:
        assert await f() == 1
        assert 2.9 * 3600 < await life_of(valkey, "e:f()") <= 3 * 3600
        assert await life_of(valkey, "t:t") > 3 * 3600  # the tag outlives the value, else it would end it
    await put_back(valkey, 3700)
    second, g = process(valkey.url, origin, stale="2h")
    async with second:
        origin.go.clear()
        assert await asyncio.gather(*[g() for _ in range(5)]) == [1] * 5  # nobody waits for the loader
        await until(lambda: origin.loads == 2)
        assert await g() == 1
        origin.go.set()
        await until(lambda: second._homes._engines and not second.engine()._flights)
        assert await g() == 2
        stats = second.stats()
        assert (stats.refreshes, stats.misses, stats.stale_hits) == (1, 0, 2)
        assert origin.etags == [None, "v1"]  # the etag travelled with the value
    third, h = process(valkey.url, origin, stale="2h")
    async with third:
        assert await h() == 2
        assert third.stats().l2_hits == 1
    assert origin.loads == 2


async def test_a_process_whose_own_copy_is_stale_takes_what_another_has_loaded(valkey: Any, until: Any) -> None:
    origin = Origin()
    (first, f), (second, g) = process(valkey.url, origin, stale="2h"), process(valkey.url, origin, stale="2h")
    async with first, second:
        assert (await f(), await g()) == (1, 1)
        entry = second._memory._index["f()"]
        entry.life.fresh_until -= 3700
        entry.until = entry.life.until
        # As if `first` had refreshed on its own: a newer record in level 2, and no message of it.
        await put_back(valkey, -3700)
        assert await g() == 1
        await until(lambda: not second.engine()._flights)
        assert (origin.loads, second.stats().refreshes, second.stats().loads) == (1, 1, 0)
        assert await g() == 1
        assert second.stats().hits == 1


async def test_an_invalidation_ends_stale_values_in_level_two(valkey: Any) -> None:
    origin = Origin()
    first, f = process(valkey.url, origin, stale="2h")
    async with first:
        assert await f() == 1
        await put_back(valkey, 3700)
        assert await first.invalidate_tags("t")
    origin.broken = True
    second, g = process(valkey.url, origin, stale="2h")
    async with second:
        (error,) = await asyncio.gather(g(), return_exceptions=True)
        assert isinstance(error, ConnectionError)


async def test_a_failing_loader_is_covered_by_level_two(valkey: Any, until: Any) -> None:
    origin = Origin()
    first, f = process(valkey.url, origin, stale="2h", soft_timeout="5s")
    async with first:
        assert await f() == 1
    await put_back(valkey, 3700)
    origin.broken = True
    second, g = process(valkey.url, origin, stale="2h", soft_timeout="5s")
    async with second:
        assert await asyncio.gather(*[g() for _ in range(20)]) == [1] * 20
        assert origin.loads == 2
        assert second.stats().stale_rescues == 20
        assert await g() == 1  # the loader rests
        assert origin.loads == 2


async def test_an_eager_refresh_loads_though_level_two_still_has_the_value(valkey: Any, until: Any) -> None:
    origin = Origin()
    cache, f = process(valkey.url, origin, eager=0.5)
    async with cache:
        assert await f() == 1
        entry = cache._memory._index["f()"]
        entry.life.eager_at = entry.until = 0.0
        assert await f() == 1
        await until(lambda: not cache.engine()._flights)
        assert await f() == 2
    second, g = process(valkey.url, origin, eager=0.5)
    async with second:
        assert await g() == 2


async def test_a_stale_record_is_a_miss_to_who_declares_no_stale_time(valkey: Any) -> None:
    origin = Origin()
    for options in ({}, {"memory": False}):
        first, f = process(valkey.url, origin, stale="2h")
        async with first:
            await f.refresh()
        await put_back(valkey, 3700)
        before = origin.loads
        second, g = process(valkey.url, origin, **options)
        async with second:
            assert await g() == before + 1
            assert await g() == before + 1


async def test_late_tags_are_kept_in_level_one_alone(valkey: Any) -> None:
    cache = Cache("shop", redis=valkey.url, timeout="2s")
    loads = 0

    @cache("1h", name="f")
    async def f() -> int:
        nonlocal loads
        loads += 1
        if loads > 1:
            load_context().tags = ["late"]
        return loads

    async with cache:
        assert await f() == 1
        assert await f.refresh() == 2
        assert await f() == 2
        assert await life_of(valkey, "e:f()") < 0  # neither the new value nor the one before it
        await cache.invalidate_tags("late")
        assert await f() == 3


async def test_a_value_that_is_not_to_be_kept_leaves_no_older_one_behind(valkey: Any) -> None:
    cache = Cache("shop", redis=valkey.url, timeout="2s")
    answers = iter(["here", None, None])

    @cache("1h", name="f", none_ttl=0)
    async def f() -> str | None:
        return next(answers)

    async with cache:
        assert await f() == "here"
        assert await f.refresh() is None
        assert await f() is None


async def age(caches: list[Cache], server: Any) -> None:
    """Every copy is stale from now on, in all processes and in level 2."""
    for cache in caches:
        entry = cache._memory._index["f()"]
        entry.life.fresh_until -= 3700
        entry.until = entry.life.fresh_until
    await put_back(server, 3700)


def queued(caches: list[Cache]) -> int:
    return sum(len(cache.level2().settlements) for cache in caches)


def at_rest(caches: list[Cache]) -> bool:
    return not any(cache.engine()._flights for cache in caches)


@asynccontextmanager
async def four(server: Any, origin: Origin) -> AsyncIterator[tuple[list[Cache], list[Any]]]:
    made = [process(server.url, origin, stale="2h") for _ in range(4)]
    async with AsyncExitStack() as stack:
        for cache, f in made:
            await stack.enter_async_context(cache)
            assert await f() == 1
        stack.callback(origin.go.set)
        yield [cache for cache, _ in made], [f for _, f in made]


async def test_one_process_refreshes_for_all(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with four(valkey, origin) as (caches, functions):
        await age(caches, valkey)
        origin.go.clear()
        for f in functions:
            assert await asyncio.gather(*[f() for _ in range(10)]) == [1] * 10
        await until(lambda: queued(caches) == 3)
        assert origin.loads == 2
        assert [await f() for f in functions] == [1] * 4  # those who wait for their turn serve the old value
        origin.go.set()
        await until(lambda: at_rest(caches))
        assert [await f() for f in functions] == [2] * 4
        assert origin.loads == 2
        assert [cache.stats().refreshes for cache in caches] == [1] * 4
        assert queued(caches) == 0
        client = redis.asyncio.Redis.from_url(valkey.url)
        async with asyncio.timeout(5):
            while await client.exists("tenfold:1:shop:r:f()"):  # noqa: ASYNC110 - it happens in a server
                await asyncio.sleep(0.005)
        await client.aclose()


async def test_a_refresh_that_fails_is_tried_by_the_next_process(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with four(valkey, origin) as (caches, functions):
        await age(caches, valkey)
        origin.go.clear()
        origin.broken = True
        assert [await f() for f in functions] == [1] * 4
        await until(lambda: queued(caches) == 3)
        origin.go.set()
        await until(lambda: at_rest(caches))
        assert origin.loads == 5  # one after the other, in the background; then the loader rests
        assert [await f() for f in functions] == [1] * 4
        assert origin.loads == 5


async def test_a_process_that_dies_while_it_refreshes_does_not_stop_the_others(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with four(valkey, origin) as (caches, functions):
        await age(caches, valkey)
        for cache in caches:
            cache.level2().leases.life_ms = 600
        origin.go.clear()
        assert await functions[0]() == 1
        await until(lambda: origin.loads == 2)
        caches[0].level2().leases._held.clear()  # as its death leaves it: nobody renews or gives up the turn
        assert await functions[1]() == 1
        await until(lambda: origin.loads == 3)
        origin.go.set()
        await until(lambda: at_rest(caches))
        assert await functions[1]() == 3


async def test_waiting_for_a_turn_holds_up_no_other_key(valkey: Any, until: Any) -> None:
    """Two stale keys: another process has the turn of one of them; the other one is refreshed at once."""
    held = asyncio.Event()
    loads: list[tuple[int, list[int]]] = []

    def many(at: int) -> tuple[Cache, Any]:
        cache = Cache("shop", redis=valkey.url, timeout="2s", jitter=0)

        @cache.many(QUIET, name="f", stale="2h")
        async def f(ids: list[int]) -> dict[int, int]:
            loads.append((at, ids))
            if len(loads) == 2:
                await held.wait()
            return dict.fromkeys(ids, len(loads))

        return cache, f

    (first, f), (second, g) = many(1), many(2)
    async with first, second:
        assert await f([1, 2]) == await g([1, 2]) == {1: 1, 2: 1}
        client = redis.asyncio.Redis.from_url(valkey.url)
        for key in ("f(1)", "f(2)"):
            for cache in (first, second):
                entry = cache._memory._index[key]
                entry.life.fresh_until -= 3700
                entry.until = entry.life.fresh_until
            record = await client.get(f"tenfold:1:shop:e:{key}")
            expiry = b"%013d" % (int(record[9:22]) - 3700_000)
            await client.set(f"tenfold:1:shop:e:{key}", record[:9] + expiry + record[22:], keepttl=True)
        await client.aclose()
        assert await f([1]) == {1: 1}
        await until(lambda: len(loads) == 2)
        assert await g([1, 2]) == {1: 1, 2: 1}
        await until(lambda: (2, [2]) in loads)
        assert (await g([2])) == {2: 3}
        held.set()
        await until(lambda: at_rest([first, second]))
        assert loads == [(1, [1, 2]), (1, [1]), (2, [2])]
