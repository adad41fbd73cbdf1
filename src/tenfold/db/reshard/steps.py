"""What comes next: the whole of a reshard as a value, and the one step that follows from it.

A *leg* moves some buckets from a source to a target. Of each bucket one side holds the rows *live*, in the
application's own table; the other has a *copy*, which the application never sees, kept up to date from the log of the
live side. Taking a bucket over exchanges the two, and so does giving it back: there is one machine, and it runs
both ways.

=========  ===========================  ===============================================
phase      go on (``forth``)            roll back (``back``)
=========  ===========================  ===============================================
planned    make logs and empty copies   drop them
copying    copy on, then compare        drop logs and copies
switching  switch a group of buckets    switch back what the target holds, then drop
moved      rest                         the same
dropping   drop logs and copies         the same
clean      –                            –
=========  ===========================  ===============================================

A leg whose logs or copies were lost (`mend`) is planned again. What the target holds by then is copied too, so the way
back leads through *copying* as well.

Legs go one after the other, and back in the opposite order. Who holds a bucket is not noted here: the map says so, and
two records of one fact would disagree one day. ``finish`` drops logs and copies of legs that have moved; from then on
there is no way back.

A switch spans three databases. Before it, its *intent* is stored; each side marks the switch in the very transaction in
which it moves the rows. The taker's commit decides: seen there, the switch is completed; not seen, the giver takes its
rows back (presumed abort; Mohan and Lindsay 1983). `mend` does either, and heals what a promotion has undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tenfold.db.reshard.errors import ReshardError


class Phase(StrEnum):
    """How far a leg is."""

    PLANNED = "planned"
    COPYING = "copying"
    SWITCHING = "switching"
    MOVED = "moved"
    DROPPING = "dropping"
    CLEAN = "clean"


OVER = (Phase.DROPPING, Phase.CLEAN)
"""Of these nothing is switched any more, and what stands on the shards may be gone."""


class Course(StrEnum):
    """Which way the whole goes."""

    FORTH = "forth"
    BACK = "back"
    FINISH = "finish"


class Do(StrEnum):
    """The kinds of step."""

    RECOVER = "recover"
    PREPARE = "prepare"
    COPY = "copy"
    SWITCH = "switch"
    MARK_MOVED = "mark moved"
    CLEAN = "clean"
    REST = "rest"
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """``buckets`` from ``source`` to ``target``. ``rows``: how many when it was planned.

    While copying: ``table`` is the number of the table at hand, first those of what the source holds, then the same of
    what the target holds; ``after`` the primary key behind which it goes on, ``copied`` the rows so far.
    """

    source: str
    target: str
    buckets: tuple[int, ...]
    rows: int = 0
    phase: Phase = Phase.PLANNED
    table: int = 0
    after: tuple[str, ...] | None = None
    copied: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A switch under way: ``buckets`` of leg number ``leg`` go from ``giver`` to ``taker``."""

    number: int
    leg: int
    giver: str
    taker: str
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """Which history a shard's primary writes: ``system`` never changes, ``timeline`` grows with each promotion."""

    system: str
    timeline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshard:
    """The durable state. ``tables`` are qualified names in the order of the copy; ``switches`` counts intents.

    ``started``: something may stand on the shards; until then a new plan may take this one's place. ``servers``: the
    primaries that were met last; ``promoted``: one of them has changed since the reshard began.
    """

    legs: tuple[Leg, ...]
    tables: tuple[str, ...]
    course: Course = Course.FORTH
    intent: Intent | None = None
    switches: int = 0
    started: bool = False
    servers: Mapping[str, Server] = field(default_factory=dict)
    promoted: bool = False

    def with_leg(self, number: int, leg: Leg) -> Reshard:
        return replace(self, legs=(*self.legs[:number], leg, *self.legs[number + 1 :]))


@dataclass(frozen=True, slots=True)
class Step:
    """``do`` for leg number ``leg``; a switch takes ``buckets`` from ``giver`` to ``taker``."""

    do: Do
    leg: int = -1
    giver: str = ""
    taker: str = ""
    buckets: tuple[int, ...] = ()


def next_step(state: Reshard, owners: Sequence[str]) -> Step:
    """The step that follows. ``owners[b]`` is the shard that the map has for bucket b.

    Raises `ReshardError` when the map has one of the buckets on a third shard.
    """
    if state.intent is not None:
        return Step(Do.RECOVER, state.intent.leg)
    for leg in state.legs:
        if leg.phase not in OVER:
            strays = [bucket for bucket in leg.buckets if owners[bucket] not in (leg.source, leg.target)]
            if strays:
                raise ReshardError(
                    f"bucket {strays[0]} goes from {leg.source} to {leg.target}, and the map has it on "
                    f"{owners[strays[0]]}: somebody else changed the map; "
                    + ("put it back on one of the two" if state.started else "plan anew")
                )
    if state.course is Course.FORTH:
        return _forth(state, owners)
    return _drop(state, owners)


def _forth(state: Reshard, owners: Sequence[str]) -> Step:
    for number, leg in enumerate(state.legs):
        if leg.phase is Phase.PLANNED:
            return Step(Do.PREPARE, number)
        if leg.phase is Phase.COPYING:
            return Step(Do.COPY, number)
        if left := held(leg, leg.source, owners):  # also of a leg that had moved and was being rolled back
            return Step(Do.SWITCH, number, leg.source, leg.target, left)
        if leg.phase is Phase.SWITCHING:
            return Step(Do.MARK_MOVED, number)
    return Step(Do.REST)


def _drop(state: Reshard, owners: Sequence[str]) -> Step:
    """Back: the last leg first. Finish: as it comes; nothing is switched."""
    for number, leg in reversed(list(enumerate(state.legs))):
        if leg.phase is Phase.CLEAN:
            continue
        there = held(leg, leg.target, owners)
        if state.course is Course.BACK and there and leg.phase is not Phase.DROPPING:
            if leg.phase is Phase.PLANNED:
                return Step(Do.PREPARE, number)
            if leg.phase is Phase.COPYING:
                return Step(Do.COPY, number)
            return Step(Do.SWITCH, number, leg.target, leg.source, there)
        return Step(Do.CLEAN, number)
    return Step(Do.FORGET)


def anew(leg: Leg) -> Leg:
    """The leg from its beginning, with what it has moved where it is."""
    return replace(leg, phase=Phase.PLANNED, table=0, after=None, copied=0)


def held(leg: Leg, shard: str, owners: Sequence[str]) -> tuple[int, ...]:
    """The buckets of ``leg`` that live on ``shard``."""
    return tuple(bucket for bucket in leg.buckets if owners[bucket] == shard)


def group(buckets: Sequence[int], rows: Mapping[int, int], most: int) -> tuple[int, ...]:
    """The first of ``buckets`` that hold ``most`` rows together, one bucket at least."""
    taken: list[int] = []
    total = 0
    for bucket in buckets:
        total += rows.get(bucket, 0)
        if taken and total > most:
            break
        taken.append(bucket)
    return tuple(taken)


def turned(state: Reshard, course: Course) -> Reshard:
    """On another course. Raises `ReshardError` where that cannot be."""
    if course is state.course:
        return state
    if state.course is Course.FINISH:
        raise ReshardError(
            "the clean-up of this reshard has begun and nothing leads back: end it with `tenfold reshard run --finish`"
        )
    if state.course is Course.BACK and any(leg.phase in OVER for leg in state.legs):
        raise ReshardError("this reshard has been rolled back in part: end that with `tenfold reshard rollback`")
    if course is Course.FINISH and any(leg.phase is not Phase.MOVED for leg in state.legs):
        raise ReshardError("not all buckets have moved yet: `tenfold reshard run` first, without --finish")
    return replace(state, course=course)
