"""GCRA against an exact model in fractions, and its two promises: the window and ``retry_after``."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tenfold.resilience.errors import RateLimited
from tenfold.resilience.gcra import Meter
from tenfold.resilience.ratelimit import RateLimit


class Exact:
    """The leaky bucket, told in fractions: a level that drains, and calls that fit or do not."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.level: dict[object, Fraction] = {}
        self.at: dict[object, Fraction] = {}

    def admits(self, now: Fraction, key: object, cost: int) -> bool:
        level = max(Fraction(0), self.level.get(key, Fraction(0)) - (now - self.at.get(key, now)) * self.rate)
        fits = level + cost <= self.burst
        self.level[key], self.at[key] = level + cost if fits else level, now
        return fits


def try_it(meter: Meter, now: float, key: object = None, cost: float = 1) -> float | None:
    """None: admitted; otherwise retry_after."""
    try:
        meter.admit(now, key, cost)
    except RateLimited as refusal:
        wait = refusal.retry_after
    else:
        return None
    assert wait is not None
    return wait


# Powers of two and multiples of 1/1024 are exact in doubles, so that model and meter must agree to the last call.
exact_rates = st.integers(-6, 16).map(lambda power: 2.0**power)
exact_gaps = st.integers(0, 4096).map(lambda ticks: ticks / 1024)
calls = st.lists(st.tuples(exact_gaps, st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=80)
rates = st.floats(1e-3, 1e6)


@given(rate=exact_rates, burst=st.integers(3, 20), start=st.integers(0, 10**6), calls=calls)
def test_it_decides_as_the_exact_model_does(
    rate: float, burst: int, start: int, calls: list[tuple[float, int, int]]
) -> None:
    meter, model = Meter(RateLimit(rate, burst=burst)), Exact(Fraction(rate), burst)
    now = float(start)
    for gap, key, cost in calls:
        now += gap
        assert (try_it(meter, now, key, cost) is None) == model.admits(Fraction(now), key, cost)


@given(rate=exact_rates, burst=st.integers(3, 20), max_keys=st.integers(1, 5), calls=calls)
def test_a_bounded_map_never_admits_less_and_is_exact_while_it_forgets_nothing(
    rate: float, burst: int, max_keys: int, calls: list[tuple[float, int, int]]
) -> None:
    meter, free = Meter(RateLimit(rate, burst=burst, max_keys=max_keys)), Meter(RateLimit(rate, burst=burst))
    now = 0.0
    for gap, key, cost in calls:
        now += gap
        got, expected = try_it(meter, now, key, cost), try_it(free, now, key, cost)
        assert len(meter) <= max_keys
        if meter.forgotten:
            return
        assert got == expected


@given(
    rate=rates,
    burst=st.integers(1, 50),
    start=st.floats(0, 1e7),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=120),
)
def test_no_window_holds_more_than_the_burst_and_the_rate(
    rate: float, burst: int, start: float, gaps: list[float]
) -> None:
    meter = Meter(RateLimit(rate, burst=burst))
    now, admitted = start, []
    for gap in gaps:
        now += gap / rate  # around the rate, whatever it is
        if try_it(meter, now) is None:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = Fraction(admitted[last]) - Fraction(admitted[first])
            # A reading of the clock is as good as a double is: that much of a cell, and not more with each call.
            hair = Fraction(2 * math.ulp(now * rate + 1.0)) + Fraction(rate) * Fraction(2 * math.ulp(now))
            assert last - first + 1 <= burst + Fraction(rate) * window + hair


@given(
    rate=rates,
    burst=st.integers(1, 50),
    start=st.floats(0, 1e7),
    calls=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5)), min_size=1, max_size=60),
)
def test_retry_after_is_exact(rate: float, burst: int, start: float, calls: list[tuple[float, int]]) -> None:
    meter = Meter(RateLimit(rate, burst=burst))
    now = start
    for gap, cost in calls:
        now += gap / rate
        cost = min(cost, burst)
        wait = try_it(meter, now, None, cost)
        if wait is None:
            continue
        assert wait > 0
        resolution = 4 * math.ulp(now + wait) + 4 * math.ulp((now + wait) * rate) / rate
        before = now + wait - resolution - wait * 1e-9
        if before > now:
            assert try_it(meter, before, None, cost) is not None, "it was refused for longer than needed"
        assert try_it(meter, now + wait, None, cost) is None, "it was told to come too early"
        now += wait


@given(
    rates=st.tuples(exact_rates, exact_rates),
    bursts=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    used=st.integers(0, 20),
    at=exact_gaps,
    gaps=st.lists(exact_gaps, max_size=40),
)
def test_reconfigure_gives_nothing_away(
    rates: tuple[float, float], bursts: tuple[int, int], used: int, at: float, gaps: list[float]
) -> None:
    meter = Meter(RateLimit(rates[0], burst=bursts[0]))
    for _ in range(used):
        try_it(meter, 0.0)
    spent = min(used, bursts[0])
    meter.reconfigure(RateLimit(rates[1], burst=bursts[1]), at)
    level = max(Fraction(0), spent - Fraction(rates[0]) * Fraction(at))
    room = max(Fraction(0), bursts[1] - level)
    now, admitted = at, 0
    for gap in gaps:
        now += gap
        admitted += try_it(meter, now) is None
        assert admitted <= room + Fraction(rates[1]) * Fraction(now - at)


def test_the_model_notices_a_meter_that_is_too_generous() -> None:
    """An oracle that agrees with everything proves nothing."""
    meter, model = Meter(RateLimit(1, burst=4)), Exact(Fraction(1), 3)
    assert [try_it(meter, 0.0) is None for _ in range(4)] != [model.admits(Fraction(0), None, 1) for _ in range(4)]
