"""The decisions: who gets a place, in which order, and who goes when there is no room."""

import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.shed import Line, Shed
from tenfold.resilience.wire import Priority

CRITICAL, NORMAL, BATCH, SHEDDABLE = Priority.CRITICAL, Priority.NORMAL, Priority.BATCH, Priority.SHEDDABLE


def full(now=0.0, **options):
    """A line whose one place is taken, and who took it."""
    line = Line(Shed(1, **options))
    runner, _ = line.arrive(now, NORMAL)
    return line, runner


def queue(line, now, priority=NORMAL, until=float("inf")):
    waiter, _ = line.arrive(now, priority, until)
    return waiter


def test_first_come_first_served_while_no_queue_stands():
    line, runner = full()
    first, second = queue(line, 0.01), queue(line, 0.02)
    assert (first.state, second.state) == ("waiting", "waiting")
    assert line.leave(runner, 0.05) == [first]
    assert first.state == "running"
    assert line.leave(first, 0.06) == [second]


def test_last_come_first_served_once_a_queue_has_stood_for_the_interval():
    line, runner = full(interval=0.1, max_wait=10.0, target=0.5)
    old, new = queue(line, 0.0), queue(line, 0.15)
    assert line.leave(runner, 0.2) == [new]
    assert old.state == "waiting"
    assert line.leave(new, 0.21) == [old]  # the queue is empty now, so it stands no more
    later, latest = queue(line, 0.22), queue(line, 0.23)
    assert line.leave(old, 0.24) == [later]
    assert latest.state == "waiting"


def test_the_allowed_wait_shrinks_to_the_target_while_a_queue_stands():
    line, _ = full(interval=0.1, max_wait=0.5, target=0.005)
    assert queue(line, 1.0).until == 1.5
    assert queue(line, 1.09).until == pytest.approx(1.59)
    assert queue(line, 1.11).until == pytest.approx(1.115)


def test_a_queue_that_was_emptied_by_turning_people_away_still_stands():
    line, runner = full(interval=0.1, max_wait=0.5, target=0.005)
    waiter = queue(line, 0.0)
    assert line.expire(waiter, 0.5)
    assert line.waiting == 0
    assert queue(line, 0.6).until == pytest.approx(0.605)
    line.leave(runner, 0.61)  # its time is over, so the place stays free: calm
    fresh, _ = line.arrive(0.7, NORMAL)
    assert fresh.state == "running"
    assert queue(line, 0.71).until == pytest.approx(1.21)


def test_the_allowed_wait_is_not_shorter_than_the_time_between_two_free_places():
    line, runner = full(interval=0.1, max_wait=10.0, target=0.005)
    waiters = [queue(line, 0.0) for _ in range(20)]
    now, running = 0.0, runner
    for _ in range(15):
        now += 0.05
        (running,) = line.leave(running, now)
    assert waiters
    assert queue(line, now).until - now == pytest.approx(0.05, rel=0.01)


def test_a_heap_of_batch_jobs_does_not_shorten_the_wait_of_the_critical_ones():
    line, _ = full(interval=0.1, max_wait=0.5, target=0.005)
    for _ in range(10):
        queue(line, 0.0, BATCH)
    assert queue(line, 0.2, BATCH).until == pytest.approx(0.205)
    assert queue(line, 0.2, CRITICAL).until == pytest.approx(0.7)


def test_when_a_lower_one_gets_a_place_the_higher_ones_have_no_queue():
    line, runner = full(interval=0.1, max_wait=0.5, target=0.005)
    assert line.expire(queue(line, 0.0, CRITICAL), 0.3)
    assert line.standing(CRITICAL, 0.3)
    low = queue(line, 0.31, BATCH, until=9.0)
    assert line.leave(runner, 0.312) == [low]
    assert not line.standing(CRITICAL, 0.4)
    assert queue(line, 0.4, CRITICAL).until == pytest.approx(0.9)


def test_the_highest_priority_gets_the_next_place():
    line, runner = full()
    low, high = queue(line, 0.0, BATCH), queue(line, 0.01, CRITICAL)
    assert line.leave(runner, 0.02) == [high]
    assert low.state == "waiting"


def test_a_full_queue_gives_up_its_lowest_for_a_higher_one():
    line, _ = full(queue=2)
    (
        keep,
        first,
    ) = queue(line, 0.0, NORMAL), queue(line, 0.01, SHEDDABLE)
    waiter, victim = line.arrive(0.02, CRITICAL)
    assert victim is first
    assert (first.state, first.reason) == ("shed", "evicted")
    assert waiter.state == keep.state == "waiting"
    refused, victim = line.arrive(0.03, SHEDDABLE)
    assert victim is None
    assert (refused.state, refused.reason) == ("shed", "full")
    assert line.waiting == 2


def test_a_full_standing_queue_gives_up_its_oldest_for_a_new_one_of_the_same_priority():
    line, _ = full(queue=1, interval=0.1, max_wait=10.0)
    old = queue(line, 0.0)
    assert queue(line, 0.05).reason == "full"
    waiter, victim = line.arrive(0.2, NORMAL)
    assert victim is old
    assert waiter.state == "waiting"


def test_without_a_queue_the_rest_is_turned_away_at_once():
    line, runner = full(queue=0)
    assert queue(line, 0.0, CRITICAL).reason == "full"
    assert line.leave(runner, 0.1) == []
    assert queue(line, 0.2).state == "running"


def test_who_comes_too_late_is_turned_away_although_there_is_a_place():
    line = Line(Shed(1))
    waiter, _ = line.arrive(5.0, NORMAL, until=5.0)
    assert (waiter.state, waiter.reason) == ("shed", "deadline")
    assert line.running == 0
    assert line.pressure(5.0) == 0.0  # no sign of overload


def test_a_waiter_ends_by_its_own_deadline_and_says_so():
    line, runner = full(max_wait=0.5, interval=10.0)
    mine, ours = queue(line, 0.0, until=0.1), queue(line, 0.0, until=9.0)
    assert (mine.until, ours.until) == (0.1, 0.5)
    assert line.leave(runner, 0.2) == [mine, ours]  # overdue ones are passed over
    assert (mine.state, mine.reason) == ("shed", "deadline")
    assert ours.state == "running"
    assert not line.expire(ours, 0.6)


def test_leaving_twice_changes_nothing():
    line, runner = full()
    line.leave(runner, 0.1)
    line.leave(runner, 0.2)
    gone = queue(line, 0.3)
    line.leave(gone, 0.4)
    assert line.running == 0
    other, waiting = queue(line, 0.5), queue(line, 0.5)
    line.leave(waiting, 0.6)
    line.leave(waiting, 0.7)
    assert (line.running, line.waiting, line.gone) == (1, 0, 1)
    assert other.state == "running"


def test_retry_after_follows_the_pace_and_is_bounded():
    line, runner = full(max_wait=60.0, queue=1000, max_retry_after=30.0)
    assert line.retry_after(0.0) == 0.1  # nothing known: one interval
    waiters = [queue(line, 0.0) for _ in range(50)]
    running, now = runner, 0.0
    for _ in range(30):
        now += 0.2
        (running,) = line.leave(running, now)
    assert line.waiting == len(waiters) - 30
    assert line.retry_after(now) == pytest.approx(21 * 0.2, rel=0.05)
    assert line.retry_after(now + 1.0) == pytest.approx(21.0)  # nothing moves any more
    assert line.retry_after(now + 50.0) == 30.0


def test_pressure_is_places_taken_and_beyond_them_callers_turned_away():
    line = Line(Shed(4, queue=0))
    assert line.pressure(0.0) == 0.0
    for _ in range(2):
        queue(line, 0.0)
    assert line.pressure(0.0) == 0.5
    for _ in range(3):
        queue(line, 0.1)
    assert line.pressure(0.1) == pytest.approx(1.0 + 1 / 5)
    assert line.pressure(3.0) == 1.0


def test_a_higher_limit_lets_in_and_a_shorter_queue_turns_away_the_lowest():
    line, _ = full(queue=4)
    low, high, middle, last = (queue(line, 0.0, each) for each in (SHEDDABLE, CRITICAL, NORMAL, BATCH))
    changed = line.reconfigure(Shed(2, queue=2), 0.1)
    assert changed == [high, low]
    assert (high.state, low.state, low.reason) == ("running", "shed", "evicted")
    assert middle.state == last.state == "waiting"
    line.reconfigure(Shed(1, queue=2), 0.2)
    assert line.running == 2  # who runs is not stopped
    assert line.leave(high, 0.3) == []


def simulate(load, *, seconds=20.0, service=0.05, **options):
    """Poisson arrivals at ``load`` times capacity, exponential service: served a second and waits of the served."""
    rng = random.Random(7)
    line = Line(Shed(**options))
    rate = load * options["limit"] / service
    events, waits, deadlines, served = [], [], [], 0
    now, arrival = 0.0, rng.expovariate(rate)
    while now < seconds:
        ends = min(events, default=(float("inf"), None), key=lambda each: each[0])
        overdue = min(deadlines, default=None, key=lambda each: each.until)
        now = min(arrival, ends[0], overdue.until if overdue else float("inf"))
        started = []
        if now == arrival:
            waiter, victim = line.arrive(now, NORMAL)
            arrival = now + rng.expovariate(rate)
            started = [waiter] if waiter.state == "running" else []
            if waiter.state == "waiting":
                deadlines.append(waiter)
            if victim:
                deadlines.remove(victim)
        elif now == ends[0]:
            events.remove(ends)
            served += 1
            changed = line.leave(ends[1], now)
            for each in changed:
                deadlines.remove(each)
            started = [each for each in changed if each.state == "running"]
        else:
            deadlines.remove(overdue)
            line.expire(overdue, now)
        for each in started:
            waits.append(now - each.since)
            events.append((now + rng.expovariate(1 / service), each))
    return served / seconds / (options["limit"] / service), sorted(waits)


@pytest.mark.parametrize("limit", [1, 4, 20])
def test_at_twice_the_capacity_nearly_all_of_it_is_used_and_nobody_waits_long(limit):
    goodput, waits = simulate(2.0, limit=limit, queue=1000)
    assert goodput > 0.85
    assert waits[-1] <= 0.5
    # A bounded first-in-first-out queue of that size would make everybody wait until just before max_wait.
    assert waits[len(waits) // 2] < 0.05


def test_below_capacity_hardly_anybody_is_turned_away():
    goodput, _ = simulate(0.7, limit=20, queue=1000)
    assert goodput == pytest.approx(0.7, rel=0.06)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limit": 0}, r"Shed.limit: expected a whole number of 1 or more, got 0"),
        ({"limit": "10"}, r"Shed.limit: expected a whole number"),
        ({"queue": -1}, r"Shed.queue: expected a whole number of 0 or more, got -1"),
        ({"max_wait": "soon"}, r"Shed.max_wait: expected a duration such as"),
        ({"max_wait": 0}, r"Shed.max_wait: expected a duration above zero"),
        ({"interval": -1}, r"Shed.interval: expected a finite number that is not negative"),
        ({"target": "1s", "max_wait": "100ms"}, r"Shed.target: expected at most max_wait \(0.1 s\), got 1.0 s"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Shed(**options)


def test_options_take_durations_as_people_write_them():
    options = Shed(limit=5, max_wait="250ms", target="2ms", interval="50ms")
    assert (options.max_wait, options.target, options.interval) == (0.25, 0.002, 0.05)


def test_a_line_tells_its_state():
    line, _ = full(queue=3)
    queue(line, 0.0)
    assert repr(line) == "<Line running=1/1 waiting=1/3 shed=0>"
    assert repr(queue(line, 0.0, CRITICAL, until=-1.0)) == "<Waiter critical shed (deadline)>"
