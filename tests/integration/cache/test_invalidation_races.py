"""What was invalidated while it was being loaded never comes back: in level 1, in level 2, across
processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import redis.asyncio

from tenfold.cache import Cache


class Origin:
    """The source of truth, with a load that reads at once and answers when it is let go."""

    def __init__(self) -> None:
        self.value = 1
        self.loads = 0
        self.read = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def load(self) -> int:
        self.loads += 1
        value = self.value
        self.read.set()
        await self.go.wait()
        return value

    def hold(self) -> None:
        self.read.clear()
        self.go.clear()


@asynccontextmanager
async def processes(
    url: str, count: int, origin: Origin, **options: Any
) -> AsyncIterator[tuple[list[Cache], list[Any]]]:
    caches = [Cache("shop", redis=url, timeout="2s") for _ in range(count)]
    functions = []
    for cache in caches:

        @cache("1m", name="f", tags=["t:{a}"], **options)
        async def f(a: int) -> int:
            return await origin.load()

        functions.append(f)
    for cache in caches:
        await cache.__aenter__()
    try:
        yield caches, functions
    finally:
        for cache in caches:
            await cache.aclose()


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("how", ["key", "tag", "clear"])
@pytest.mark.parametrize("who", [0, 1])
async def test_invalidated_during_the_load(valkey: Any, until: Any, who: int, how: str, memory: bool) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin, memory=memory) as (caches, (f, g)):
        origin.hold()
        early = asyncio.create_task(f(1))
        await origin.read.wait()
        origin.value = 2
        invalidator = (f, g)[who]
        if how == "key":
            assert await invalidator.invalidate(1)
        elif how == "tag":
            assert await caches[who].invalidate_tags("t:1")
        else:
            assert await caches[who].clear()
        origin.go.set()
        assert await early == 1  # asked before the invalidation
        assert await g(1) == 2
        if memory and who == 1:
            await until(lambda: caches[0].stats().remote_invalidations == 1)
        assert await f(1) == 2
        assert await f(1) == 2


async def test_a_late_caller_does_not_join_a_load_of_another_time(valkey: Any) -> None:
    """``memory=False``: a look-up that begins after an acknowledged invalidation *elsewhere* starts a load of
    its own.
    """
    origin = Origin()
    async with processes(valkey.url, 2, origin, memory=False) as (_, (f, g)):
        origin.hold()
        early = asyncio.create_task(f(1))
        await origin.read.wait()
        origin.value = 2
        assert await g.invalidate(1)
        origin.read.clear()
        late = asyncio.create_task(f(1))
        await origin.read.wait()
        origin.go.set()
        assert (await early, await late) == (1, 2)
        assert await f(1) == await g(1) == 2


async def test_without_invalidation_callers_share_a_load_within_a_process(valkey: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 1, origin, memory=False) as (_, (f,)):
        origin.hold()
        callers = [asyncio.create_task(f(1)) for _ in range(50)]
        await origin.read.wait()
        more = [asyncio.create_task(f(1)) for _ in range(50)]
        await asyncio.sleep(0.05)
        origin.go.set()
        assert await asyncio.gather(*callers, *more) == [1] * 100
        assert origin.loads == 1


def hold_deletions(cache: Cache) -> tuple[asyncio.Event, asyncio.Event]:
    """Level 2's deletions say that they have arrived, and wait until they may go on."""
    level2 = cache.engine().level2
    assert level2 is not None
    delete, arrived, go = level2._delete, asyncio.Event(), asyncio.Event()

    async def held(names: Sequence[str], patience: float) -> None:
        arrived.set()
        await go.wait()
        await delete(names, patience)

    level2._delete = held  # type: ignore[method-assign]
    return arrived, go


async def test_an_old_value_in_level_two_is_not_copied_during_an_invalidation(valkey: Any) -> None:
    """A look-up that runs between "level 1 forgets" and "level 2 forgets" must not bring the old value
    back.
    """
    origin = Origin()
    async with processes(valkey.url, 1, origin) as ((cache,), (f,)):
        arrived, go = hold_deletions(cache)
        assert await f(1) == 1
        origin.value = 2
        invalidation = asyncio.create_task(f.invalidate(1))
        await arrived.wait()
        assert await f(1) == 1  # not acknowledged yet: level 2 still has it, and level 1 takes a copy
        assert "f(1)" in cache._memory
        go.set()
        assert await invalidation
        assert await f(1) == 2


async def test_a_cancelled_invalidation_is_carried_out(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        arrived, go = hold_deletions(caches[0])
        assert await f(1) == await g(1) == 1
        origin.value = 2
        invalidation = asyncio.create_task(f.invalidate(1))
        await arrived.wait()
        invalidation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await invalidation
        go.set()
        await until(lambda: caches[1].stats().remote_invalidations == 1)
        assert await g(1) == await f(1) == 2


async def test_an_older_load_does_not_overwrite_a_refresh(valkey: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        origin.hold()
        old = asyncio.create_task(f(1))
        await origin.read.wait()
        origin.value = 2
        origin.read.clear()
        new = asyncio.create_task(g.refresh(1))
        await origin.read.wait()
        origin.go.set()
        assert (await old, await new) == (1, 2)
        assert caches[0].stats().refused == 1
        assert await g(1) == 2
        assert await f(1) == 2


async def test_a_missed_message_drops_level_one(valkey: Any, until: Any) -> None:
    """While the subscription is cut somebody else invalidates: what level 1 holds is not trusted any more."""
    origin = Origin()
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        assert await f(1) == await g(1) == 1
        gaps = caches[0].stats().backplane_gaps
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        origin.value = 2
        await client.execute_command("UNLINK", "tenfold:1:shop:e:f(1)")  # an invalidation nobody hears
        await until(lambda: caches[0].stats().backplane_gaps > gaps)
        assert await f(1) == 2
    await client.aclose()


async def test_writers_read_their_own_writes_in_every_process(valkey: Any) -> None:
    """The checkout's promise: after ``await invalidate()`` no process reads the old figure
    (``memory=False``).
    """
    rng = Random(5)
    stock = dict.fromkeys(range(5), 0)
    caches = [Cache("shop", redis=valkey.url, timeout="1s") for _ in range(3)]
    functions = []
    for cache in caches:

        @cache.many("1m", memory=False, name="stock")
        async def stocks(ids: list[int]) -> dict[int, int]:
            found = {one: stock[one] for one in ids}
            await asyncio.sleep(rng.random() * 0.003)
            return found

        functions.append(stocks)

    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            least = dict(acknowledged)
            found = await rng.choice(functions)(list(range(5)))
            assert all(found[one] >= least[one] for one in least)

    async def write(me: int) -> None:
        for _ in range(150):
            one = rng.randrange(5)
            stock[one] += 1
            now = stock[one]
            assert await functions[me].invalidate(one)
            acknowledged[one] = max(acknowledged[one], now)
            assert (await rng.choice(functions)([one]))[one] >= now

    acknowledged = dict(stock)
    for cache in caches:
        await cache.__aenter__()
    try:
        readers = [asyncio.create_task(read()) for _ in range(6)]
        await asyncio.gather(*[write(me) for me in range(3)])
        stop.set()
        await asyncio.gather(*readers)
        assert sum(cache.stats().l2_hits for cache in caches) > 0
        assert sum(stock.values()) == 450
    finally:
        stop.set()
        for cache in caches:
            await cache.aclose()
