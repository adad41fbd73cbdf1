"""One load on a cold key over all processes; whoever waits is told, and nobody waits for the dead."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from tenfold.cache import Cache
from tenfold.cache.settle import Settlements

LIFE_MS = 600


class Origin:
    def __init__(self) -> None:
        self.loads = 0
        self.fail = False
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def load(self) -> int:
        self.loads += 1
        now = self.loads
        self.begun.set()
        await self.go.wait()
        if self.fail:
            raise LookupError("the origin is down")
        return now


@asynccontextmanager
async def processes(
    url: str, count: int, origin: Origin, *, memory: bool = True
) -> AsyncIterator[tuple[list[Cache], list[Any]]]:
    caches = [Cache("shop", redis=url, timeout="2s") for _ in range(count)]
    functions = []
    for cache in caches:

        @cache("1m", name="f", tags=["t:{a}"], memory=memory)
        async def f(a: int) -> int:
            return await origin.load()

        functions.append(f)
        await cache.__aenter__()
    try:
        yield caches, functions
    finally:
        origin.go.set()
        for cache in caches:
            await cache.aclose()


def followers(caches: list[Cache]) -> int:
    return sum(len(level2.settlements) for cache in caches if (level2 := cache.engine().level2) is not None)


@pytest.mark.parametrize("memory", [True, False])
async def test_four_processes_load_once(valkey: Any, until: Any, memory: bool) -> None:
    origin = Origin()
    async with processes(valkey.url, 4, origin, memory=memory) as (caches, functions):
        calls = [asyncio.create_task(f(1)) for f in functions for _ in range(20)]
        await until(lambda: followers(caches) == 3)
        origin.go.set()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*calls) == [1] * 80
        assert origin.loads == 1
        assert followers(caches) == 0
        if memory:  # every process took a copy, with the life that the server gave it
            hits = [cache.stats().hits for cache in caches]
            assert [await f(1) for f in functions] == [1] * 4
            assert [cache.stats().hits for cache in caches] == [one + 1 for one in hits]


async def test_a_settlement_is_heard_and_not_polled_for(valkey: Any, until: Any) -> None:
    """The server sees nothing from a follower between its look and the announcement."""
    origin = Origin()
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        calls = [asyncio.create_task(f(1)), asyncio.create_task(g(1))]
        await until(lambda: followers(caches) == 1)
        await client.config_resetstat()
        await asyncio.sleep(0.3)  # the time in which a poller would have asked again
        scripts = (await client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
        assert scripts == 0
        began = time.monotonic()
        origin.go.set()
        assert await asyncio.gather(*calls) == [1, 1]
        assert time.monotonic() - began < 0.25
    await client.aclose()


async def test_nobody_publishes_a_load_that_nobody_waits_for(valkey: Any) -> None:
    origin = Origin()
    origin.go.set()
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with processes(valkey.url, 2, origin) as (_, (f, g)):
        await client.config_resetstat()
        assert await f(1) == await g(1) == 1
        assert "cmdstat_publish" not in await client.info("commandstats")
    await client.aclose()


async def test_a_loader_that_fails_hurts_its_own_callers_alone(valkey: Any, until: Any) -> None:
    origin = Origin()
    origin.fail = True
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        calls = [asyncio.create_task(one(1)) for one in (f, g)]
        await until(lambda: followers(caches) == 1)
        origin.begun.clear()
        origin.go.set()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [LookupError, LookupError]
        assert origin.loads == 2  # the follower was told at once and asked for itself
        origin.fail = False
        assert await f(1) == await g(1) == 3


async def test_failing_loads_do_not_queue_up(valkey: Any, until: Any) -> None:
    """After two loads that came to nothing the others stop waiting for each other."""
    origin = Origin()
    origin.fail = True
    async with processes(valkey.url, 6, origin) as (caches, functions):
        calls = [asyncio.create_task(f(1)) for f in functions]
        await until(lambda: followers(caches) == 5)
        origin.go.set()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {LookupError}
        assert origin.loads == 6


async def test_an_invalidation_wakes_the_followers(valkey: Any, until: Any) -> None:
    """They do not take what a load before it brings; one of them loads anew, at once."""
    origin = Origin()
    async with processes(valkey.url, 3, origin) as (caches, (f, g, h)):
        first = asyncio.create_task(f(1))
        await origin.begun.wait()
        others = [asyncio.create_task(one(1)) for one in (g, h)]
        await until(lambda: followers(caches) == 2)
        origin.begun.clear()
        assert await caches[0].invalidate_tags("t:1")
        await asyncio.wait_for(origin.begun.wait(), 5)
        origin.go.set()
        async with asyncio.timeout(5):
            assert await first == 1
            assert await asyncio.gather(*others) == [2, 2]
        assert origin.loads == 2
        assert await h(1) == await g(1) == await f(1) == 2


async def test_a_cancelled_caller_leaves_nobody_waiting(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin, memory=False) as (caches, (f, g)):
        for turns in range(12):  # cancelled at every stage of its way
            caller = asyncio.create_task(f(turns))
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
        origin.go.set()
        async with asyncio.timeout(2):  # a lease lives for ten seconds
            for turns in range(12):
                await g(turns)
        assert followers(caches) == 0


async def test_a_long_load_keeps_its_lease(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        for cache in caches:
            level2 = cache.engine().level2
            assert level2 is not None
            level2.leases.life_ms = 150
        calls = [asyncio.create_task(one(1)) for one in (f, g)]
        await origin.begun.wait()
        await asyncio.sleep(0.8)  # five lives of a lease
        origin.go.set()
        assert await asyncio.gather(*calls) == [1, 1]
        assert origin.loads == 1
        assert caches[0].stats().refused == caches[1].stats().refused == 0


async def test_without_a_subscription_followers_look_themselves(
    valkey: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settlements, "heard", lambda self, names: None)
    origin = Origin()
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        first = asyncio.create_task(f(1))
        await origin.begun.wait()
        level2 = caches[1].engine().level2
        assert level2 is not None
        level2.settlements.hears(False)
        second = asyncio.create_task(g(1))
        await until(lambda: followers(caches) == 1)
        origin.go.set()
        async with asyncio.timeout(3):
            assert await asyncio.gather(first, second) == [1, 1]
        assert origin.loads == 1


async def test_switching_level_two_off_wakes_the_followers(valkey: Any, until: Any) -> None:
    origin = Origin()
    async with processes(valkey.url, 2, origin) as (caches, (f, g)):
        first = asyncio.create_task(f(1))
        await origin.begun.wait()
        origin.begun.clear()
        second = asyncio.create_task(g(1))
        await until(lambda: followers(caches) == 1)
        await valkey.kill()
        await asyncio.wait_for(origin.begun.wait(), 5)
        origin.go.set()
        async with asyncio.timeout(5):
            assert {await first, await second} == {1, 2}


CHILD = """
import asyncio, sys
from tenfold.cache import Cache

async def main() -> None:
    async with Cache("shop", redis=sys.argv[1], timeout="2s") as cache:
        cache.engine().level2.leases.life_ms = int(sys.argv[2])

        @cache("1m", name="f", tags=["t:{a}"])
        async def f(a: int) -> int:
            print("loading", flush=True)
            await asyncio.sleep(3600)
            return a

        await f(1)

asyncio.run(main())
"""


async def test_a_dead_loader_is_noticed_by_the_end_of_its_lease(valkey: Any, until: Any) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, valkey.url, str(LIFE_MS), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        assert await asyncio.wait_for(child.stdout.readline(), 20) == b"loading\n"
        origin = Origin()
        origin.go.set()
        async with processes(valkey.url, 2, origin) as (caches, functions):
            calls = [asyncio.create_task(f(1)) for f in functions]
            await until(lambda: followers(caches) == 2)
            await asyncio.sleep(2 * LIFE_MS / 1000)  # it lives: its lease is renewed
            assert origin.loads == 0
            child.kill()
            killed = time.monotonic()
            async with asyncio.timeout(10):
                assert await asyncio.gather(*calls) == [1, 1]
            assert time.monotonic() - killed < 2 * LIFE_MS / 1000
            assert origin.loads == 1
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def cross(cache: Cache, opened: dict[str, asyncio.Event], first: str, last: str) -> None:
    """This process opens ``first`` at once and ``last`` only when another one has opened that."""
    level2 = cache.engine().level2
    assert level2 is not None
    opening = level2.open

    async def held(names: Sequence[str], *rest: Any) -> list[bytes] | None:
        if names[0] == last:
            await opened[last].wait()
        reply = await opening(names, *rest)
        if names[0] == first:
            opened[first].set()
        return reply

    level2.open = held  # type: ignore[method-assign]


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("fails", [False, True])
async def test_loads_of_many_that_need_each_other_both_end(valkey: Any, until: Any, fails: bool, memory: bool) -> None:
    """One process has the lease of 1 and wants 2, the other has that of 2 and wants 1. Neither may wait before it
    loads, and what fails in one is loaded by the other.
    """
    caches = [Cache("shop", redis=valkey.url, timeout="2s") for _ in range(2)]
    asked: list[list[list[int]]] = [[], []]
    opened = {"e:f(1)": asyncio.Event(), "e:f(2)": asyncio.Event()}

    def declared(at: int) -> Any:
        @caches[at].many("1m", name="f", memory=memory)
        async def f(ids: list[int]) -> dict[int, int]:
            asked[at].append(ids)
            if fails and at == 0:
                raise LookupError("the origin is down")
            return {one: 10 * one for one in ids}

        return f

    functions = [declared(at) for at in range(2)]
    for cache in caches:
        await cache.__aenter__()
    cross(caches[0], opened, "e:f(1)", "e:f(2)")
    cross(caches[1], opened, "e:f(2)", "e:f(1)")
    try:
        async with asyncio.timeout(5):
            first, second = await asyncio.gather(*[f([1, 2]) for f in functions], return_exceptions=True)
        assert second == {1: 10, 2: 20}
        if fails:
            assert isinstance(first, LookupError)
            assert asked == [[[1]], [[2], [1]]]
        else:
            assert first == second
            assert asked == [[[1]], [[2]]]
        await until(lambda: followers(caches) == 0)
    finally:
        for cache in caches:
            await cache.aclose()
