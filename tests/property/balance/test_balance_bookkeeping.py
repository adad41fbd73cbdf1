"""Whatever is done to a balancer, in any order: what is under way is what was given out and has not come back."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from tenfold._core.events import Hub
from tenfold.balance.balancer import Balancer
from tenfold.balance.ejector import Ejector
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import NoEndpoint
from tenfold.balance.outlier import Ejected, Returned
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.ticket import Ticket
from tenfold.resilience import Breaker
from tenfold.testing import FakeClock

IDS = st.sampled_from("abcde")
CAP = 3


class Shuffled(Pick):
    """In an order of chance; keeps its own count of what is under way with those it has."""

    name = "shuffled"

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(sorted(self.members, key=lambda _: draw()))

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, 0.0, "by chance") for member in self.members]


class Puppet(Ejector):
    """An ejector that ejects whom it is told to, as soon as it is asked."""

    due = -1.0

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.wanted: set[str] = set()
        self.out: set[str] = set()

    def add(self, id: str) -> None:
        self.known.add(id)

    def remove(self, id: str) -> None:
        self.known.discard(id)
        self.wanted.discard(id)
        self.out.discard(id)

    def record(self, id: str, now: float, ok: bool, elapsed: float) -> bool:
        assert id in self.known
        return not ok

    def sweep(self, now: float) -> list[Ejected | Returned]:
        wanted = self.wanted & self.known
        changes: list[Ejected | Returned] = [Returned(id, "told to") for id in sorted(self.out - wanted)]
        changes += [Ejected(id, "told to", 1.0, 1.0, 1) for id in sorted(wanted - self.out)]
        self.out = wanted
        return changes

    def ejected(self, id: str) -> bool:
        return id in self.out

    def state(self) -> dict[str, object]:
        return {}


class Bookkeeping(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.puppet = Puppet()
        self.balancer = Balancer(
            [Endpoint(id, f"http://{id}") for id in "abc"],
            pick=Shuffled(),
            eject=self.puppet,
            breaker=Breaker(consecutive=3, open="5s", lease="10h"),
            max_in_flight=CAP,
            clock=self.clock,
            random=random.Random(1),
            hub=Hub(),
        )
        self.open: list[Ticket] = []
        self.here = {"a": 1.0, "b": 1.0, "c": 1.0}

    @rule(target=tickets, tried=st.sets(IDS))
    def acquire(self, tried: set[str]) -> object:
        try:
            ticket = self.balancer.acquire(tried=tried)
        except NoEndpoint:
            return multiple()
        id = ticket.endpoint.id
        assert id in self.here
        assert id not in tried
        assert self.here[id] > 0
        assert self.balancer.panicking or id not in self.puppet.out
        self.open.append(ticket)
        return ticket

    @rule(ticket=tickets, oks=st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=3))
    def release(self, ticket: Ticket, oks: list[bool | None]) -> None:
        """Once, or several times, also of one that was released before."""
        for ok in oks:
            ticket.release(ok)
        if ticket in self.open:
            self.open.remove(ticket)

    @rule(id=IDS, weight=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def add(self, id: str, weight: float) -> None:
        self.balancer.add(Endpoint(id, f"http://{id}", weight=weight))
        self.here[id] = weight

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.here)))
        self.balancer.remove(id)
        del self.here[id]

    @precondition(lambda self: self.here)
    @rule(data=st.data(), weight=st.sampled_from([0.0, 2.0]))
    def reweight(self, data: st.DataObject, weight: float) -> None:
        id = data.draw(st.sampled_from(sorted(self.here)))
        self.balancer.reweight(id, weight)
        self.here[id] = weight

    @rule(ids=st.sets(IDS))
    def eject(self, ids: set[str]) -> None:
        self.puppet.wanted = ids
        self.clock.jump(1)

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @invariant()
    def the_books_are_right(self) -> None:
        seats = self.balancer._roster.seats
        assert set(seats) == set(self.here) == {endpoint.id for endpoint in self.balancer.endpoints}
        for seat in seats.values():
            own = [ticket for ticket in self.open if ticket.seat is seat]
            assert seat.member.in_flight == len(own) <= CAP
        for ticket in self.open:
            if ticket.seat.gone:
                assert ticket.seat.member.in_flight == sum(other.seat is ticket.seat for other in self.open)
        counters = self.balancer.counters
        settled = counters.succeeded + counters.failed + counters.neutral
        assert counters.acquired - settled == len(self.open)
        assert {reason.id for reason in self.balancer.explain()} == set(self.here)


Bookkeeping.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBookkeeping = Bookkeeping.TestCase
