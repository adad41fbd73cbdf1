"""`AdaptiveLimit` in front of a simulated dependency: what the bench prints, asserted for several seeds.

Virtual time and a seeded random source: the same numbers everywhere. Times are in units of the mean service time.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench._overload import Span, quantile, run, simulate, unloaded_p99
from tenfold.resilience.adaptive import AdaptiveLimit

SEEDS = range(1, 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_twice_the_capacity_goodput_and_latency_hold(seed: int) -> None:
    found = simulate(seed)
    assert found["goodput_share"] >= 0.9
    assert found["p99_vs_unloaded"] <= 3.0


def test_the_same_seed_is_the_same_run() -> None:
    assert simulate(3, spans=(200.0, 400.0)) == simulate(3, spans=(200.0, 400.0))


@pytest.mark.parametrize("limit", [1000, 4])
def test_without_the_right_limit_the_simulation_shows_the_harm(limit: int) -> None:
    """A test that no limit can fail proves nothing: far too high is late, far too low is little."""
    found = simulate(1, limit=AdaptiveLimit(initial=limit, minimum=limit, maximum=limit), spans=(200.0, 400.0))
    assert found["goodput_share"] < 0.25 or found["p99_vs_unloaded"] > 3.0


@pytest.mark.parametrize(
    "shape",
    [
        {"service": "constant"},
        {"service": "uniform"},
        {"service": "lognormal"},
        {"service": "pareto"},
        {"discipline": "shared"},
        {"capacity": 10},
        {"capacity": 100, "spans": (800.0, 1200.0)},
        {"bursts": 20.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_services_capacities_and_arrivals(seed: int, shape: dict[str, Any]) -> None:
    found = simulate(seed, **shape)
    assert found["goodput_share"] >= 0.9
    assert found["p99_vs_unloaded"] <= 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_under_constant_time_outs_the_limit_does_not_climb(seed: int) -> None:
    """The dependency stands still: everything times out, at any limit."""
    spans, places = run(seed, speed=lambda now: 0.0 if now > 400 else 1.0, spans=(400.0, 460.0, 1500.0))
    assert spans[2].lost > 0
    assert spans[2].highest <= spans[1].highest
    assert places.limit <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_and_it_recovers_when_they_end(seed: int) -> None:
    spans, _ = run(seed, speed=lambda now: 0.0 if 400 < now < 800 else 1.0, spans=(800.0, 2500.0, 3500.0))
    assert good(spans[2]) >= 0.9 * 20 * 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_when_nearly_idle_the_limit_does_not_grow(seed: int) -> None:
    spans, _ = run(seed, load=lambda now: 2.0 if now < 600 else 0.1, spans=(600.0, 5000.0))
    assert spans[1].offered > 5000
    assert spans[1].highest <= spans[1].lowest * 1.05


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_it_follows_a_service_that_becomes_faster_or_slower(seed: int, factor: float) -> None:
    """Offered is always twice the capacity of the moment; goodput and latency are those of the new service time."""
    spans, _ = run(
        seed,
        speed=lambda now: 1.0 if now < 1000 else factor,
        load=lambda now: 2.0 if now < 1000 else 2.0 * factor,
        spans=(1000.0, 1000.0 + 600 / factor, 1000.0 + 1800 / factor),
        timeout=200.0,
    )
    last = spans[2]
    assert good(last) >= 0.9 * 20 * 1200
    assert quantile(last.latencies, 0.99) * factor <= 3 * unloaded_p99("exponential")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_service_that_becomes_slower_regardless_of_our_load_does_not_shrink_it(seed: int) -> None:
    """The correlation guard: all latencies are three times as long, and as many calls at once are still right."""
    spans, _ = run(
        seed,
        service="constant",
        speed=lambda now: 1.0 if now < 1000 else 1 / 3,
        spans=(1000.0, 4000.0),
        timeout=200.0,
    )
    assert spans[1].lowest >= 0.8 * 20


def good(span: Span) -> int:
    return sum(map(math.isfinite, span.latencies))
