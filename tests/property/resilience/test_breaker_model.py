"""The circuit against naive models: a list of all results for the evidence, plain sets and sums for the states.

Times are multiples of an eighth of a second and buckets last one second, so that model and circuit calculate without
rounding. The model draws from a copy of the circuit's random source, at the same moments.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker, BreakerChanged
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.errors import BreakerOpen
from tenfold.resilience.window import BUCKETS, Period, Ticket

EIGHTH = 0.125
WINDOW = float(BUCKETS)  # buckets of one second


class NaiveEvidence:
    """Every result since the period began, looked through afresh each time."""

    def __init__(self, options: Breaker) -> None:
        self.options = options
        self.results: list[tuple[float, bool, bool]] = []  # (when, failed, slow)

    def add(self, now: float, failed: bool, slow: bool) -> None:
        self.results.append((now, failed, slow))

    def bucket(self, now: float) -> int:
        return int(now - self.results[0][0])

    def evidence(self) -> list[tuple[float, bool, bool]]:
        """As of the newest result: the smallest number of whole buckets that will do."""
        if not self.results:
            return []
        present = self.bucket(self.results[-1][0])
        for buckets in range(BUCKETS, BUCKETS * self.options.stretch + 1):
            found = [r for r in self.results if self.bucket(r[0]) > present - buckets]
            if len(found) >= self.options.minimum:
                break
        return found

    def in_a_row(self) -> int:
        run, horizon = 0, WINDOW * self.options.stretch
        later = None
        for when, failed, _ in reversed(self.results):
            if not failed or (later is not None and later - when > horizon):
                break
            run, later = run + 1, when
        return run

    def trips(self) -> bool:
        o, found = self.options, self.evidence()
        if o.consecutive is not None and self.in_a_row() >= int(o.consecutive):
            return True
        if len(found) < o.minimum:
            return False
        share = sum(r[1] for r in found) / len(found)
        slow = sum(r[2] for r in found) / len(found)
        by_share = o.ratio is not None and share >= float(o.ratio)
        return by_share or (o.slow_call is not None and slow >= float(o.slow_ratio))


OPTIONS = st.builds(
    Breaker,
    ratio=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    minimum=st.integers(1, 12),
    window=st.just(WINDOW),
    stretch=st.integers(1, 4),
    consecutive=st.none() | st.integers(2, 6),
    slow_call=st.none() | st.just(1.0),
    slow_ratio=st.sampled_from([0.3, 0.9]),
    open=st.sampled_from([1.0, 5.0]),
    open_max=st.sampled_from([5.0, 16.0]),
    jitter=st.sampled_from([0, 0.2, 0.9]),
    calm=st.sampled_from([0.0, 10.0]),
    permits=st.integers(1, 5),
    lease=st.sampled_from([2.0, 8.0]),
    ramp=st.sampled_from([0.0, 4.0, 64.0]),
)

RESULTS = st.sampled_from(["ok", "ok", "slow", "failed", "failed", "failed slow", "neutral"])
GAPS = st.sampled_from([0, 0, 1, 4, 8, 40, 200]).map(lambda n: n * EIGHTH)


@settings(max_examples=150, deadline=None)
@given(
    options=OPTIONS,
    calls=st.lists(st.tuples(GAPS, st.sampled_from(["ok", "ok", "slow", "failed", "failed slow"])), max_size=80),
)
def test_the_ring_holds_the_evidence_that_a_list_of_all_results_gives(options, calls):
    period, naive, now = Period(options), NaiveEvidence(options), 1000.0
    for gap, kind in calls:
        now += gap
        slow = "slow" in kind and options.slow_call is not None
        period.turn(now)
        if kind.startswith("failed"):
            period.fail(now)
        else:
            period.good += 1
            period.run = 0
        if slow:
            period.drag()
        naive.add(now, kind.startswith("failed"), slow)
        verdict = period.verdict()  # drops what is not needed any more
        found = naive.evidence()
        assert period.totals == (len(found), sum(r[1] for r in found), sum(r[2] for r in found))
        assert period.run == naive.in_a_row()
        assert (verdict is not None) == naive.trips()
        assert len(period._past) < BUCKETS * options.stretch


class BreakerMachine(RuleBasedStateMachine):
    """Callers come, succeed, fail, leave, get lost; somebody turns the switches; the model must agree throughout."""

    @initialize(options=OPTIONS, seed=st.integers(0, 5), by_hand=st.sampled_from([False, False, True]))
    def make(self, options: Breaker, seed: int, by_hand: bool) -> None:
        self.by_hand = by_hand
        self.options = options
        self.rng = random.Random(seed)
        self.hub = Hub()
        self.seen: list[BreakerChanged] = []
        self.hub.subscribe(BreakerChanged, self.seen.append)
        self.circuit = Circuit("model", options, rng=random.Random(seed), hub=self.hub)
        self.now = 1000.0
        self.state = "closed"
        self.enforce = True
        self.evidence: NaiveEvidence | None = NaiveEvidence(options)
        self.generation = 0
        self.calls: list[dict[str, Any]] = []  # started, not ended
        self.lost = 0
        self.until = self.recovered = -math.inf
        self.open_for = 0.0
        self.good = self.bad = 0
        self.counts = dict.fromkeys(self.circuit.counters(), 0)

    # The model -----------------------------------------------------------------------------------------------------

    def enter(self, state: str) -> None:
        if not (self.state == "ramp" and state == "closed" and self.evidence is not None):
            self.generation += 1
            self.evidence = NaiveEvidence(self.options) if state in ("closed", "ramp") else None
        self.state = state

    def go_open(self, failed_probe: bool) -> None:
        o = self.options
        again = failed_probe or self.now - self.recovered < o.calm
        nominal = min(o.open_max, max(o.open, self.nominal * 2)) if again else o.open
        self.nominal = nominal
        self.open_for = nominal * (1 - o.jitter * self.rng.random())
        self.until = self.now + self.open_for
        self.counts["opened"] += 1
        self.enter("open")

    nominal = 0.0

    def go_back(self) -> None:
        self.recovered = self.now
        self.enter("ramp" if self.options.ramp else "closed")
        self.until = self.now + self.options.ramp

    def outstanding(self) -> list[dict[str, Any]]:
        return [c for c in self.permits if not c["settled"] and not c["reclaimed"]]

    permits: list[dict[str, Any]]

    def start(self) -> dict[str, Any] | float | None:
        """A call, or what `retry_after` says."""
        if self.state == "open":
            if self.now < self.until:
                return self.until - self.now
            self.enter("half_open")
            self.permits, self.good, self.bad = [], 0, 0
        if self.state == "half_open":
            for call in self.outstanding():
                if call["lease"] <= self.now:
                    call["reclaimed"] = True
                    self.counts["reclaimed"] += 1
            if len(self.outstanding()) + self.good + self.bad >= self.options.permits:
                return None
            self.counts["probes"] += 1
            call = self.call("probe", lease=self.now + self.options.lease)
            self.permits.append(call)
            return call
        if self.state == "ramp":
            left = self.until - self.now
            if left > 0:
                passes = 0.1 + 0.9 * (1 - left / self.options.ramp)
                return self.call("counted") if self.rng.random() < passes else left
            self.enter("closed")
        if self.state == "forced_open":
            return None
        return self.call("void" if self.state == "disabled" else "counted")

    def call(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "generation": self.generation, "settled": False, "reclaimed": False, **more}

    def end(self, call: dict[str, Any], result: str) -> None:
        if call["kind"] == "void":
            return
        if call["generation"] != self.generation or call["reclaimed"]:
            self.counts["stale"] += 1
            return
        failed, slow = result.startswith("failed"), "slow" in result and self.options.slow_call is not None
        call["settled"] = True
        self.counts["neutral" if result == "neutral" else "failures" if failed else "successes"] += 1
        if result == "neutral":
            return
        self.counts["slow"] += slow
        if call["kind"] == "probe":
            self.bad += failed or slow
            self.good += not failed and not slow
            needed = math.ceil(self.options.ratio * self.options.permits)
            if self.bad >= needed:
                self.go_open(True)
            elif self.bad + self.options.permits - self.good - self.bad < needed:  # even if all others failed
                self.go_back()
        else:
            assert self.evidence is not None
            self.evidence.add(self.now, failed, slow)
            if (failed or slow) and self.evidence.trips():
                self.go_open(False)

    # What happens --------------------------------------------------------------------------------------------------

    @rule(gap=GAPS)
    def time_passes(self, gap: float) -> None:
        self.now += gap

    @rule()
    def the_open_time_passes(self) -> None:
        if self.state == "open":
            self.now = max(self.now, math.ceil(self.until / EIGHTH) * EIGHTH)

    @rule(count=st.integers(1, 8))
    def callers_come(self, count: int) -> None:
        for _ in range(count):
            expected = self.start()
            ticket = self.circuit.ticket
            if ticket is None:
                try:
                    ticket = self.circuit.admit(self.now)
                except BreakerOpen as refusal:
                    told = refusal.retry_after
                    self.counts["rejected"] += 1
            if ticket is None:
                assert self.enforce
                assert told == expected
                continue
            if not isinstance(expected, dict):
                assert not self.enforce
                self.counts["would_reject"] += 1
                expected = self.call("void")
            expected["ticket"] = ticket
            self.calls.append(expected)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), result=RESULTS)
    def a_call_ends(self, data: st.DataObject, result: str) -> None:
        self.settle(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))), result)

    def settle(self, call: dict[str, Any], result: str) -> None:
        ticket: Ticket = call["ticket"]
        elapsed = 1.5 if "slow" in result else 0.5
        if result == "neutral":
            self.circuit.neutral(ticket, self.now)
        elif result.startswith("failed"):
            self.circuit.failure(ticket, self.now, elapsed)
        else:
            self.circuit.success(ticket, self.now, elapsed)
        self.end(call, result)

    @precondition(lambda self: self.calls)
    @rule(result=RESULTS)
    def all_calls_end(self, result: str) -> None:
        for call in self.calls:
            self.settle(call, result)
        self.calls.clear()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_caller_is_lost(self, data: st.DataObject) -> None:
        self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.lost += 1

    @rule(count=st.integers(1, 12), result=RESULTS, gap=st.sampled_from([0.0, EIGHTH, 2.0]))
    def a_run_of_quick_calls(self, count: int, result: str, gap: float) -> None:
        for _ in range(count):
            before = len(self.calls)
            self.callers_come(1)
            if len(self.calls) > before:
                self.settle(self.calls.pop(), result)
            self.now += gap

    @rule(data=st.data())
    def probes_come_and_are_lost(self, data: st.DataObject) -> None:
        if self.state in ("open", "half_open"):
            self.the_open_time_passes()
            self.callers_come(self.options.permits)
            self.now += self.options.lease
            self.callers_come(data.draw(st.integers(0, self.options.permits + 1)))

    @precondition(lambda self: self.by_hand)
    @rule(order=st.sampled_from(["force_open", "disable", "metrics_only", "metrics_only", "auto", "auto", "reset"]))
    def somebody_turns_a_switch(self, order: str) -> None:
        getattr(self.circuit, order)()
        by_hand = self.state in ("forced_open", "disabled")
        self.enforce = order != "metrics_only"
        if order == "force_open":
            self.enter("forced_open")
        elif order == "disable":
            self.enter("disabled")
        elif order == "reset" or by_hand:
            self.state = ""  # not from the ramp: the evidence goes
            self.enter("closed")
            self.recovered = -math.inf

    # What must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def model_and_circuit_agree(self) -> None:
        if not hasattr(self, "circuit"):
            return
        state = self.circuit.state(self.now)
        assert state["state"] == self.state
        assert (self.circuit.ticket is not None) == (self.state in ("closed", "disabled"))
        assert state["counters"] == self.counts
        assert state["evidence"]["in_a_row"] == (self.evidence.in_a_row() if self.evidence is not None else 0)
        if self.state == "open":
            assert state["open_for"] == self.open_for
            assert self.options.open * (1 - self.options.jitter) <= self.open_for <= self.options.open_max
        if self.state == "half_open":
            assert state["permits"]["out"] == len(self.outstanding())
            assert state["permits"]["succeeded"] == self.good
            assert state["permits"]["failed"] == self.bad

    @invariant()
    def never_more_out_than_permits(self) -> None:
        if hasattr(self, "circuit"):
            permits = self.circuit.state()["permits"]
            assert permits["out"] + permits["succeeded"] + permits["failed"] <= self.options.permits

    @invariant()
    def every_change_is_told_in_order(self) -> None:
        if hasattr(self, "circuit"):
            assert [change.number for change in self.seen] == list(range(1, len(self.seen) + 1))
            for one, next_one in zip(self.seen, self.seen[1:], strict=False):
                assert one.after == next_one.before
            if self.seen:
                assert self.seen[-1].after == self.state

    def teardown(self) -> None:
        """Whatever happened, whoever was lost: left to itself and a healthy peer, it closes again."""
        if not hasattr(self, "circuit"):
            return
        circuit, now = self.circuit, self.now
        if circuit.mode in ("forced_open", "disabled"):
            circuit.auto()
        for _ in range(30):
            now += max(self.options.lease, self.options.open_max)
            for _ in range(self.options.permits):
                try:
                    circuit.success(circuit.ticket or circuit.admit(now), now, 0.5)
                except BreakerOpen:
                    continue
        assert circuit.current.value == "closed"
        assert circuit.ticket is not None


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("permits", [1, 2, 5])
@settings(max_examples=60, deadline=None)
@given(fates=st.lists(st.sampled_from(["ok", "neutral", "lost", "late failure"]), min_size=1, max_size=60))
def test_no_permit_is_lost_whatever_becomes_of_its_caller(permits, fates):
    circuit = Circuit("model", Breaker(consecutive=1, jitter=0, ramp=0, permits=permits, ratio=1.0), hub=Hub())
    circuit.failure(circuit.admit(0.0), 0.0, 0.01)
    now, late, given_out = 5.0, [], 0
    for fate in fates:
        if circuit.ticket is not None:
            break
        try:
            ticket = circuit.admit(now)
        except BreakerOpen:
            assert len(circuit._out) == permits
            now += 30.0
            continue
        given_out += 1
        assert len(circuit._out) <= permits
        if fate == "ok":
            circuit.success(ticket, now, 0.01)
        elif fate == "neutral":
            circuit.neutral(ticket, now)
        elif fate == "late failure":
            late.append((now + 30.0, ticket))
        for due, old in [entry for entry in late if entry[0] < now]:
            circuit.failure(old, now, 30.0)
            late.remove((due, old))
    assert circuit.probes == given_out
    now += 30.0
    while circuit.ticket is None:
        circuit.success(circuit.admit(now), now, 0.01)
