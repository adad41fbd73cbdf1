"""What holds of a roster whatever happens to its workers."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from tenfold.autoscale.supervisor.backoff import Backoff
from tenfold.autoscale.supervisor.member import Member
from tenfold.autoscale.supervisor.roster import Roster

MOST = 6
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("scale"), st.integers(0, MOST)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 0.9, 5.0, 40.0])),
        st.tuples(st.sampled_from(["ready", "crash", "beat", "requests", "outdate", "end"]), st.integers(0, 20)),
        st.tuples(st.just("roll"), st.none()),
    ),
    max_size=60,
)


class World:
    """A roster and the processes that it wants, as simple as can be."""

    def __init__(self, seed):
        self.now = 0.0
        self.count = 0
        self.starts = []
        self.roster = Roster(Backoff(0.25, 30.0, random.Random(seed)), 30.0, 10.0)

    def of(self, *states):
        return [member for member in self.roster.members if member.state in states]

    def turn(self):
        roster = self.roster
        before = [member for member in self.of("ready") if not member.doomed]
        plan = roster.plan(self.now)
        serving = [member for member in self.of("ready") if not member.doomed]
        hung = [member for member in before if member.doomed]
        # What the roster takes out of service itself is only what is too much.
        assert len(serving) >= min(roster.wish, len(before) - len(hung))
        assert len(serving) <= roster.wish
        assert len(plan.leave) == len(before) - len(hung) - len(serving)
        assert set(plan.kill) == {member for member in roster.members if member.doomed}
        for _ in range(plan.start):
            self.count += 1
            self.starts.append(self.now)
            roster.joined(Member(str(self.count), "unix:///x", self.now, limit=50))
        # One more than wished at the most, and that one only to replace another.
        coming = [member for member in self.of("starting", "ready") if not member.doomed]
        outdated = any(member.outdated for member in self.of("ready"))
        assert len(coming) <= roster.wish + (1 if roster.wish and outdated else 0)
        assert roster.plan(self.now) == type(plan)(0, (), plan.kill, roster.plan(self.now).wake)
        return plan

    def happens(self, what, which):
        roster = self.roster
        if what == "scale":
            roster.wish = which
        elif what == "wait":
            self.now += which
        elif what == "roll":
            roster.outdate("rolled")
        else:
            states = {"ready": ["starting"], "end": ["draining"], "crash": ["starting", "ready", "draining"]}
            there = self.of(*states.get(what, ["ready"]))
            if not there:
                return
            member = there[which % len(there)]
            if what == "ready" and not member.doomed:
                roster.ready(member, self.now)
            elif what in ("crash", "end"):
                ending = roster.ended(member, self.now)
                assert not (ending.crash and member.state == "draining")
            elif what == "beat":
                member.beat = self.now
            elif what == "requests":
                member.requests += which * 10
            elif what == "outdate":
                member.outdated = "memory"

    def settle(self):
        """Everything starts and leaves as it should, from now on."""
        for _ in range(20 * MOST):
            plan = self.turn()
            for member in self.of("ready"):
                member.beat = self.now
            for member in plan.kill:
                self.roster.ended(member, self.now)
            for member in self.of("draining"):
                self.roster.ended(member, self.now)
            for member in self.of("starting"):
                self.roster.ready(member, self.now)
            self.now = max(self.now + 0.5, self.roster.backoff.not_before if not self.of("starting") else 0.0)
        self.turn()


@given(EVENTS, st.integers(0, 1000))
def test_whatever_happens_it_keeps_within_its_bounds_and_comes_to_what_is_wished(events, seed):
    world = World(seed)
    for event in events:
        world.happens(*event)
        world.turn()
    world.settle()
    assert len(world.roster.members) == world.roster.wish
    assert all(member.state == "ready" and not member.outdated for member in world.roster.members)


@given(st.integers(1, MOST), st.integers(0, 1000), st.floats(0.0, 1.0))
def test_an_app_that_always_crashes_is_started_ever_less_often(wish, seed, lives):
    world = World(seed)
    world.roster.wish = wish
    while world.now < 600:
        world.turn()
        waits = world.roster.backoff.not_before
        if world.of("starting"):
            world.now += lives
            for member in world.of("starting"):
                world.roster.ended(member, world.now)
        else:
            world.now = max(world.now + 0.01, waits)
    # All at first, then one at a time: six doublings up to 16 s, and 15 to 30 s each from there.
    assert len(world.starts) <= wish + 8 + 600 / 15
    late = [start for start in world.starts if start > 120]
    assert len(late) >= 2, "it keeps trying"
    assert all(after - before >= 15 for before, after in itertools.pairwise(late))
    assert world.roster.crashes == len(world.starts)
