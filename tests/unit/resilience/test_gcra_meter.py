"""`Meter`: one example each. The laws are in tests/property."""

from __future__ import annotations

import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.gcra import Meter
from tenfold.resilience.ratelimit import RateLimit


def admits(meter: Meter, now: float, key: object = None, cost: float = 1) -> bool:
    try:
        meter.admit(now, key, cost)
    except RateLimited:
        return False
    return True


def test_a_burst_then_the_rate() -> None:
    meter = Meter(RateLimit("10/s", burst=3), name="shop")
    assert [admits(meter, 100.0) for _ in range(4)] == [True, True, True, False]
    assert not admits(meter, 100.0999)
    assert admits(meter, 100.1001)
    with pytest.raises(RateLimited) as refusal:
        meter.admit(100.1001)
    assert refusal.value.policy == "shop"
    assert refusal.value.retry_after == pytest.approx(0.0999)
    assert meter.state() == {"rate": 10.0, "burst": 3.0, "keys": 1, "admitted": 4, "refused": 3, "forgotten": 0}
    assert repr(meter) == "<Meter 10/s burst=3 keys=1 admitted=4 refused=3>"


def test_a_dear_call_takes_several_cells() -> None:
    meter = Meter(RateLimit("10/s", burst=5))
    assert admits(meter, 0.0, cost=4)
    assert not admits(meter, 0.0, cost=2)
    assert admits(meter, 0.0, cost=1)


@pytest.mark.parametrize("cost", [0, -1, 6, float("nan"), float("inf")])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_cost_that_can_never_be_admitted_is_a_mistake(cost: float, fresh: bool) -> None:
    meter = Meter(RateLimit("10/s", burst=5))
    if not fresh:
        meter.admit(0.0)
    with pytest.raises(MisuseError, match="up to the burst of 5"):
        meter.admit(0.0, None, cost)
    assert meter.refused == 0


def test_keys_do_not_share() -> None:
    meter = Meter(RateLimit("1/s", burst=1))
    assert admits(meter, 0.0, "a")
    assert admits(meter, 0.0, "b")
    assert not admits(meter, 0.0, "a")


def test_keys_whose_time_has_passed_are_dropped_without_being_asked_for() -> None:
    meter = Meter(RateLimit("1/s", burst=1))
    for second in range(1000):
        assert admits(meter, float(2 * second), second)
    assert len(meter) <= 2
    assert meter.forgotten == 0


def test_the_map_is_bounded_and_what_is_forgotten_early_is_counted() -> None:
    meter = Meter(RateLimit("1/s", burst=1, max_keys=10))
    for key in range(25):
        assert admits(meter, 0.0, key)
    assert len(meter) == 10
    assert meter.forgotten == 15


def test_when_full_the_key_with_the_least_to_remember_goes() -> None:
    meter = Meter(RateLimit("1/s", burst=9, max_keys=4))
    for key, cost in (("a", 5), ("b", 2), ("c", 7), ("d", 9)):
        meter.admit(0.0, key, cost)
    meter.admit(0.0, "e")
    assert not admits(meter, 0.0, "a", 5)
    assert not admits(meter, 0.0, "c", 3)
    assert admits(meter, 0.0, "b", 9)


def test_a_clock_that_goes_back_a_little_admits_nothing_extra() -> None:
    meter = Meter(RateLimit("10/s", burst=1))
    assert admits(meter, 5.0)
    assert not admits(meter, 4.9)
    assert not admits(meter, 5.09)
    assert admits(meter, 5.11)


def test_a_year_at_full_speed_does_not_drift() -> None:
    """A TAT in seconds would gain or lose a part of a thousand here; in cells it is exact."""
    meter = Meter(RateLimit(1_000_000, burst=1))
    start = 3e7
    meter.admit(start)
    for _ in range(100_000):
        tat = meter._tats[None]
        meter._tats[None] = tat  # as if asked at exactly the right moment, each time
        meter.admit(tat / 1e6)
    assert meter._tats[None] == 3e13 + 100_001


def test_reconfigure_keeps_what_has_been_used() -> None:
    meter = Meter(RateLimit("10/s", burst=10))
    for _ in range(10):
        meter.admit(50.0)
    meter.reconfigure(RateLimit("1/s", burst=10), 50.0)
    assert not admits(meter, 50.9)
    assert admits(meter, 51.0)
    assert not admits(meter, 51.9)


def test_a_lower_burst_forgives_what_is_above_it() -> None:
    meter = Meter(RateLimit("1/s", burst=1000))
    meter.admit(0.0, None, 1000)
    meter.reconfigure(RateLimit("1/s", burst=2), 0.0)
    with pytest.raises(RateLimited) as refusal:
        meter.admit(0.0)
    assert refusal.value.retry_after == 1.0
    assert admits(meter, 1.0)


def test_threads_together_get_the_burst_and_not_one_more() -> None:
    meter = Meter(RateLimit("1/s", burst=1000))
    counts = [0] * 8
    gate = threading.Barrier(8)

    def work(place: int) -> None:
        gate.wait()
        for _ in range(500):
            counts[place] += admits(meter, 7.0, "k")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == meter.admitted == 1000
    assert meter.refused == 3000
