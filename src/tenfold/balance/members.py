"""Who may be used now: the members of one balancer, what is known of each, and the set that picks are given.

Theory. Three sources say that an endpoint should get no work: its health check, the comparison with its peers
(outlier ejection), and a person (draining). The first two are signs, and when *most* endpoints look bad the likelier
cause is the one who looks: a check that is wrong, a network cut on this side, an overload that made everybody slow.
Leaving out all who look bad then puts the whole load on the few that are left and takes them down too. So below a share
``panic`` of ready members all are used again, which is Envoy's panic threshold (Envoy, "Panic threshold"; the default
of one half is also theirs). A member that is being drained stays out even then: that is an order, not a sign.

The weight that counts is the declared one, times what slow start leaves of it, times what the endpoint says is free.
Both factors move in steps, because each change makes the pick build its tables anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tenfold._core.events import Event
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.happenings import EndpointEjected, EndpointReturned
from tenfold.balance.outlier import Ejected
from tenfold.balance.turns import PanicEnded, PanicStarted

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from tenfold.balance.agent import Load
    from tenfold.balance.ejector import Ejector
    from tenfold.balance.health import Health
    from tenfold.balance.slow_start import SlowStart
    from tenfold.resilience.circuit import Circuit

_STEPS: Final = 10
"""Steps in which slow start moves a weight."""
SWEEP: Final = 0.25
"""Seconds between two looks at whether somebody is to be ejected or to come back, at most …"""
_SOON: Final = 0.01
"""… and at least."""


class Seat:
    """A member with everything that its balancer knows of it."""

    __slots__ = (
        "circuit", "draining", "free", "gone", "health", "in_use", "load", "member", "out", "since", "waiting", "why",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, circuit: Circuit | None, health: Health | None, load: Load | None) -> None:
        self.member = Member(endpoint)
        self.circuit = circuit
        self.health = health
        self.load = load
        self.since: float | None = None
        """When slow start began; None: it is warm."""
        self.free = 1.0
        """The share of itself that the endpoint says is free."""
        self.draining = False
        self.gone = False
        """Whether it has left the balancer; requests under way there still count down."""
        self.in_use = False
        """Whether the pick has been given it."""
        self.out = False
        """Whether it was ejected when the ejector was last asked."""
        self.why = ""
        """Why it is not ready, for a person; empty if it is."""
        self.waiting: list[tuple[AbstractEventLoop, Future[None]]] = []
        """Who waits until nothing is under way here."""

    def __repr__(self) -> str:
        return f"<Seat {self.member!r}{' draining' if self.draining else ''}{' gone' if self.gone else ''}>"


class Roster:
    """The seats by id, and what of them may be used. Not thread-safe: its balancer holds a lock."""

    __slots__ = (
        "_due_warm", "_given", "ejector", "name", "panic", "panicking", "ready", "seats", "slow_start", "told",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        panic: float,
        ejector: Ejector | None,
        slow_start: SlowStart | None,
    ) -> None:
        self.name: Final = name
        self.told: list[Event] = []
        """What happened and has not been emitted yet."""
        self.panic: Final = panic
        self.ejector: Final = ejector
        self.slow_start: Final = slow_start
        self.seats: dict[str, Seat] = {}
        self.panicking = False
        self.ready = 0
        """How many members are ready."""
        self._given: list[tuple[Member, float, Endpoint]] | None = None
        self._due_warm: float | None = None

    def add(self, seat: Seat) -> None:
        """One more. Its id must be new."""
        self.seats[seat.member.id] = seat
        if self.ejector is not None:
            self.ejector.add(seat.member.id)

    def remove(self, id: str) -> Seat:
        """One fewer. What is under way there counts down on the seat, which nobody else holds any more."""
        seat = self.seats.pop(id)
        seat.gone = True
        seat.in_use = False
        if self.ejector is not None:
            self.ejector.remove(id)
        return seat

    @property
    def members(self) -> list[Member]:
        """All there are, sorted by id."""
        return [self.seats[id].member for id in sorted(self.seats)]

    def renew(self) -> None:
        """Let the next `settle` name the members even if they are the same."""
        self._given = None

    def warm(self, seat: Seat, now: float) -> None:
        """It has come back: slow start begins."""
        seat.since = now

    def sweep(self, now: float) -> bool:
        """Let the ejector decide. True if anybody was put aside or came back; who comes back warms up again."""
        changes = () if self.ejector is None else self.ejector.sweep(now)
        for change in changes:
            seat = self.seats[change.id]
            seat.out = isinstance(change, Ejected)
            if isinstance(change, Ejected):
                self.told.append(EndpointEjected(self.name, change.id, change.reason, change.seconds, change.repeats))
            else:
                self.told.append(EndpointReturned(self.name, change.id, change.reason))
                self.warm(seat, now)
        return bool(changes)

    def warming(self, now: float) -> bool:
        """Whether a weight is due to move because of slow start."""
        return self._due_warm is not None and now >= self._due_warm

    def due(self, now: float) -> float:
        """When to look again if nothing happens meanwhile."""
        warm = math.inf if self._due_warm is None else self._due_warm
        if self.ejector is None:
            return warm
        return min(warm, now + SWEEP, max(self.ejector.due, now + _SOON))

    def settle(self, now: float) -> Sequence[Member] | None:
        """Work out who is ready and at what weight. The members to be used, sorted by id, if they or their weights
        changed; else None.
        """
        self._due_warm = None
        usable: list[Seat] = []
        able = 0
        self.ready = 0
        for id in sorted(self.seats):
            seat = self.seats[id]
            self._look(seat, now)
            if seat.member.weight > 0 and not seat.draining:
                usable.append(seat)
                able += 1
                self.ready += seat.member.ready
        self._panic(self.ready, able)
        chosen = usable if self.panicking else [seat for seat in usable if seat.member.ready]
        given = [(seat.member, seat.member.weight, seat.member.endpoint) for seat in chosen]
        if given == self._given:
            return None
        self._given = given
        for seat in self.seats.values():
            seat.in_use = False
        for seat in chosen:
            seat.in_use = True
        return [member for member, _, _ in given]

    def _look(self, seat: Seat, now: float) -> None:
        member = seat.member
        seat.why = self._why_not(seat)
        member.ready = not seat.why
        factor = seat.free
        if self.slow_start is not None and seat.since is not None:
            factor *= self.slow_start.factor(seat.since, now)
            left = seat.since + float(self.slow_start.window) - now
            if left <= 0:
                seat.since = None
            else:
                step = now + min(left, max(0.05, float(self.slow_start.window) / _STEPS))
                self._due_warm = step if self._due_warm is None else min(self._due_warm, step)
        member.weight = member.endpoint.weight * factor

    def _why_not(self, seat: Seat) -> str:
        if seat.draining:
            return "draining"
        if seat.health is not None and not seat.health.up:
            return "unhealthy"
        if seat.out:
            return "ejected"
        return ""

    def _panic(self, ready: int, able: int) -> None:
        panicking = able > 0 and ready < self.panic * able
        if panicking != self.panicking:
            self.panicking = panicking
            kind = PanicStarted if panicking else PanicEnded
            self.told.append(kind(self.name, ready, able))


def by_id(endpoints: Iterable[Endpoint]) -> dict[str, Endpoint]:
    """The endpoints by id; of two with one id the last one counts."""
    return {endpoint.id: endpoint for endpoint in endpoints}
