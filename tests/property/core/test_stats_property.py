import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.stats import Ewma, RateMeter, Ratio, Window

GAPS = st.lists(st.tuples(st.floats(0, 20), st.floats(-100, 100)), max_size=60)


def timeline(gaps):
    now, events = 0.0, []
    for gap, value in gaps:
        now += gap
        events.append((now, value))
    return events


@given(GAPS, st.floats(0, 30), st.integers(1, 12))
def test_a_window_equals_the_naive_count_over_its_buckets(gaps, wait, buckets):
    window = Window(10, buckets=buckets)
    events = timeline(gaps)
    for now, value in events:
        window.add(now, value)
    end = (events[-1][0] if events else 0.0) + wait
    width = 10 / buckets
    newest = math.floor(end / width)
    inside = [value for now, value in events if math.floor(now / width) > newest - buckets]
    assert window.count(end) == len(inside)
    assert window.sum(end) == pytest.approx(math.fsum(inside), abs=1e-9)


@given(GAPS, st.floats(0, 30))
def test_a_window_never_holds_what_is_older_than_its_span_and_never_misses_what_is_young(gaps, wait):
    window = Window(10, buckets=5)
    events = timeline(gaps)
    for now, value in events:
        window.add(now, value)
    end = (events[-1][0] if events else 0.0) + wait
    young = sum(end - now <= 8 - 1e-6 for now, _ in events)
    not_old = sum(end - now <= 10 + 1e-6 for now, _ in events)
    assert young <= window.count(end) <= not_old


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(-1e3, 1e3)), min_size=1, max_size=40))
def test_the_decaying_mean_equals_its_definition(gaps):
    mean = Ewma(tau=3, rest=None)
    events = timeline(gaps)
    for now, sample in events:
        mean.observe(sample, now)
    end = events[-1][0]
    weights = [math.exp(-(end - now) / 3) for now, _ in events]
    expected = math.fsum(w * x for w, (_, x) in zip(weights, events, strict=True)) / math.fsum(weights)
    assert mean.value(end) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert mean.weight(end) == pytest.approx(math.fsum(weights))


@given(GAPS.filter(bool), st.floats(-50, 50), st.floats(0, 100))
def test_the_value_lies_between_the_mean_and_rest_and_only_gets_closer(gaps, rest, wait):
    mean = Ewma(half_life=2, rest=rest)
    events = timeline(gaps)
    for now, sample in events:
        mean.observe(sample, now)
    end = events[-1][0]
    early, late = mean.value(end + wait), mean.value(end + wait + 1)
    low, high = sorted((mean.mean, rest))
    assert low - 1e-9 <= early <= high + 1e-9
    assert abs(late - rest) <= abs(early - rest) + 1e-9


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=50))
def test_good_and_bad_make_the_total(outcomes):
    ratio, now = Ratio(10), 0.0
    for gap, good in outcomes:
        now += gap
        ratio.add(good, now)
    assert ratio.good(now) + ratio.bad(now) == ratio.total(now)
    assert 0.0 <= ratio.ratio(now, default=0.0) <= 1.0


@given(st.lists(st.floats(0, 20), max_size=50), st.floats(0, 30))
def test_a_rate_is_finite_and_never_above_all_events_in_one_bucket(gaps, wait):
    meter, now = RateMeter(10, buckets=10), 0.0
    for gap in gaps:
        now += gap
        meter.add(now)
    assert 0.0 <= meter.rate(now + wait) <= len(gaps)
