import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.stats import Ewma, RateMeter, Ratio, Window


def test_the_mean_of_a_constant_stream_is_the_constant_from_the_first_sample_on():
    mean = Ewma(tau="10s")
    for second in range(100):
        mean.observe(3.0, second * 0.1)
        assert mean.value(second * 0.1) == pytest.approx(3.0)


def test_silence_pulls_half_way_to_rest_in_a_half_life_and_a_sample_ends_it():
    mean = Ewma(half_life=10, rest=1.0)
    mean.observe(5.0, 0.0)
    assert mean.value(10.0) == pytest.approx(3.0)
    assert mean.value(20.0) == pytest.approx(2.0)
    assert mean.mean == 5.0
    mean.observe(5.0, 20.0)
    assert mean.value(20.0) == pytest.approx(5.0)


def test_without_a_rest_it_stays():
    mean = Ewma(tau=1, rest=None)
    assert math.isnan(mean.value(0.0))
    mean.observe(7.0, 0.0)
    assert mean.value(1e6) == 7.0
    assert mean.weight(1e6) == 0.0


def test_before_the_first_sample_it_is_at_rest():
    assert Ewma(tau=1, rest=0.3).value(12.0) == 0.3


def test_samples_of_one_instant_count_alike_and_old_ones_fade():
    mean = Ewma(half_life=1)
    for sample in (1.0, 2.0, 6.0):
        mean.observe(sample, 5.0)
    assert mean.value(5.0) == pytest.approx(3.0)
    mean.observe(10.0, 6.0)  # the three weigh a half each now
    assert mean.value(6.0) == pytest.approx((1.5 * 3.0 + 10.0) / 2.5)


def test_a_clock_reading_from_the_past_counts_as_now():
    mean = Ewma(tau=1)
    mean.observe(1.0, 10.0)
    mean.observe(3.0, 5.0)
    assert mean.value(10.0) == pytest.approx(2.0)
    assert mean.value(0.0) == pytest.approx(2.0)


@pytest.mark.parametrize("arguments", [{}, {"tau": 1, "half_life": 1}, {"tau": 0}, {"half_life": "0s"}, {"tau": -1}])
def test_an_average_without_a_sensible_pace_is_refused(arguments):
    with pytest.raises(MisuseError):
        Ewma(**arguments)


@pytest.mark.parametrize("sample", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_is_refused_and_leaves_no_trace(sample):
    mean = Ewma(tau=1)
    with pytest.raises(MisuseError, match="finite sample"):
        mean.observe(sample, 0.0)
    assert mean.value(0.0) == 0.0


def test_a_bucket_leaves_the_window_as_a_whole_exactly_at_its_edge():
    window = Window("10s", buckets=10)
    window.add(0.0, 2.0)
    window.add(0.9, 3.0)
    window.add(1.0, 5.0)
    assert (window.count(9.99), window.sum(9.99)) == (3, 10.0)
    assert (window.count(10.0), window.sum(10.0)) == (1, 5.0)
    assert (window.count(11.0), window.sum(11.0)) == (0, 0.0)
    assert math.isnan(window.mean(11.0))
    assert window.mean(11.0, default=0.0) == 0.0


def test_a_window_forgets_everything_after_a_long_silence_and_on_clear():
    window = Window(1, buckets=4)
    window.add(0.0, count=5)
    window.add(1e9, count=2)
    assert window.count(1e9) == 2
    window.clear()
    assert window.count(1e9) == 0
    assert repr(window) == "<Window span=1 s buckets=4 count=0>"


def test_a_late_event_counts_in_the_newest_bucket():
    window = Window(10)
    window.add(100.0)
    window.add(3.0)
    assert window.count(100.0) == 2


def test_a_window_may_begin_before_zero():
    window = Window(10, buckets=5)
    window.add(-7.0)
    assert window.count(-1.0) == 1
    assert window.count(2.0) == 0


@pytest.mark.parametrize("buckets", [0, -1, 1.5, True, None])
def test_a_ring_needs_buckets(buckets):
    with pytest.raises(MisuseError, match="buckets"):
        Window(10, buckets=buckets)


def test_a_window_needs_a_span():
    with pytest.raises(MisuseError, match="longer than zero"):
        Window(0)


def test_ratio():
    ratio = Ratio("10s")
    assert math.isnan(ratio.ratio(0.0))
    assert ratio.ratio(0.0, default=1.0) == 1.0
    for n in range(4):
        ratio.add(n != 0, 5.0)
    assert (ratio.total(5.0), ratio.good(5.0), ratio.bad(5.0), ratio.ratio(5.0)) == (4, 3, 1, 0.75)
    assert ratio.total(30.0) == 0
    ratio.add(True, 30.0)
    ratio.clear()
    assert ratio.total(30.0) == 0


def test_a_steady_stream_reads_as_its_rate_young_and_old():
    meter = RateMeter(10)
    assert meter.rate(0.0) == 0.0
    step = 1 / 64  # exact in binary
    for n in range(64 * 30):
        meter.add(n * step)
        if n >= 64:
            assert meter.rate(n * step) == pytest.approx(64, rel=0.02)
    assert meter.rate(100.0) == 0.0


def test_the_first_event_does_not_read_as_infinite():
    meter = RateMeter(10, buckets=10)
    meter.add(0.0)
    assert meter.rate(0.0) == 1.0
