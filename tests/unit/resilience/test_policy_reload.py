"""Other options while calls are under way: what is new holds at once, and what was taken goes back where it belongs."""

import asyncio
import inspect
import random
import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.errors import AttemptTimeout, BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.happenings import PolicyReconfigured
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry
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


def test_functions_decorated_before_go_by_the_new_options(make, clock):
    policy = make(deadline="10s")

    @policy
    async def hangs():
        await asyncio.sleep(100)

    async def took():
        began = clock.monotonic()
        with pytest.raises(TimeoutError) as info:
            await hangs()
        return round(clock.monotonic() - began, 1), type(info.value)

    assert clock.run(took()) == (10.0, DeadlineExceeded)
    policy.reconfigure(deadline="2s")
    assert clock.run(took()) == (2.0, DeadlineExceeded)
    policy.reconfigure(timeout="1s")
    assert clock.run(took()) == (1.0, AttemptTimeout)
    policy.reconfigure(deadline=None, timeout="3s")
    assert clock.run(took()) == (3.0, AttemptTimeout)
    policy.reconfigure(fallback=Fallback("instead"))
    assert clock.run(hangs()) == "instead"
    assert hangs.__name__ == "hangs"
    assert inspect.iscoroutinefunction(hangs)


def test_parts_of_the_same_kind_keep_their_state(make):
    policy = make(breaker=Breaker(consecutive=2), bulkhead=Bulkhead(5), retry=Retry(2, idempotent=True, base=0))

    @policy
    def fails():
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        fails()
    tokens = policy.plan.purse.tokens
    before = policy.plan
    policy.reconfigure(
        breaker=Breaker(consecutive=2, open="1m"), bulkhead=Bulkhead(7), retry=Retry(2, base=0), deadline="9s"
    )
    with pytest.raises(BreakerOpen):
        fails()
    after = policy.plan
    assert after is not before
    assert (after.circuit, after.places, after.retrier) == (before.circuit, before.places, before.retrier)
    assert after.purse is before.purse
    assert after.purse.tokens == pytest.approx(tokens + 0.2)  # the refused call earned its share
    assert policy.state()["bulkhead"]["size"] == 7
    policy.reconfigure(breaker=Breaker(key=lambda: 1))
    assert policy.plan.circuit is None
    policy.reconfigure(breaker=None)
    assert "breaker" not in policy.state()


def test_an_adaptive_limit_keeps_what_it_found_and_a_rate_what_was_used(make):
    policy = make(limit=AdaptiveLimit(initial=40))
    limiter = policy.plan.limiter
    policy.reconfigure(limit=AdaptiveLimit(maximum=30))
    assert policy.plan.limiter is limiter
    assert limiter.limit == 30
    policy.reconfigure(limit=RateLimit("1/s", burst=2))
    assert policy.plan.limiter is None
    work = policy(lambda: 1)
    work()
    meter = policy.plan.meter
    policy.reconfigure(limit=RateLimit("1/s", burst=1))
    assert policy.plan.meter is meter
    with pytest.raises(RateLimited):
        work()


def test_a_call_under_way_ends_by_what_it_began_with(make, clock):
    policy = make(deadline="10s", bulkhead=Bulkhead(1, queue=0), breaker=Breaker(permits=1))

    @policy
    async def waits(seconds):
        await asyncio.sleep(seconds)
        return "done"

    async def main():
        old = policy.plan
        first = asyncio.create_task(waits(5))
        await asyncio.sleep(1)
        policy.reconfigure(bulkhead=None, breaker=None, deadline="1s")
        policy.reconfigure(bulkhead=Bulkhead(2, queue=0))  # places of its own
        assert policy.plan.places is not old.places
        assert (old.places.in_use, policy.plan.places.in_use) == (1, 0)
        second = [asyncio.create_task(waits(0.5)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await waits(0)
        assert await first == "done"  # by its deadline of 10 s
        assert await asyncio.gather(*second) == ["done", "done"]
        assert (old.places.in_use, policy.plan.places.in_use) == (0, 0)
        assert old.circuit.counters()["successes"] == 1

    clock.run(main())


def test_a_call_in_its_pause_goes_on_by_its_old_retry(make, clock):
    policy = make(retry=Retry(3, idempotent=True, base="1s", jitter="none"))
    tries = []

    @policy
    async def fails():
        tries.append(clock.monotonic())
        raise OSError("down")

    async def main():
        task = asyncio.create_task(fails())
        await asyncio.sleep(0.5)
        policy.reconfigure(retry=None, deadline="1m")
        with pytest.raises(OSError, match="down"):
            await task
        assert len(tries) == 3
        with pytest.raises(OSError, match="down"):
            await fails()
        assert len(tries) == 4

    clock.run(main())


def test_options_that_make_no_sense_change_nothing(make):
    policy = make(deadline="2s", bulkhead=Bulkhead(5))

    @policy
    def plain():
        return 1

    before, options = policy.plan, policy.options
    for changes, sentence in (
        ({"timeout": "3s"}, "less than the deadline"),
        ({"timeout": "1s"}, "plain one"),
        ({"hedge": Hedge("1s"), "idempotent": True}, "plain one"),
        ({"deadine": "1s"}, "unknown option 'deadine'"),
        ({"breaker": Breaker(permits=9)}, "permits"),
        ({"deadline": None, "bulkhead": None}, "would do nothing"),
    ):
        with pytest.raises(MisuseError, match=sentence):
            policy.reconfigure(**changes)
    assert (policy.plan, policy.options) == (before, options)
    assert plain() == 1


def test_the_same_options_again_change_nothing_and_say_nothing(make):
    hub = Hub()
    seen = []
    hub.subscribe(PolicyReconfigured, seen.append)
    policy = make(deadline="2s", hub=hub)
    plan = policy.plan
    policy.reconfigure(deadline=2.0)
    assert policy.plan is plan
    policy.reconfigure(deadline=3, timeout=1)
    assert seen == [PolicyReconfigured("p", ("deadline", "timeout"))]


def test_plans_that_were_replaced_a_minute_ago_are_let_go(make, monkeypatch):
    monkeypatch.setattr("tenfold.resilience.policy._KEPT", -1.0)
    policy = make(deadline="2s")

    @policy
    def plain():
        return 1

    for n in range(100):
        policy.reconfigure(deadline=n + 1)
        assert plain() == 1
    assert len([name for name in plain.__globals__ if name.startswith("PLAN_")]) <= 2


def test_wrappers_that_are_gone_are_forgotten(make):
    policy = make(deadline="2s")

    def decorate():
        policy(lambda: 1)

    for _ in range(50):
        decorate()
    import gc

    gc.collect()
    assert len(policy._wrappers) == 0


def test_threads_call_while_it_is_reloaded():
    """Each call runs the old code with the old plan or the new with the new; never a mixture that lacks a part."""
    policy = Policy("p", deadline="10s", registry=None)
    errors, calls = [], []
    stop = threading.Event()

    @policy
    def plain(x):
        return x

    def caller():
        count = 0
        try:
            while not stop.is_set():
                assert plain(count) == count
                count += 1
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)
        calls.append(count)

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    shapes = [
        {"bulkhead": Bulkhead(10), "breaker": None},
        {"bulkhead": None, "breaker": Breaker()},
        {"retry": Retry(2), "breaker": None},
        {"retry": None, "fallback": Fallback(0)},
        {"fallback": None},
    ]
    for n in range(200):
        policy.reconfigure(**shapes[n % len(shapes)])
    stop.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert policy.counters.calls == sum(calls) > 200
    assert policy.counters.successes == sum(calls)
