"""How often compare is wrong: equal systems, with neighbouring seconds alike, over many seeds."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from tenfold._core.histogram import Histogram
from tenfold.load.compare import CompareOptions, compare
from tenfold.load.result import Interval, RunResult

PAIRS = 60
FAST = CompareOptions(resamples=1000)


def drawn(seed: int, *, shift: float = 1.0, likeness: float = 0.3, rate: int = 60, seconds: int = 30) -> RunResult:
    """Lognormal latencies whose median follows a first-order autoregression from second to second."""
    draw = random.Random(seed)
    level = draw.gauss(0, 1)
    intervals = []
    for at in range(seconds):
        level = likeness * level + math.sqrt(1 - likeness**2) * draw.gauss(0, 1)
        median = 20_000 * shift * math.exp(0.1 * level)
        values = [round(draw.lognormvariate(0, 0.4) * median) for _ in range(rate)]
        intervals.append(Interval(at=at, intended=rate, corrected=Histogram(values)))
    return RunResult(scenario="s", target="t", schedule={}, duration=seconds, elapsed=seconds, intervals=intervals)


@pytest.mark.parametrize("likeness", [0.0, 0.4])
def test_equal_systems_are_seldom_told_apart(likeness: float) -> None:
    outcomes = Counter(
        compare(drawn(2 * seed, likeness=likeness), drawn(2 * seed + 1, likeness=likeness), FAST).outcome
        for seed in range(PAIRS)
    )
    # Nominal: at most 5 % = 3 of 60; 7 or more would be a one-in-thirty accident at the nominal rate.
    assert outcomes["better"] + outcomes["worse"] <= 6, outcomes


def test_shifts_are_found_and_never_the_wrong_way_round() -> None:
    slower = Counter(compare(drawn(s), drawn(s + 500, shift=1.3), FAST).metrics[1].outcome for s in range(20))
    faster = Counter(compare(drawn(s), drawn(s + 500, shift=0.7), FAST).metrics[1].outcome for s in range(20))
    assert slower["worse"] >= 19, slower
    assert faster["better"] >= 19, faster
