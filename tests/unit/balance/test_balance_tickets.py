"""Tickets, membership, panic and draining of a balancer, on a clock that is told when to go on."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold.balance.balancer import Balancer
from tenfold.balance.ejector import Ejector
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import DiscoveryTimeout, NoEndpoint
from tenfold.balance.happenings import DiscoveryFailed, EndpointEjected, EndpointReturned, MembersChanged
from tenfold.balance.outlier import Ejected, Returned
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.turns import DrainEnded, DrainStarted, PanicEnded, PanicStarted
from tenfold.resilience import Breaker
from tenfold.resilience.errors import DeadlineTooShort
from tenfold.testing import FakeClock


class Fewest(Pick):
    """The least busy first, by id; writes down what it is told."""

    name = "fewest"

    def __init__(self) -> None:
        self.built = 0
        self.declared: list[str] = []
        self.under_way = 0
        self.told: list[tuple[str, float, bool | None]] = []

    def declare(self, members: Sequence[Member]) -> None:
        self.declared = [member.id for member in members]

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        self.built += 1

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(sorted(self.members, key=lambda member: (member.in_flight, member.id)))

    def started(self, member: Member, now: float) -> None:
        self.under_way += 1

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        self.under_way -= 1
        self.told.append((member.id, elapsed, ok))

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, member.in_flight, "busy") for member in self.order(now, lambda: 0.0, request)]


class Aside(Ejector):
    """An ejector that does as it is told."""

    due = 0.0

    def __init__(self) -> None:
        self.out: set[str] = set()
        self.swept: set[str] = set()
        self.recorded: list[tuple[str, bool, float]] = []

    def add(self, id: str) -> None:
        pass

    def remove(self, id: str) -> None:
        self.out.discard(id)
        self.swept.discard(id)

    def record(self, id: str, now: float, ok: bool, elapsed: float) -> bool:
        self.recorded.append((id, ok, elapsed))
        return not ok

    def sweep(self, now: float) -> list[Ejected | Returned]:
        changes: list[Ejected | Returned] = [Returned(id, "told to") for id in sorted(self.swept - self.out)]
        changes += [Ejected(id, "told to", 30.0, 30.0, 1) for id in sorted(self.out - self.swept)]
        self.swept = set(self.out)
        return changes

    def ejected(self, id: str) -> bool:
        return id in self.swept

    def state(self) -> dict[str, object]:
        return {}


class Ramp:
    """Half the weight for ten seconds."""

    window = 10.0

    def factor(self, since: float, now: float) -> float:
        return 0.5 if now - since < self.window else 1.0


def make(count: int = 3, **options: object) -> tuple[Balancer, Fewest, FakeClock, list[Event]]:
    clock, hub, events, pick = FakeClock(), Hub(), list[Event](), Fewest()
    hub.subscribe(Event, events.append)
    endpoints = [Endpoint(name, f"http://10.0.0.{at}:80") for at, name in enumerate("abcdefgh"[:count])]
    balancer = Balancer(endpoints, name="shop", pick=pick, clock=clock, hub=hub, **options)  # type: ignore[arg-type]
    return balancer, pick, clock, events


def test_a_ticket_counts_until_it_is_released_and_only_once() -> None:
    balancer, pick, clock, _ = make()
    ticket = balancer.acquire()
    assert (ticket.endpoint.id, balancer.in_flight, pick.under_way) == ("a", 1, 1)
    clock.jump(0.25)
    ticket.release(True)
    ticket.release(False)
    assert (balancer.in_flight, pick.under_way) == (0, 0)
    assert pick.told == [("a", 0.25, True)]
    assert balancer.counters.succeeded == 1
    assert balancer.counters.failed == 0
    assert repr(ticket) == "<Ticket 'a' released>"


def test_the_time_of_an_answer_ends_where_it_begins() -> None:
    balancer, pick, clock, _ = make()
    ticket = balancer.acquire()
    clock.jump(0.1)
    ticket.answered()
    clock.jump(5)
    ticket.answered()
    ticket.release(True)
    assert pick.told == [("a", 0.1, True)]


@pytest.mark.parametrize(
    ("error", "ok"),
    [
        (None, True),
        (OSError("gone"), False),
        (asyncio.CancelledError(), None),
        (KeyboardInterrupt(), None),
        (MisuseError("what?"), None),
        (KeyError("a bug of the caller's"), None),
        (DeadlineTooShort("too late"), None),
    ],
)
def test_a_block_says_what_its_end_means(error: BaseException | None, ok: bool | None) -> None:
    balancer, pick, _, _ = make()
    raised: BaseException | None = None
    try:
        with balancer.acquire():
            if error is not None:
                raise error
    except BaseException as caught:  # noqa: BLE001 - that is what is tried
        raised = caught
    assert raised is error
    assert pick.told == [("a", 0.0, ok)]
    assert balancer.in_flight == 0


def test_who_was_tried_is_not_given_again_and_the_refusal_says_so() -> None:
    balancer, _, _, _ = make(2)
    assert balancer.acquire(tried=("a",)).endpoint.id == "b"
    with pytest.raises(NoEndpoint, match="tried a, b") as refusal:
        balancer.acquire(tried=("a", "b"))
    assert refusal.value.tried == ("a", "b")
    assert refusal.value.why == {}
    assert balancer.counters.refused == 1


def test_a_cap_holds_for_each_endpoint() -> None:
    balancer, _, _, _ = make(2, max_in_flight=2)
    tickets = [balancer.acquire() for _ in range(4)]
    assert sorted(ticket.endpoint.id for ticket in tickets) == ["a", "a", "b", "b"]
    with pytest.raises(NoEndpoint) as refusal:
        balancer.acquire()
    assert refusal.value.why == {"full": 2}
    tickets[0].release(None)
    assert balancer.acquire().endpoint.id == tickets[0].endpoint.id


def test_an_open_breaker_sends_to_the_next_one() -> None:
    balancer, _, clock, _ = make(2, breaker=Breaker(consecutive=2, open="5s", jitter=0, ramp=0))
    for _ in range(2):
        balancer.acquire(tried=("b",)).release(False)
    assert {balancer.acquire().endpoint.id for _ in range(3)} == {"b"}
    with pytest.raises(NoEndpoint) as refusal:
        balancer.acquire(tried=("b",))
    assert refusal.value.why == {"breaker": 1}
    assert refusal.value.retry_after == pytest.approx(5.0)
    assert balancer.state()["endpoints"]["a"]["breaker"] == "open"
    clock.jump(5)
    probe = balancer.acquire(tried=("b",))
    probe.release(None)  # a cancelled probe gives its permit back
    for _ in range(3):
        balancer.acquire(tried=("b",)).release(True)
    assert balancer.state()["endpoints"]["a"]["breaker"] == "closed"


def test_the_ejected_get_nothing_and_come_back_slowly() -> None:
    aside = Aside()
    balancer, _, clock, events = make(3, eject=aside, slow_start=Ramp(), panic=0)
    balancer.acquire().release(True)
    assert aside.recorded == [("a", True, 0.0)]
    aside.out.add("a")
    clock.jump(1)
    assert balancer.acquire().endpoint.id == "b"
    assert events == [EndpointEjected("shop", "a", "told to", 30.0, 1)]
    assert balancer.explain()[-1].because == "out of use: ejected"
    aside.out.clear()
    clock.jump(1)
    state = balancer.state()
    assert events[-1] == EndpointReturned("shop", "a", "told to")
    assert state["endpoints"]["a"]["weight"] == 0.5
    clock.jump(10)
    assert balancer.state()["endpoints"]["a"]["weight"] == 1.0


def test_a_failure_that_may_eject_is_looked_at_by_the_next_request() -> None:
    aside = Aside()
    aside.due = math.inf
    balancer, _, _, _ = make(3, eject=aside, panic=0)
    ticket = balancer.acquire()
    aside.out.add("a")
    assert balancer.acquire(tried=("b", "c")).endpoint.id == "a"  # it looks a few times a second …
    ticket.release(False)
    with pytest.raises(NoEndpoint):  # … and at once when the ejector asks for it
        balancer.acquire(tried=("b", "c"))


def test_with_too_few_ready_all_are_used_and_it_is_told() -> None:
    aside = Aside()
    balancer, _, clock, events = make(4, eject=aside)
    aside.out = {"a", "b"}
    clock.jump(1)
    assert balancer.acquire(tried=("c",)).endpoint.id == "d"
    assert not balancer.panicking
    aside.out = {"a", "b", "c"}
    clock.jump(1)
    assert balancer.acquire(tried=("b", "c", "d")).endpoint.id == "a"
    assert balancer.panicking
    assert balancer.state()["panic"] is True
    assert PanicStarted("shop", 1, 4) in events
    aside.out = {"a"}
    clock.jump(1)
    with pytest.raises(NoEndpoint):
        balancer.acquire(tried=("b", "c", "d"))
    assert PanicEnded("shop", 3, 4) in events
    assert balancer.counters.panics == 1


def test_panic_does_not_use_who_is_drained_or_has_no_weight() -> None:
    aside = Aside()
    balancer, _, clock, _ = make(3, eject=aside)
    balancer.reweight("b", 0)
    with clock:
        assert clock.run(balancer.drain("c", "1s")) is True
    aside.out = {"a"}
    clock.jump(1)
    assert balancer.acquire().endpoint.id == "a"
    assert balancer.panicking
    with pytest.raises(NoEndpoint):
        balancer.acquire(tried=("a",))


def test_draining_waits_for_what_is_under_way() -> None:
    balancer, _, clock, events = make(2)

    async def main() -> None:
        ticket = balancer.acquire()
        assert ticket.endpoint.id == "a"
        waiting = asyncio.create_task(balancer.drain("a", "30s"))
        await clock.sleep(1)
        assert not waiting.done()
        assert {balancer.acquire().endpoint.id for _ in range(3)} == {"b"}
        ticket.release(True)
        assert await waiting is True
        assert clock.monotonic() == 1.0
        balancer.resume("a")
        assert balancer.acquire().endpoint.id == "a"

    with clock:
        clock.run(main())
    assert events == [DrainStarted("shop", "a", 1), DrainEnded("shop", "a", 0)]


def test_draining_ends_at_its_deadline_and_stays_out() -> None:
    balancer, _, clock, events = make(2)
    with clock:
        held = balancer.acquire()
        assert clock.run(balancer.drain("a", "30s")) is False
        assert clock.monotonic() == 30.0
    assert events[-1] == DrainEnded("shop", "a", 1)
    assert balancer.acquire().endpoint.id == "b"
    held.release(True)


def test_a_thread_may_end_a_drain() -> None:
    balancer, _, _, _ = make(2)

    async def main() -> bool:
        ticket = balancer.acquire()
        thread = threading.Timer(0.01, ticket.release, (True,))
        thread.start()
        try:
            return await balancer.drain("a", "10s")
        finally:
            await asyncio.to_thread(thread.join)

    assert asyncio.run(main()) is True


def test_members_come_and_go_and_keep_what_is_known_of_them() -> None:
    balancer, _, _, events = make(2, slow_start=Ramp())
    on_a = balancer.acquire()
    on_b = balancer.acquire()
    balancer.replace([Endpoint("b", "http://10.0.0.9:80"), Endpoint("c", "http://10.0.0.3:80")])
    assert events[-1] == MembersChanged("shop", ("c",), ("a",), ("b",), 2)
    assert balancer.in_flight == 1  # of b; what is under way at a counts down on its own
    state = balancer.state()["endpoints"]
    assert (state["b"]["in_flight"], state["b"]["weight"], state["b"]["url"]) == (1, 1.0, "http://10.0.0.9:80")
    assert state["c"]["weight"] == 0.5  # who joins starts slowly
    on_a.release(False)
    on_b.release(True)
    assert balancer.in_flight == 0
    assert balancer.counters.failed == 1


def test_the_pick_is_rebuilt_once_for_many_changes_and_not_for_none() -> None:
    balancer, pick, clock, _ = make(3)
    balancer.acquire().release(True)
    assert pick.built == 1
    for weight in (2, 3, 4):
        balancer.reweight("a", weight)
    balancer.add(Endpoint("d", "http://10.0.0.4:80"))
    assert pick.built == 1
    balancer.acquire().release(True)
    assert pick.built == 2
    assert pick.declared == ["a", "b", "c", "d"]
    balancer.replace(balancer.endpoints)
    clock.jump(60)
    balancer.acquire().release(True)
    assert pick.built == 2
    assert [member.weight for member in pick.members] == [4, 1, 1, 1]
    balancer.reweight("b", 0)
    balancer.acquire().release(True)
    assert [member.id for member in pick.members] == ["a", "c", "d"]
    assert pick.declared == ["a", "b", "c", "d"]  # all there are, usable or not


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda balancer: balancer.remove("z"), r"one of its endpoints \(a, b, c\), got 'z'"),
        (lambda balancer: balancer.reweight("a", -1), "expected a weight >= 0"),
        (lambda balancer: balancer.add("http://a"), "expected Endpoint"),
        (lambda balancer: Balancer([Endpoint("a", "http://a"), Endpoint("a", "http://b")], pick=Fewest()), "unique"),
        (lambda balancer: Balancer([], pick="p2c"), "expected a pick"),
        (lambda balancer: Balancer([], pick=Fewest(), breaker=5), "expected Breaker"),
        (lambda balancer: Balancer([], pick=Fewest(), panic=2), "expected a share"),
        (lambda balancer: Balancer([], pick=Fewest(), max_in_flight=0), "max_in_flight"),
        (lambda balancer: Balancer([], pick=Fewest(), eject=7), "expected OutlierEjection"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(act: object, sentence: str) -> None:
    balancer, _, _, _ = make()
    with pytest.raises(MisuseError, match=sentence):
        act(balancer)  # type: ignore[operator]


class Source:
    """A discovery that yields what it is given, fails, and goes on."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.starts = 0

    async def changes(self) -> AsyncIterator[Sequence[Endpoint]]:
        self.starts += 1
        if self.starts == 1:
            await self.clock.sleep(2)
            yield [Endpoint("a", "http://10.0.0.1:80")]
            yield []
            await self.clock.sleep(1)
            raise OSError("the registry is away")
        yield [Endpoint("b", "http://10.0.0.2:80")]
        await self.clock.sleep(3600)


def test_discovery_is_followed_and_its_failures_do_not_lose_anybody() -> None:
    clock, hub, events = FakeClock(), Hub(), list[Event]()
    hub.subscribe(DiscoveryFailed, events.append)
    balancer = Balancer(Source(clock), pick=Fewest(), clock=clock, hub=hub)

    async def main() -> None:
        async with balancer:
            assert clock.monotonic() == 2.0
            await clock.sleep(0.5)
            assert [endpoint.id for endpoint in balancer.endpoints] == ["a"]  # the empty set was not believed
            await clock.sleep(1)
            assert [endpoint.id for endpoint in balancer.endpoints] == ["a"]
            await clock.sleep(1)
            assert [endpoint.id for endpoint in balancer.endpoints] == ["b"]
        assert len(asyncio.all_tasks()) == 1

    with clock:
        clock.run(main())
    assert [(event.why, event.failures, event.retry_in) for event in events] == [  # type: ignore[attr-defined]
        ("OSError: the registry is away", 1, 1.0)
    ]
    assert balancer.counters.discovery_empty == 1


def test_discovery_that_finds_nobody_is_an_error_at_the_start() -> None:
    class Nobody:
        async def changes(self) -> AsyncIterator[Sequence[Endpoint]]:
            yield []
            await asyncio.sleep(3600)

    clock = FakeClock()

    async def main() -> None:
        async with Balancer(Nobody(), pick=Fewest(), clock=clock):
            pytest.fail("nobody was found")

    with clock, pytest.raises(DiscoveryTimeout, match="within 10 s"):
        clock.run(main())
