"""The balancer: a set of endpoints, a pick, and what is known of each; it gives out tickets and takes them back.

`Balancer.acquire` decides and does not wait: one lock, one look at the clock, one walk along the pick's order. What
changes the set (a check's verdict, an ejection, slow start, a person) only leaves word; the next `acquire` builds the
pick's tables anew, once for however many changes.
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import Tasks
from tenfold._core.units import share, whole_number
from tenfold.balance.call import call
from tenfold.balance.checker import Checker
from tenfold.balance.discover import discover
from tenfold.balance.ejector import Ejector
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import NoEndpoint
from tenfold.balance.happenings import EndpointDown, EndpointUp
from tenfold.balance.members import Roster, Seat
from tenfold.balance.membership import Membership, wake
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.parts import ejector_of
from tenfold.balance.pick.base import ANY, Pick, Request
from tenfold.balance.pick.p2c import P2C
from tenfold.balance.ticket import Ticket
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget, Purse
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.errors import BreakerOpen
from tenfold.resilience.hedge import Hedge, Hedger

if TYPE_CHECKING:
    from tenfold.balance.agent import AgentLoad
    from tenfold.balance.checks import Check, Verdict
    from tenfold.balance.discovery.base import Discovery
    from tenfold.balance.slow_start import SlowStart
    from tenfold.resilience.window import Ticket as Permit

T = TypeVar("T")


class Balancer(Membership):
    """Spreads requests over ``endpoints``: a list of `Endpoint`, or a discovery, which yields such lists.

    ::

        balancer = Balancer([Endpoint("a", "http://10.0.0.1:8000"), Endpoint("b", "http://10.0.0.2:8000")])
        async with balancer:
            with balancer.acquire() as ticket:
                await ask(ticket.endpoint.url)

    ``pick`` (`P2C`) is the policy of choosing, a fresh one. ``check`` (none) asks the endpoints whether they are well,
    ``eject`` (none) puts those aside that answer worse than their peers, ``slow_start`` (none) lets those that come
    back warm up. ``max_in_flight`` (no bound) is for each endpoint, ``breaker`` (none) is a circuit for each. With
    ``agent`` (none) endpoints say how loaded they are in ordinary answers too, not only when they are checked.
    ``panic`` (0.5): with a smaller share of the endpoints ready, all are used; 0 for never. ``attempts`` (3) is how
    many endpoints one call of `run` or of a transport may try in all, ``budget`` (`Budget()`) is what tries pay from
    that may repeat work, ``hedge`` (none) races slow calls of `run` that are idempotent.

    The block owns the tasks of discovery and checks; without either a balancer works outside of it as well.
    Thread-safe, except that discovery and checks belong to one event loop. Handlers of its events must not block.
    Raises `MisuseError` for what makes no sense.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint] | Discovery,
        *,
        name: str = "balancer",
        pick: Pick | None = None,
        check: Check | None = None,
        eject: OutlierEjection | Ejector | None = None,
        slow_start: SlowStart | None = None,
        max_in_flight: int | None = None,
        breaker: Breaker | None = None,
        agent: AgentLoad | None = None,
        panic: str | float = 0.5,
        attempts: int = 3,
        budget: Budget | None = None,
        hedge: Hedge | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: _random.Random | None = None,
        hub: Hub = EVENTS,
    ) -> None:
        if pick is not None and not isinstance(pick, Pick):
            raise MisuseError(f"pick: expected a pick such as P2C(), got {pick!r}")
        if breaker is not None and not isinstance(breaker, Breaker):
            raise MisuseError(f"breaker: expected Breaker(...), got {breaker!r}")
        draw = _random.Random() if random is None else random
        roster = Roster(
            name,
            panic=share(panic, "panic"),
            ejector=ejector_of(eject, draw.random),
            slow_start=slow_start,
        )
        super().__init__(
            roster,
            P2C() if pick is None else pick,
            check=check,
            breaker=breaker,
            agent=agent,
            clock=clock,
            random=draw,
            hub=hub,
        )
        self.attempts: Final = whole_number(attempts, "attempts", least=1)
        self.purse: Final = Purse(Budget() if budget is None else budget)
        self.hedger: Final = None if hedge is None else Hedger(hedge, self.purse, policy=name, clock=clock, hub=hub)
        self.clock: Final = clock
        kind = type(self._pick)
        self._attends = kind.started is not Pick.started or kind.finished is not Pick.finished
        self._cap = None if max_in_flight is None else whole_number(max_in_flight, "max_in_flight", least=1)
        self._tasks: Tasks | None = None
        self._discovery: Discovery | None = None
        if callable(getattr(endpoints, "changes", None)):
            self._discovery = endpoints  # type: ignore[assignment]
        else:
            self._declare(list(endpoints))  # type: ignore[arg-type]

    # -- tickets ------------------------------------------------------------------------------------------------

    def acquire(self, request: Request = ANY, tried: Collection[str] = ()) -> Ticket:
        """A place at the best endpoint that may be used and whose id is not in ``tried``. Does not wait.

        Raises `NoEndpoint`, which says why, and `MisuseError` if the pick needs something that ``request`` lacks.
        """
        now = self._monotonic()
        with self._lock:
            if self._stale or now >= self._due:
                self._look(now)
            pick, cap = self._pick, self._cap
            first = pick.first(now, self._draw, request)
            if (
                first is not None
                and (cap is None or first.in_flight < cap)
                and not (tried and first.id in tried)
                and (seat := self._roster.seats[first.id]).circuit is None
            ):
                ticket: Ticket | None = self._ticket(seat, None, now)  # as nearly always: the first one will do
            else:
                ticket, why, wait = self._walk(first, now, request, tried)
        if self._told:
            self._tell()
        if ticket is not None:
            return ticket
        raise self._none(tried, why, wait)

    def _ticket(self, seat: Seat, permit: Permit | None, now: float) -> Ticket:
        member = seat.member
        member.in_flight += 1
        self.counters.acquired += 1
        if self._attends:
            self._pick.started(member, now)
        return Ticket(self, seat, permit, now)

    def _walk(
        self, first: Member | None, now: float, request: Request, tried: Collection[str]
    ) -> tuple[Ticket | None, dict[str, int], float | None]:
        """Along the pick's order until one takes the request; why the others did not, and when one may."""
        pick, cap, draw = self._pick, self._cap, self._draw
        full = open_ = 0
        wait: float | None = None
        if first is None:
            walk = pick.order(now, draw, request)
        else:
            walk = chain((first,), pick.after(first, now, draw, request))
        for member in walk:
            if member.id in tried:
                continue
            if cap is not None and member.in_flight >= cap:
                full += 1
                continue
            seat = self._roster.seats[member.id]
            permit = None
            if seat.circuit is not None:
                try:
                    permit = seat.circuit.admit(now)
                except BreakerOpen as refusal:
                    open_ += 1
                    wait = _earlier(wait, refusal.retry_after)
                    continue
            return self._ticket(seat, permit, now), {}, None
        self.counters.refused += 1
        return None, {"full": full, "breaker": open_}, wait

    def settle(self, ticket: Ticket, ok: bool | None, now: float | None = None) -> None:
        """What `Ticket.release` does."""
        if now is None:
            now = self._monotonic()
        seat = ticket.seat
        ended = ticket.ended
        elapsed = (now if ended is None else ended) - ticket.began
        if elapsed < 0.0:
            elapsed = 0.0
        with self._lock:
            if not ticket.open:
                return
            ticket.open = False
            member = seat.member
            member.in_flight -= 1
            counters = self.counters
            if ok:
                counters.succeeded += 1
            elif ok is None:
                counters.neutral += 1
            else:
                counters.failed += 1
            if self._attends:
                self._pick.finished(member, now, elapsed, ok)
            ejector = self._roster.ejector
            if ejector is not None and ok is not None and not seat.gone and ejector.record(member.id, now, ok, elapsed):
                self._due = -math.inf
            if ticket.permit is not None and seat.circuit is not None:
                _judge(seat.circuit, ticket, now, elapsed, ok)
            if seat.waiting and member.in_flight == 0:
                for loop, future in seat.waiting:
                    loop.call_soon_threadsafe(wake, future)

    def full(self, id: str) -> bool:
        """Whether that endpoint is in use and has all the requests that ``max_in_flight`` lets it have."""
        with self._lock:
            seat = self._roster.seats.get(id)
            return seat is not None and seat.in_use and self._cap is not None and seat.member.in_flight >= self._cap

    def count(self, name: str) -> None:
        """Add one to a counter from outside of the lock."""
        with self._lock:
            setattr(self.counters, name, getattr(self.counters, name) + 1)

    def _none(self, tried: Collection[str], why: dict[str, int], wait: float | None) -> NoEndpoint:
        with self._lock:
            seats = list(self._roster.seats.values())
        why["not ready"] = sum(1 for seat in seats if not seat.in_use and seat.member.id not in tried)
        counted = {reason: count for reason, count in why.items() if count}
        words = ", ".join(f"{count} {reason}" for reason, count in counted.items()) or "none is left"
        text = f"balancer {self.name!r}: no endpoint of {len(seats)} can take the request ({words}"
        text += f"; tried {', '.join(tried)})" if tried else ")"
        return NoEndpoint(text, balancer=self.name, tried=tried, why=counted, retry_after=wait)

    async def run(
        self, fn: Callable[[Endpoint], Awaitable[T]], request: Request = ANY, *, idempotent: bool = False
    ) -> T:
        """Await ``fn(endpoint)``, at another endpoint if it fails and may be tried again.

        A failure in which nothing was sent (`NotSent`, a refused connection, a name that does not resolve) is tried
        elsewhere always, any other one that may pass by itself only if ``idempotent``. With ``hedge`` and
        ``idempotent`` a slow call is raced by another one; losers are cancelled. The deadline in force ends it with
        `DeadlineExceeded`.

        Raises what the last try raised (`tried_of` tells where), and `NoEndpoint` if there was nobody to try.
        """
        return await call(self, fn, request, idempotent)

    def on_verdict(self, id: str, verdict: Verdict, now: float) -> None:
        """What a check found out; the checker calls it."""
        with self._lock:
            seat = self._roster.seats.get(id)
            if seat is None or seat.health is None:
                return  # it was removed while it was being asked
            self._weigh(seat, verdict.load, now)
            if seat.health.observe(verdict.ok, now):
                self._stale = True
                kind = EndpointUp if seat.health.up else EndpointDown
                self._told.append(kind(self.name, id, verdict.why))
                if seat.health.up:
                    self._roster.warm(seat, now)
            if self._stale:
                self._look(now)
        if self._told:
            self._tell()

    def reported(self, ticket: Ticket, load: str | None) -> None:
        """What the endpoint of ``ticket`` says of its own load in an answer: the text of the header of `AgentLoad`."""
        with self._lock:
            self._weigh(ticket.seat, load, self._monotonic())

    def _weigh(self, seat: Seat, load: float | str | None, now: float) -> None:
        if seat.load is None:
            return
        seat.load.report(load, now)
        free = max(0.1, round(seat.load.factor(now), 1))  # in tenths, or every report would rebuild the pick
        if free != seat.free:
            seat.free, self._stale = free, True

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON."""
        return {**super().state(), "budget": self.purse.state()}

    # -- its tasks ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Balancer:
        if self._tasks is not None:
            raise MisuseError(f"balancer {self.name!r} is entered already; make one balancer for each block")
        tasks = self._tasks = Tasks(f"balancer {self.name}")
        await tasks.__aenter__()
        try:
            if self._check is not None:
                self._checker = Checker(self._check, self.on_verdict, clock=self.clock, random=self._draw)
                for endpoint in self.endpoints:
                    self._checker.watch(endpoint)
            if self._discovery is not None:
                await discover(self, self._discovery, tasks, self._hub)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        tasks, self._tasks = self._tasks, None
        checker, self._checker = self._checker, None
        try:
            if checker is not None:
                await checker.aclose()
        finally:
            if tasks is not None:
                await tasks.close()

    def __repr__(self) -> str:
        with self._lock:
            count, ready = len(self._roster.seats), self._roster.ready
        panic = " panic" if self._roster.panicking else ""
        return f"<Balancer {self.name!r} {self._pick.name} ready={ready}/{count}{panic} in_flight={self.in_flight}>"


def _earlier(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def _judge(circuit: Circuit, ticket: Ticket, now: float, elapsed: float, ok: bool | None) -> None:
    assert ticket.permit is not None
    if ok:
        circuit.success(ticket.permit, now, elapsed)
    elif ok is None:
        circuit.neutral(ticket.permit, now)
    else:
        circuit.failure(ticket.permit, now, elapsed)
