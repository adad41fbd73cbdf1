"""Lag against a primary that is simulated exactly: the answer is right to within one period, or it is None."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.db.lag import LagLimits, LagSwitch, Trail
from tenfold.db.seen import Position

PERIOD = 0.25


@st.composite
def histories(draw: st.DrawFn) -> list[int]:
    """The primary's position at each tick of 10 ms: busy, idle, in bursts."""
    steps = draw(
        st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0, 0, 1, 50, 10_000])), min_size=1, max_size=20)
    )
    lsns, lsn = [], 1000
    for ticks, rate in steps:
        for _ in range(ticks):
            lsns.append(lsn)
            lsn += rate
    return lsns


def at(lsn: int, timeline: int = 1) -> Position:
    return Position(7, timeline, lsn)


@given(histories(), st.data())
def test_seconds_behind_are_right_to_within_a_period(lsns: list[int], data: st.DataObject) -> None:
    trail = Trail(512)
    for tick in range(0, len(lsns), int(PERIOD * 100)):
        trail.note(at(lsns[tick]), tick / 100)
        last = tick
    now_tick = data.draw(st.integers(last, len(lsns) - 1))
    now, shown = now_tick / 100, data.draw(st.integers(0, now_tick))
    found = trail.behind(at(lsns[shown]), now, horizon=2.0)
    assert found is not None  # it is never behind the whole record
    # The moment until which the primary stood where the replica stands: what came later is missing there.
    end = bisect_right(lsns, lsns[shown]) - 1
    truth = 0.0 if end >= now_tick else (now_tick - end) / 100
    assert truth - PERIOD - 1e-9 <= found[0] <= truth + PERIOD + 1e-9
    assert found[1] == max(0, lsns[last] - lsns[shown])


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=2000), st.integers(8, 64))
def test_the_record_is_bounded_ordered_and_keeps_its_beginning(steps: list[int], capacity: int) -> None:
    trail, lsn = Trail(capacity), 1
    for number, step in enumerate(steps):
        lsn += step
        trail.note(at(lsn), float(number))
        assert len(trail) <= capacity
    assert trail._lsns == sorted(set(trail._lsns))
    assert trail._first[0] == 0.0
    assert trail._lsns[-1] == lsn


def test_an_idle_primary_makes_no_lag() -> None:
    trail = Trail()
    for second in range(1000):
        trail.note(at(5000), float(second))
    assert trail.behind(at(5000), 1000.0, 2.0) == (0.0, 0)
    assert len(trail) == 1


def test_a_record_written_after_a_long_idle_time_is_not_a_long_lag() -> None:
    trail = Trail()
    for second in range(100):
        trail.note(at(5000), float(second))
    trail.note(at(5100), 100.0)
    found = trail.behind(at(5000), 100.5, 2.0)
    assert found is not None
    assert found[0] == pytest.approx(1.5)


def test_nobody_knows() -> None:
    trail = Trail()
    assert trail.behind(at(1), 0.0, 2.0) is None  # no sample of the primary
    trail.note(at(5000), 10.0)
    assert trail.behind(at(5000), 12.1, 2.0) is None  # too old a sample: the primary may have written since
    assert trail.behind(at(5000, timeline=2), 10.0, 2.0) is None
    assert trail.behind(Position(8, 1, 5000), 10.0, 2.0) is None
    assert trail.behind(at(4000), 10.5, 2.0) is None  # behind the whole record, which is too short to say how far
    for second in range(11, 21):
        trail.note(at(5000 + second), float(second))
    assert trail.behind(at(4000), 20.0, 2.0) == (10.0, 1020)  # at least
    trail.note(at(9000, timeline=2), 21.0)
    assert trail.behind(at(5020), 21.0, 2.0) is None
    assert len(trail) == 1


def test_hysteresis() -> None:
    switch = LagSwitch(LagLimits(leave="2s", back=0.5))
    told = [switch.update(lag) for lag in (None, 1.5, 1.0, 1.9, 2.1, 1.9, 1.1, 1.0, None, 1.5, 0.2)]
    assert told == [
        "unknown", "stale", "fresh", "fresh", "stale", "stale", "stale", "fresh", "unknown", "stale", "fresh"
    ]  # fmt: skip
    assert switch.turns == 1
    assert LagSwitch(LagLimits(leave=None)).update(1e6) == "fresh"
    with pytest.raises(MisuseError, match="max_lag: expected a duration"):
        LagLimits(leave="soon")
    with pytest.raises(MisuseError, match="lag horizon"):
        LagLimits(horizon=0)


@given(st.lists(st.one_of(st.none(), st.floats(0, 5)), max_size=50))
def test_between_the_thresholds_nothing_changes(lags: list[float | None]) -> None:
    switch = LagSwitch(LagLimits(leave=2.0, back=0.5))
    for lag in lags:
        before = switch.state
        after = switch.update(lag)
        if lag is None:
            assert after == "unknown"
        elif lag > 2.0:
            assert after == "stale"
        elif lag <= 1.0:
            assert after == "fresh"
        else:
            assert after == ("fresh" if before == "fresh" else "stale")
