"""Served stale while one load in the background replaces it, or because that load is slow or fails. Never what was
invalidated, never beyond ttl + stale.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.testing import FakeClock


def on_a_clock(test: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with FakeClock() as clock:
            clock.run(test(clock))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class Source:
    """A loader that answers 1, 2, 3 …, takes ``takes`` seconds, and fails while ``broken``."""

    def __init__(self) -> None:
        self.loads = 0
        self.takes = 0.0
        self.broken: Exception | None = None

    async def __call__(self) -> int:
        self.loads += 1
        number = self.loads
        await asyncio.sleep(self.takes)
        if self.broken is not None:
            raise self.broken
        return number


def declare(clock: FakeClock, ttl: str = "10s", **options: Any) -> tuple[Cache, Source, Any]:
    cache, source = Cache("t", clock=clock, jitter=0), Source()

    @cache(ttl, tags=["t"], **options)
    async def f() -> int:
        return await source()

    return cache, source, f


@on_a_clock
async def test_stale_is_served_at_once_and_replaced_once(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m")
    assert await f() == 1
    await clock.advance(9.999)
    assert await f() == 1
    assert cache.stats().stale_served == 0
    await clock.advance(0.001)
    source.takes = 3.0
    before = clock.monotonic()
    assert [await f() for _ in range(50)] == [1] * 50
    assert clock.monotonic() == before
    await clock.advance(2.9)
    assert await asyncio.gather(*[f() for _ in range(20)]) == [1] * 20
    await clock.advance(0.1)
    assert await f() == 2
    assert source.loads == 2
    stats = cache.stats()
    assert (stats.stale_hits, stats.stale_rescues, stats.refreshes, stats.refresh_errors) == (70, 0, 1, 0)
    assert (stats.loads, stats.misses, stats.hits, stats.coalesced) == (2, 1, 2, 0)
    assert stats.requests == 73


@on_a_clock
async def test_beyond_ttl_and_stale_everybody_waits(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m")
    assert await f() == 1
    await clock.advance(70)
    source.takes = 1.0
    before = clock.monotonic()
    assert await asyncio.gather(f(), f()) == [2, 2]
    assert clock.monotonic() == before + 1
    assert cache.stats().expirations == 1
    await clock.advance(70)
    source.broken = LookupError("no")
    with pytest.raises(LookupError):
        await f()


@on_a_clock
async def test_a_loader_that_fails_is_not_asked_at_each_call(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="10m", throttle="30s")
    assert await f() == 1
    source.broken = ConnectionError("down")
    await clock.advance(10)
    for _ in range(60):  # one call a second for a minute
        assert await f() == 1
        await clock.advance(1)
    assert source.loads == 3  # the first, and one each half minute
    stats = cache.stats()
    assert (stats.stale_hits, stats.refreshes, stats.refresh_errors, stats.load_errors) == (60, 2, 2, 2)
    source.broken = None
    assert await f() == 1
    await clock.advance(0)
    assert await f() == 4


@on_a_clock
async def test_stale_ends_though_the_loader_still_fails(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="20s", throttle="1h")
    assert await f() == 1
    source.broken = ConnectionError("down")
    await clock.advance(29.9)
    assert await f() == 1
    await clock.advance(0.1)
    with pytest.raises(ConnectionError):
        await f()


HOW: dict[str, Callable[[Cache, Any], Awaitable[bool]]] = {
    "key": lambda _, f: f.invalidate(),
    "tag": lambda cache, _: cache.invalidate_tags("t"),
    "clear": lambda cache, _: cache.clear(),
}


@pytest.mark.parametrize("options", [{"stale": "1m"}, {"stale": "1m", "soft_timeout": "1s"}, {"eager": 0.5}])
@pytest.mark.parametrize("how", list(HOW))
def test_invalidated_while_a_background_load_is_under_way(how: str, options: dict[str, Any]) -> None:
    """Neither the old value nor what the background load brings is served again."""

    async def test(clock: FakeClock) -> None:
        cache, source, f = declare(clock, **options)
        assert await f() == 1
        await clock.advance(11 if "stale" in options else 6)
        source.takes = 5.0
        assert await f() == 1
        assert await HOW[how](cache, f)
        source.takes = 0.0
        assert await f() == 3  # neither 1 (invalidated) nor 2 (began before)
        await clock.advance(5)
        assert await f() == 3
        assert cache.stats().refused == 1

    with FakeClock() as clock:
        clock.run(test(clock))


@pytest.mark.parametrize("how", list(HOW))
def test_what_was_invalidated_is_no_answer_to_an_error(how: str) -> None:
    async def test(clock: FakeClock) -> None:
        cache, source, f = declare(clock, stale="1m", soft_timeout="2s")
        assert await f() == 1
        await clock.advance(11)
        source.takes, source.broken = 1.0, ConnectionError("down")
        early = asyncio.create_task(f())
        await asyncio.sleep(0)
        assert await HOW[how](cache, f)
        late = asyncio.create_task(f())
        assert [type(error) for error in await asyncio.gather(early, late, return_exceptions=True)] == (
            [ConnectionError] * 2
        )

    with FakeClock() as clock:
        clock.run(test(clock))


@on_a_clock
async def test_invalidation_in_the_middle_of_the_throttle(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="1m", throttle="30s")
    await f()
    source.broken = ConnectionError("down")
    await clock.advance(11)
    assert await f() == 1
    await f.invalidate()
    with pytest.raises(ConnectionError):
        await f()


@on_a_clock
async def test_an_eager_refresh_begins_once_and_nobody_waits(clock: FakeClock) -> None:
    cache, source, f = declare(clock, eager=0.8)
    assert await f() == 1
    await clock.advance(7.9)
    assert await f() == 1
    assert source.loads == 1
    source.takes = 1.0
    await clock.advance(0.1)
    before = clock.monotonic()
    assert [await f() for _ in range(10)] == [1] * 10
    assert clock.monotonic() == before
    await clock.advance(1)
    assert await f() == 2
    assert source.loads == 2
    stats = cache.stats()
    assert (stats.refreshes, stats.stale_served, stats.hits, stats.misses) == (1, 0, 12, 1)
    await clock.advance(7.5)
    assert await f() == 2  # its own life began when it was loaded
    assert source.loads == 2


@on_a_clock
async def test_an_eager_refresh_that_fails_is_not_repeated_and_the_value_lives_on(clock: FakeClock) -> None:
    cache, source, f = declare(clock, eager=0.5)
    assert await f() == 1
    source.broken = ConnectionError("down")
    await clock.advance(5)
    for _ in range(4):
        assert await f() == 1
        await clock.advance(1)
    assert source.loads == 2
    assert cache.stats().refresh_errors == 1
    await clock.advance(1)
    with pytest.raises(ConnectionError):
        await f()


@on_a_clock
async def test_the_short_way_is_open_again_after_the_eager_refresh_began(clock: FakeClock) -> None:
    cache, source, f = declare(clock, eager=0.5)
    await f()
    await clock.advance(5)
    source.takes = 1.0
    await f()
    entry = cache._memory._index[f.key()]
    assert entry.until == entry.life.fresh_until > clock.monotonic()


@on_a_clock
async def test_an_explicit_refresh_replaces_and_does_not_hide_its_error(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="1m")
    assert await f() == 1
    await clock.advance(11)
    source.broken = ConnectionError("down")
    with pytest.raises(ConnectionError):
        await f.refresh()
    source.broken = None
    assert await f.refresh() == 3
    assert await f() == 3


@on_a_clock
async def test_while_an_explicit_refresh_runs_others_are_served_stale(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m", soft_timeout="1s")
    assert await f() == 1
    await clock.advance(11)
    source.takes = 5.0
    refresh = asyncio.create_task(f.refresh())
    await asyncio.sleep(0)
    before = clock.monotonic()
    assert await f() == 1
    assert clock.monotonic() == before
    assert await refresh == 2
    assert (cache.stats().refreshes, source.loads) == (0, 2)


@on_a_clock
async def test_a_wrong_program_is_told_and_not_smoothed_over(clock: FakeClock) -> None:
    _, source, f = declare(clock, stale="1m", soft_timeout="1s")
    assert await f() == 1
    await clock.advance(11)
    source.broken = MisuseError("no such argument")
    with pytest.raises(MisuseError):
        await f()
    assert await f() == 1  # and not asked again at once
    assert source.loads == 2


@on_a_clock
async def test_closing_waits_for_background_loads(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m")
    await f()
    await clock.advance(11)
    source.takes = 2.0
    assert await f() == 1
    before = clock.monotonic()
    await cache.aclose()
    assert clock.monotonic() == before + 2
    assert await f() == 2


@on_a_clock
async def test_closing_does_not_wait_for_ever(clock: FakeClock) -> None:
    cache, source, f = declare(clock, stale="1m")
    await f()
    await clock.advance(11)
    source.takes = 1e9
    assert await f() == 1
    before = clock.monotonic()
    await cache.aclose()
    assert clock.monotonic() == before + 5
    assert len(asyncio.all_tasks()) == 1


def test_background_loads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.cache.loads.MAX_REFRESHES", 3)

    async def test(clock: FakeClock) -> None:
        cache = Cache("t", clock=clock, jitter=0, stale="1m")
        takes, loads = 0.0, list[int]()

        @cache("10s")
        async def f(a: int) -> int:
            loads.append(a)
            await asyncio.sleep(takes)
            return a

        for a in range(5):
            await f(a)
        await clock.advance(11)
        takes, loads = 1.0, []
        assert [await f(a) for a in range(5)] == [0, 1, 2, 3, 4]
        await clock.advance(1)
        assert loads == [0, 1, 2]
        assert cache.stats().refreshes_skipped == 2
        assert [await f(a) for a in range(5)] == [0, 1, 2, 3, 4]
        await clock.advance(1)
        assert loads == [0, 1, 2, 3, 4]

    with FakeClock() as clock:
        clock.run(test(clock))


@on_a_clock
async def test_many_refresh_in_one_load(clock: FakeClock) -> None:
    cache, asked = Cache("t", clock=clock, jitter=0, stale="1m"), list[list[int]]()

    @cache.many("10s")
    async def things(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        return {one: len(asked) for one in ids if one != 2 or len(asked) == 1}

    assert await things([1, 2]) == {1: 1, 2: 1}
    await clock.advance(11)
    assert await things([1, 2, 3]) == {1: 1, 2: 1, 3: 2}
    await clock.advance(0)
    assert sorted(asked[1:]) == [[1, 2], [3]]
    assert 2 not in await things([2])  # the refresh said that it is no more
    stats = cache.stats()
    assert (stats.stale_hits, stats.refreshes) == (2, 2)


@on_a_clock
async def test_by_key(clock: FakeClock) -> None:
    cache, source = Cache("t", clock=clock, jitter=0), Source()

    async def ask() -> int:
        return await cache.get_or_load("k", source, ttl="10s", stale="1m")

    assert await ask() == 1
    await clock.advance(11)
    assert await ask() == 1
    await clock.advance(0)
    assert await ask() == 2


def test_a_failure_in_the_background_is_logged_once_a_throttle(caplog: pytest.LogCaptureFixture) -> None:
    async def test(clock: FakeClock) -> None:
        _, source, f = declare(clock, stale="1m")
        await f()
        await clock.advance(11)
        source.broken = ConnectionError("down")
        for _ in range(10):
            await f()
            await asyncio.sleep(0)

    with FakeClock() as clock, caplog.at_level(logging.WARNING, "tenfold.cache"):
        clock.run(test(clock))
    (record,) = caplog.records
    assert "failed; its old value is served" in record.message


def test_functions_without_level_one_cannot_be_stale() -> None:
    cache = Cache("t", redis="redis://127.0.0.1:1/0", stale="1h", eager=0.5)

    async def f() -> int:
        return 0

    with pytest.raises(MisuseError, match="stale= needs level 1"):
        cache("1m", memory=False, stale="1m", name="g")(f)
    cache("1m", memory=False)(f)  # the cache's own defaults just do not count for it
    with pytest.raises(MisuseError, match="eager: expected a share"):
        Cache("t", eager=2)
    with pytest.raises(MisuseError, match="staleness: there is no such argument"):
        Cache("t", staleness=1)  # type: ignore[call-arg]
