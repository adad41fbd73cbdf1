"""Valkey frozen, killed, restarted, full, absent at the start: calls go on, and pay at most one soft
time-out.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis.asyncio

from tenfold.cache import Cache


def declare(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    loads: list[int] = []

    @cache("1m", name="f", **options)
    async def f(a: int) -> int:
        loads.append(a)
        return a

    return f, loads


@pytest.mark.parametrize("memory", [True, False])
async def test_frozen_costs_one_soft_timeout_and_then_nothing(valkey: Any, memory: bool, until: Any) -> None:
    async with Cache("shop", redis=valkey.url) as cache:
        f, loads = declare(cache, memory=memory)
        for a in range(50):
            await f(a)
        assert len(loads) == 50
        valkey.pause()
        try:
            began = time.monotonic()
            for a in range(50):  # cached keys
                assert await f(a) == a
            for a in range(100, 150):  # cold keys
                assert await f(a) == a
            elapsed = time.monotonic() - began
        finally:
            valkey.resume()
        assert elapsed <= 0.120, f"{elapsed * 1000:.0f} ms for 100 calls"
        assert not cache.stats().l2_up
        await until(lambda: cache.stats().l2_up)
        before = cache.stats().l2_hits
        assert await f(0 if not memory else 200) in (0, 200)
        if not memory:
            assert cache.stats().l2_hits == before + 1


async def test_concurrent_calls_in_a_freeze_wait_together(valkey: Any) -> None:
    async with Cache("shop", redis=valkey.url) as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
        valkey.pause()
        try:
            began = time.monotonic()
            assert await asyncio.gather(*[f(a) for a in range(500)]) == list(range(500))
            assert time.monotonic() - began <= 0.5  # one after another it would be 25 s
        finally:
            valkey.resume()


async def test_an_invalidation_in_a_freeze_is_made_up_for(valkey: Any, until: Any) -> None:
    """It answers False within its own time-out, the next at once; both are done before level 2 is used
    again.
    """
    value = 1
    async with Cache("shop", redis=valkey.url) as cache, Cache("shop", redis=valkey.url) as other:
        functions = []
        for one in (cache, other):

            @one("1m", name="f", memory=False)
            async def f(a: int) -> int:
                return value

            functions.append(f)
        f, g = functions
        assert await f(1) == await f(2) == await g(1) == 1
        valkey.pause()
        try:
            value = 2
            began = time.monotonic()
            assert await f.invalidate(1) is False
            assert 0.4 <= time.monotonic() - began <= 0.8
            began = time.monotonic()
            assert await f.invalidate(2) is False
            assert time.monotonic() - began <= 0.02
            assert cache.stats().pending_invalidations == 2
            assert await f(1) == 2  # the writer itself goes past level 2
        finally:
            valkey.resume()
        await until(lambda: cache.stats().l2_up and not cache.stats().pending_invalidations)
        assert await f(1) == await f(2) == 2
        await until(lambda: other.stats().l2_up)
        assert await g(1) == await g(2) == 2


async def test_too_many_postponed_invalidations_become_one_of_everything(
    valkey: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.cache.redis.MAX_PENDING", 3)
    async with Cache("shop", redis=valkey.url) as cache:
        f, loads = declare(cache, memory=False)
        for a in range(10):
            await f(a)
        valkey.pause()
        try:
            for a in range(5):
                assert await f.invalidate(a) is False
            assert cache.stats().pending_invalidations <= 2  # everything, and what came after
        finally:
            valkey.resume()
        await until(lambda: cache.stats().l2_up and not cache.stats().pending_invalidations)
        loads.clear()
        for a in range(10):
            await f(a)
        assert loads == list(range(10))


async def test_killed_and_restarted(valkey: Any, until: Any) -> None:
    async with Cache("shop", redis=valkey.url) as cache:
        f, loads = declare(cache)
        assert await asyncio.gather(*[f(a) for a in range(20)]) == list(range(20))
        await valkey.kill()
        began = time.monotonic()
        for a in range(40):
            assert await f(a) == a
        assert time.monotonic() - began <= 0.2
        assert len(loads) == 40  # twenty were in level 1
        gaps = cache.stats().backplane_gaps
        await valkey.start()
        await until(lambda: cache.stats().l2_up and cache.stats().backplane_gaps > gaps)
        assert await f(0) == 0  # level 1 was dropped with the gap, level 2 lost everything
        assert len(loads) == 41
        async with Cache("shop", redis=valkey.url) as other:
            g, other_loads = declare(other)
            assert await g(0) == 0
            assert other_loads == []


async def test_absent_at_the_start(valkey: Any, until: Any) -> None:
    await valkey.kill()
    began = time.monotonic()
    async with Cache("shop", redis=valkey.url) as cache:
        assert time.monotonic() - began <= 1.5
        f, loads = declare(cache)
        assert [await f(1), await f(1)] == [1, 1]
        assert loads == [1]
        assert await f.invalidate(1) is False
        await valkey.start()
        await until(lambda: cache.stats().l2_up and cache.stats().pending_invalidations == 0)
        assert await f(1) == 1


async def test_full_and_read_only_servers_do_not_fail_a_call(valkey: Any) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with Cache("shop", redis=valkey.url) as cache:
        f, loads = declare(cache, memory=False)
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", 1)
        assert [await f(1), await f(1)] == [1, 1]
        assert len(loads) == 2
        assert cache.stats().l2_failures > 0
        await client.config_set("maxmemory", 0)
        assert [await f(1), await f(1)] == [1, 1]
        assert len(loads) == 3
    await client.aclose()


async def test_closing_leaves_no_connection_and_no_task(valkey: Any) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    before = len(asyncio.all_tasks())
    async with Cache("shop", redis=valkey.url) as cache:
        f, _ = declare(cache)
        await asyncio.gather(*[f(a) for a in range(100)])
        assert len(await client.client_list()) > 1
    assert len(asyncio.all_tasks()) == before
    async with asyncio.timeout(5):
        while len(await client.client_list()) > 1:  # noqa: ASYNC110 - the server notices in its own time
            await asyncio.sleep(0.01)
    await client.aclose()
