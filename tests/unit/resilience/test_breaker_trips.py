"""When a circuit opens: the share of failures, failures in a row, slow calls; busy callers and quiet ones."""

from __future__ import annotations

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker, State
from tenfold.resilience.circuit import Circuit


def make(**options) -> Circuit:
    return Circuit("payments", Breaker(**options), hub=Hub())


def call(circuit: Circuit, now: float, ok: bool = True, elapsed: float = 0.01) -> None:
    ticket = circuit.ticket or circuit.admit(now)
    (circuit.success if ok else circuit.failure)(ticket, now, elapsed)


def evidence(circuit: Circuit) -> tuple[int, int]:
    found = circuit.state()["evidence"]
    return found["calls"], found["failures"]


def test_half_of_twenty_calls():
    circuit = make(consecutive="off")
    for n in range(19):
        call(circuit, n * 0.1, ok=n % 2 == 0)
        assert circuit.current is State.CLOSED
    call(circuit, 2.0, ok=False)
    assert circuit.current is State.OPEN
    assert circuit.reason == "10 of 20 calls failed"
    assert circuit.ticket is None


def test_just_below_the_ratio_stays_closed():
    circuit = make(consecutive="off")
    for n in range(1000):
        call(circuit, n * 0.1, ok=n % 2 == 0 or n % 20 == 19)
    assert circuit.current is State.CLOSED
    assert circuit.failures == 450


@pytest.mark.parametrize(("ratio", "minimum", "failures"), [(0.07, 100, 7), (0.1, 30, 3), (0.29, 100, 29)])
def test_the_ratio_is_reached_in_spite_of_binary_fractions(ratio, minimum, failures):
    circuit = make(ratio=ratio, minimum=minimum, consecutive="off")
    for _ in range(minimum - failures):
        call(circuit, 1.0)
    for _ in range(failures - 1):
        call(circuit, 1.0, ok=False)
    assert circuit.current is State.CLOSED
    call(circuit, 1.0, ok=False)
    assert circuit.current is State.OPEN


def test_ten_failures_in_a_row_need_no_minimum():
    circuit = make()
    for _ in range(9):
        call(circuit, 1.0, ok=False)
    call(circuit, 1.0)
    for _ in range(9):
        call(circuit, 2.0, ok=False)
    assert circuit.current is State.CLOSED
    call(circuit, 2.0, ok=False)
    assert circuit.reason == "10 failures in a row"
    assert circuit.current is State.OPEN


def test_a_success_ends_the_row_also_where_it_begins_a_bucket_or_is_slow():
    circuit = make(slow_call="1s", consecutive=3, ratio="off")
    for n in range(100):
        now = n * 3.5  # a bucket is three seconds
        call(circuit, now, ok=False)
        call(circuit, now + 0.1, ok=False)
        call(circuit, now + 3.2, elapsed=2.0 if n < 3 else 0.01)
    assert circuit.current is State.CLOSED
    assert circuit.state()["evidence"]["in_a_row"] == 0


def test_slow_calls_whether_they_succeed_or_not():
    circuit = make(slow_call="1s", slow_ratio=0.5, consecutive="off", ratio="off")
    for _ in range(10):
        call(circuit, 1.0, elapsed=1.0)  # as long as that is not longer than that
    for _ in range(5):
        call(circuit, 1.0, elapsed=1.5)
    for _ in range(4):
        call(circuit, 1.0, ok=False, elapsed=1.5)
    assert circuit.current is State.CLOSED
    call(circuit, 1.0, elapsed=1.01)
    assert circuit.current is State.OPEN
    assert circuit.reason == "10 of 20 calls were slow"
    assert (circuit.slow, circuit.successes, circuit.failures) == (10, 16, 4)


def test_a_busy_caller_is_judged_by_its_window_alone():
    circuit = make(consecutive="off")
    for n in range(100):
        call(circuit, 0.0, ok=n < 51)
    for n in range(1, 30):
        call(circuit, float(n))
    call(circuit, 30.0, ok=False)  # begins a bucket, so the first, of three seconds, is out
    assert circuit.current is State.CLOSED
    assert evidence(circuit) == (28, 1)


def test_four_calls_a_minute_that_all_fail_trip_within_five_minutes():
    circuit = make(consecutive="off")
    now = 0.0
    while circuit.current is State.CLOSED:
        call(circuit, now, ok=False)
        now += 15.0
    assert circuit.reason == "20 of 20 calls failed"
    assert now <= 300.0


def test_without_the_extension_the_same_caller_would_watch_them_fail_for_ever():
    circuit = make(consecutive="off", stretch=1)
    for n in range(1000):
        call(circuit, n * 15.0, ok=False)
    assert circuit.current is State.CLOSED
    assert evidence(circuit)[0] <= 3


def test_evidence_is_never_older_than_the_bound():
    circuit = make(consecutive="off")
    for _ in range(19):
        call(circuit, 0.0, ok=False)
    call(circuit, 301.0, ok=False)
    assert circuit.current is State.CLOSED
    assert evidence(circuit) == (1, 1)


def test_the_extension_ends_as_soon_as_the_minimum_is_met_again():
    circuit = make(consecutive="off")
    for _ in range(9):
        call(circuit, 0.0, ok=False)
    for n in range(10):
        call(circuit, 60.0 + n)
    call(circuit, 75.0, ok=False)
    # 9 + 10 + 1: the old failures make up the twenty.
    assert circuit.current is State.OPEN

    circuit = make(consecutive="off")
    for _ in range(9):
        call(circuit, 0.0, ok=False)
    for n in range(20):
        call(circuit, 60.0 + n / 2)
    call(circuit, 75.0, ok=False)
    assert evidence(circuit) == (21, 1)


def test_an_hourly_caller_trips_by_no_row_either():
    circuit = make()
    for n in range(100):
        call(circuit, n * 3600.0, ok=False)
    assert circuit.current is State.CLOSED
    assert circuit.state()["evidence"]["in_a_row"] == 1


def test_a_late_clock_of_another_thread_does_no_harm():
    circuit = make(consecutive="off")
    call(circuit, 100.0)
    call(circuit, 50.0, ok=False)
    call(circuit, 103.5)
    call(circuit, 99.0)
    assert evidence(circuit) == (4, 1)


def test_other_options_while_closed_keep_the_evidence():
    circuit = make(consecutive="off")
    for n in range(20):
        call(circuit, 1.0, ok=n < 12)
    circuit.reconfigure(Breaker(ratio=0.4, consecutive="off", window="10s"))
    assert evidence(circuit) == (20, 8)
    call(circuit, 1.5, ok=False)
    assert circuit.reason == "9 of 21 calls failed"


def test_a_shorter_window_forgets_what_it_does_not_reach():
    circuit = make(consecutive="off", minimum=1, ratio=1.0)
    for n in range(20):
        call(circuit, float(n), ok=n % 2 == 0)
    circuit.reconfigure(Breaker(consecutive="off", minimum=1, ratio=1.0, window="2s"))
    call(circuit, 23.0)
    call(circuit, 23.0, ok=False)
    assert evidence(circuit) == (2, 1)
