"""`Health` and `Ejector` against models so naive that they can be seen to be right, on a time that is handed in."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tenfold.balance.ejector import Ejector
from tenfold.balance.health import Health
from tenfold.balance.outlier import Ejected, OutlierEjection, Returned


@given(
    rise=st.integers(1, 4),
    fall=st.integers(1, 4),
    initial=st.sampled_from(["up", "down"]),
    results=st.lists(st.booleans(), max_size=60),
)
def test_health_is_what_the_last_long_enough_row_says(rise, fall, initial, results):
    health = Health(rise, fall, initial)
    up = initial == "up"
    since = -math.inf
    for at, ok in enumerate(results):
        changed = health.observe(ok, float(at))
        past = results[: at + 1]
        # The naive reading: look at the whole past, and see whether its tail is a row that is long enough.
        if up and len(past) >= fall and not any(past[-fall:]):
            expected, up, since = True, False, float(at)
        elif not up and len(past) >= rise and all(past[-rise:]):
            expected, up, since = True, True, float(at)
        else:
            expected = False
        assert (changed, health.up, health.since) == (expected, up, since)


class Ejections(RuleBasedStateMachine):
    """Endpoints come, go, succeed and fail; time passes; sweeps happen whenever they like."""

    endpoints = Bundle("endpoints")

    def __init__(self):
        super().__init__()
        self.options = OutlierEjection(
            consecutive=3, base="10s", most="40s", calm="15s", jitter=0.2, share=0.4, volume=4, interval="5s"
        )
        self.draws = 0
        self.made = Ejector(self.options, draw=self.draw)
        self.now = 100.0
        self.number = 0
        self.rows = {}  # the naive model: failures in a row of those in service
        self.out = {}  # and who is out until when
        self.returned = {}
        self.added = set()

    def draw(self):
        self.draws += 1
        return (self.draws * 0.37) % 1.0

    @initialize(target=endpoints)
    def begin(self):
        return multiple(*(self.new() for _ in range(5)))

    @rule(target=endpoints)
    def add(self):
        return self.new()

    def new(self):
        self.number += 1
        id = f"e{self.number}"
        self.made.add(id)
        self.rows[id] = 0
        return id

    @rule(id=consumes(endpoints))
    def remove(self, id):
        self.made.remove(id)
        for model in (self.rows, self.out, self.returned):
            model.pop(id, None)

    @rule(id=endpoints, ok=st.booleans(), elapsed=st.sampled_from([0.0, 0.5, 30.0]), times=st.integers(1, 4))
    def record(self, id, ok, elapsed, times):
        for _ in range(times):
            self.made.record(id, self.now, ok, elapsed)
            if id not in self.out and self.now - elapsed >= self.returned.get(id, -math.inf):
                self.rows[id] = 0 if ok else self.rows[id] + 1

    @rule(id=endpoints, times=st.integers(2, 4), age=st.sampled_from([0.0, 12.0]))
    def fail(self, id, times, age):
        self.record(id, False, age, times)
        self.sweep()

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 20.0, 50.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def sweep(self):
        before = dict(self.out)
        told = self.made.sweep(self.now)
        for each in told:
            if isinstance(each, Returned):
                assert before.pop(each.id) <= self.now or "too large a share" in each.reason
                del self.out[each.id]
                self.returned[each.id] = self.now
                self.rows[each.id] = 0  # counters start from nothing
            else:
                assert isinstance(each, Ejected)
                assert each.id not in self.out
                if "in a row" in each.reason:
                    assert self.rows[each.id] >= 3
                assert 10.0 <= each.seconds <= 40.0 * 1.2
                assert each.until == self.now + each.seconds
                self.out[each.id] = each.until
                self.rows[each.id] = 0
        assert len(self.out) <= 0.4 * len(self.rows)  # never more than the share
        assert all(until > self.now for until in self.out.values())  # everybody whose time is over is back
        room = math.floor(0.4 * len(self.rows)) - len(self.out)
        assert room == 0 or not [id for id, row in self.rows.items() if row >= 3]  # nobody is spared for nothing
        assert self.made.due > self.now  # and nothing is left to do

    @precondition(lambda self: self.out)
    @rule()
    def good_times(self):
        """With time alone, and no more failures, everybody returns."""
        for _ in range(3):
            self.now += 50.0
            for id in self.rows:  # whoever waited for room stops failing
                self.record(id, True, 0.0, 1)
            self.sweep()
        assert not self.out

    @invariant()
    def agrees_with_the_model(self):
        assert {id for id in self.rows if self.made.ejected(id)} == set(self.out)
        assert self.made.state()["ejected"].keys() == self.out.keys()


TestEjections = Ejections.TestCase
TestEjections.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
