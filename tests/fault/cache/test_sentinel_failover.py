"""The master behind Sentinels dies: calls go on, the cache comes back on the promoted one, nothing old is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.cache.sentinel import LOOK
from tenfold.servers import ValkeySentinel
from tenfold.servers.talk import tell

NOBODY = 1  # a port at which nobody listens


@pytest.fixture
async def group() -> AsyncIterator[ValkeySentinel]:
    async with ValkeySentinel() as group:
        yield group


async def promoted(group: ValkeySentinel, old: Any) -> Any:
    async with asyncio.timeout(30):
        while (new := await group.master()) is old:  # noqa: ASYNC110 - it happens in the Sentinels
            await asyncio.sleep(0.05)
    return new


async def test_the_cache_comes_back_on_the_promoted_server(group: ValkeySentinel, until: Any) -> None:
    """A writer and readers in three caches while the master is killed. At each look-up: no call fails, and no version
    older than the last acknowledged invalidation is served.
    """
    version, acknowledged, postponed, reads = 0, 0, 0, 0
    ended = asyncio.Event()

    def declare(cache: Cache) -> Any:
        @cache("1m", name="f", tags=["t"], memory=False)
        async def f(a: int) -> int:
            loaded = version
            await asyncio.sleep(0.002)
            return loaded

        return f

    async def write(cache: Cache) -> None:
        nonlocal version, acknowledged, postponed
        f = declare(cache)
        while not ended.is_set():
            version += 1
            now = version
            if await (f.invalidate(1) if now % 2 else cache.invalidate_tags("t")):
                acknowledged = max(acknowledged, now)
            else:
                postponed += 1
            await asyncio.sleep(0.005)

    async def read(cache: Cache) -> None:
        nonlocal reads
        f = declare(cache)
        while not ended.is_set():
            least = acknowledged
            began = time.monotonic()
            assert await f(1) >= least
            assert time.monotonic() - began < 3
            reads += 1
            await asyncio.sleep(0.001)

    caches = [Cache("shop", redis=group.url, timeout="200ms") for _ in range(3)]
    for cache in caches:
        await cache.__aenter__()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write(caches[0]))
            for cache in caches[1:]:
                tasks.create_task(read(cache))
            await until(lambda: acknowledged > 20)
            old = await group.master()
            await old.kill()
            await until(lambda: postponed > 0)
            await promoted(group, old)
            await until(lambda: all(cache.stats().l2_up for cache in caches), 20)
            since = acknowledged
            await until(lambda: acknowledged > since + 20)
            await old.start()  # and a master that comes back is made a replica
            hits = caches[1].stats().l2_hits
            await until(lambda: caches[1].stats().l2_hits > hits + 20)
            ended.set()
        assert caches[0].stats().pending_invalidations == 0
        assert reads > 100
    finally:
        for cache in caches:
            await cache.aclose()


async def test_an_invalidation_that_was_never_replicated_is_not_forgotten(group: ValkeySentinel, until: Any) -> None:
    """Acknowledged by the master, then the master dies and the replica that never heard of it is promoted."""
    origin = "old"
    async with Cache("shop", redis=group.url, timeout="1s") as cache:

        @cache("5m", name="f", memory=False)
        async def f(a: int) -> str:
            return origin

        assert await f(1) == "old"
        record = f"tenfold:1:shop:e:{f.key(1)}"
        old = await group.master()
        replica = next(one for one in group.data if one is not old)
        async with asyncio.timeout(10):
            while b"old" not in (await tell(replica.port, "GET", record) or "").encode():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await tell(replica.port, "REPLICAOF", "127.0.0.1", NOBODY)
        origin = "new"
        assert await f.invalidate(1)
        await old.kill()
        assert await promoted(group, old) is replica
        assert "old" in await tell(replica.port, "GET", record)  # it is there, and would be good
        async with asyncio.timeout(20):
            while True:
                assert await f(1) == "new"
                if cache.stats().l2_up and cache.stats().l2_hits:
                    break
                await asyncio.sleep(0.05)
        async with Cache("shop", redis=group.url, timeout="1s") as late:

            @late("5m", name="f", memory=False)
            async def g(a: int) -> str:
                raise AssertionError("it was stored again by the other process")

            assert await g(1) == "new"


async def test_a_frozen_sentinel_is_passed_over(group: ValkeySentinel) -> None:
    await group.sentinels[0].pause()
    try:
        async with Cache("shop", redis=group.url, timeout="1s") as cache:

            @cache("5m", name="f", memory=False)
            async def f(a: int) -> int:
                return a

            assert await f(1) == 1
            assert cache.stats().l2_up
            assert cache.stats().l2_failures == 0
    finally:
        await group.sentinels[0].resume()


async def test_sentinels_that_are_all_gone_change_nothing(group: ValkeySentinel) -> None:
    async with Cache("shop", redis=group.url, timeout="1s") as cache:

        @cache("5m", name="f", memory=False)
        async def f(a: int) -> int:
            return a

        assert await f(1) == 1
        for sentinel in group.sentinels:
            await sentinel.kill()
        await asyncio.sleep(2 * LOOK)  # the question whether the master is the same is asked, and nobody answers
        assert [await f(1), await f(2)] == [1, 2]
        assert cache.stats().l2_up
        assert cache.stats().l2_failures == 0
