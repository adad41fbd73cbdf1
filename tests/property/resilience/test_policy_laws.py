"""Random policies × random outcomes: permits come back, tickets are settled once, calls are counted once."""

import asyncio
import contextlib
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold._core.events import Hub
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.errors import BreakerOpen, Overloaded, RateLimited, ResilienceError
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry
from tenfold.resilience.scope import NO_SCOPE, SCOPE
from tenfold.testing import FakeClock

ENDINGS = ("ok", "refused", "error", "misuse", "hang", "swallow", "busy")


class Spy:
    """In place of a circuit or an adaptive limit: refuses by chance, and insists on being told exactly once."""

    ticket = None

    def __init__(self, seed: int, refusal: type[ResilienceError], share: float) -> None:
        self.rng = random.Random(seed)
        self.refusal = refusal
        self.share = share
        self.open: set[int] = set()
        self.given = 0
        self.settled = {"success": 0, "failure": 0, "neutral": 0}

    def admit(self, now: float) -> int:
        if self.rng.random() < self.share:
            raise self.refusal("by chance")
        self.given += 1
        self.open.add(self.given)
        return self.given

    enter = admit

    def _settle(self, ticket: int, how: str) -> None:
        assert ticket in self.open, "settled twice, or never given"
        self.open.remove(ticket)
        self.settled[how] += 1

    def success(self, ticket: int, now: float, elapsed: float) -> None:
        assert elapsed >= 0
        self._settle(ticket, "success")

    def failure(self, ticket: int, now: float, elapsed: float) -> None:
        assert elapsed >= 0
        self._settle(ticket, "failure")

    def neutral(self, ticket: int, now: float) -> None:
        self._settle(ticket, "neutral")

    def leave(self, ticket: int, now: float, ok: bool | None) -> None:
        self._settle(ticket, {True: "success", False: "failure", None: "neutral"}[ok])


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["deadline"] = draw(st.sampled_from([2.0, 8.0]))
    if draw(st.booleans()):
        options["timeout"] = draw(st.sampled_from([0.5, 1.5]))
    if draw(st.booleans()):
        options["retry"] = Retry(
            draw(st.integers(1, 4)),
            base=draw(st.sampled_from([0.0, 0.3])),
            jitter=draw(st.sampled_from(["full", "decorrelated", "none"])),
            idempotent=draw(st.booleans()),
            on_result=draw(st.sampled_from([None, lambda result: result == "busy"])),
            budget=draw(st.sampled_from([None, Budget(), Budget(burst=2, floor=0, window=0.2)])),
        )
    if draw(st.booleans()):
        options["breaker"] = Breaker(permits=1, key=draw(st.sampled_from([None, lambda n, endings: n % 3])))
    limit = draw(st.sampled_from(["", "rate", "adaptive"]))
    if limit == "rate":
        options["limit"] = RateLimit("3/s", burst=2)
    elif limit == "adaptive":
        options["limit"] = AdaptiveLimit()
    if limit != "adaptive" and draw(st.booleans()):
        options["bulkhead"] = Bulkhead(draw(st.integers(1, 3)), queue=draw(st.sampled_from([0, 2, 50])), wait=2.0)
    if draw(st.booleans()):
        options["fallback"] = Fallback("instead")
    if draw(st.booleans()):
        options |= {"hedge": Hedge(0.4), "idempotent": True}
    return options or {"deadline": 2.0}


CALLS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(ENDINGS), st.sampled_from([0.0, 0.2, 0.7])), min_size=1, max_size=5),
        st.sampled_from([0.0, 0.0, 0.5, 1.0]),  # when it starts
        st.sampled_from([None, None, 0.0, 0.2, 0.9, 1.7]),  # when its caller gives it up, from its start
    ),
    min_size=1,
    max_size=12,
)


async def acts(begun: list[int], n: int, endings: list[tuple[str, float]]) -> str:
    begun[n] += 1
    ending, seconds = endings[min(begun[n], len(endings)) - 1]
    await asyncio.sleep(seconds)
    if ending == "refused":
        raise ConnectionRefusedError
    if ending == "error":
        raise OSError("down")
    if ending == "misuse":
        raise TypeError("wrong")
    if ending == "hang":
        await asyncio.sleep(20)
    if ending == "swallow":
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return "late"
    return ending


@settings(max_examples=400, deadline=None)
@given(policies(), CALLS, st.integers(0, 2**16), st.sampled_from([0.0, 0.3]), st.booleans())
def test_all_comes_back_and_all_is_counted(options, calls, seed, refusals, blocks):
    with FakeClock(start=1000.0) as clock:
        policy = Policy("p", clock=clock, registry=None, hub=Hub(), rng=random.Random(seed), **options)
        plan = policy.plan
        spies = []
        if plan.circuit is not None:
            plan.circuit = Spy(seed, BreakerOpen, refusals)
            spies.append(plan.circuit)
        if plan.limiter is not None:
            plan.limiter = Spy(seed + 1, Overloaded, refusals)
            spies.append(plan.limiter)
        begun = [0] * len(calls)

        @policy
        async def work(n: int, endings: list[tuple[str, float]]) -> str:
            return await acts(begun, n, endings)

        as_block = blocks and plan.breaker_key is None

        async def one(n: int, endings: list[tuple[str, float]], start: float, given_up: float | None) -> Any:
            await asyncio.sleep(start)
            task = asyncio.current_task()
            if given_up is not None:
                asyncio.get_running_loop().call_later(given_up, task.cancel)
            entered[0] += 1
            try:
                if as_block:
                    async with policy:
                        return await acts(begun, n, endings)
                return await work(n, endings)
            finally:
                left[0] += 1
                assert SCOPE.get() == NO_SCOPE
                assert task.cancelling() <= (given_up is not None)

        entered, left = [0], [0]

        async def main() -> list[Any]:
            tasks = [asyncio.create_task(one(n, *call)) for n, call in enumerate(calls)]
            found = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(60)  # nothing that was armed may hit anybody later
            assert asyncio.current_task().cancelling() == 0
            return found

        found = clock.run(main())

        counters = policy.counters
        assert counters.calls == entered[0] == left[0]
        wanted = {*ENDINGS, "late", "instead"}
        for each, (_, _, given_up) in zip(found, calls, strict=True):
            if isinstance(each, asyncio.CancelledError):
                assert given_up is not None
            elif isinstance(each, BaseException):
                assert isinstance(each, ResilienceError | OSError | TypeError)
            else:
                assert each in wanted
        if plan.stopgap is None or as_block:
            assert counters.successes == sum(isinstance(each, str) for each in found)
        if plan.places is not None:
            assert (plan.places.in_use, plan.places.waiting) == (0, 0)
        for spy in spies:
            assert spy.open == set()
            assert sum(spy.settled.values()) == spy.given
        if plan.circuits is not None:
            assert all(circuit.state()["permits"]["out"] == 0 for circuit in plan.circuits._by_key.values())
        attempts = 1 if plan.retrier is None or as_block else plan.retrier.options.attempts
        hedges = 2 if plan.hedger is not None else 1
        assert all(count <= attempts * hedges for count in begun)
        assert counters.retries <= len(calls) * (attempts - 1)
        if plan.purse is not None:
            assert 0 <= plan.purse.tokens <= plan.purse.cap
            assert plan.purse.spent == counters.retries + (plan.hedger.hedges if plan.hedger is not None else 0)


@settings(max_examples=150, deadline=None)
@given(policies(), CALLS, st.integers(0, 2**16), st.sampled_from([0.0, 0.3]))
def test_plain_functions_too(options, calls, seed, refusals):
    for name in ("timeout", "hedge"):
        options.pop(name, None)
    with FakeClock(start=1000.0) as clock:
        policy = Policy(
            "p", clock=clock, registry=None, hub=Hub(), rng=random.Random(seed), **{"deadline": 3.0, **options}
        )
        plan = policy.plan
        if plan.circuit is not None:
            plan.circuit = Spy(seed, BreakerOpen, refusals)
        begun = [0] * len(calls)

        @policy
        def work(n: int, endings: list[tuple[str, float]]) -> str:
            begun[n] += 1
            ending, seconds = endings[min(begun[n], len(endings)) - 1]
            clock.jump(seconds)
            if ending == "refused":
                raise ConnectionRefusedError
            if ending in ("error", "hang"):
                raise OSError("down")
            if ending == "misuse":
                raise TypeError("wrong")
            return ending

        for n, (endings, _, _) in enumerate(calls):
            with contextlib.suppress(ResilienceError, OSError, TypeError):
                assert work(n, endings) in {"ok", "busy", "swallow", "instead"}
            assert SCOPE.get() == NO_SCOPE
        assert policy.counters.calls == len(calls)
        if plan.places is not None:
            assert plan.places.in_use == 0
        if plan.circuit is not None:
            assert plan.circuit.open == set()


def test_a_rate_that_is_used_up_is_neutral_for_the_breaker():
    """An example that the random ones rarely spell out."""
    with FakeClock(start=1000.0) as clock:
        policy = Policy("p", clock=clock, registry=None, limit=RateLimit("1/s", burst=1), breaker=Breaker())
        spy = policy.plan.circuit = Spy(1, BreakerOpen, 0.0)
        work = policy(lambda: 1)
        work()
        for _ in range(3):
            try:
                work()
            except RateLimited:
                continue
        assert spy.settled == {"success": 1, "failure": 0, "neutral": 3}
