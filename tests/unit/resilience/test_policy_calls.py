"""`Policy` around one call: what goes in, what comes out, in which order the layers act, and what they say."""

import asyncio
import contextlib
import functools
import gc
import inspect
import json
import random
import traceback
import weakref

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold.resilience import happenings
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.deadline import Deadline, remaining
from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    ChaosFault,
    DeadlineExceeded,
    DeadlineTooShort,
    RateLimited,
    ResilienceError,
)
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import Registry
from tenfold.resilience.retry import Retry
from tenfold.resilience.scope import NO_SCOPE, SCOPE
from tenfold.testing import FakeClock

WHOLE = {"deadline": "2s", "retry": Retry(3), "breaker": Breaker(), "bulkhead": Bulkhead(50)}


@pytest.fixture
def clock():
    with FakeClock(start=1000.0) as clock:
        yield clock


@pytest.fixture
def make(clock):
    def made(name="p", **options):
        options = {"clock": clock, "registry": None, "hub": Hub(), "rng": random.Random(1), **options}
        return Policy(name, **options)

    return made


def outcome_of(policy):
    return {key: policy.state()[key] for key in ("calls", "successes", "failures", "cancelled")}


# What goes in and what comes out


def test_a_plain_function_keeps_its_value_and_its_face(make):
    policy = make(**WHOLE)

    @policy
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert add(1) == 3
    assert add(1, b=5) == 6
    assert (add.__name__, add.__doc__, inspect.signature(add)) == ("add", "Adds.", inspect.signature(add.__wrapped__))
    assert not inspect.iscoroutinefunction(add)
    assert add.policy is policy
    assert outcome_of(policy) == {"calls": 2, "successes": 2, "failures": 0, "cancelled": 0}


def test_a_coroutine_function_stays_one(make, clock):
    policy = make(**WHOLE)

    @policy(idempotent=True)
    async def add(a: int, b: int = 2) -> int:
        await asyncio.sleep(0.1)
        return a + b

    assert inspect.iscoroutinefunction(add)
    assert clock.run(add(1, b=4)) == 5
    assert outcome_of(policy)["successes"] == 1


def test_a_method_is_bound_and_a_partial_and_a_callable_object_will_do(make, clock):
    policy = make(deadline="2s")

    class Shop:
        @policy
        def name(self):
            return self

        @policy
        async def name_later(self):
            return self

    class Callable:
        async def __call__(self, x):
            return x

    async def later(x):
        return x

    shop = Shop()
    assert shop.name() is shop
    assert clock.run(shop.name_later()) is shop
    assert clock.run(policy(functools.partial(later, 3))()) == 3
    assert clock.run(policy(Callable())(4)) == 4
    assert clock.run(policy.call(Callable(), 5)) == 5


def names_like_ours(plan, now, /, outer, until=3, token=4, result=5):
    return plan, now, outer, until, token, result


def keywords(a, *, limit=2):
    return a, limit


def anything(*args, **kwargs):
    return args, kwargs


def nine(a, b, c, d, e, f, g, h, i=9):
    return a, b, c, d, e, f, g, h, i


@pytest.mark.parametrize("options", [WHOLE, {"retry": Retry(2, idempotent=True)}, {"bulkhead": Bulkhead(2)}])
def test_arguments_arrive_as_they_were_given(make, clock, options):
    policy = make(**options)
    guarded = policy(names_like_ours)
    assert guarded(1, 2, outer=0) == (1, 2, 0, 3, 4, 5)
    assert guarded(1, 2, 0, result=7, token=8) == (1, 2, 0, 3, 8, 7)
    assert policy(keywords)(1, limit=5) == (1, 5)
    assert policy(anything)(1, now=2) == ((1,), {"now": 2})
    assert policy(nine)(*range(8)) == (*range(8), 9)
    with pytest.raises(TypeError, match=r"names_like_ours\(\) missing 1 required positional argument: 'outer'"):
        guarded(1, 2)
    with pytest.raises(TypeError, match="positional-only"):
        guarded(now=1, plan=2, outer=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'unknown'"):
        guarded(1, 2, 3, unknown=4)
    assert policy.counters.failures == 0  # nothing was called

    @policy
    async def later(error, box=2):
        return error, box

    assert clock.run(later(box=1, error=3)) == (3, 1)
    policy.reconfigure(deadline="7s")
    assert guarded(1, 2, outer=0) == (1, 2, 0, 3, 4, 5)


def test_arguments_of_a_further_try_are_the_same(make):
    seen = []

    @make(retry=Retry(3, base=0.001, idempotent=True))
    def fails(a, b=2):
        seen.append((a, b))
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        fails(a=1)
    assert seen == [(1, 2)] * 3


def test_call_gives_a_value_or_an_awaitable_as_the_function_does(make, clock):
    policy = make(**WHOLE)

    async def later(a, *, b):
        return a, b

    def now(a, *, b):
        return a, b

    async def main():
        awaitable = policy.call(later, 1, b=2)
        assert inspect.isawaitable(awaitable)
        return await awaitable

    assert clock.run(main()) == (1, 2)
    assert policy.call(now, 1, b=2) == (1, 2)
    assert outcome_of(policy)["successes"] == 2


def test_a_plain_function_that_returns_a_coroutine_is_refused(make):
    """Whoever counts the making of a coroutine as a success counts nothing at all (pybreaker does)."""
    policy = make(breaker=Breaker())

    async def later():
        return 1

    with pytest.raises(MisuseError, match="returned a coroutine"):
        policy(lambda: later())()
    with pytest.raises(MisuseError, match="returned a coroutine"):
        policy.call(lambda: later())


def test_the_scope_is_as_it_was_after_every_ending(make, clock):
    policy = make(**WHOLE, timeout="500ms")

    async def look(error=None):
        until, retried = SCOPE.get()
        assert until == pytest.approx(clock.monotonic() + 0.5)  # what is called inherits the end of the try
        assert retried
        assert remaining(clock) == pytest.approx(0.5)
        if error is not None:
            raise error

    async def main():
        await policy(look)()
        assert SCOPE.get() == NO_SCOPE
        for error in (ValueError("no"), ConnectionRefusedError("gone")):
            with pytest.raises(type(error)):
                await policy(look)(error)
            assert SCOPE.get() == NO_SCOPE
        with pytest.raises(asyncio.CancelledError):
            await policy(look)(asyncio.CancelledError())
        assert SCOPE.get() == NO_SCOPE

    clock.run(main())


def test_the_generated_source_stands_in_tracebacks(make):
    @make(**WHOLE)
    def broken():
        raise KeyError("x")

    with pytest.raises(KeyError) as info:
        broken()
    text = "".join(traceback.format_exception(info.value))
    assert "result = fn()" in text
    assert "<tenfold policy wrapper of 0: deadline+retry+budget+breaker:one+bulkhead" in text
    assert ", in broken" in text
    assert "During handling" not in text


def test_the_exception_is_the_functions_own_object(make, clock):
    class OwnError(Exception):
        pass

    error = OwnError("mine")
    policy = make(**WHOLE)

    @policy
    async def fails():
        raise error

    @policy
    def fails_now():
        raise error

    async def main():
        with pytest.raises(OwnError) as info:
            await fails()
        return info.value

    assert clock.run(main()) is error
    with pytest.raises(OwnError) as info:
        fails_now()
    assert info.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


# The layers


def test_every_layer_on_its_own_and_all_together(make, clock):
    layers = {
        "deadline": "2s",
        "timeout": "1s",
        "retry": Retry(2, idempotent=True),
        "breaker": Breaker(),
        "limit": RateLimit("1000/s"),
        "bulkhead": Bulkhead(3),
        "hedge": Hedge("100ms"),
        "fallback": Fallback(None),
        "chaos": Chaos(fault="1%", for_="1h", enabled=False),
    }

    async def work(x):
        await asyncio.sleep(0.01)
        return x

    async def main(**options):
        return await make(idempotent=True, **options)(work)(7)

    for name, option in layers.items():
        assert clock.run(main(**{name: option})) == 7
    assert clock.run(main(**layers)) == 7
    assert clock.run(main(limit=AdaptiveLimit())) == 7
    assert clock.run(main(breaker=Breaker(key=lambda x: x), limit=RateLimit("9/s", key=lambda x: x))) == 7


def test_the_attempt_time_out_stops_the_call_and_counts_as_a_failure(make, clock):
    policy = make(timeout="1s", breaker=Breaker(consecutive=2, open="5s", jitter=0), bulkhead=Bulkhead(3, queue=0))
    ended = []

    @policy
    async def hangs():
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(clock.monotonic())

    async def main():
        for _ in range(2):
            with pytest.raises(AttemptTimeout) as info:
                await hangs()
        assert isinstance(info.value, TimeoutError)
        assert info.value.policy == "p"
        with pytest.raises(BreakerOpen) as refused:
            await hangs()
        assert refused.value.retry_after == pytest.approx(5, abs=0.01)

    clock.run(main())
    assert len(ended) == 2
    state = policy.state()
    assert state["timeouts"] == 2
    assert state["rejected"] == {"breaker": 1}
    assert state["bulkhead"]["in_use"] == 0


def test_the_own_deadline_counts_against_the_breaker(make, clock):
    policy = make(deadline="1s", breaker=Breaker(consecutive=1))

    async def hangs():
        await asyncio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded):
            await policy(hangs)()
        return policy.state()["breaker"]["state"], policy.counters.deadlines

    assert clock.run(main()) == ("open", 1)


@pytest.mark.parametrize(("slow_call", "opened"), [("off", False), ("2s", False), ("500ms", True)])
def test_an_inherited_deadline_counts_only_if_the_call_was_slow(make, clock, slow_call, opened):
    """A caller that had no patience left says nothing about the peer."""
    policy = make(deadline="10s", breaker=Breaker(consecutive=1, slow_call=slow_call))

    async def hangs():
        await asyncio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded):
            async with Deadline("1s", clock=clock):
                await policy(hangs)()
        return policy.state()["breaker"]["state"]

    assert clock.run(main()) == ("open" if opened else "closed")
    assert policy.counters.deadlines == 1


def test_a_callers_cancellation_is_neutral(make, clock):
    policy = make(**WHOLE, timeout="1s")

    async def hangs():
        await asyncio.sleep(100)

    async def main():
        for _ in range(30):
            task = asyncio.create_task(policy(hangs)())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    clock.run(main())
    state = policy.state()
    assert state["breaker"]["counters"]["failures"] == 0
    assert state["breaker"]["counters"]["neutral"] == 30
    assert (state["cancelled"], state["bulkhead"]["in_use"]) == (30, 0)


def test_a_call_is_not_begun_after_the_deadline(make, clock):
    begun = []
    policy = make(deadline="5s", retry=Retry(3))

    def work():
        begun.append(1)

    with Deadline("1s", clock=clock):
        clock.jump("2s")
        with pytest.raises(DeadlineTooShort):
            policy(work)()
        with pytest.raises(DeadlineTooShort):
            policy.call(work)
    assert begun == []
    assert policy.state()["rejected"] == {"deadline": 2}
    assert outcome_of(policy)["failures"] == 2


def test_answers_are_no_failures(make):
    class CardDeclined(Exception):
        pass

    policy = make(
        breaker=Breaker(consecutive=3), retry=Retry(3, idempotent=True, on=(Exception,)), answers=CardDeclined
    )

    @policy
    def charge():
        raise CardDeclined

    for _ in range(10):
        with pytest.raises(CardDeclined):
            charge()
    assert policy.state()["breaker"]["counters"]["successes"] == 10
    assert policy.counters.retries == 0


def test_a_programming_error_and_a_refusal_further_down_say_nothing_of_the_peer(make):
    policy = make(breaker=Breaker(consecutive=3))

    @policy
    def fails(error):
        raise error

    for error in (TypeError("x"), MisuseError("x"), BreakerOpen("below"), RateLimited("below")) * 3:
        with pytest.raises(type(error)):
            fails(error)
    assert policy.state()["breaker"]["state"] == "closed"
    for _ in range(3):
        with pytest.raises(OSError, match="x"):
            fails(OSError("x"))
    assert policy.state()["breaker"]["state"] == "open"


@pytest.mark.parametrize(("status", "opened"), [(404, False), (400, False), (429, True), (500, True), (503, True)])
def test_an_http_status_that_blames_the_request_is_an_answer(make, status, opened):
    class HTTPStatusError(Exception):
        class response:  # noqa: N801 - as in httpx
            status_code = status
            headers = None

    policy = make(breaker=Breaker(consecutive=1))

    @policy
    def get():
        raise HTTPStatusError

    with pytest.raises(HTTPStatusError):
        get()
    assert (policy.state()["breaker"]["state"] == "open") is opened


def test_the_rate_and_the_places_turn_away_before_the_call(make, clock):
    limited = make(limit=RateLimit("1/s", burst=1), breaker=Breaker(consecutive=1))
    begun = []

    @limited
    def work():
        begun.append(1)

    work()
    with pytest.raises(RateLimited) as info:
        work()
    assert info.value.policy == "p"
    assert begun == [1]
    assert limited.state()["breaker"]["counters"]["neutral"] == 1
    assert limited.state()["rejected"] == {"rate limit": 1}

    full = make(bulkhead=Bulkhead(1, queue=0))

    async def waits():
        await asyncio.sleep(1)

    async def main():
        first = asyncio.create_task(full(waits)())
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await full(waits)()
        await first

    clock.run(main())
    assert full.state()["rejected"] == {"bulkhead": 1}


def test_the_fallback_answers_for_all_layers(make, clock):
    policy = make(
        deadline="1s", bulkhead=Bulkhead(1, queue=0), fallback=Fallback(call=lambda error, x: (type(error), x))
    )

    async def hangs(x):
        await asyncio.sleep(100)

    async def main():
        first = asyncio.create_task(policy(hangs)(1))
        await asyncio.sleep(0)
        second = await policy(hangs)(2)
        return await first, second

    assert clock.run(main()) == ((DeadlineExceeded, 1), (BulkheadFull, 2))
    assert policy.state()["fallback"]["used"] == 2
    assert outcome_of(policy)["failures"] == 2


def test_chaos_is_within_the_time_out_and_the_breaker(make, clock):
    chaos = Chaos(fault=1.0, latency="1s", for_="1h", enabled=True, seed=1)
    policy = make(chaos=chaos, breaker=Breaker(consecutive=1))

    async def main():
        began = clock.monotonic()
        with pytest.raises(ChaosFault):
            await policy(asyncio.sleep)(0)
        return clock.monotonic() - began

    assert clock.run(main()) == pytest.approx(1)
    assert policy.state()["breaker"]["state"] == "open"

    stopped = make(chaos=chaos, timeout="500ms")

    async def too_slow():
        with pytest.raises(AttemptTimeout):
            await stopped(asyncio.sleep)(0)

    clock.run(too_slow())


def test_a_hedge_is_a_try_of_its_own(make, clock):
    policy = make(hedge=Hedge("100ms"), idempotent=True, retry=Retry(2), breaker=Breaker(), bulkhead=Bulkhead(5))
    begun = []

    @policy
    async def slow_once(x):
        begun.append(clock.monotonic())
        await asyncio.sleep(10 if len(begun) == 1 else 0.05)
        return x

    async def main():
        began = clock.monotonic()
        assert await slow_once(7) == 7
        return clock.monotonic() - began

    assert clock.run(main()) == pytest.approx(0.15)
    assert len(begun) == 2
    state = policy.state()
    assert state["hedge"]["won"] == 1
    assert state["budget"]["spent"] == 1
    assert state["bulkhead"]["in_use"] == 0
    assert state["breaker"]["counters"]["successes"] == 1
    assert state["breaker"]["counters"]["neutral"] == 1
    assert outcome_of(policy) == {"calls": 1, "successes": 1, "failures": 0, "cancelled": 0}


def test_keys_have_breakers_of_their_own(make):
    policy = make(breaker=Breaker(consecutive=1, key=lambda shop: shop))

    @policy
    def call(shop):
        if shop == "bad":
            raise OSError("down")
        return shop

    with pytest.raises(OSError, match="down"):
        call("bad")
    with pytest.raises(BreakerOpen):
        call("bad")
    assert call("good") == "good"


# Blocks


def test_a_block_has_the_layers_that_make_sense_for_one(make, clock):
    policy = make(**WHOLE, timeout="1s")

    async def main():
        async with policy as entered:
            assert entered is policy
            assert remaining(clock) == pytest.approx(1)
            assert not SCOPE.get()[1]  # a policy inside may retry
            assert policy.state()["bulkhead"]["in_use"] == 1
        with pytest.raises(AttemptTimeout):
            async with policy:
                await asyncio.sleep(100)
        with pytest.raises(OSError, match="x"):
            async with policy:
                raise OSError("x")
        await asyncio.sleep(10)
        assert asyncio.current_task().cancelling() == 0
        assert SCOPE.get() == NO_SCOPE

    clock.run(main())
    state = policy.state()
    assert state["breaker"]["counters"]["failures"] == 2
    assert (state["successes"], state["failures"], state["bulkhead"]["in_use"]) == (1, 2, 0)


def test_a_plain_block(make):
    policy = make(**WHOLE)
    with policy:
        assert policy.state()["bulkhead"]["in_use"] == 1
        with policy:  # one object, entered twice
            assert policy.state()["bulkhead"]["in_use"] == 2
    with pytest.raises(OSError, match="x"), policy:
        raise OSError("x")
    state = policy.state()
    assert (state["successes"], state["failures"], state["bulkhead"]["in_use"]) == (2, 1, 0)


def test_many_tasks_are_in_blocks_of_one_policy_at_once(make, clock):
    policy = make(bulkhead=Bulkhead(3, queue=100, wait="1h"), deadline="2h")
    most = 0

    async def one(n):
        nonlocal most
        async with policy:
            most = max(most, policy.state()["bulkhead"]["in_use"])
            await asyncio.sleep(n % 3)

    async def main():
        await asyncio.gather(*(one(n) for n in range(50)))

    clock.run(main())
    assert most == 3
    assert policy.state()["bulkhead"]["in_use"] == 0
    assert outcome_of(policy)["successes"] == 50


def test_a_block_that_is_refused_is_not_entered(make, clock):
    policy = make(bulkhead=Bulkhead(1, queue=0), breaker=Breaker(consecutive=1, permits=1))

    async def main():
        async with policy:
            with pytest.raises(BulkheadFull):
                async with policy:
                    raise AssertionError("entered")
        async with policy:
            return policy.state()["rejected"]

    assert clock.run(main()) == {"bulkhead": 1}
    keyed = make(breaker=Breaker(key=lambda x: x))
    with pytest.raises(MisuseError, match="a block has none"), keyed:
        pass
    with pytest.raises(MisuseError, match="plain one"), make(timeout="1s"):
        pass


def test_a_block_cancelled_and_one_that_swallows(make, clock):
    policy = make(timeout="1s")

    async def swallows():
        async with policy:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    async def main():
        with pytest.raises(AttemptTimeout):
            await swallows()
        task = asyncio.create_task(swallows())
        await asyncio.sleep(0.5)
        task.cancel()
        await task  # it swallowed its caller's cancellation, in time
        assert outcome_of(policy) == {"calls": 2, "successes": 1, "failures": 1, "cancelled": 0}

    clock.run(main())


# What it says of itself


def test_the_state_is_ready_for_json_and_the_repr_tells_the_layers(make, clock):
    policy = make(
        **WHOLE,
        timeout="1s",
        idempotent=True,
        limit=RateLimit("100/s"),
        hedge=Hedge("100ms"),
        fallback=Fallback(0),
        chaos=Chaos(fault="1%", for_="1h", enabled=False),
    )
    state = json.loads(json.dumps(policy.state()))
    assert {"breaker", "budget", "limit", "bulkhead", "hedge", "fallback", "chaos"} <= set(state)
    assert repr(policy).startswith("<Policy 'p' deadline=2.00 s [deadline+timeout+retry+budget")
    adaptive = make(limit=AdaptiveLimit())
    assert json.loads(json.dumps(adaptive.state()))["limit"]


def test_events_are_told_of_what_goes_wrong_only(make, clock):
    hub = Hub()
    seen = []
    hub.subscribe(Event, seen.append)
    policy = make(hub=hub, deadline="3s", timeout="1s", retry=Retry(2, base="100ms", jitter="none", idempotent=True))

    async def sleeps(seconds):
        await asyncio.sleep(seconds)

    async def main():
        await policy(sleeps)(0.5)
        assert seen == []
        with pytest.raises(AttemptTimeout):
            await policy(sleeps)(50)

    clock.run(main())
    assert [type(event) for event in seen] == [
        happenings.AttemptTimedOut,
        happenings.RetryScheduled,
        happenings.AttemptTimedOut,
        happenings.RetryRefused,
    ]
    assert seen[1] == happenings.RetryScheduled("p", 1, 0.1, "AttemptTimeout")
    assert seen[3] == happenings.RetryRefused("p", 2, "attempts", "AttemptTimeout")


def test_the_registry_knows_it_while_it_lives():
    registry = Registry()
    policy = Policy("shop", deadline="1s", registry=registry)
    assert registry.get("shop") is policy
    assert registry.state()["shop"]["calls"] == 0
    wrapper = policy(len)
    del policy
    assert registry.get("shop") is wrapper.policy  # what is decorated keeps it alive
    with pytest.raises(MisuseError, match="name of its own"):
        Policy("shop", deadline="1s", registry=registry)


@pytest.mark.parametrize("retry", [None, Retry(3, idempotent=True, base=0.001), Retry(3, base=0.001)])
@pytest.mark.parametrize("ending", ["error", "time-out", "deadline", "cancelled"])
def test_a_failure_leaves_no_cycle_of_frames_and_tracebacks(make, clock, retry, ending):
    """Under an outage each failing call would otherwise keep its frames, arguments and all, until a collection."""
    options = {"deadline": "1s"} if ending == "deadline" else {"timeout": "1s", "deadline": "9s"}
    policy = make(retry=retry, bulkhead=Bulkhead(5), **options)

    class Argument:
        pass

    @policy
    async def fails(argument):
        if ending == "error":
            raise OSError("down")
        await asyncio.sleep(100)

    async def main(argument):
        task = asyncio.create_task(fails(argument))
        if ending == "cancelled":
            await asyncio.sleep(0.5)
            task.cancel()
        with contextlib.suppress(OSError, ResilienceError, asyncio.CancelledError):
            await task
        del task

    argument = Argument()
    seen = weakref.ref(argument)
    gc.collect()
    gc.disable()
    try:
        clock.run(main(argument))
        del argument
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("retry", [None, Retry(3, idempotent=True, base=0.001)])
def test_nor_does_a_plain_one(make, retry):
    class Argument:
        pass

    @make(deadline="3s", retry=retry)
    def fails(argument):
        raise OSError("down")

    argument = Argument()
    seen = weakref.ref(argument)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(OSError):
            fails(argument)
        del argument
        assert seen() is None
    finally:
        gc.enable()
