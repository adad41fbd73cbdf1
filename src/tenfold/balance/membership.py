"""The members of a balancer from outside: who comes, goes, drains or weighs otherwise, and what is to be seen of them.

What is known of a member (requests under way, breaker, health, ejection) is kept by the id of its endpoint, for as long
as that id is there. Every change of the set only leaves word; the next request builds the pick's tables anew.
"""

from __future__ import annotations

import asyncio
import math
import random as _random
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.clock import Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold._core.units import Duration, duration
from tenfold.balance.counters import Counters
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.happenings import MembersChanged
from tenfold.balance.members import Roster, Seat, by_id
from tenfold.balance.parts import health_of, load_of
from tenfold.balance.pick.base import ANY, Pick, Reason, Request
from tenfold.balance.turns import DrainEnded, DrainStarted
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.circuit import Circuit

if TYPE_CHECKING:
    from tenfold.balance.agent import AgentLoad
    from tenfold.balance.checker import Checker
    from tenfold.balance.checks import Check


class Membership:
    """The half of `Balancer` that manages and shows; the other one gives out tickets."""

    def __init__(
        self,
        roster: Roster,
        pick: Pick,
        *,
        check: Check | None,
        breaker: Breaker | None,
        agent: AgentLoad | None,
        clock: Clock,
        random: _random.Random,
        hub: Hub,
    ) -> None:
        self.name: Final = roster.name
        self.counters: Final = Counters()
        self._roster = roster
        self._pick = pick
        self._check = check
        self._breaker = breaker
        self.agent: Final = agent
        self._checker: Checker | None = None
        self._random = random
        self._draw = random.random
        self._monotonic = clock.monotonic
        self._hub = hub
        self._lock = threading.RLock()
        self._told: list[Event] = roster.told
        self._stale = True
        self._due = -math.inf
        self._declared = -1
        self.version = 0
        """Counts changes of the set of endpoints."""

    def _declare(self, endpoints: list[Endpoint]) -> None:
        for endpoint in endpoints:
            _expect_endpoint(endpoint)
            if endpoint.id in self._roster.seats:
                raise MisuseError(f"balancer {self.name!r}: two endpoints have the id {endpoint.id!r}; ids are unique")
            self._roster.add(self._seat(endpoint))

    def _seat(self, endpoint: Endpoint) -> Seat:
        circuit = None
        if self._breaker is not None:
            circuit = Circuit(f"{self.name}/{endpoint.id}", self._breaker, rng=self._random, hub=self._hub)
        return Seat(endpoint, circuit, health_of(self._check), load_of(self._check, self.agent))

    def now(self) -> float:
        """Monotonic seconds of the balancer's clock."""
        return self._monotonic()

    # -- membership ---------------------------------------------------------------------------------------------

    def add(self, endpoint: Endpoint) -> None:
        """One more endpoint; it starts slowly. With the id of one that is here it takes its place, and what is known
        of that one stays with it.
        """
        _expect_endpoint(endpoint)
        with self._lock:
            self._merge([endpoint], ())
        self._tell()

    def remove(self, id: str) -> None:
        """Give it no more work and forget it. What is under way there ends as ever; to wait for it, `drain` first."""
        with self._lock:
            self._known(id)
            self._merge((), (id,))
        self._tell()

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """These are the endpoints from now on; what is known of those that stay, by id, is kept."""
        wanted = by_id(endpoints)
        for endpoint in wanted.values():
            _expect_endpoint(endpoint)
        with self._lock:
            self._merge(list(wanted.values()), [id for id in self._roster.seats if id not in wanted])
        self._tell()

    def reweight(self, id: str, weight: float) -> None:
        """Another weight for that endpoint; 0 gives it no more work."""
        with self._lock:
            old = self._known(id).member.endpoint
            new = Endpoint(
                id, old.url, weight=weight, zone=old.zone, priority=old.priority, metadata=old.metadata
            )  # checks the weight
            self._merge([new], ())
        self._tell()

    async def drain(self, id: str, deadline: Duration = "30s") -> bool:
        """Give it no more work, and wait until nothing is under way there from here, ``deadline`` at most.

        True if it is idle. It stays out until `resume` or `remove`, also if the caller is cancelled meanwhile.
        """
        seconds = duration(deadline, "deadline")
        seat = self._hold(id)
        idle = await _idle(seat, self._lock, seconds)
        self._hub.emit(DrainEnded(self.name, id, seat.member.in_flight))
        return idle

    def hold(self, id: str) -> None:
        """As `drain`, without waiting."""
        self._hold(id)

    def _hold(self, id: str) -> Seat:
        with self._lock:
            seat = self._known(id)
            seat.draining = self._stale = True
            self.counters.drains += 1
            self._told.append(DrainStarted(self.name, id, seat.member.in_flight))
            self._look(self._monotonic())
        self._tell()
        return seat

    def resume(self, id: str) -> None:
        """Give a drained endpoint work again; it starts slowly."""
        with self._lock:
            seat = self._known(id)
            if seat.draining:
                seat.draining, self._stale = False, True
                self._roster.warm(seat, self._monotonic())

    def _known(self, id: str) -> Seat:
        seat = self._roster.seats.get(id)
        if seat is None:
            known = ", ".join(sorted(self._roster.seats)) or "none"
            raise MisuseError(f"balancer {self.name!r}: expected the id of one of its endpoints ({known}), got {id!r}")
        return seat

    def _merge(self, wanted: Iterable[Endpoint], gone: Iterable[str]) -> None:
        roster, now = self._roster, self._monotonic()
        removed = tuple(gone)
        for id in removed:
            roster.remove(id)
            if self._checker is not None:
                self._checker.forget(id)
        # Where nobody is left to take the load meanwhile, who comes is warm from the start.
        joins = bool(roster.seats)
        added, changed = [], []
        for endpoint in wanted:
            seat = roster.seats.get(endpoint.id)
            if seat is None:
                seat = self._seat(endpoint)
                roster.add(seat)
                if joins:
                    roster.warm(seat, now)
                added.append(endpoint.id)
            elif seat.member.endpoint == endpoint:
                continue
            else:
                self._move(seat, endpoint)
                changed.append(endpoint.id)
            if self._checker is not None:
                self._checker.watch(endpoint)
        if not (added or removed or changed):
            return
        self._stale = True
        self._due = -math.inf
        self.version += 1
        self._told.append(MembersChanged(self.name, tuple(added), removed, tuple(changed), len(roster.seats)))

    def _move(self, seat: Seat, endpoint: Endpoint) -> None:
        member = seat.member
        member.endpoint, member.zone, member.priority = endpoint, endpoint.zone, endpoint.priority

    # -- looking ------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Bring everything up to date. Under the lock."""
        roster = self._roster
        changed = self._stale
        if now >= self._due:
            changed = roster.sweep(now) or changed
        if changed or roster.warming(now):
            self._stale = False
            if self._declared != self.version:
                self._declared = self.version
                self._pick.declare(roster.members)
                roster.renew()
            panicking = roster.panicking
            members = roster.settle(now)
            if members is not None:
                self._pick.rebuild(members)
            if roster.panicking and not panicking:
                self.counters.panics += 1
        self._due = roster.due(now)

    def _tell(self) -> None:
        """Emit what happened, outside of the lock."""
        with self._lock:
            told = self._told[:]
            self._told.clear()
        for event in told:
            self._hub.emit(event)

    @property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints as they are declared now, sorted by id."""
        with self._lock:
            return [self._roster.seats[id].member.endpoint for id in sorted(self._roster.seats)]

    @property
    def panicking(self) -> bool:
        """Whether so few endpoints are ready that all are used."""
        return self._roster.panicking

    @property
    def in_flight(self) -> int:
        """Requests under way at the endpoints that are here."""
        with self._lock:
            return sum(seat.member.in_flight for seat in self._roster.seats.values())

    @property
    def loads(self) -> dict[str, int]:
        """Requests under way at each of the endpoints that are here, by id; cheaper than `state`."""
        with self._lock:
            return {id: seat.member.in_flight for id, seat in self._roster.seats.items()}

    def explain(self, request: Request = ANY) -> list[Reason]:
        """Every endpoint in the order in which it would be preferred now, and why; those out of use come last."""
        now = self._monotonic()
        with self._lock:
            if self._stale or now >= self._due:
                self._look(now)
            reasons = self._pick.explain(now, request)
            for id in sorted(self._roster.seats):
                seat = self._roster.seats[id]
                if not seat.in_use:
                    reasons.append(Reason(id, math.inf, f"out of use: {seat.why or 'its weight is 0'}"))
        self._tell()
        return reasons

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON."""
        now = self._monotonic()
        with self._lock:
            if self._stale or now >= self._due:
                self._look(now)
            roster = self._roster
            state = {
                "name": self.name,
                "pick": self._pick.name,
                "panic": roster.panicking,
                "ready": roster.ready,
                "counters": self.counters.state(),
                "ejection": None if roster.ejector is None else roster.ejector.state(),
                "endpoints": {id: _state(roster.seats[id], now) for id in sorted(roster.seats)},
            }
        self._tell()
        return state


def _expect_endpoint(endpoint: object) -> None:
    if not isinstance(endpoint, Endpoint):
        raise MisuseError(f'Balancer: expected Endpoint("a", "http://10.0.0.1:8000"), got {endpoint!r}')


def wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _idle(seat: Seat, lock: threading.RLock, seconds: float) -> bool:
    """Wait until nothing is under way there. False if the time was not enough."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    entry = (loop, future)
    with lock:
        if seat.member.in_flight == 0:
            return True
        seat.waiting.append(entry)
    try:
        await asyncio.wait((future,), timeout=seconds)
    finally:
        with lock:
            seat.waiting.remove(entry)
    return seat.member.in_flight == 0


def _state(seat: Seat, now: float) -> dict[str, Any]:
    member = seat.member
    return {
        "url": member.endpoint.url,
        "weight": round(member.weight, 4),
        "declared_weight": member.endpoint.weight,
        "in_flight": member.in_flight,
        "ready": member.ready,
        "in_use": seat.in_use,
        "why": seat.why,
        "zone": member.zone,
        "priority": member.priority,
        "breaker": None if seat.circuit is None else seat.circuit.state(now)["state"],
    }
