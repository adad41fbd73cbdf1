"""Which workers to start, to drain and to kill: from what is wished and what is there, without doing any of it.

Theory. The roster is level-triggered, like a controller of Kubernetes: it keeps no list of things to do, but compares
what is with what ought to be, each time anything changes, and so cannot lose a step by a crash in between. What ought
to be is ``wish`` workers that nothing is held against, and the way there has three rules. Never fewer than ``wish``
ready ones by our own doing: one is drained only when more are ready. One more than ``wish`` while some ready one is
``outdated`` (a roll, too much memory, enough requests): it is the replacement, and its readiness makes the surplus by
which the outdated one goes; so they go one at a time, however many are outdated at once. And whom nobody needs yet goes
first: of a surplus the starting ones, then the outdated, then whom the caller chooses.

Hung is judged by signs of life and not by how long a request takes: a busy worker answers late, but its event loop
turns and says so (`worker`); one that is stopped, dead-locked or blocked says nothing. A loop that many requests block
for a moment each, one after another, says nothing either until it is through with all of them (measured on uvloop: 12
requests of 0.3 s that go on together are 3.6 s without a sign or an answer). So who uses the processor meanwhile has
`PATIENCE` times as long. Where the judge itself was not looking (stopped, or the machine was), nobody is judged by
that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration
from tenfold.autoscale.supervisor.backoff import YOUNG, Backoff
from tenfold.autoscale.supervisor.member import Member

Choose = Callable[[Sequence[Member]], Member]
UNWANTED: Final = "not needed any more"
SURPLUS: Final = "fewer workers are wanted"
TICK: Final = 1.0
"""Seconds between two looks when nothing happens."""
PATIENCE: Final = 3
"""How many times ``hung_after`` a worker may say nothing that uses the processor."""
_ASLEEP: Final = 3 * TICK
"""Seconds without a look after which the judge was not looking."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: how many to ``start``, whom to drain (``leave``) and whom to ``kill``, who is named again until
    it is dead; the members say why. ``wake`` is when to plan again if nothing happens before.
    """

    start: int
    leave: tuple[Member, ...]
    kill: tuple[Member, ...]
    wake: float


@dataclass(frozen=True, slots=True)
class Ending:
    """What the end of a worker was: a ``crash`` or as wanted, and whether it makes a crash ``loop``."""

    crash: bool
    loop: bool


def idlest(members: Sequence[Member]) -> Member:
    """The one with the fewest requests under way; of several the youngest, whose caches hold the least."""
    return min(members, key=lambda member: (member.in_flight, -member.started))


class Roster:
    """The workers of a fleet and how many there ought to be. ``ready_timeout`` and ``hung_after`` are in seconds."""

    __slots__ = ("_awake", "_hung_after", "_looked", "_owed", "_ready_timeout", "backoff", "choose", "crashes",
                 "members", "recycled", "restarts", "wish")  # fmt: skip

    def __init__(self, backoff: Backoff, ready_timeout: float, hung_after: float) -> None:
        self._ready_timeout = ready_timeout
        self._hung_after = hung_after
        self._awake = self._looked = float("-inf")
        self._owed = 0
        self.backoff: Final = backoff
        self.members: list[Member] = []
        self.wish = 0
        self.choose: Choose = idlest
        self.crashes = 0
        """How many workers have ended, or had to be killed, that were to go on."""
        self.restarts = 0
        """How many workers were started in the place of one that crashed."""
        self.recycled = 0
        """How many outdated workers have left for a new one."""

    # -- what happens -------------------------------------------------------------------------------------------------

    def joined(self, member: Member) -> None:
        """One is being started."""
        self.members.append(member)
        if self._owed:
            self._owed -= 1
            self.restarts += 1

    def ready(self, member: Member, now: float) -> None:
        """One accepts connections."""
        member.become("ready", now)
        member.beat = member.busy = now
        self.backoff.ready()

    def ended(self, member: Member, now: float) -> Ending:
        """The process of one has ended, for whatever reason."""
        was = member.state
        self.members.remove(member)
        crash = was in ("starting", "ready") and member.doomed != UNWANTED
        loop = False
        if crash:
            self.crashes += 1
            self._owed = min(self._owed + 1, self.wish)
            served = now - member.changed if was == "ready" else None
            loop = self.backoff.died(member.started, served, now)
        elif was == "draining" and member.outdated:
            self.recycled += 1
        member.become("gone", now)
        return Ending(crash, loop)

    def outdate(self, why: str) -> tuple[Member, ...]:
        """Have all that are there replaced, in words for why; returns them. What failed before is forgotten, since
        what is started next is another app.
        """
        there = tuple(member for member in self.members if member.state in ("starting", "ready"))
        for member in there:
            member.outdated = why
        self.backoff.forget()
        return there

    def used(self, member: Member, cpu: float, now: float) -> None:
        """One has used so many seconds of the processor in all."""
        if cpu > member.cpu:
            member.cpu, member.busy = cpu, now

    # -- what to do ---------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """What to do now; the members that it names are taken as draining or doomed from here on."""
        if now - self._looked > _ASLEEP:
            self._awake = now
        self._looked = now
        self._judge(now)
        there = [member for member in self.members if member.state in ("starting", "ready") and not member.doomed]
        starting = [member for member in there if member.state == "starting"]
        ready = [member for member in there if member.state == "ready"]
        room = self.wish + (1 if self.wish and any(member.outdated for member in ready) else 0)
        needless = [member for member in starting if member.outdated]
        fresh = sorted((member for member in starting if not member.outdated), key=lambda member: member.started)
        needless += fresh[max(0, room - len(ready)) :]
        for member in needless:
            member.doomed = UNWANTED
        leave = self._surplus(ready, now)
        kill = tuple(member for member in self.members if member.doomed)
        start = self._missing(len(ready) - len(leave), now)
        waits = [
            member.started + self._ready_timeout for member in there if member.state == "starting" and not member.doomed
        ]
        if self.backoff.not_before > now:
            waits.append(self.backoff.not_before)
        return Plan(start, tuple(leave), kill, min(waits, default=float("inf")))

    def _judge(self, now: float) -> None:
        """Who is too late, who has done enough, who has proved itself."""
        for member in self.members:
            if member.doomed:
                continue
            if member.state == "starting" and now - member.started >= self._ready_timeout:
                member.doomed = f"not ready within {format_duration(self._ready_timeout)}"
            elif member.state == "ready":
                alive = max(member.beat, self._awake)
                silent = now - max(alive, member.busy)
                if silent >= self._hung_after or now - alive >= PATIENCE * self._hung_after:
                    member.doomed = f"hung: no sign of life for {format_duration(now - member.beat)}"
                elif member.requests >= member.limit and not member.outdated:
                    member.outdated = f"replaced after {member.requests} requests"
                if now - member.changed >= YOUNG:
                    self.backoff.served(member.started)

    def _surplus(self, ready: list[Member], now: float) -> list[Member]:
        """Those of the ready that are to leave, so that as many stay as are wished."""
        leave: list[Member] = []
        candidates = list(ready)
        while len(candidates) > self.wish:
            outdated = [member for member in candidates if member.outdated]
            chosen = outdated[0] if outdated else self.choose(tuple(candidates))
            if chosen not in candidates:
                raise MisuseError(f"choose: expected one of the members it was given, got {chosen!r}")
            candidates.remove(chosen)
            leave.append(chosen)
        for member in leave:
            member.become("draining", now)
        return leave

    def _missing(self, ready: int, now: float) -> int:
        """How many to start now."""
        if now < self.backoff.not_before:
            return 0
        staying = [member for member in self.members if member.state == "ready" and not member.doomed]
        draining = sum(member.state == "draining" for member in self.members)
        # Beyond that, those that leave slowly would pile up beside their replacements.
        replacing = draining <= self.wish and any(member.outdated for member in staying)
        # The doomed hold their places until they are dead: what killed them decides when another one may start.
        starting = sum(member.state == "starting" and not member.doomed for member in self.members)
        doomed = sum(bool(member.doomed) and member.state != "draining" for member in self.members)
        missing = self.wish + (1 if replacing else 0) - ready - starting - doomed
        if self.backoff.probing:
            missing = min(missing, 1 - starting)
        return max(0, missing)
