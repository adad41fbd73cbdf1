"""Soft and hard time-outs of loaders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tenfold.cache import Cache, CacheError, LoadTimeout
from tenfold.resilience import Deadline, DeadlineExceeded, Policy
from tenfold.testing import FakeClock


def on_a_clock(test: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with FakeClock() as clock:
            clock.run(test(clock))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class Source:
    def __init__(self) -> None:
        self.loads = self.cancelled = 0
        self.takes = 0.0
        self.broken = False

    async def __call__(self) -> int:
        self.loads += 1
        number = self.loads
        try:
            await asyncio.sleep(self.takes)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.broken:
            raise ConnectionError("down")
        return number


def declare(clock: FakeClock, **options: Any) -> tuple[Cache, Source, Any]:
    cache, source = Cache("t", clock=clock, jitter=0), Source()

    @cache("10s", **options)
    async def f() -> int:
        return await source()

    return cache, source, f


async def timed(clock: FakeClock, work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    began = clock.monotonic()
    (result,) = await asyncio.gather(work, return_exceptions=True)
    return result, clock.monotonic() - began


@on_a_clock
async def test_within_the_soft_limit_the_new_value_is_waited_for(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m", soft_timeout="200ms")
    await f()
    await clock.advance(11)
    source.takes = 0.125
    assert await timed(clock, f()) == (2, 0.125)
    assert cache.stats().stale_served == 0


@on_a_clock
async def test_beyond_it_the_old_one_is_served_and_the_load_goes_on(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m", soft_timeout="250ms")
    await f()
    await clock.advance(11)
    source.takes = 1.0
    early = [asyncio.create_task(timed(clock, f())) for _ in range(3)]
    await clock.advance(0.125)
    middle = asyncio.create_task(timed(clock, f()))
    await clock.advance(0.25)
    late = await timed(clock, f())
    assert [await one for one in early] == [(1, 0.25)] * 3
    assert await middle == (1, 0.125)  # counted from the load's start, not from each caller's
    assert late == (1, 0.0)
    await clock.advance(0.625)
    assert await f() == 2
    assert source.loads == 2
    stats = cache.stats()
    assert (stats.stale_rescues, stats.stale_hits, stats.misses, stats.coalesced) == (4, 1, 2, 3)


@on_a_clock
async def test_without_an_old_value_there_is_nothing_to_take(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="1m", soft_timeout="250ms")
    source.takes = 1.0
    assert await timed(clock, f()) == (1, 1.0)


@on_a_clock
async def test_a_failure_within_the_soft_limit_is_answered_stale(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m", soft_timeout="250ms")
    await f()
    await clock.advance(11)
    source.takes, source.broken = 0.125, True
    results = await asyncio.gather(*[timed(clock, f()) for _ in range(20)])
    assert results == [(1, 0.125)] * 20
    assert (source.loads, cache.stats().stale_rescues) == (2, 20)
    assert await timed(clock, f()) == (1, 0.0)  # the loader rests
    assert source.loads == 2


@on_a_clock
async def test_the_stale_time_ends_during_the_wait(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="5s", soft_timeout="1s")
    await f()
    await clock.advance(14.5)
    source.takes = 2.0
    assert await timed(clock, f()) == (2, 2.0)


@on_a_clock
async def test_the_hard_limit_ends_the_load_for_all(clock: FakeClock) -> None:
    cache, source, f = declare(clock, hard_timeout="2s")
    source.takes = 10.0
    first = asyncio.create_task(timed(clock, f()))
    await clock.advance(1.5)
    second, waited = await timed(clock, f())
    error, whole = await first
    assert isinstance(error, LoadTimeout)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, CacheError)
    assert "longer than its hard time-out of 2.00 s" in str(error)
    assert (type(second), waited, whole) == (LoadTimeout, 0.5, 2.0)
    stats = cache.stats()
    assert (source.loads, source.cancelled, stats.load_timeouts, stats.load_errors) == (1, 1, 1, 1)
    source.takes = 0.0
    assert await f() == 2


@on_a_clock
async def test_the_hard_limit_is_answered_stale_where_there_is_some(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m", hard_timeout="2s")
    await f()
    await clock.advance(11)
    source.takes = 10.0
    assert await timed(clock, f()) == (1, 0.0)
    await clock.advance(2)
    assert (source.cancelled, cache.stats().refresh_errors, cache.stats().load_timeouts) == (1, 1, 1)
    assert await timed(clock, f()) == (1, 0.0)
    assert source.loads == 2


@on_a_clock
async def test_a_loader_that_ignores_its_end_holds_up_nobody(clock: FakeClock) -> None:
    cache = Cache("t", clock=clock)

    @cache("10s", hard_timeout="1s")
    async def f() -> int:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(3)
            raise ConnectionError("late") from None
        return 1

    error, took = await timed(clock, f())
    assert (type(error), took) == (LoadTimeout, 1.0)
    began = clock.monotonic()
    await cache.aclose()  # the task has an owner, who waits for it
    assert clock.monotonic() - began == 3.0


@on_a_clock
async def test_an_error_within_the_hard_limit_is_the_loaders_own(clock: FakeClock) -> None:
    cache, source, f = declare(clock, hard_timeout="1s")
    source.broken = True
    with pytest.raises(ConnectionError):
        await f()
    assert cache.stats().load_timeouts == 0


@on_a_clock
async def test_a_cancelled_caller_takes_nobody_along(clock: FakeClock) -> None:
    """Also while they wait at a soft limit, and for the load itself."""
    _, source, f = declare(clock, stale="1m", soft_timeout="1s", hard_timeout="9s")
    await f()
    await clock.advance(11)
    source.takes = 0.5
    first = asyncio.create_task(f())
    await asyncio.sleep(0)
    others = [asyncio.create_task(f()) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [2] * 3
    assert first.cancelled()
    assert (source.loads, source.cancelled) == (2, 0)


@on_a_clock
async def test_closing_ends_a_load_under_a_hard_limit(clock: FakeClock) -> None:
    cache, source, f = declare(clock, hard_timeout="1h")
    source.takes = 1e9
    caller = asyncio.create_task(timed(clock, f()))
    await clock.advance(0.5)
    await cache.aclose()
    assert "was cancelled" in str((await caller)[0])
    assert (source.cancelled, len(asyncio.all_tasks())) == (1, 1)


@on_a_clock
async def test_the_deadline_of_the_first_caller_is_not_the_loads(clock: FakeClock) -> None:
    """Neither of a load that others wait for nor of one in the background."""
    cache, source = Cache("t", clock=clock, jitter=0, stale="1h"), Source()
    database = Policy("database", deadline="5s", clock=clock)

    @cache("10s")
    async def f() -> int:
        return await database.call(source)

    async def hurried() -> int:
        async with Deadline("1s", clock=clock):
            result: int = await f()
            return result

    source.takes = 2.0
    first = asyncio.create_task(timed(clock, hurried()))
    await clock.advance(0.5)
    assert await timed(clock, f()) == (1, 1.5)
    error, waited = await first
    assert isinstance(error, DeadlineExceeded)
    assert waited == pytest.approx(1.0, abs=0.02)
    await clock.advance(11)
    assert await hurried() == 1
    await clock.advance(2)
    assert await f() == 2
    assert cache.stats().refresh_errors == 0


@on_a_clock
async def test_a_caller_of_many_waits_no_longer_for_one_because_of_another(clock: FakeClock) -> None:
    cache, takes = Cache("t", clock=clock, jitter=0, stale="1m", soft_timeout="1s"), {1: 0.0, 2: 0.0}

    @cache.many("10s")
    async def things(ids: list[int]) -> dict[int, float]:
        began = clock.monotonic()
        await asyncio.sleep(max(takes[one] for one in ids))
        return dict.fromkeys(ids, began)

    await things([2])
    await clock.advance(11)
    takes |= {1: 3.0, 2: 10.0}
    cold = asyncio.create_task(things([1]))
    await asyncio.sleep(0)
    values, waited = await timed(clock, things([1, 2]))
    assert (values, waited) == ({1: 11.0, 2: 0.0}, 3.0)  # for 1, which is cold; 2 took its old value by then
    assert await cold == {1: 11.0}
    assert cache.stats().stale_rescues == 1
    assert await timed(clock, things([2])) == ({2: 0.0}, 0.0)


def test_a_stale_value_of_one_event_loop_is_refreshed_in_the_next() -> None:
    cache, source = Cache("t", stale="1h"), Source()

    @cache("1h")
    async def f() -> int:
        return await source()

    async def use() -> int:
        async with cache:
            value: int = await f()
        return value

    assert asyncio.run(use()) == 1
    entry = cache._memory._index[f.key()]
    entry.life.fresh_until = entry.until = 0.0
    assert asyncio.run(use()) == 1
    assert asyncio.run(use()) == 2
    assert source.loads == 2
