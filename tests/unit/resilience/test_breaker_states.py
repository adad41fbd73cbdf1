"""What a circuit does when it is open and how it comes back: open time, permits, leases, ramp, orders by hand."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker, BreakerChanged, State
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.errors import BreakerOpen, Rejected

PLAIN = Breaker(consecutive=3, jitter=0, ramp=0)


class Seen:
    def __init__(self, options: Breaker = PLAIN, **more) -> None:
        self.hub = Hub()
        self.changes: list[BreakerChanged] = []
        self.hub.subscribe(BreakerChanged, self.changes.append)
        self.circuit = Circuit("payments", options, hub=self.hub, **more)

    @property
    def path(self) -> list[str]:
        return [change.after for change in self.changes]


def trip(circuit: Circuit, now: float) -> None:
    while circuit.current in (State.CLOSED, State.RAMP):
        try:
            circuit.failure(circuit.ticket or circuit.admit(now), now, 0.01)
        except BreakerOpen:
            continue
    assert circuit.current is State.OPEN


def probe(circuit: Circuit, now: float, *results: bool) -> None:
    for ok in results:
        ticket = circuit.admit(now)
        (circuit.success if ok else circuit.failure)(ticket, now, 0.01)


def refused(circuit: Circuit, now: float) -> BreakerOpen:
    with pytest.raises(BreakerOpen) as caught:
        circuit.admit(now)
    return caught.value


# -- open ---------------------------------------------------------------------------------------------------------


def test_a_refusal_says_exactly_how_long_the_open_time_lasts():
    circuit = Seen().circuit
    trip(circuit, 100.0)
    error = refused(circuit, 101.5)
    assert isinstance(error, Rejected)
    assert error.retry_after == 3.5
    assert error.policy == "payments"
    assert str(error) == "payments: the breaker is open (3 failures in a row); try again in 3.50 s"
    assert circuit.admit(101.5 + error.retry_after)


def test_the_open_time_doubles_with_each_failed_half_open_up_to_the_bound():
    seen = Seen()
    circuit, now = seen.circuit, 0.0
    trip(circuit, now)
    for expected in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        assert seen.changes[-1].open_for == expected
        assert refused(circuit, now).retry_after == expected
        now += expected
        probe(circuit, now, False, False)
    assert circuit.opened == 7


def test_a_relapse_soon_after_closing_goes_on_growing_and_a_calm_time_ends_it():
    seen = Seen()
    circuit = seen.circuit
    trip(circuit, 0.0)
    probe(circuit, 5.0, True, True)
    trip(circuit, 64.0)  # closed for 59 s
    assert seen.changes[-1].open_for == 10.0
    probe(circuit, 74.0, True, True)
    trip(circuit, 134.0)  # closed for 60 s
    assert seen.changes[-1].open_for == 5.0


def test_jitter_only_shortens_and_follows_the_random_source():
    def times(seed):
        circuit = Circuit("a", replace(PLAIN, jitter=0.2), rng=random.Random(seed), hub=Hub())
        found, now = [], 0.0
        trip(circuit, now)
        for _ in range(50):
            found.append(refused(circuit, now).retry_after)
            now += found[-1]
            probe(circuit, now, False, False)
        return found

    first = times(1)
    assert first == times(1) != times(2)
    assert all(0.8 * full <= real <= full for full, real in zip([5, 10, 20, 40, *[60] * 46], first, strict=True))
    assert len(set(first[4:])) == 46


# -- half-open ----------------------------------------------------------------------------------------------------


def test_as_many_as_there_are_permits_pass():
    circuit = Seen(replace(PLAIN, permits=5)).circuit
    trip(circuit, 0.0)
    tickets = [circuit.admit(5.0) for _ in range(5)]
    error = refused(circuit, 5.0)
    assert error.retry_after is None
    assert "half-open" in str(error)
    assert len(set(map(id, tickets))) == 5


@pytest.mark.parametrize(
    ("permits", "ratio", "results", "after"),
    [
        (1, 0.5, [True], "closed"),
        (1, 0.5, [False], "open"),
        (3, 0.5, [True, False], "half_open"),
        (3, 0.5, [True, False, True], "closed"),
        (3, 0.5, [True, False, False], "open"),
        (3, 0.1, [False], "open"),
        (3, 0.1, [True, True], "half_open"),
        (3, 0.1, [True, True, True], "closed"),
        (10, 0.3, [False, False], "half_open"),
        (10, 0.3, [False, False, False], "open"),
        (10, 0.3, [True] * 7, "half_open"),
        (10, 0.3, [True] * 8, "closed"),
        (3, "off", [False], "open"),
        (3, "off", [True, True, True], "closed"),
    ],
)
def test_half_open_is_decided_on_the_terms_of_the_ratio(permits, ratio, results, after):
    circuit = Seen(replace(PLAIN, permits=permits, ratio=ratio)).circuit
    trip(circuit, 0.0)
    probe(circuit, 5.0, *results)
    assert circuit.current.value == after


def test_a_permit_that_says_nothing_goes_back():
    circuit = Seen(replace(PLAIN, permits=1)).circuit
    trip(circuit, 0.0)
    for _ in range(10):
        ticket = circuit.admit(5.0)
        refused(circuit, 5.0)
        circuit.neutral(ticket, 5.0)
    assert circuit.neutrals == 10
    probe(circuit, 5.0, True)
    assert circuit.current is State.CLOSED


def test_a_permit_that_is_never_settled_comes_back_after_its_lease():
    circuit = Seen(replace(PLAIN, permits=2, lease="30s")).circuit
    trip(circuit, 0.0)
    lost = [circuit.admit(5.0), circuit.admit(6.0)]
    refused(circuit, 34.9)
    circuit.admit(35.0)
    refused(circuit, 35.9)
    assert circuit.reclaimed == 1
    circuit.admit(36.0)
    assert circuit.reclaimed == 2
    for ticket in lost:  # they come after all, and change nothing
        circuit.failure(ticket, 37.0, 30.0)
    assert circuit.current is State.HALF_OPEN
    refused(circuit, 37.0)
    assert circuit.stale == 2
    assert circuit.failures == 3


def test_a_permit_settled_twice_counts_once():
    circuit = Seen(replace(PLAIN, permits=3)).circuit
    trip(circuit, 0.0)
    first, second = circuit.admit(5.0), circuit.admit(5.0)
    circuit.success(first, 5.0, 0.01)
    circuit.success(first, 5.0, 0.01)
    circuit.neutral(first, 5.0)
    assert circuit.current is State.HALF_OPEN
    circuit.success(second, 5.0, 0.01)
    assert circuit.current is State.CLOSED


def test_results_of_calls_from_before_do_not_decide_half_open():
    circuit = Seen().circuit
    early = [circuit.ticket] * 4
    trip(circuit, 0.0)
    circuit.success(early[0], 1.0, 0.01)
    circuit.admit(5.0)
    circuit.failure(early[1], 5.0, 5.0)
    circuit.success(early[2], 5.0, 5.0)
    circuit.neutral(early[3], 5.0)
    assert circuit.current is State.HALF_OPEN
    assert circuit.state()["permits"] == {"all": 3, "out": 1, "succeeded": 0, "failed": 0}
    assert (circuit.stale, circuit.successes, circuit.failures, circuit.neutrals) == (4, 0, 3, 0)


def test_results_of_calls_from_before_are_no_evidence_after_closing():
    circuit = Seen().circuit
    early = circuit.ticket
    trip(circuit, 0.0)
    late_probe = circuit.admit(5.0)
    probe(circuit, 5.0, True, True)
    assert circuit.current is State.CLOSED
    for _ in range(50):
        circuit.failure(early, 6.0, 6.0)
    circuit.failure(late_probe, 6.0, 1.0)
    assert circuit.current is State.CLOSED
    assert circuit.state()["evidence"]["calls"] == 0


def test_a_slow_probe_is_a_failed_probe():
    circuit = Seen(replace(PLAIN, permits=1, slow_call="1s")).circuit
    trip(circuit, 0.0)
    circuit.success(circuit.admit(5.0), 7.0, 2.0)
    assert circuit.current is State.OPEN
    assert circuit.reason == "1 of 1 probes failed or were slow"
    assert (circuit.slow, circuit.successes) == (1, 1)


@pytest.mark.parametrize(("ratio", "after"), [(0.5, "closed"), (0.1, "open")])
def test_fewer_permits_while_half_open_decide_by_what_is_settled(ratio, after):
    options = replace(PLAIN, permits=8, ratio=0.5)
    circuit = Seen(options).circuit
    trip(circuit, 0.0)
    probe(circuit, 5.0, True, True, True, False)
    circuit.reconfigure(replace(options, permits=3, ratio=ratio))
    if after == "closed":
        assert circuit.admit(5.0) is circuit.ticket
    else:
        refused(circuit, 5.0)
    assert circuit.current.value == after


# -- ramp ---------------------------------------------------------------------------------------------------------


def ramp(seed: int = 7) -> Seen:
    seen = Seen(replace(PLAIN, ramp="10s"), rng=random.Random(seed))
    trip(seen.circuit, 0.0)
    probe(seen.circuit, 5.0, True, True)
    assert seen.circuit.current is State.RAMP
    assert seen.circuit.ticket is None
    return seen


def passes(circuit: Circuit, now: float, calls: int) -> list[bool]:
    found, waits = [], set()
    for _ in range(calls):
        try:
            circuit.success(circuit.admit(now), now, 0.01)
        except BreakerOpen as refusal:
            found.append(False)
            waits.add(refusal.retry_after)
        else:
            found.append(True)
    assert waits <= {15.0 - now}
    return found


def test_the_share_that_passes_grows_from_a_tenth_to_all():
    circuit = ramp().circuit
    shares = [sum(passes(circuit, 5.0 + second, 1000)) / 1000 for second in range(10)]
    for second, share in enumerate(shares):
        assert share == pytest.approx(0.1 + 0.09 * second, abs=0.05)
    assert circuit.current is State.RAMP
    assert all(passes(circuit, 15.0, 100))
    assert circuit.current is State.CLOSED
    assert circuit.ticket is not None


def test_who_passes_follows_the_random_source():
    first, again, other = (passes(ramp(seed).circuit, 8.0, 100) for seed in (1, 1, 2))
    assert first == again != other


def test_too_many_failures_during_the_ramp_open_again_for_longer():
    seen = ramp()
    trip(seen.circuit, 7.0)
    assert seen.path == ["open", "half_open", "ramp", "open"]
    assert seen.changes[-1].open_for == 10.0


def test_the_evidence_of_the_ramp_is_kept_when_it_ends():
    circuit = ramp().circuit
    passes(circuit, 14.9, 20)
    before = circuit.state()["evidence"]["calls"]
    assert before > 10
    circuit.success(circuit.admit(15.0), 15.0, 0.01)
    assert circuit.current is State.CLOSED
    assert circuit.state()["evidence"]["calls"] == before + 1


def test_another_ramp_length_does_not_bend_the_one_under_way():
    circuit = ramp().circuit
    circuit.reconfigure(replace(PLAIN, ramp="1s"))
    assert 400 < sum(passes(circuit, 10.0, 1000)) < 700


# -- by hand ------------------------------------------------------------------------------------------------------


def test_forced_open_refuses_until_told_otherwise():
    circuit = Seen().circuit
    ticket = circuit.ticket
    circuit.force_open("the provider is being moved")
    circuit.success(ticket, 1.0, 0.01)
    error = refused(circuit, 1e9)
    assert error.retry_after is None
    assert "the provider is being moved" in str(error)
    assert (circuit.mode, circuit.ticket) == ("forced_open", None)
    circuit.auto()
    assert (circuit.mode, circuit.current) == ("auto", State.CLOSED)
    assert circuit.ticket is not None


def test_disabled_lets_everything_pass_and_counts_nothing():
    circuit = Seen().circuit
    trip(circuit, 0.0)
    before = circuit.counters()
    circuit.disable()
    for n in range(100):
        ticket = circuit.ticket or circuit.admit(1.0)
        (circuit.failure, circuit.success)[n % 3 == 0](ticket, 1.0, 99.0)
        circuit.neutral(ticket, 1.0)
    assert circuit.counters() == before
    assert circuit.mode == "disabled"
    circuit.auto()
    assert circuit.current is State.CLOSED


def test_a_call_that_started_disabled_is_no_evidence_afterwards():
    circuit = Seen().circuit
    circuit.disable()
    ticket = circuit.ticket
    circuit.auto()
    for _ in range(10):
        circuit.failure(ticket, 1.0, 0.01)
    assert circuit.current is State.CLOSED
    assert circuit.failures == 0


def test_metrics_only_says_what_it_would_have_done_and_refuses_nobody():
    seen = Seen(replace(PLAIN, permits=1))
    circuit = seen.circuit
    circuit.metrics_only()
    trip(circuit, 0.0)
    waiting = [circuit.admit(1.0) for _ in range(7)]
    assert (circuit.would_reject, circuit.rejected) == (7, 0)
    one = circuit.admit(5.0)
    others = [circuit.admit(5.0) for _ in range(3)]
    assert circuit.would_reject == 10
    for ticket in (*waiting, *others):
        circuit.failure(ticket, 6.0, 1.0)  # calls it would not have made decide nothing
    assert circuit.current is State.HALF_OPEN
    circuit.success(one, 6.0, 1.0)
    assert seen.path == ["closed", "open", "half_open", "closed"]
    assert not any(change.enforced for change in seen.changes)
    assert repr(circuit) == "<Circuit 'payments' closed (metrics only): 1 of 1 probes succeeded>"


def test_after_metrics_only_the_state_it_is_in_is_enforced():
    seen = Seen()
    circuit = seen.circuit
    circuit.metrics_only()
    trip(circuit, 0.0)
    circuit.auto()
    assert refused(circuit, 1.0).retry_after == 4.0
    assert [(change.reason, change.enforced) for change in seen.changes] == [
        ("metrics only", False),
        ("3 failures in a row", False),
        ("automatic", True),
    ]
    assert circuit.reason == "3 failures in a row"


def test_reset_forgets_the_evidence_and_the_growth_but_no_counter():
    seen = Seen()
    circuit = seen.circuit
    trip(circuit, 0.0)
    probe(circuit, 5.0, False, False)
    circuit.reset()
    assert circuit.failures == 5
    trip(circuit, 6.0)
    assert seen.changes[-1].open_for == 5.0


def test_auto_on_an_automatic_circuit_changes_nothing():
    seen = Seen()
    trip(seen.circuit, 0.0)
    seen.circuit.auto()
    assert seen.path == ["open"]


# -- what it tells ------------------------------------------------------------------------------------------------


def test_each_change_is_told_once_with_its_reason():
    seen = Seen(replace(PLAIN, ramp="1s"), key=("shop", 7))
    circuit = seen.circuit
    trip(circuit, 0.0)
    probe(circuit, 5.0, True, True)
    circuit.admit(6.0)
    assert [(c.before, c.after, c.reason, c.open_for) for c in seen.changes] == [
        ("closed", "open", "3 failures in a row", 5.0),
        ("open", "half_open", "the open time is over", None),
        ("half_open", "ramp", "2 of 3 probes succeeded", None),
        ("ramp", "closed", "the ramp is over", None),
    ]
    assert [c.number for c in seen.changes] == [1, 2, 3, 4]
    assert {(c.name, c.key, c.enforced) for c in seen.changes} == {("payments", ("shop", 7), True)}


def test_the_state_is_ready_for_json_in_every_state():
    circuit = Seen(replace(PLAIN, ramp="1s"), key=("shop", 7)).circuit
    found = []

    def look(now):
        state = circuit.state(now)
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        found.append((state["state"], state["mode"], state["retry_after"]))

    look(0.0)
    trip(circuit, 0.0)
    look(2.0)
    probe(circuit, 5.0, True)
    look(5.0)
    probe(circuit, 5.0, True)
    look(5.25)
    circuit.force_open()
    look(6.0)
    circuit.disable()
    look(6.0)
    circuit.metrics_only()
    look(6.0)
    assert found == [
        ("closed", "auto", None),
        ("open", "auto", 3.0),
        ("half_open", "auto", None),
        ("ramp", "auto", 0.75),
        ("forced_open", "forced_open", None),
        ("disabled", "disabled", None),
        ("closed", "metrics_only", None),
    ]
    assert circuit.state()["key"] == "('shop', 7)"


def test_the_counters_account_for_every_call():
    circuit = Seen(replace(PLAIN, permits=2)).circuit
    for n in range(10):
        circuit.success(circuit.ticket, n * 1.0, 0.01)
    circuit.neutral(circuit.ticket, 10.0)
    trip(circuit, 10.0)
    for _ in range(4):
        refused(circuit, 11.0)
    circuit.admit(15.0)
    circuit.admit(15.0)
    probe(circuit, 45.0, True, True)
    assert circuit.counters() == {
        "successes": 12,
        "failures": 3,
        "slow": 0,
        "neutral": 1,
        "rejected": 4,
        "would_reject": 0,
        "opened": 1,
        "probes": 4,
        "reclaimed": 2,
        "stale": 0,
    }
    assert circuit.matters_until == -math.inf
