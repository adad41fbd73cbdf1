"""The parts of the simulator by themselves: order of events, queues, faults, arrivals, work."""

from __future__ import annotations

import math
from random import Random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.simulate import arrivals, service
from tenfold.simulate.events import Timeline
from tenfold.simulate.servers import OVERFLOW, REFUSED, RESET, Attempt, Server


def test_events_happen_in_order_and_ties_in_the_order_they_were_put_down():
    line, seen = Timeline(), []
    for moment, name in ((2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b"), (2.0, "e")):
        line.at(moment, lambda now, subject: seen.append((now, subject)), name)
    line.run()
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c"), (2.0, "d"), (2.0, "e")]
    assert line.now == 2.0
    assert line.fired == 5


def test_an_event_of_now_comes_after_those_already_due_now():
    line, seen = Timeline(), []
    line.at(1.0, lambda now, _: (seen.append("first"), line.at(now, lambda *_: seen.append("third"))))
    line.at(1.0, lambda *_: seen.append("second"))
    line.run()
    assert seen == ["first", "second", "third"]


@pytest.mark.parametrize("when", [0.5, math.nan, -1.0])
def test_the_past_and_no_number_are_refused(when):
    line = Timeline()
    line.at(1.0, lambda *_: None)
    line.run()
    with pytest.raises(MisuseError, match=r"expected a moment of 1\.0 or later"):
        line.at(when, lambda *_: None)


def test_a_run_can_be_stopped_and_goes_on_where_it_was():
    line, seen = Timeline(), []
    line.at(1.0, lambda *_: (seen.append(1), line.stop()))
    line.at(2.0, lambda *_: seen.append(2))
    line.at(3.0, lambda *_: seen.append(3))
    line.run()
    assert seen == [1]
    line.run(until=2.0)
    assert seen == [1, 2]
    assert len(line) == 1


class House:
    """A server with work of fixed length, and what became of the attempts."""

    def __init__(self, work=1.0, **options):
        self.line = Timeline()
        self.server = Server("s", self.line, lambda: work, **options)
        self.ends = []

    def offer(self, name, now=0.0):
        attempt = Attempt(name, None, self.server, now, lambda at, one, fault: self.ends.append((at, one.call, fault)))
        self.line.at(now, self.server.offer, attempt)
        return attempt

    def at(self, moment, method, *arguments):
        self.line.at(moment, lambda now, _: getattr(self.server, method)(now, *arguments))


def test_a_server_works_on_as_many_as_it_has_workers_and_then_first_come_first_served():
    house = House(workers=2, queue=10)
    for name in "abcd":
        house.offer(name)
    house.line.run()
    assert house.ends == [(1.0, "a", ""), (1.0, "b", ""), (2.0, "c", ""), (2.0, "d", "")]
    assert house.server.peak == 4
    assert house.server.waited == 2.0
    assert house.server.utilisation(2.0) == 1.0
    assert house.server.mean_in_system(2.0) == 3.0


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_the_queue_has_a_bound(queue):
    house = House(workers=1, queue=queue)
    for name in range(6):
        house.offer(name)
    house.line.run()
    assert [name for _, name, fault in house.ends if fault == OVERFLOW] == list(range(queue + 1, 6))
    assert [name for _, name, fault in house.ends if not fault] == list(range(queue + 1))
    assert house.server.peak == queue + 1


def test_a_crash_resets_what_is_there_and_refuses_what_comes_until_it_is_over():
    house = House(workers=1)
    house.offer("serving")
    house.offer("waiting")
    house.at(0.5, "crash")
    house.offer("refused", 0.7)
    house.at(0.9, "start")
    house.offer("later", 1.0)
    house.line.run()
    assert house.ends == [
        (0.5, "serving", RESET),
        (0.5, "waiting", RESET),
        (0.7, "refused", REFUSED),
        (2.0, "later", ""),
    ]
    assert house.server.in_system == 0


def test_two_crashes_that_overlap_end_with_the_last():
    house = House()
    for moment, what in ((1.0, "crash"), (2.0, "crash"), (3.0, "start"), (5.0, "start")):
        house.at(moment, what)
    house.offer("between", 4.0)
    house.offer("after", 6.0)
    house.line.run()
    assert house.ends == [(4.0, "between", REFUSED), (7.0, "after", "")]


def test_a_frozen_server_goes_on_where_it_was():
    house = House(work=1.0)
    house.offer("a")
    house.at(0.25, "freeze")
    house.at(10.25, "thaw")
    house.line.run()
    assert house.ends == [(11.0, "a", "")]


def test_a_slow_period_stretches_what_runs_into_it_by_the_work_that_is_left():
    house = House(work=1.0)
    house.offer("a")
    house.at(0.5, "slow", 4.0)  # 0.5 s of work left take 4 times as long: 1 s of it is 0.25 s of work
    house.at(1.5, "recover", 4.0)
    house.line.run()
    assert house.ends == [(1.75, "a", "")]


def test_who_was_given_up_is_worked_on_unless_the_server_notices():
    ends = {}
    for cancels in (False, True):
        house = House(workers=1, cancels=cancels)
        gone, queued = house.offer("gone"), house.offer("queued and gone")
        house.offer("stays")
        house.line.at(0.25, house.server.leave, gone)
        house.line.at(0.25, house.server.leave, queued)
        house.line.run()
        ends[cancels] = house.ends
        assert house.server.wasted == (0 if cancels else 2)
        assert house.server.in_system == 0
    assert ends[False] == [(3.0, "stays", "")]
    assert ends[True] == [(1.25, "stays", "")]


KINDS = [
    service.Deterministic(mean="10ms"),
    service.Exponential(mean="10ms"),
    service.LogNormal(mean="10ms", cv=1.5),
    service.Bimodal(fast="1ms", slow="100ms", slow_share="5%"),
    service.Empirical(values=("1ms", "2ms", "30ms")),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_work_has_the_mean_and_the_spread_that_it_says(kind):
    sample = kind.sampler(Random(3))
    values = [sample() for _ in range(100_000)]
    mean, cv = kind.moments()
    seen = sum(values) / len(values)
    spread = math.sqrt(sum((value - seen) ** 2 for value in values) / len(values)) / seen
    assert seen == pytest.approx(mean, rel=0.02)
    assert spread == pytest.approx(cv, rel=0.05, abs=1e-9)
    assert min(values) > 0


def test_arrivals_have_their_rate():
    for kind in (arrivals.Poisson(rate="50/s"), arrivals.Constant(rate=50)):
        following, now, count = kind.gaps(Random(1)), 0.0, 0
        while (now := following(now)) <= 1000:
            count += 1
        assert count == pytest.approx(50_000, rel=0.02)


def test_a_rate_in_steps_is_exact_at_the_edges_and_silent_where_it_says_so():
    steps = tuple(arrivals.Step(at=at, rate=rate) for at, rate in ((0, 100), (100, 0), (200, 400), (300, 0)))
    following, now, seen = arrivals.Steps(steps=steps).gaps(Random(1)), 0.0, []
    while (now := following(now)) < math.inf:
        seen.append(now)
    counts = [sum(low <= moment < low + 100 for moment in seen) for low in (0, 100, 200, 300)]
    assert counts[1] == counts[3] == 0
    assert counts[0] == pytest.approx(10_000, rel=0.04)
    assert counts[2] == pytest.approx(40_000, rel=0.02)
    assert seen == sorted(seen)
