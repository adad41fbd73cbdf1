"""Schedules: counts, spacing, seeds and chunks of every kind; the Poisson ones against their law."""

from __future__ import annotations

import pickle
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.load.schedule import Constant, Poisson, Ramp, Schedule, Soak, Spike, Steps, from_dict

rates = st.floats(0.5, 200)
spans = st.floats(0.5, 20)
schedules = st.one_of(
    st.builds(Constant, rates, spans),
    st.builds(Poisson, rates, spans),
    st.builds(Soak, rates, spans, poisson=st.booleans()),
    st.builds(Ramp, st.floats(0, 200), rates, spans, poisson=st.booleans()),
    st.builds(Ramp, rates, st.just(0.0), spans, poisson=st.booleans()),
    st.builds(Steps, st.lists(st.one_of(st.just(0.0), rates), min_size=1, max_size=4).filter(any), spans),
    st.builds(lambda base, peak, span: Spike(base, peak, span, rise=span / 20), st.floats(0, 50), rates, spans),
)


def offsets(schedule: Schedule, seed: int = 1, chunk: int = 4096) -> list[float]:
    return list(chain.from_iterable(schedule.arrivals(seed, chunk)))


@settings(deadline=None)
@given(schedules, st.integers(0, 2**40), st.integers(1, 100))
def test_arrivals_ascend_within_the_schedule_whatever_the_chunk(s: Schedule, seed: int, chunk: int) -> None:
    chunks = list(s.arrivals(seed, chunk))
    held = list(chain.from_iterable(chunks))
    assert all(1 <= len(part) <= chunk for part in chunks)
    assert all(len(part) == chunk for part in chunks[:-1])
    assert all(0 <= at <= s.duration * (1 + 1e-9) for at in held)
    assert all(a <= b for a, b in pairwise(held))
    assert held == offsets(s, seed)


@given(schedules)
def test_a_schedule_survives_its_dictionary_and_pickle(s: Schedule) -> None:
    assert from_dict(s.to_dict()) == s
    assert pickle.loads(pickle.dumps(s)) == s


@settings(deadline=None)
@given(schedules)
def test_even_kinds_send_exactly_what_they_estimate(s: Schedule) -> None:
    random = isinstance(s, Poisson) or getattr(s, "poisson", False)
    assert random or len(offsets(s)) == s.count_estimate


@settings(deadline=None)
@given(schedules)
def test_the_rate_integrates_to_the_count(s: Schedule) -> None:
    grid = np.linspace(0, s.duration, 4001)
    values = np.array([s.rate_at(float(t)) for t in grid])
    area = float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(grid)))
    # A jump (steps, spike without rise) costs the trapezium rule half a cell each.
    jump = 5 * values.max() * s.duration / 4000
    assert abs(area - s.count_estimate) <= jump + 1.01
    assert s.rate_at(-0.1) == 0 == s.rate_at(s.duration + 0.1)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 100), rates, spans)
def test_an_even_ramp_follows_its_integral(start: float, end: float, span: float) -> None:
    for i, at in enumerate(offsets(Ramp(start, end, span))):
        due = start * at + (end - start) / span * at * at / 2
        assert due == pytest.approx(i, abs=1e-6 * max(1, i))


def dispersion(times: list[float], width: float, span: float) -> float:
    counts = np.histogram(times, bins=np.arange(0, span + width / 2, width))[0]
    return float(counts.var() / counts.mean())


@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals_have_the_dispersion_and_the_gaps_of_their_law(seed: int) -> None:
    held = offsets(Poisson(500, 60), seed)
    assert abs(len(held) - 30_000) < 5 * 30_000**0.5
    # Variance over mean of 600 windows is 1 ± 0.058 (one sigma: sqrt(2 / 599)).
    assert 0.8 < dispersion(held, 0.1, 60) < 1.2
    gaps = np.diff(held)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)
    assert np.quantile(gaps, 0.5) == pytest.approx(np.log(2) / 500, rel=0.03)


def test_even_arrivals_have_no_dispersion() -> None:
    assert dispersion(offsets(Constant(500, 60)), 0.1, 60) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_inhomogeneous_arrivals_become_uniform_through_their_own_integral(seed: int) -> None:
    """Time rescaling: Λ(arrival) of a process of rate λ(t) is a process of rate 1."""
    held = np.array(offsets(Ramp(10, 990, 60, poisson=True), seed))
    rescaled = 10 * held + (980 / 60) * held**2 / 2
    assert 0.8 < dispersion(rescaled.tolist(), 50, 30_000) < 1.2
    gaps = np.diff(rescaled)
    assert gaps.mean() == pytest.approx(1, abs=0.03)
    assert gaps.std() == pytest.approx(1, abs=0.03)


def test_seeds_decide_the_arrivals() -> None:
    assert offsets(Poisson(100, 5), 1) == offsets(Poisson(100, 5), 1)
    assert offsets(Poisson(100, 5), 1) != offsets(Poisson(100, 5), 2)
