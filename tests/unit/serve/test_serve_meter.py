"""What is measured: means in flight, waiting ones included, cores, percentiles."""

import math
import random

import pytest

from tenfold.autoscale import Unavailable
from tenfold.serve.latency import BOUNDS, FineTimes, Window, quantile
from tenfold.serve.meter import Meter


def values(reading):
    return {name: sample.value for name, sample in reading.samples.items()}


def test_the_mean_of_a_period_and_the_share_of_those_that_wait():
    meter = Meter()
    for busy in (10, 0, 20, 10):
        meter.add({"a": busy, "b": 4, "draining": 7}, 6)
    assert values(meter.in_flight(frozenset("ab"))) == {"a": 13.0, "b": 7.0}
    assert (meter.total, meter.waiting) == (27.0, 6.0)


def test_a_period_begins_with_nothing():
    meter = Meter()
    meter.add({"a": 8}, 2)
    meter.in_flight(frozenset("a"))
    meter.add({"a": 0}, 0)
    assert values(meter.in_flight(frozenset("a"))) == {"a": 0.0}
    assert meter.total == 0.0


def test_a_worker_that_came_in_the_middle_has_the_mean_of_its_own_time():
    meter = Meter()
    meter.add({"a": 5}, 0)
    meter.add({"a": 5, "b": 3}, 0)
    assert values(meter.in_flight(frozenset("ab"))) == {"a": 5.0, "b": 3.0}
    assert meter.total == 6.5


def test_cores_are_seconds_by_seconds():
    meter = Meter()
    assert values(meter.cpu({"a": 1.0, "b": None}, now=10.0)) == {}
    assert values(meter.cpu({"a": 2.5, "b": 7.0}, now=12.0)) == {"a": 0.75}
    found = meter.cpu({"b": 7.5}, now=13.0)
    assert values(found) == {"b": 0.5}
    assert (found.samples["b"].at, found.samples["b"].window) == (13.0, 1.0)
    assert values(meter.cpu({"a": 9.0}, now=14.0)) == {}  # it was away, and may be another process


@pytest.mark.parametrize("seconds", [0.0007, 0.0123, 0.051, 0.0999, 1.7, 42.0])
def test_a_percentile_is_off_by_less_than_a_bucket(seconds):
    times = FineTimes()
    for _ in range(1000):
        times.add(seconds)
    assert quantile(times.fine, 0.95) == pytest.approx(seconds, rel=0.05)


def test_percentiles_against_sorting():
    draw = random.Random(8)
    several = [draw.lognormvariate(-3, 1) for _ in range(5000)]
    times = FineTimes()
    for each in several:
        times.add(each)
    for q in (0.5, 0.95, 0.99):
        assert quantile(times.fine, q) == pytest.approx(sorted(several)[math.ceil(q * 5000) - 1], rel=0.05)
    assert sum(times.counts) == sum(times.fine) == 5000
    assert times.sum == pytest.approx(sum(several))


def test_beyond_the_last_bound():
    times = FineTimes()
    times.add(1000.0)
    assert quantile(times.fine, 0.95) == BOUNDS[-1]
    assert quantile([0] * len(times.fine), 0.95) is None


def test_a_window_forgets():
    times, window = FineTimes(), Window(2)
    window.look(times.fine)
    for seconds in (5.0, 0.1, 0.1):
        times.add(seconds)
        found = window.look(times.fine)
    assert sum(found) == 2
    assert quantile(found, 1.0) == pytest.approx(0.1, rel=0.05)


def test_waiting_is_latency():
    """Little: 50 wait, 100 are answered in a second, so a wait takes half a second."""
    meter, times = Meter(), FineTimes()
    meter.p95(times.fine, 1.0)
    for _ in range(100):
        times.add(0.02)
    meter.add({"a": 2}, 50)
    meter.in_flight(frozenset("a"))
    assert meter.p95(times.fine, 1.0).value == pytest.approx(0.52, rel=0.05)


def test_nothing_answered():
    meter, times = Meter(), FineTimes()
    assert meter.p95(times.fine, 1.0).value == 0.0
    meter.add({"a": 3}, 0)
    meter.in_flight(frozenset("a"))
    assert isinstance(meter.p95(times.fine, 1.0), Unavailable)
