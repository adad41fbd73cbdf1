"""What a network or a server can do to level 2, one fault each: calls go on, and nothing is lost but hits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tenfold.cache import Cache, Wire
from tenfold.cache.link import FAST


def declare(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    loads: list[int] = []

    @cache("1m", name="f", tags=["t"], **options)
    async def f(a: int) -> int:
        loads.append(a)
        return a

    return f, loads


async def test_a_slow_server_costs_one_time_out(proxy: Any, until: Any) -> None:
    async with Cache("shop", redis=proxy.url) as cache:
        f, _ = declare(cache, memory=False)
        assert await f(1) == 1
        proxy.delay("300ms")
        began = time.monotonic()
        assert [await f(a) for a in range(60)] == list(range(60))
        assert time.monotonic() - began < 0.15
        assert not cache.stats().l2_up
        proxy.heal()
        await until(lambda: cache.stats().l2_up)


async def test_a_slow_server_is_used_by_who_has_the_patience(proxy: Any) -> None:
    proxy.delay("40ms")
    async with Cache("shop", redis=proxy.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        assert [await f(1), await f(1)] == [1, 1]
        assert loads == [1]
        assert cache.stats().l2_failures == 0


async def test_to_connect_may_take_longer_than_to_look_up(proxy: Any, direct: Any) -> None:
    proxy.delay("25ms")
    await direct.config_set("requirepass", "secret")  # one more question, and its answer, when it connects
    url = proxy.url.replace("://", "://:secret@")
    async with Cache("shop", redis=url, timeout="80ms") as cache:
        f, loads = declare(cache, memory=False)
        assert await f(1) == 1
        async with Cache("shop", redis=url, timeout="80ms") as other:
            g, others = declare(other, memory=False)
            assert await g(1) == 1
        assert (loads, others) == ([1], [])
        assert cache.stats().l2_failures == 0


@pytest.mark.parametrize("memory", [True, False])
async def test_garbage_is_never_taken_for_a_value(proxy: Any, until: Any, memory: bool) -> None:
    """Signed, because MessagePack has no checksum: a flipped bit may make another number."""
    async with Cache("shop", redis=proxy.url, wire=Wire(keys=[b"0123456789abcdef"])) as cache:
        f, _ = declare(cache, memory=memory)
        for seed in range(8):
            proxy.corrupt("3%", seed=seed, direction="downstream")
            for a in range(40):
                assert await f(a) == a
            proxy.heal()
            proxy.cut()
            await until(lambda: cache.stats().l2_up)
        assert cache.stats().l2_failures + cache.stats().undecodable > 0


async def test_a_cut_in_the_middle_of_a_burst(proxy: Any, until: Any) -> None:
    async with Cache("shop", redis=proxy.url) as cache:
        f, _ = declare(cache, memory=False)
        await f(0)
        for after in (1, 100, 1000, 3000):
            proxy.cut_after(after, direction="downstream")
            async with asyncio.timeout(2):
                assert await asyncio.gather(*[f(a) for a in range(200)]) == list(range(200))
            proxy.heal()
            await until(lambda: cache.stats().l2_up)


async def test_a_server_that_closes_idle_connections_is_no_failure(proxy: Any, until: Any) -> None:
    async with Cache("shop", redis=proxy.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        assert await f(1) == 1
        proxy.close_connections()
        level2 = cache.engine().level2
        assert level2 is not None
        await until(lambda: level2._link.lane(FAST) is None)
        assert await f(1) == 1
        assert loads == [1]
        assert cache.stats().l2_failures == 0


async def test_refused_connections(proxy: Any, until: Any) -> None:
    async with Cache("shop", redis=proxy.url) as cache:
        f, loads = declare(cache)
        assert await f(1) == 1
        proxy.refuse()
        proxy.cut()
        assert [await f(a) for a in (1, 2, 2)] == [1, 2, 2]
        assert loads in ([1, 2], [1, 1, 2])  # level 1 serves, unless the gap was noticed first
        proxy.heal()
        await until(lambda: cache.stats().l2_up)


async def test_read_only_servers_serve_hits_and_keep_invalidations(valkey: Any, direct: Any, until: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        assert await f(1) == 1
        await direct.config_set("replica-serve-stale-data", "yes")
        await direct.replicaof("127.0.0.1", "1")  # a replica of nobody who answers: it refuses to write
        assert await f(1) == 1
        assert loads == [1]
        assert [await f(2), await f(2)] == [2, 2]  # cannot be stored
        assert loads == [1, 2, 2]
        assert await f.invalidate(1) is False
        assert cache.stats().pending_invalidations == 1
        assert await f(1) == 1
        assert loads == [1, 2, 2, 1]  # what could not be deleted is not served either
        await direct.replicaof("NO", "ONE")
        await until(lambda: cache.stats().l2_up and not cache.stats().pending_invalidations)
        assert not await direct.exists("tenfold:1:shop:e:f(1)")


async def test_a_flush_costs_hits_alone(valkey: Any, direct: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        for turn in range(3):
            assert [await f(a) for a in range(10)] == list(range(10))
            assert len(loads) == 10 * (turn + 1)
            await direct.flushall()
        assert cache.stats().l2_failures == 0


async def test_scripts_that_the_server_forgot_are_sent_again(valkey: Any, direct: Any) -> None:
    async with Cache("shop", redis=valkey.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        for a in range(3):
            await direct.script_flush()
            assert await asyncio.gather(f(a), f(a)) == [a, a]
            assert await f(a) == a
        assert loads == [0, 1, 2]
        assert cache.stats().l2_failures == 0


async def test_one_probe_at_a_time(proxy: Any, until: Any, direct: Any) -> None:
    """The first time-out opens the breaker; while it is open one connection knocks, whatever is asked for."""
    async with Cache("shop", redis=proxy.url) as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
        proxy.freeze()
        await f(1)
        failures = cache.stats().l2_failures
        assert failures >= 1
        before = proxy.stats().connections
        async with asyncio.timeout(5):
            while cache.stats().l2_failures == failures:  # until the first knock has failed as well
                assert await asyncio.gather(*[f(a) for a in range(50)]) == list(range(50))
                await asyncio.sleep(0.05)
        assert proxy.stats().connections - before <= 2  # the knock's own, and the subscription's
        assert cache.stats().l2_failures == failures + 1
        proxy.heal()
        await until(lambda: cache.stats().l2_up)


async def test_a_look_up_that_gives_up_does_not_break_off_an_invalidation(proxy: Any) -> None:
    """They have connections of their own, and the invalidation has the longer patience."""
    async with Cache("shop", redis=proxy.url) as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
        assert await f.invalidate(2)
        proxy.delay("100ms")
        invalidation = asyncio.create_task(f.invalidate(1))
        assert await f(1) == 1  # times out after 50 ms
        assert not cache.stats().l2_up
        assert await invalidation is True


async def test_a_frozen_server_makes_no_leases_for_those_who_have_gone(valkey: Any, until: Any) -> None:
    """Otherwise whoever asks after the freeze would wait for loads that nobody does."""
    async with Cache("shop", redis=valkey.url) as cache, Cache("shop", redis=valkey.url) as other:
        f, _ = declare(cache, memory=False)
        g, _ = declare(other, memory=False)
        await f(0)
        level2 = cache.engine().level2
        assert level2 is not None
        await valkey.pause()
        try:  # straight to the lease, as a look-up would that was answered a moment before the freeze
            assert await level2.look(["e:f(7)", "t:", "t:t"], b"12345678", 60_000, "read") is None
            await asyncio.sleep(0.3)
        finally:
            await valkey.resume()
        await until(lambda: other.stats().l2_up and cache.stats().l2_up)
        began = time.monotonic()
        assert await g(7) == 7
        assert time.monotonic() - began < 0.2


async def test_only_the_latest_of_each_invalidation_is_kept(proxy: Any, until: Any) -> None:
    async with Cache("shop", redis=proxy.url) as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
        proxy.freeze()
        for _ in range(200):
            assert await f.invalidate(1) is False
        assert cache.stats().pending_invalidations == 1
        proxy.heal()
        await until(lambda: cache.stats().l2_up and not cache.stats().pending_invalidations)
