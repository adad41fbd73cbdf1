from __future__ import annotations

import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import Histogram


def test_an_empty_histogram_says_so() -> None:
    empty = Histogram()
    assert repr(empty) == "Histogram(empty)"
    assert math.isnan(empty.quantile(0.5))
    assert math.isnan(empty.mean)
    assert not empty
    assert Histogram.from_sparse(empty.to_sparse()) == empty


def test_the_repr_tells_what_a_person_asks_for() -> None:
    assert repr(Histogram([100] * 98 + [200, 5000])) == "Histogram(100 samples, p50=100µs, p99=200µs, max=5000µs)"


def test_a_quantile_among_the_failures_is_infinite() -> None:
    held = Histogram([10] * 94)
    assert held.quantile(0.94, beyond=6) == 10
    assert held.quantile(0.95, beyond=6) == math.inf
    assert Histogram().quantile(0.5, beyond=1) == math.inf


def test_the_range_reaches_an_hour_and_the_ends_are_exact() -> None:
    held = Histogram([1, 3_600_000_001])
    assert (held.min, held.max, held.quantile(0), held.quantile(1)) == (1, 3_600_000_001, 1, 3_600_000_001)


def test_a_copy_is_independent_and_merging_with_itself_doubles() -> None:
    held = Histogram([5, 6])
    other = held.copy()
    other.record(7, n=3)
    assert (held.count, other.count) == (2, 5)
    assert held.merge(held).count == 4


def test_recording_nothing_changes_nothing() -> None:
    held = Histogram()
    held.record(5, n=0)
    held.record_many([])
    assert held == Histogram()


@pytest.mark.parametrize(("value", "n"), [(-1, 1), (5, -1)])
def test_negative_values_are_refused(value: int, n: int) -> None:
    with pytest.raises(MisuseError, match=r"record: expected microseconds >= 0"):
        Histogram().record(value, n)
    held = Histogram([4])
    with pytest.raises(MisuseError, match="record_many"):
        held.record_many([3, -2])
    assert held.count == 1


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(MisuseError, match=r"between 0 and 1, got 95"):
        Histogram([1]).quantile(95)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"unit": "ms", "counts": {}, "min": None, "max": None, "sum": 0},
        {"unit": "us", "counts": {"1": -4}, "min": 1, "max": 1, "sum": 0},
        {"unit": "us", "counts": {"x": 4}, "min": 1, "max": 1, "sum": 0},
        {"unit": "us", "counts": {"1": 4}, "min": None, "max": 1, "sum": 4},
        {"unit": "us", "counts": [], "min": None, "max": None, "sum": 0},
    ],
)
def test_foreign_sparse_forms_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(MisuseError, match="histogram: expected"):
        Histogram.from_sparse(data)
