"""Who is to hold a bucket after an interruption, and after a promotion that undid some of one side's commits.

Tried on a model of two servers, with every write that they acknowledged.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from hypothesis import event, given
from hypothesis import strategies as st

from tenfold.db.reshard.marks import Mark, Sums
from tenfold.db.reshard.mend import apart, fate
from tenfold.db.reshard.steps import Leg

LEG = Leg(source="s", target="t", buckets=(0,))
Rows = tuple[int, ...]


@dataclass(frozen=True)
class Server:
    """What one server has committed: its rows of the bucket where they are live, or its copy of them."""

    live: Rows | None
    copy: Rows | None
    marks: tuple[Mark, ...] = ()
    written: int = 0


def sums(rows: Rows | None) -> Sums:
    return {} if rows is None else {0: (len(rows), hash(rows))}


def at(clock: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=clock)


class World:
    def __init__(self) -> None:
        self.now = {"s": Server((0,), None), "t": Server(None, (0,))}
        self.commits: dict[str, list[Server]] = {name: [server] for name, server in self.now.items()}
        self.owner = "s"
        self.switches = 0
        self.writes = 0
        self.clock = 0

    def commit(self, name: str, server: Server) -> None:
        self.now[name] = server
        self.commits[name].append(server)

    def write(self, name: str) -> None:
        live = self.now[name].live
        assert live is not None
        self.writes += 1
        self.clock += 1
        self.commit(name, replace(self.now[name], live=(*live, self.writes), written=self.clock))

    def switch(self, *, half: bool = False) -> None:
        giver, taker = self.owner, "t" if self.owner == "s" else "s"
        rows = self.now[giver].live
        self.switches += 1
        self.clock += 1
        mark = Mark(self.switches, at(self.clock), giver, taker, (0,), {0: sums(rows)})
        mine, theirs = self.now[giver], self.now[taker]
        self.commit(giver, Server(None, rows, (*mine.marks, mark), mine.written))
        if not half:
            self.commit(taker, Server(rows, None, (*theirs.marks, mark), theirs.written))
            self.owner = taker

    def forget(self, name: str, commits: int) -> None:
        kept = self.commits[name]
        self.commits[name] = kept[: max(1, len(kept) - commits)]
        self.now[name] = self.commits[name][-1]

    def live(self, name: str, bucket: int) -> Sums:
        return sums(self.now[name].live)

    def was_written(self, name: str, bucket: int, since: dt.datetime) -> bool:
        return at(self.now[name].written) > since

    def decide(self) -> str:
        """The owner, after what the fate says has been done. "" where nobody can say."""
        known = {name: {0: server.marks} if server.marks else {} for name, server in self.now.items()}
        found = fate(LEG, 0, known["s"], known["t"], self.live, self.was_written)
        assert found.mend == bool(apart(LEG, known["s"], known["t"]))
        if not found.owner:
            return ""
        other = "t" if found.owner == "s" else "s"
        mine = self.now[found.owner]
        assert found.from_copy == (mine.live is None)
        assert found.drop == (self.now[other].live is not None)
        self.now[found.owner] = replace(mine, live=mine.copy if found.from_copy else mine.live)
        self.now[other] = replace(self.now[other], live=None)
        return found.owner


STEPS = st.lists(st.sampled_from(["write", "switch"]), max_size=8)


def lived(steps: list[str], *, half: bool) -> World:
    world = World()
    for step in steps:
        if step == "write":
            world.write(world.owner)
        else:
            world.switch()
    if half:
        world.switch(half=True)
    return world


@given(STEPS, st.booleans())
def test_where_nothing_was_forgotten_nothing_is_lost(steps: list[str], half: bool) -> None:
    world = lived(steps, half=half)
    owner = world.decide()
    assert owner == world.owner
    assert world.now[owner].live == tuple(range(world.writes + 1))


@given(STEPS, st.booleans(), st.sampled_from(["s", "t"]), st.integers(0, 9), st.integers(0, 2))
def test_what_the_other_side_has_acknowledged_is_never_lost(
    steps: list[str], half: bool, victim: str, commits: int, late: int
) -> None:
    """One side forgets its last commits, and serves writers of the former map meanwhile if it has the rows live."""
    world = lived(steps, half=half)
    world.forget(victim, commits)
    first_late = world.writes + 1
    for _ in range(late):
        if world.now[victim].live is not None:
            world.write(victim)
    served = {*range(first_late, world.writes + 1)}
    other = "t" if victim == "s" else "s"
    kept = world.now[other].live if world.now[other].live is not None else world.now[other].copy
    given = world.now[other].marks[-1].sums[0] if world.now[other].marks else {}
    owner = world.decide()
    event(f"owner: {'nobody' if not owner else 'the victim' if owner == victim else 'the other'}")
    if not owner:
        assert served  # and the other has been written to as well, or the two began from different rows
        return
    assert sum(server.live is not None for server in world.now.values()) == 1
    rows = {*(world.now[owner].live or ())}
    assert served <= rows
    if owner == other:
        assert world.now[owner].live == kept
    elif len(world.now[victim].marks) < len(world.now[other].marks):
        assert sums(kept) == given  # what is missing was the victim's own, and was lost with its former primary
