"""`Balancer.run`: what is tried again and where, who pays, hedging, deadlines, and storms of cancellations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import NoEndpoint, NotSent, tried_of
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.resilience import Breaker, Budget, Deadline, DeadlineExceeded, DeadlineTooShort, Hedge, Policy, Retry
from tenfold.testing import FakeClock

Work = Callable[[Endpoint], Awaitable[Any]]


class InOrder(Pick):
    """By id, always."""

    name = "in_order"

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(self.members)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, 0.0, "in order") for member in self.members]


def make(count: int = 4, **options: Any) -> tuple[Balancer, FakeClock]:
    clock = FakeClock()
    endpoints = [Endpoint(name, f"http://{name}:80") for name in "abcdefgh"[:count]]
    options.setdefault("pick", InOrder())
    return Balancer(endpoints, name="shop", clock=clock, random=random.Random(1), hub=Hub(), **options), clock


def failing(*errors: Exception | None) -> tuple[Work, list[str]]:
    """Work that fails with these, one after another, then succeeds; and where it was done."""
    left, asked = list(errors), list[str]()

    async def work(endpoint: Endpoint) -> str:
        asked.append(endpoint.id)
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return endpoint.id

    return work, asked


def test_what_sent_nothing_goes_to_another_endpoint_for_free() -> None:
    balancer, clock = make(budget=Budget(burst=1, share=0, floor=0.001))
    work, asked = failing(ConnectionRefusedError(), NotSent("no route"))
    with clock:
        for _ in range(3):
            work, asked = failing(ConnectionRefusedError(), NotSent("no route"))
            assert clock.run(balancer.run(work)) == "c"
            assert asked == ["a", "b", "c"]
    assert balancer.counters.failovers == 6
    assert balancer.counters.retries == 0
    assert balancer.in_flight == 0


def test_what_may_have_been_done_is_done_again_only_if_idempotent() -> None:
    balancer, clock = make()
    with clock:
        work, asked = failing(ConnectionResetError("half way"))
        with pytest.raises(ConnectionResetError, match="half way") as failure:
            clock.run(balancer.run(work))
        assert asked == ["a"]
        assert tried_of(failure.value) == ("a",)
        work, asked = failing(ConnectionResetError("half way"))
        assert clock.run(balancer.run(work, idempotent=True)) == "b"
        assert asked == ["a", "b"]
    assert balancer.counters.retries == 1
    assert balancer.in_flight == 0


def test_never_an_endpoint_twice_and_the_error_says_where_it_was() -> None:
    balancer, clock = make(2, attempts=5)
    work, asked = failing(*(OSError(str(number)) for number in range(5)))
    with clock, pytest.raises(OSError, match="1") as failure:
        clock.run(balancer.run(work, idempotent=True))
    assert asked == ["a", "b"]
    assert tried_of(failure.value) == ("a", "b")
    assert failure.value.__notes__ == ["balancer 'shop': tried a, b"]


def test_tries_are_bounded() -> None:
    balancer, clock = make(4, attempts=3)
    work, asked = failing(*(NotSent(str(number)) for number in range(5)))
    with clock, pytest.raises(NotSent, match="2"):
        clock.run(balancer.run(work))
    assert asked == ["a", "b", "c"]


def test_the_budget_bounds_the_work_that_is_repeated() -> None:
    balancer, clock = make(budget=Budget(burst=2, share=0.1, floor=0))
    tries = 0

    async def down(endpoint: Endpoint) -> None:
        nonlocal tries
        tries += 1
        raise OSError("down")

    async def main() -> None:
        for _ in range(100):
            with pytest.raises(OSError, match="down"):
                await balancer.run(down, idempotent=True)

    with clock:
        clock.run(main())
    # Two were saved up, and a hundred calls earned ten more at most.
    assert 100 + 2 < tries <= 100 + 2 + 10
    assert balancer.counters.retries == tries - 100
    assert balancer.counters.retries_refused > 80


def test_a_token_held_for_a_try_that_finds_nobody_goes_back() -> None:
    balancer, clock = make(1, budget=Budget(burst=3, share=0, floor=0.001))
    work, _ = failing(OSError("down"))
    with clock, pytest.raises(OSError, match="down"):
        clock.run(balancer.run(work, idempotent=True))
    assert balancer.purse.state()["tokens"] == 3


def test_misuse_is_not_tried_elsewhere_and_is_nobodys_failure() -> None:
    balancer, clock = make(breaker=Breaker(consecutive=1))
    work, asked = failing(MisuseError("what?"))
    with clock, pytest.raises(MisuseError):
        clock.run(balancer.run(work, idempotent=True))
    assert asked == ["a"]
    assert balancer.state()["endpoints"]["a"]["breaker"] == "closed"


def test_where_a_layer_above_repeats_the_call_only_what_sent_nothing_is_tried_again() -> None:
    balancer, clock = make()
    policy = Policy("outer", idempotent=True, retry=Retry(attempts=2), clock=clock, hub=Hub())
    asked = list[str]()

    async def down(endpoint: Endpoint) -> None:
        asked.append(endpoint.id)
        raise OSError("down")

    async def call() -> None:
        await balancer.run(down, idempotent=True)

    with clock, pytest.raises(OSError, match="down"):
        clock.run(policy.call(call))
    assert asked == ["a", "a"]


def test_the_deadline_ends_a_call_and_the_ticket_comes_back() -> None:
    balancer, clock = make()

    async def slow(endpoint: Endpoint) -> None:
        await clock.sleep(10)

    async def main() -> None:
        with Deadline("2s", clock=clock), pytest.raises(DeadlineExceeded) as failure:
            await balancer.run(slow, idempotent=True)
        assert clock.monotonic() == 2.0
        assert tried_of(failure.value) == ("a",)
        with Deadline("1s", clock=clock):
            await clock.sleep(1)
            with pytest.raises(DeadlineTooShort):
                await balancer.run(slow)

    with clock:
        clock.run(main())
    assert balancer.in_flight == 0
    assert balancer.counters.neutral == 1


def test_a_time_out_of_the_work_itself_is_no_deadline() -> None:
    balancer, clock = make()

    async def main() -> str:
        work, _ = failing(TimeoutError("its own"))
        with Deadline("2s", clock=clock):
            return str(await balancer.run(work, idempotent=True))

    with clock:
        assert clock.run(main()) == "b"


def test_a_slow_call_is_raced_at_another_endpoint_and_the_loser_gives_its_ticket_back() -> None:
    balancer, clock = make(hedge=Hedge("100ms"))
    ended = list[str]()

    async def work(endpoint: Endpoint) -> str:
        try:
            await clock.sleep(5 if endpoint.id == "a" else 0.1)
        except asyncio.CancelledError:
            ended.append(endpoint.id)
            raise
        return endpoint.id

    with clock:
        assert clock.run(balancer.run(work, idempotent=True)) == "b"
        assert clock.monotonic() == pytest.approx(0.2)
        assert ended == ["a"]
        assert balancer.in_flight == 0
        assert (balancer.counters.hedges, balancer.counters.succeeded, balancer.counters.neutral) == (1, 1, 1)
        assert clock.run(balancer.run(work)) == "a"  # what may not be repeated is not raced
    assert balancer.counters.hedges == 1


def test_a_race_without_another_endpoint_waits_for_the_one_there_is() -> None:
    balancer, clock = make(1, hedge=Hedge("100ms"))

    async def work(endpoint: Endpoint) -> str:
        await clock.sleep(1)
        return endpoint.id

    with clock:
        assert clock.run(balancer.run(work, idempotent=True)) == "a"
    assert (balancer.in_flight, balancer.counters.hedges) == (0, 0)


def test_nobody_at_all_is_said_at_once() -> None:
    balancer, clock = make(0)
    work, _ = failing()
    with clock, pytest.raises(NoEndpoint, match="no endpoint of 0"):
        clock.run(balancer.run(work))


@pytest.mark.parametrize("hedge", [None, Hedge("20ms", max_hedges=2)])
@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_cancellations_leaves_nothing_under_way(seed: int, hedge: Hedge | None) -> None:
    """A thousand calls, cancelled at any moment (some before their first step), failing and succeeding, while
    endpoints come and go.
    """
    balancer, clock = make(5, hedge=hedge, max_in_flight=400, breaker=Breaker(consecutive=50, lease="10m"))
    chance = random.Random(seed)
    held = [seat.member for seat in balancer._roster.seats.values()]  # the gone ones count too

    async def work(endpoint: Endpoint) -> str:
        await clock.sleep(chance.random() * 0.1)
        if chance.random() < 0.2:
            raise OSError("by chance")
        try:
            await clock.sleep(chance.random() * 0.1)
        except asyncio.CancelledError:
            if chance.random() < 0.2:
                await asyncio.sleep(0)  # one that takes its time to end
            raise
        return endpoint.id

    async def main() -> None:
        tasks = list[asyncio.Task[Any]]()
        for number in range(1000):
            tasks.append(asyncio.create_task(balancer.run(work, idempotent=chance.random() < 0.7)))
            if chance.random() < 0.5:
                await clock.sleep(0.001)
            if chance.random() < 0.6:
                chance.choice(tasks).cancel()
            if number % 100 == 50:
                balancer.remove("b")
            elif number % 100 == 99:
                balancer.add(Endpoint("b", "http://b:80"))
                held.append(balancer._roster.seats["b"].member)
        for task in tasks:
            if chance.random() < 0.5:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {str, OSError, NoEndpoint, asyncio.CancelledError}
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 200

    with clock:
        clock.run(main())
    counters = balancer.counters
    assert [member.in_flight for member in held] == [0] * len(held)
    assert counters.acquired == counters.succeeded + counters.failed + counters.neutral
    assert all(
        seat.circuit is not None and seat.circuit.state()["permits"]["out"] == 0  # type: ignore[index]
        for seat in balancer._roster.seats.values()
    )
