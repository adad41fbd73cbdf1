"""Retries: which failures, how long between, when not, and what the caller gets in the end."""

import asyncio
import random
import socket
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience import backoff
from tenfold.resilience.budget import Budget
from tenfold.resilience.deadline import Deadline
from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    DeadlineTooShort,
    RateLimited,
)
from tenfold.resilience.happenings import BudgetExhausted, RetryScheduled
from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retrier, Retry, Step, never_sent, passing
from tenfold.resilience.scope import SCOPE
from tenfold.testing import FakeClock


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


class Response:
    def __init__(self, status_code, **headers):
        self.status_code = status_code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class HTTPStatusError(Exception):
    def __init__(self, status_code, **headers):
        super().__init__(f"HTTP {status_code}")
        self.response = Response(status_code, **headers)


class TransportError(Exception):
    pass


class ConnectError(TransportError):
    """As httpx calls it."""


class OwnConnectError(ConnectError):
    pass


# Which failures


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("x"),
        BulkheadFull("x"),
        BreakerOpen("x"),
        ConnectionRefusedError(),
        socket.gaierror(),
        ConnectError(),
        OwnConnectError(),
    ],
)
def test_what_was_never_sent(error):
    assert never_sent(error)


@pytest.mark.parametrize(
    "error", [TimeoutError(), AttemptTimeout("x"), DeadlineExceeded("x"), ConnectionResetError(), TransportError()]
)
def test_what_may_have_been_sent(error):
    assert not never_sent(error)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(), True),
        (TimeoutError(), True),
        (RuntimeError(), True),
        (HTTPStatusError(503), True),
        (HTTPStatusError(429), True),
        (HTTPStatusError(404), False),
        (ValueError(), False),
        (KeyError(), False),
        (TypeError(), False),
        (MisuseError(), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_may_pass_by_itself(error, wanted):
    assert passing(error) is wanted
    assert Retrier(Retry(idempotent=True), random.Random()).wants(error, False) is wanted


def wants(error, *, idempotent=True, **options):
    return Retrier(Retry(**options), random.Random()).wants(error, idempotent)


def test_without_idempotency_only_what_was_never_sent():
    assert not wants(TimeoutError(), idempotent=False)
    assert wants(TimeoutError(), idempotent=True)
    assert wants(ConnectionRefusedError(), idempotent=False)
    assert Retrier(Retry(idempotent=True), random.Random()).wants(TimeoutError(), False)


def test_an_open_breaker_and_a_deadline_that_has_passed_are_not_asked_again():
    assert not wants(BreakerOpen("x"))
    assert not wants(DeadlineTooShort("x"))
    assert wants(RateLimited("x"))


def test_programming_errors_never_whatever_on_says():
    assert not wants(TypeError(), on=(Exception,))
    assert not wants(TypeError(), on=lambda error: True)
    assert wants(ValueError(), on=ValueError)
    assert wants(ValueError(), on=["ValueError", "OSError"])
    assert not wants(RuntimeError(), on="OSError")
    assert wants(RuntimeError("now"), on=lambda error: "now" in str(error))
    assert not wants(asyncio.CancelledError(), on=lambda error: True)
    assert not wants(OSError(), attempts=1)


# How long between


def test_full_jitter_draws_from_all_of_the_range_and_the_cap_holds():
    rng = random.Random(1)
    for attempt, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (10, 1.0), (2000, 1.0)):
        drawn = [backoff.pause("full", attempt, 0.0, 0.1, 1.0, rng) for _ in range(2000)]
        assert 0 <= min(drawn) < 0.01 * longest + 0.001
        assert 0.99 * longest < max(drawn) <= longest
        assert sum(drawn) / len(drawn) == pytest.approx(longest / 2, rel=0.1)


def test_decorrelated_jitter_never_comes_back_at_once():
    rng = random.Random(1)
    previous, longest = 0.0, 0.0
    for _ in range(2000):
        drawn = backoff.pause("decorrelated", 1, previous, 0.1, 1.0, rng)
        assert 0.1 <= drawn <= min(1.0, max(0.1, previous * 3))
        previous, longest = drawn, max(longest, drawn)
    assert longest == 1.0


def test_no_jitter_doubles():
    pauses = [backoff.pause("none", attempt, 0.0, 0.1, 0.5, random.Random()) for attempt in (1, 2, 3, 4, 5)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])


def test_retry_after_in_all_its_forms():
    epoch = 1_700_000_000.0
    when = format_datetime(datetime.fromtimestamp(epoch + 7, UTC), usegmt=True)
    assert backoff.retry_after(RateLimited("x", retry_after=2.5), epoch) == 2.5
    assert backoff.retry_after(HTTPStatusError(503, Retry_After="120"), epoch) == 120
    assert backoff.retry_after(HTTPStatusError(503, Retry_After=when), epoch) == 7
    assert backoff.retry_after(HTTPStatusError(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), epoch) == 0
    assert backoff.retry_after(HTTPStatusError(503), epoch) is None
    assert backoff.retry_after(OSError(), epoch) is None
    for nonsense in ("soon", "-1", "", "1.5", "٣", "99 Foo 99"):
        assert backoff.retry_after(HTTPStatusError(503, Retry_After=nonsense), epoch) is None


def step(error, attempt=1, until=float("inf"), now=1000.0, quickest=0.0, previous=0.0, **options):
    retrier = Retrier(Retry(**{"jitter": "none", "base": 0.1, **options}), random.Random(1))
    return retrier.step(error, attempt, previous, now, until, quickest, 0.0)


def test_retry_after_is_added_to_the_pause_and_has_a_limit():
    found = step(RateLimited("x", retry_after=5.0))
    assert isinstance(found, Step)
    assert found.pause == pytest.approx(5.1)
    assert step(RateLimited("x", retry_after=31.0)) == "retry_after"
    assert isinstance(step(RateLimited("x", retry_after=31.0), retry_after="1m"), Step)


def test_a_try_that_cannot_end_in_time_is_not_begun():
    assert step(OSError(), until=1000.1) == "deadline"
    assert isinstance(step(OSError(), until=1000.11), Step)
    assert step(OSError(), until=1000.11, quickest=0.02) == "deadline"
    assert step(RateLimited("x", retry_after=5.0), until=1005.0) == "deadline"
    assert step(OSError(), attempt=3, attempts=3) == "attempts"


def test_a_try_that_cannot_end_reserves_nothing():
    retrier = Retrier(Retry(jitter="none", base=0.1), random.Random())
    tokens = retrier.purse.tokens
    assert retrier.step(OSError(), 1, 0.0, 1000.0, 1000.1, 0.0, 0.0) == "deadline"
    assert retrier.purse.tokens == tokens


# In a policy


def counted(policy, *, fail, error=OSError, result="done"):
    """A function that fails ``fail`` times."""
    calls = []

    @policy
    async def work():
        calls.append(1)
        if len(calls) <= fail:
            raise error("down")
        return result

    return work, calls


def test_it_tries_again_and_succeeds(make, clock):
    policy = make(retry=Retry(3, idempotent=True, base="1s", jitter="none"))
    work, calls = counted(policy, fail=2)

    async def main():
        began = clock.monotonic()
        assert await work() == "done"
        return clock.monotonic() - began

    assert clock.run(main()) == pytest.approx(3.0)  # 1 s and 2 s
    assert len(calls) == 3
    assert (policy.counters.retries, policy.counters.successes, policy.counters.failures) == (2, 1, 0)


def test_a_plain_function_is_tried_again_too(make, clock):
    policy = make(retry=Retry(3, idempotent=True, base="1s", jitter="none"), deadline="10s")
    calls = []

    @policy
    def work(x, *, y):
        calls.append((x, y))
        if len(calls) < 3:
            raise OSError
        return clock.monotonic()

    began = clock.monotonic()
    assert work(1, y=2) - began == pytest.approx(3.0)
    assert calls == [(1, 2)] * 3
    calls.clear()
    assert policy.call(work.__wrapped__, 1, y=2) - began == pytest.approx(6.0)


def test_the_last_error_is_raised_as_it_is_with_a_note(make, clock):
    policy = make(retry=Retry(3, idempotent=True, jitter="none"), deadline="1m")
    errors = [OSError("first"), OSError("second"), OSError("third")]
    raised = iter(errors)

    @policy
    async def work():
        raise next(raised)

    with pytest.raises(OSError, match="third") as info:
        clock.run(work())
    assert info.value is errors[2]
    assert info.value.__cause__ is None
    assert info.value.__context__ is None
    assert info.value.__notes__ == [
        "policy 'p': 3 tries in 300 ms, no tries left; retry budget: 18.1 of 20 tokens left"
    ]
    assert not hasattr(errors[0], "__notes__")
    assert (policy.counters.failures, policy.counters.retries) == (1, 2)


def test_an_error_that_is_not_worth_it_ends_the_trying(make, clock):
    policy = make(retry=Retry(5, idempotent=True, jitter="none"))
    raised = iter([OSError("first"), ValueError("second"), OSError("third")])

    @policy
    async def work():
        raise next(raised)

    with pytest.raises(ValueError, match="second") as info:
        clock.run(work())
    assert "2 tries" in info.value.__notes__[0]


def test_one_instance_raised_by_many_calls_does_not_grow_without_end(make, clock):
    policy = make(retry=Retry(2, idempotent=True, budget=False))
    error = OSError("the same")

    @policy
    async def work():
        raise error

    async def main():
        for _ in range(100):
            with pytest.raises(OSError, match="same"):
                await work()

    clock.run(main())
    assert len(error.__notes__) <= 8


def test_idempotency_is_declared_at_the_retry_the_policy_or_the_decorator(make, clock):
    async def fails():
        tries.append(1)
        raise TimeoutError

    async def main(guarded):
        with pytest.raises(TimeoutError):
            await guarded()

    retry = Retry(3, base=0.001)
    for guarded, expected in (
        (make(retry=retry)(fails), 1),
        (make(retry=retry)(idempotent=True)(fails), 3),
        (make(retry=retry, idempotent=True)(fails), 3),
        (make(retry=Retry(3, base=0.001, idempotent=True))(fails), 3),
        (lambda: make(retry=retry).call(fails), 1),
        (lambda: make(retry=retry, idempotent=True).call(fails), 3),
    ):
        tries = []
        clock.run(main(guarded))
        assert len(tries) == expected


def test_a_result_may_ask_for_another_try(make, clock):
    policy = make(retry=Retry(3, idempotent=True, on_result=lambda result: result == "busy"))
    results = iter(["busy", "busy", "done"])

    @policy
    async def work():
        return next(results)

    assert clock.run(work()) == "done"
    results = iter(["busy", "busy", "busy"])
    assert clock.run(work()) == "busy"  # the last one, as it is
    assert (policy.counters.successes, policy.counters.failures) == (2, 0)

    @make(retry=Retry(3, on_result=lambda result: True))
    def not_idempotent():
        return next(once)

    once = iter([1])
    assert not_idempotent() == 1


def test_only_the_outermost_layer_retries(make, clock):
    calls = []

    async def bottom():
        calls.append(SCOPE.get()[1])
        raise ConnectionRefusedError

    work = bottom
    layers = [make(f"layer {n}", retry=Retry(3, base=0.001)) for n in range(3)]
    for policy in layers:
        work = policy(work)

    async def main():
        with pytest.raises(ConnectionRefusedError) as info:
            await work()
        return info.value

    error = clock.run(main())
    assert calls == [True] * 3
    assert [policy.counters.retries for policy in layers] == [0, 0, 2]
    assert len(error.__notes__) == 1


def test_a_deadline_that_passes_in_a_later_try_says_what_came_before(make, clock):
    policy = make(deadline="2s", retry=Retry(3, idempotent=True, base="1s", jitter="none"))
    tries = []

    @policy
    async def work():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("first")
        await asyncio.sleep(100)

    with pytest.raises(DeadlineExceeded) as info:
        clock.run(work())
    assert str(info.value.__cause__) == "first"
    assert len(tries) == 2


def test_a_plain_function_that_overran_its_deadline_is_not_tried_again(make, clock):
    policy = make(deadline="2s", retry=Retry(3, idempotent=True))

    @policy
    def work():
        clock.jump("3s")
        raise OSError("slow")

    with pytest.raises(DeadlineExceeded) as info:
        work()
    assert str(info.value.__cause__) == "slow"
    assert policy.counters.retries == 0


def test_a_pause_beyond_the_deadline_ends_with_the_error_itself(make, clock):
    policy = make(deadline="2s", retry=Retry(3))

    @policy
    async def work():
        raise RateLimited("later", retry_after=5.0)

    async def main():
        began = clock.monotonic()
        with pytest.raises(RateLimited) as info:
            await work()
        assert clock.monotonic() == began
        return info.value.__notes__

    assert "another one would not end within the deadline" in clock.run(main())[0]


def test_what_the_quickest_success_took_must_fit_too(make, clock):
    policy = make(deadline="2s", retry=Retry(3, idempotent=True, base="1s", jitter="none"))
    tries = []

    @policy
    async def work(seconds, fails):
        tries.append(1)
        await asyncio.sleep(seconds)
        if fails:
            raise OSError("slow")

    async def main():
        await work(0.9, False)
        tries.clear()
        with pytest.raises(OSError, match="slow"):
            await work(0.2, True)  # 0.2 + 1 + 0.9 > 2

    clock.run(main())
    assert len(tries) == 1


def test_the_budget_is_on_by_default_and_bounds_all_calls_together(make, clock):
    hub = Hub()
    refused, scheduled = [], []
    hub.subscribe(BudgetExhausted, refused.append)
    hub.subscribe(RetryScheduled, scheduled.append)
    policy = make(retry=Retry(3, idempotent=True, base=0.001), hub=hub)
    work, calls = counted(policy, fail=10**9)

    async def main():
        for _ in range(1000):
            with pytest.raises(OSError, match="down"):
                await work()

    clock.run(main())
    assert len(calls) == pytest.approx(1000 + 20 + 200 * 1.25, abs=60)
    assert policy.counters.retries_refused == len(refused) > 500
    assert len(scheduled) == policy.counters.retries


def test_a_pause_that_is_cancelled_gives_its_token_back(make, clock):
    policy = make(retry=Retry(3, idempotent=True, base="10s", cap="10s", jitter="none", budget=Budget(burst=5)))
    work, _ = counted(policy, fail=9)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        assert policy.plan.purse.tokens == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return policy.plan.purse.tokens

    assert clock.run(main()) == 5
    assert (policy.counters.cancelled, policy.counters.retries) == (1, 0)


def test_a_reservation_that_grew_old_in_a_long_pause_is_taken_anew(make, clock):
    budget = Budget(share=0.2, floor=0, burst=1, window="5s")
    policy = make(retry=Retry(2, idempotent=True, base="10s", cap="10s", jitter="none", budget=budget))
    work, calls = counted(policy, fail=9)
    with pytest.raises(OSError, match="down") as info:
        clock.run(work())
    assert len(calls) == 1
    assert "the retry budget is used up" in info.value.__notes__[0]


def test_nothing_of_a_call_lies_on_shared_objects(make, clock):
    """One shared ``tenacity.AsyncRetrying`` raises one coroutine's exception in another. Here each of 300 calls at
    once gets its own result or its own error, after its own number of tries.
    """
    policy = make(
        deadline="1h", timeout="5s", retry=Retry(4, idempotent=True, base=0.5, budget=None), bulkhead=Bulk(40)
    )
    tries = [0] * 300

    @policy
    async def work(n):
        tries[n] += 1
        await asyncio.sleep(n % 7 / 10)
        if n % 10 == 9:
            await asyncio.sleep(100)
        if tries[n] <= n % 5:
            raise OSError(n)
        return n

    async def main():
        return await asyncio.gather(*(work(n) for n in range(300)), return_exceptions=True)

    for n, found in enumerate(clock.run(main())):
        if n % 10 == 9:
            assert isinstance(found, AttemptTimeout)
        elif n % 5 == 4:
            assert isinstance(found, OSError)
            assert found.args == (n,)
        else:
            assert found == n
        assert tries[n] == (4 if n % 10 == 9 else n % 5 + 1 if n % 5 < 4 else 4)
    assert policy.state()["bulkhead"]["in_use"] == 0


def Bulk(size):  # noqa: N802 - reads as the option it makes
    from tenfold.resilience.bulkhead import Bulkhead

    return Bulkhead(size, queue=1000, wait="1h")


def test_a_call_with_another_policys_deadline_around_it(make, clock):
    policy = make(retry=Retry(10, idempotent=True, base="1s", jitter="none", cap="1s"))
    work, calls = counted(policy, fail=99)

    async def main():
        async with Deadline("3500ms", clock=clock):
            with pytest.raises(OSError, match="down"):
                await work()

    clock.run(main())
    assert len(calls) == 4  # at 0, 1, 2 and 3 s; 4 s would be too late


# What is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attempts": 0}, "attempts: expected a whole number of 1 or more"),
        ({"base": "-1s"}, "base: expected a duration"),
        ({"base": "10s"}, "cap: expected base"),
        ({"jitter": "some"}, 'jitter: expected "full"'),
        ({"on": "NoSuchError"}, "expected exception classes"),
        ({"on": 7}, "expected exception classes"),
        ({"on": KeyboardInterrupt}, "must pass through"),
        ({"on_result": 3}, "expected a function"),
        ({"budget": 3}, "expected a Budget"),
        ({"budget": {"sare": 1}}, "unknown option 'sare'"),
        ({"budget": {"share": "120%"}}, "between 0 and 1"),
        ({"idempotent": "yes"}, "expected true or false"),
        ({"retry_after": "soon"}, "expected a duration"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Retry(**options)


def test_a_budget_may_be_a_table_or_a_word():
    assert Retry(budget={"share": "10%"}).budget == Budget(share=0.1)
    assert Retry(budget=True).budget == Retry().budget == Budget()
    assert Retry(budget=False).budget is Retry(budget=None).budget is None
