"""What a roster wants done, step by step with its own time, and when workers that died are replaced."""

import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale.supervisor.backoff import LOOP, YOUNG, Backoff
from tenfold.autoscale.supervisor.member import Member
from tenfold.autoscale.supervisor.roster import UNWANTED, Roster, idlest


class Scene:
    """A roster at a time, with the shell played by hand."""

    def __init__(self, wish, *, ready_timeout=30.0, hung_after=10.0):
        self.now = 1000.0
        self.roster = Roster(Backoff(0.25, 30.0, random.Random(7)), ready_timeout, hung_after)
        self.roster.wish = wish
        self._count = 0

    def plan(self, seconds=0.0):
        """What it wants after so many seconds, looking once a second as the fleet does; starts are carried out."""
        end = self.now + seconds
        while self.now + 1 < end:
            self.now += 1
            self.roster.plan(self.now)
        self.now = end
        plan = self.roster.plan(self.now)
        for _ in range(plan.start):
            self._count += 1
            self.roster.joined(Member(str(self._count), "unix:///x", self.now))
        return plan

    def beat(self):
        for member in self.roster.members:
            member.beat = self.now

    def ready(self, *ids):
        for member in self.find(*ids):
            self.roster.ready(member, self.now)

    def ended(self, *ids):
        return [self.roster.ended(member, self.now) for member in self.find(*ids)]

    def find(self, *ids):
        return [next(member for member in self.roster.members if member.id == id) for id in ids]

    def ids(self, members):
        return [member.id for member in members]


def serving(wish, **options):
    scene = Scene(wish, **options)
    assert scene.plan().start == wish
    scene.ready(*(str(number) for number in range(1, wish + 1)))
    assert scene.plan() == scene.roster.plan(scene.now)
    return scene


def test_it_starts_what_is_missing_once():
    scene = Scene(3)
    assert scene.plan().start == 3
    assert scene.plan().start == 0


def test_of_a_surplus_those_that_start_go_first_and_then_the_idlest():
    scene = serving(3)
    scene.roster.wish = 5
    scene.plan(1)
    one, two, three = scene.find("1", "2", "3")
    one.in_flight, two.in_flight, three.in_flight = 0, 4, 0
    three.started += 1
    scene.roster.wish = 2
    plan = scene.plan(1)
    assert (scene.ids(plan.kill), scene.ids(plan.leave)) == (["4", "5"], ["3"])
    assert {member.doomed for member in plan.kill} == {UNWANTED}
    assert three.state == "draining"
    assert scene.plan().leave == ()
    assert [ending.crash for ending in scene.ended("3", "4", "5")] == [False, False, False]
    assert scene.roster.crashes == scene.roster.recycled == 0


def test_the_choice_is_the_callers_and_only_among_those_it_was_given():
    scene = serving(3)
    scene.roster.choose = lambda members: members[1]
    scene.roster.wish = 2
    assert scene.ids(scene.plan().leave) == ["2"]
    scene.roster.choose = lambda members: Member("9", "unix:///x", 0.0)
    scene.roster.wish = 0
    with pytest.raises(MisuseError, match="expected one of the members it was given"):
        scene.roster.plan(scene.now)
    assert [member.state for member in scene.roster.members] == ["ready", "draining", "ready"]


def test_the_outdated_are_replaced_one_at_a_time_each_after_its_replacement_is_ready():
    scene = serving(2)
    assert scene.ids(scene.roster.outdate("rolled")) == ["1", "2"]
    plan = scene.plan(1)
    assert (plan.start, plan.leave) == (1, ())
    assert scene.plan(1).start == 0
    scene.ready("3")
    plan = scene.plan()
    assert (plan.start, scene.ids(plan.leave)) == (1, ["1"])
    scene.ready("4")
    assert scene.ids(scene.plan().leave) == ["2"]
    assert scene.plan().start == 0
    scene.ended("1", "2")
    assert (scene.roster.recycled, scene.roster.crashes, scene.roster.restarts) == (2, 0, 0)


def test_a_roll_during_another_replaces_what_that_one_has_started():
    scene = serving(1)
    scene.roster.outdate("rolled")
    scene.plan()
    scene.roster.outdate("rolled again")
    plan = scene.plan()
    assert scene.ids(plan.kill) == ["2"]  # not ready yet, so that nobody misses it
    assert plan.start == 0  # not before it is dead
    scene.ended("2")
    assert scene.plan().start == 1
    scene.ready("3")
    assert scene.ids(scene.plan().leave) == ["1"]


def test_those_that_leave_slowly_do_not_pile_up():
    scene = serving(1)
    for number in ("2", "3"):
        scene.roster.outdate("rolled")
        scene.plan()
        scene.ready(number)
        assert len(scene.plan().leave) == 1
    scene.roster.outdate("rolled")
    assert scene.plan(5).start == 0  # 1 and 2 drain still
    scene.ended("1")
    assert scene.plan().start == 1


def test_one_that_is_not_ready_in_time_is_killed_and_its_place_is_free_when_it_is_dead():
    scene = Scene(1, ready_timeout=5.0)
    assert scene.plan().start == 1
    assert scene.plan().wake == scene.now + 5.0
    assert scene.plan(4.9).kill == ()
    plan = scene.plan(0.1)
    assert scene.ids(plan.kill) == ["1"]
    assert scene.find("1")[0].doomed == "not ready within 5.00 s"
    assert scene.plan(1).start == 0
    (ending,) = scene.ended("1")
    assert ending.crash
    assert scene.plan().start == 0  # it failed, so there is a pause
    assert scene.plan(0.25).start == 1
    assert (scene.roster.crashes, scene.roster.restarts) == (1, 1)


def test_one_without_a_sign_of_life_is_killed():
    scene = serving(2)
    scene.plan(5)
    scene.find("2")[0].beat = scene.now
    assert scene.plan(4.9).kill == ()
    assert scene.ids(scene.plan(0.1).kill) == ["1"]
    assert scene.find("1")[0].doomed == "hung: no sign of life for 10.0 s"
    assert [ending.crash for ending in scene.ended("1")] == [True]
    assert scene.plan().start == 1


def test_one_that_uses_the_processor_is_given_three_times_as_long():
    scene = serving(1)
    (member,) = scene.roster.members
    for second in range(1, 30):
        scene.roster.used(member, second / 10, scene.now + 1)
        assert scene.plan(1).kill == ()
    scene.roster.used(member, 3.0, scene.now + 1)
    assert scene.ids(scene.plan(1).kill) == ["1"]


def test_nobody_is_judged_by_a_time_in_which_nobody_looked():
    scene = serving(1)
    scene.now += 3600
    assert scene.plan().kill == ()
    assert scene.plan(9.9).kill == ()
    assert scene.ids(scene.plan(0.1).kill) == ["1"]


def test_one_that_has_done_enough_is_replaced():
    scene = Scene(1)
    scene.roster.joined(Member("a", "unix:///x", scene.now, limit=100))
    (member,) = scene.roster.members
    scene.ready("a")
    member.requests = 99
    assert scene.plan().start == 0
    member.requests = 104
    assert scene.plan().start == 1
    assert member.outdated == "replaced after 104 requests"
    assert member.state == "ready"


def test_idlest_takes_the_youngest_of_the_idle():
    members = [Member(str(number), "unix:///x", float(number)) for number in range(3)]
    assert idlest(members).id == "2"
    members[2].in_flight = 1
    assert idlest(members).id == "1"


def test_one_that_served_for_long_is_replaced_at_once_and_so_is_the_first_that_did_not():
    scene = serving(2)
    scene.now += YOUNG
    scene.beat()
    scene.ended("1")
    assert scene.plan().start == 1
    scene.ready("3")
    scene.ended("3")
    assert scene.plan().start == 1
    scene.ready("4")
    scene.now += 0.1
    scene.ended("4")
    assert scene.plan().start == 0
    assert scene.plan(0.5).start == 1


def test_pauses_double_up_to_the_cap_and_the_loop_is_told_once():
    backoff, now = Backoff(0.25, 4.0, random.Random(3)), 0.0
    pauses, told = [], []
    for _ in range(8):
        started = now
        now += 0.1
        told.append(backoff.died(started, None, now))
        pauses.append(backoff.not_before - now)
        now = backoff.not_before
    for pause, longest in zip(pauses, [0.25, 0.5, 1, 2, 4, 4, 4, 4], strict=True):
        assert longest / 2 <= pause <= longest
    assert told == [False] * (LOOP - 1) + [True] + [False] * 3
    assert backoff.looping


def test_those_that_were_started_together_and_die_together_are_one_failure():
    scene = Scene(8)
    scene.plan()
    scene.now += 0.3
    for number in range(1, 9):
        scene.ended(str(number))
        scene.now += 0.01
    assert scene.roster.backoff.early == 1
    assert scene.plan(0.25).start == 1  # one is tried
    scene.ready("9")
    assert scene.plan().start == 7  # and then the others


def test_a_loop_ends_when_one_has_served():
    scene = Scene(1)
    for number in range(1, LOOP + 1):
        assert scene.plan(60).start == 1
        scene.now += 0.1
        (ending,) = scene.ended(str(number))
        assert ending.loop == (number == LOOP)
    assert scene.plan(60).start == 1
    scene.ready(str(LOOP + 1))
    scene.beat()
    scene.plan(YOUNG - 1)
    assert scene.roster.backoff.looping
    scene.beat()
    scene.plan(1)
    assert not scene.roster.backoff.looping
