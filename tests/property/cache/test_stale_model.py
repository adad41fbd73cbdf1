"""Any sequence of calls, waits, failures and invalidations against what was promised of age, freshness and throttle.

The oracle knows only what the loader answered, when it began and ended, and when something was invalidated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.cache import Cache
from tenfold.testing import FakeClock

TTL, STALE, THROTTLE = 8.0, 16.0, 4.0


class Failed(Exception):
    pass


@dataclass
class Loaded:
    began: float
    ended: float


class World:
    """A loader that records what it did; values are numbers of loads."""

    def __init__(self, clock: FakeClock, eager: float | None, soft: float, hard: float | None) -> None:
        self.clock, self.soft = clock, soft
        self.takes, self.broken = 0.0, False
        self.loads: dict[int, Loaded] = {}
        self.failures: list[float] = []
        self.begun: list[float] = []
        self.invalidated = -1.0
        self.cache = Cache("t", clock=clock, jitter=0)

        @self.cache(TTL, tags=["t"], stale=STALE, eager=eager, soft_timeout=soft, hard_timeout=hard, throttle=THROTTLE)
        async def f() -> int:
            number, began = len(self.begun), clock.monotonic()
            self.begun.append(began)
            takes, broken = self.takes, self.broken
            try:
                await asyncio.sleep(takes)
                if broken:
                    raise Failed
            except BaseException:
                self.failures.append(clock.monotonic())
                raise
            self.loads[number] = Loaded(began, clock.monotonic())
            return number

        self.f = f

    async def call(self) -> None:
        began, invalidated = self.clock.monotonic(), self.invalidated
        running = len(self.begun) - len(self.loads) - len(self.failures)
        loads_before = len(self.begun)
        try:
            value = await self.f()
        except (Failed, TimeoutError):
            return
        ended, loaded = self.clock.monotonic(), self.loads[value]
        assert loaded.began >= invalidated, "older than an invalidation that was acknowledged before the call"
        assert ended < loaded.ended + TTL + STALE, "beyond ttl + stale"
        if ended >= loaded.ended + TTL and ended == began and self.soft == 0:
            rests = any(began - THROTTLE < failure <= began for failure in self.failures)
            for _ in range(5):
                await asyncio.sleep(0)
            assert running or rests or len(self.begun) > loads_before, "nobody refreshes it"


steps = st.one_of(
    st.tuples(st.just("call"), st.integers(1, 4)),
    st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 3.0, 5.0, 8.0, 20.0])),
    st.tuples(st.just("break"), st.booleans()),
    st.tuples(st.just("takes"), st.sampled_from([0.0, 0.5, 2.0, 6.0])),
    st.tuples(st.sampled_from(["invalidate", "tag", "clear", "refresh"]), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(steps, max_size=40),
    eager=st.sampled_from([None, 0.5]),
    soft=st.sampled_from([0.0, 1.0]),
    hard=st.sampled_from([None, 4.0]),
)
def test_promises_hold(script: list[tuple[str, object]], eager: float | None, soft: float, hard: float | None) -> None:
    async def play(clock: FakeClock) -> None:
        world = World(clock, eager, soft, hard)
        callers: list[asyncio.Task[None]] = []
        for what, argument in script:
            if what == "call":
                callers += [asyncio.create_task(world.call()) for _ in range(argument)]  # type: ignore[call-overload]
                await clock.advance(0)
            elif what == "wait":
                await clock.advance(argument)  # type: ignore[arg-type]
            elif what == "break":
                world.broken = bool(argument)
            elif what == "takes":
                world.takes = float(argument)  # type: ignore[arg-type]
            elif what == "refresh":
                callers.append(asyncio.create_task(refreshed(world)))
                await clock.advance(0)
            else:
                invalidate = {
                    "invalidate": world.f.invalidate,
                    "tag": lambda: world.cache.invalidate_tags("t"),
                    "clear": world.cache.clear,
                }[what]
                await invalidate()
                world.invalidated = clock.monotonic()
                await clock.advance(0.125)  # so that "began at the same moment" means "after"
        await clock.advance(30)
        await asyncio.gather(*callers)
        stats = world.cache.stats()
        assert stats.loads == len(world.begun)
        assert stats.load_errors == len(world.failures)
        assert stats.stale_served <= sum(1 for _ in callers)
        await world.cache.aclose()
        assert len(asyncio.all_tasks()) == 1

    with FakeClock() as clock:
        clock.run(play(clock))


async def refreshed(world: World) -> None:
    try:
        value = await world.f.refresh()
    except (Failed, TimeoutError):
        return
    assert world.loads[value].ended == world.clock.monotonic()


@settings(max_examples=50, deadline=None)
@given(gaps=st.lists(st.sampled_from([0.125, 0.5, 1.0, 3.0]), min_size=5, max_size=40))
def test_a_failing_loader_is_asked_once_a_throttle_however_often_it_is_called(gaps: list[float]) -> None:
    async def play(clock: FakeClock) -> None:
        world = World(clock, None, 0.0, None)
        await world.call()
        await clock.advance(TTL)
        world.broken = True
        for gap in gaps:
            if clock.monotonic() >= TTL + STALE:
                break
            await world.f()
            await clock.advance(gap)
        asked = world.begun[1:]
        assert all(later - earlier >= THROTTLE for earlier, later in pairwise(asked))
        assert asked, "it was asked at all"

    with FakeClock() as clock:
        clock.run(play(clock))
