"""The histogram against a sorted list, against numpy, and against its own algebra."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold._core.histogram import RELATIVE_ERROR, Histogram, bucket_high, bucket_low, bucket_of

micros = st.one_of(st.integers(0, 600), st.integers(0, 4_000_000_000))
samples = st.lists(micros, max_size=200)


@given(micros)
def test_a_bucket_holds_its_value_and_is_narrow(value: int) -> None:
    index = bucket_of(value)
    low, high = bucket_low(index), bucket_high(index)
    assert low <= value <= high
    assert high - low <= value * RELATIVE_ERROR
    assert bucket_of(high + 1) == index + 1  # contiguous: no index between, none skipped


@given(samples.filter(bool), st.floats(0, 1))
def test_a_quantile_is_the_nearest_rank_and_never_understates(values: list[int], q: float) -> None:
    exact = sorted(values)[max(1, math.ceil(q * len(values) - 1e-9)) - 1]
    assert exact <= Histogram(values).quantile(q) <= exact * (1 + RELATIVE_ERROR)


@given(samples, samples, samples)
def test_merging_is_associative_commutative_and_exact(a: list[int], b: list[int], c: list[int]) -> None:
    left = Histogram(a).merge(Histogram(b)).merge(Histogram(c))
    right = Histogram(a).merge(Histogram(b).merge(Histogram(c)))
    turned = Histogram(c).merge(Histogram(a)).merge(Histogram(b))
    assert left == right == turned == Histogram(a + b + c)


@given(samples)
def test_recording_singly_or_together_is_the_same(values: list[int]) -> None:
    single = Histogram()
    for value in values:
        single.record(value)
    assert single == Histogram(values)
    assert (single.count, single.sum) == (len(values), sum(values))
    assert (single.min, single.max) == ((min(values), max(values)) if values else (None, None))


@given(samples)
def test_the_sparse_form_goes_through_json_and_back(values: list[int]) -> None:
    held = Histogram(values)
    assert Histogram.from_sparse(held.to_sparse()) == held
    assert Histogram.from_sparse(json.loads(json.dumps(held.to_sparse()))) == held


@given(samples, st.integers(0, 5_000_000), st.integers(0, 20))
def test_above_agrees_with_the_quantile(values: list[int], limit: int, failures: int) -> None:
    """The percentile q exceeds the limit exactly where more than n - ceil(qn) samples do."""
    held = Histogram(values)
    n = len(values) + failures
    for q in (0.5, 0.95, 0.99):
        if n:
            over = held.above(limit) + failures > n - max(1, math.ceil(q * n - 1e-9))
            assert (held.quantile(q, beyond=failures) > limit) == over


@given(samples.filter(bool), st.integers(1, 50), st.floats(0, 1))
def test_failures_never_improve_a_percentile(values: list[int], failures: int, q: float) -> None:
    held = Histogram(values)
    assert held.quantile(q, beyond=failures) >= held.quantile(q)


@pytest.mark.parametrize("shape", ["lognormal", "exponential", "uniform", "bimodal"])
def test_against_numpy_on_many_samples(shape: str) -> None:
    rng = np.random.default_rng(7)
    drawn = {
        "lognormal": lambda: rng.lognormal(9, 1.2, 100_000),
        "exponential": lambda: rng.exponential(20_000, 100_000),
        "uniform": lambda: rng.uniform(0, 3.6e9, 100_000),
        "bimodal": lambda: np.concatenate([rng.normal(900, 50, 95_000), rng.normal(2e6, 1e5, 5_000)]),
    }[shape]()
    values = np.maximum(drawn, 0).astype(np.int64)
    held = Histogram(values.tolist())
    for q in (0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert exact <= held.quantile(q) <= exact * (1 + RELATIVE_ERROR)
    assert held.mean == pytest.approx(values.mean(), rel=1e-12)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), samples.filter(bool))
def test_many_quantiles_in_one_pass_are_the_single_ones(qs: list[float], values: list[int]) -> None:
    held = Histogram(values)
    assert held.quantiles(qs, beyond=3) == [held.quantile(q, beyond=3) for q in qs]
