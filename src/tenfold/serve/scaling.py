"""The loop that scales: measure for a period, decide, act; `Scaler` decides, the fleet acts.

What is measured stands in `meter`. To act is to tell the fleet how many it is to have: it starts and drains beside the
loop, the least loaded first, so that the next decision is made on time. That one goes by the number that is wished,
not by the one that is there. The time that the policy is told is when the decision was due, which is never less than a
period after the last one: by the clock some would come a moment early, and find the change before still inside the
period of a rate ("4 a second"), which would then allow nothing for a second more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from tenfold._core.events import EVENTS, Hub
from tenfold.autoscale import Decision, Observed, Reading, Scaled, ScalePolicy, Scaler, Worker
from tenfold.autoscale.metrics import Phase
from tenfold.autoscale.supervisor import Fleet, Member
from tenfold.serve.meter import SAMPLES, Meter

_MORE: Final = 0.001
"""Seconds that a period is longer than asked for, against the rounding of sums."""
_PHASES: Final[dict[str, Phase]] = {"starting": "pending", "ready": "running", "draining": "stopping"}


class Looks(Protocol):
    """Who knows what is under way: the front."""

    def look(self, members: Sequence[Member]) -> tuple[dict[str, int], int]:
        """Requests under way at each worker, and those that wait."""
        ...

    @property
    def fine(self) -> list[int]:
        """Response times in the buckets of `latency.BOUNDS`."""
        ...


def as_workers(members: Sequence[Member]) -> tuple[Worker, ...]:
    """The members as the policy sees them."""
    return tuple(
        Worker(
            member.id,
            phase=_PHASES[member.state],
            ready=member.state == "ready",
            started=member.started,
            changed=member.changed,
        )
        for member in members
        if member.state in _PHASES
    )


class Scaling:
    """Measures a ``fleet`` behind a ``front`` every ``period`` seconds, and scales it by ``policy``, if there is one.

    ``run`` is a task of the owner's. Without a policy it only measures.
    """

    def __init__(
        self,
        app: str,
        fleet: Fleet,
        front: Looks,
        policy: ScalePolicy | None,
        *,
        period: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        hub: Hub = EVENTS,
    ) -> None:
        self._app = app
        self._fleet = fleet
        self._front = front
        self._scaler = None if policy is None else Scaler(policy)
        self._period = period
        self._clock = clock
        self._wall = wall
        self._hub = hub
        self._looked = clock()
        self.meter: Final = Meter()
        self.decisions = {"out": 0, "in": 0, "none": 0}
        """How many decisions there were, by direction."""
        self.deployed = float("-inf")
        """When the last rolling restart ended, on the clock."""

    def readings(self, now: float) -> dict[str, Reading]:
        """What the last period says; ends it."""
        members = [member for member in self._fleet.members if member.state == "ready"]
        seconds, self._looked = max(1e-3, now - self._looked), now
        found: dict[str, Reading] = {"in_flight": self.meter.in_flight(frozenset(member.id for member in members))}
        names = {target.name for target in self._scaler.policy.targets} if self._scaler is not None else set()
        if "cpu" in names:
            found["cpu"] = self.meter.cpu({member.id: member.cpu_seconds() for member in members}, now)
        if "p95_seconds" in names:
            found["p95_seconds"] = self.meter.p95(self._front.fine, seconds)
        return found

    def decide(self, now: float, wall: float) -> Decision | None:
        """What to do by what the last period says; None where the number is fixed."""
        readings = self.readings(now)
        if self._scaler is None:
            return None
        seen = Observed(
            current=self._fleet.wish,
            workers=as_workers(self._fleet.members),
            readings=readings,
            wall=wall,
            deployed=self.deployed,
        )
        decision = self._scaler.decide(seen, now)
        self.decisions[decision.direction] += 1
        return decision

    def restarted(self) -> None:
        """A rolling restart has just ended."""
        self.deployed = self._clock()

    async def run(self) -> None:
        """Measure, decide and act until cancelled."""
        self._looked = due = self._clock()
        while True:
            due = max(due, self._clock() - self._period) + self._period + _MORE
            while (now := self._clock()) < due:
                await asyncio.sleep(min(self._period / SAMPLES, due - now))
                self.meter.add(*self._front.look(self._fleet.members))
            decision = self.decide(due, self._wall())
            if decision is not None and decision.change:
                self._hub.emit(Scaled.of(self._app, decision))
                await self._fleet.scale(decision.desired)

    def __repr__(self) -> str:
        return f"<Scaling {self._scaler!r} {self.meter!r}>"
