"""One decision: from what the front and the fleet show to a number of workers."""

from types import SimpleNamespace

from tenfold.autoscale import Target
from tenfold.serve import ServeOptions
from tenfold.serve.latency import FineTimes
from tenfold.serve.scaling import Scaling, as_workers


def member(id, state="ready", *, started=0.0, cpu=None):
    return SimpleNamespace(id=id, state=state, started=started, changed=started, cpu_seconds=lambda: cpu)


class Looks:
    def __init__(self):
        self.times = FineTimes()

    @property
    def fine(self):
        return self.times.fine


def scaling(members, wish, *, clock=lambda: 0.0, **given):
    fleet = SimpleNamespace(members=members, wish=wish)
    front = Looks()
    return Scaling("shop:app", fleet, front, ServeOptions(app="shop:app", **given).policy(), clock=clock), fleet, front


def test_those_that_wait_ask_for_workers():
    """Two workers at a limit of 10 look exactly full; the 60 that wait say how many are missing."""
    loop, _, _ = scaling([member("1"), member("2")], 2, workers="2..8")
    loop.meter.add({"1": 10, "2": 10}, 60)
    decision = loop.decide(1.0, 0.0)
    assert decision.desired == 4  # 80 in all, 20 for each
    assert loop.decisions == {"out": 1, "in": 0, "none": 0}
    assert loop.meter.total == 80.0


def test_workers_that_are_on_their_way_count_as_idle():
    loop, _, _ = scaling([member("1"), member("2", "starting")], 2, workers="1..8")
    loop.meter.add({"1": 40}, 0)
    assert loop.decide(1.0, 0.0).desired == 2  # 40 on the two that there will be


def test_what_drains_is_nobodys_measure():
    loop, _, _ = scaling([member("1"), member("2", "draining"), member("3", "gone")], 1, workers="1..8")
    loop.meter.add({"1": 20, "2": 500}, 0)
    assert loop.decide(1.0, 0.0).direction == "none"
    assert [worker.phase for worker in as_workers([member("1"), member("2", "draining"), member("3", "gone")])] == [
        "running",
        "stopping",
    ]


def test_with_no_worker_ready_nothing_is_decided():
    loop, _, _ = scaling([member("1", "starting")], 2, workers="1..8")
    loop.meter.add({}, 100)
    decision = loop.decide(1.0, 0.0)
    assert (decision.desired, decision.codes) == (2, ("unmeasured",))


def test_by_cpu():
    members = [member("1", cpu=10.0)]
    loop, fleet, _ = scaling(members, 1, workers="1..8", targets=(Target.cpu("50%"),))
    loop.decide(10.0, 0.0)
    fleet.members = [member("1", cpu=11.0)]
    assert loop.decide(11.0, 0.0).desired == 2  # all of a core, where half of one is wanted


def test_by_latency():
    loop, _, front = scaling([member("1")], 1, workers="1..8", targets=(Target.p95("100ms"),))
    loop.meter.add({"1": 5}, 0)
    loop.decide(1.0, 0.0)
    for _ in range(100):
        front.times.add(0.31)
    loop.meter.add({"1": 5}, 0)
    assert loop.decide(2.0, 0.0).desired == 4


def test_after_a_rolling_restart_nobody_is_removed():
    loop, _, _ = scaling([member(str(each)) for each in range(4)], 4, workers="1..8", clock=lambda: 99.0)
    for now in (0.0, 99.0):
        loop.meter.add({str(each): 0 for each in range(4)}, 0)
        loop.decide(now, 0.0)
    loop.restarted()
    loop.meter.add({str(each): 0 for each in range(4)}, 0)
    held = loop.decide(128.0, 0.0)
    assert (held.desired, held.codes[-1]) == (4, "deployed")
    loop.meter.add({str(each): 0 for each in range(4)}, 0)
    assert loop.decide(130.0, 0.0).desired == 3


def test_a_fixed_number_is_only_measured():
    loop, _, _ = scaling([member("1")], 1, workers=1)
    loop.meter.add({"1": 400}, 0)
    assert loop.decide(1.0, 0.0) is None
    assert loop.meter.total == 400.0
