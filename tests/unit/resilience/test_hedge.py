"""Racing slow calls: who wins, what is raised, what is left behind."""

import asyncio
import gc
import json
import math
import random
import weakref

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.hedge import Hedge, Hedged, Hedger, Latencies
from tenfold.testing import FakeClock


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


class Purse:
    def __init__(self, tokens=math.inf, *, confirms=True):
        self.tokens = tokens
        self.confirms = confirms
        self.reserved = []

    def reserve(self, now):
        if self.tokens < 1:
            return None
        self.tokens -= 1
        self.reserved.append(now)
        return object()

    def confirm(self, reservation, now):
        return self.confirms


class Script:
    """Attempts that take so long and end so, in the order they are started."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.started = 0
        self.ended = []

    async def __call__(self):
        number = self.started
        self.started += 1
        seconds, result = self.steps[number]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append((number, "cancelled"))
            raise
        self.ended.append((number, "done"))
        if isinstance(result, BaseException):
            raise result
        return result


def run(clock, main):
    """Run ``main()`` and see that nothing is left: no task, no exception that nobody has looked at."""
    complaints = []

    async def watched():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        try:
            return await main()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert left == set()

    try:
        return clock.run(watched())
    finally:
        gc.collect()
        assert complaints == []


def hedger(clock, *args, budget=None, **kwargs):
    return Hedger(Hedge(*args, **kwargs), budget, policy="p", clock=clock, hub=Hub())


def test_a_fast_call_is_not_hedged(clock):
    script, live = Script((0.1, "first")), hedger(clock, "200ms")
    assert run(clock, lambda: live.run(script)) == "first"
    assert (script.started, live.calls, live.hedges, live.won) == (1, 1, 0, 0)


def test_the_hedge_of_a_slow_call_wins_and_the_loser_has_ended_when_the_answer_is_there(clock):
    script, live = Script((10, "first"), (0.1, "second")), hedger(clock, "200ms")

    async def main():
        value = await live.run(script)
        return value, clock.monotonic(), list(script.ended)

    value, now, ended = run(clock, main)
    assert value == "second"
    assert now == pytest.approx(0.3)
    assert sorted(ended) == [(0, "cancelled"), (1, "done")]
    assert (live.hedges, live.won, live.denied) == (1, 1, 0)


def test_the_first_may_still_win(clock):
    script, live = Script((0.25, "first"), (10, "second")), hedger(clock, "200ms")
    assert run(clock, lambda: live.run(script)) == "first"
    assert script.ended == [(0, "done"), (1, "cancelled")]
    assert (live.hedges, live.won) == (1, 0)


def test_of_two_that_end_in_the_same_moment_the_one_started_first_is_taken(clock):
    script, live = Script((0.3, "first"), (0.1, "second")), hedger(clock, "200ms")
    assert run(clock, lambda: live.run(script)) == "first"


def test_an_error_waits_for_the_attempt_that_still_runs(clock):
    script, live = Script((0.3, OSError("first")), (0.5, "second")), hedger(clock, "200ms")
    assert run(clock, lambda: live.run(script)) == "second"
    assert clock.monotonic() == pytest.approx(0.7)


def test_an_error_before_the_delay_is_raised_at_once_and_not_hedged(clock):
    script, live = Script((0.1, OSError("first"))), hedger(clock, "200ms")
    with pytest.raises(OSError, match="first"):
        run(clock, lambda: live.run(script))
    assert (script.started, live.hedges) == (1, 0)
    assert clock.monotonic() == pytest.approx(0.1)


def test_when_all_fail_the_error_of_the_first_is_raised_with_notes(clock):
    script = Script((1, OSError("first")), (0.1, ValueError("second")), (0.1, KeyError("third")))
    live = hedger(clock, "200ms", max_hedges=2)
    with pytest.raises(OSError, match="first") as caught:
        run(clock, lambda: live.run(script))
    assert caught.value.__notes__ == [
        "hedge 1 failed as well: ValueError: second",
        "hedge 2 failed as well: KeyError: 'third'",
    ]


def test_one_exception_raised_by_all_collects_no_notes(clock):
    error = OSError("down")
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            run(clock, lambda: hedger(clock, "200ms").run(Script((1, error), (0.1, error))))
    assert getattr(error, "__notes__", []) == []


def test_an_attempt_cancelled_from_within_is_a_failure_like_any_other(clock):
    script, live = Script((0.3, asyncio.CancelledError()), (0.5, "second")), hedger(clock, "200ms")
    assert run(clock, lambda: live.run(script)) == "second"


def test_an_exit_is_not_waited_upon(clock):
    class Exit(BaseException):
        pass

    script, live = Script((0.3, Exit()), (50, "second")), hedger(clock, "200ms")
    with pytest.raises(Exit):
        run(clock, lambda: live.run(script))
    assert clock.monotonic() == pytest.approx(0.3)
    assert script.ended[-1] == (1, "cancelled")


def test_no_more_than_max_hedges_each_a_delay_apart(clock):
    starts = []

    async def attempt():
        starts.append(clock.monotonic())
        await asyncio.sleep(1 if len(starts) == 3 else 100)
        return len(starts)

    live = hedger(clock, "200ms", max_hedges=2)
    assert run(clock, lambda: live.run(attempt)) == 3
    assert starts == pytest.approx([0, 0.2, 0.4])
    assert (live.hedges, live.won) == (2, 1)


@pytest.mark.parametrize("budget", [Purse(0), Purse(confirms=False)])
def test_a_hedge_that_the_budget_does_not_pay_is_not_sent(clock, budget):
    script, live = Script((10, "first")), hedger(clock, "200ms", budget=budget, max_hedges=3)
    assert run(clock, lambda: live.run(script)) == "first"
    assert (live.hedges, live.denied) == (0, 1)  # asked once, not once for each hedge


def test_each_hedge_is_charged_when_it_is_sent(clock):
    purse = Purse(5)
    live = hedger(clock, "200ms", budget=purse, max_hedges=2)
    run(clock, lambda: live.run(Script((10, 1), (10, 2), (1, 3))))
    assert purse.reserved == pytest.approx([0.2, 0.4])
    assert purse.tokens == 3


@pytest.mark.parametrize("after", [0.1, 0.25, 0.35], ids=["before the hedge", "with one hedge", "with two"])
def test_the_callers_cancellation_cancels_all_and_waits_for_them(clock, after):
    script, live = Script((10, 1), (10, 2), (10, 3)), hedger(clock, "150ms", max_hedges=2)

    async def main():
        task = asyncio.ensure_future(live.run(script))
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sorted(script.ended)

    ended = run(clock, main)
    assert ended == [(number, "cancelled") for number in range(script.started)]
    assert script.started == 1 + int(after / 0.15)


def test_a_caller_cancelled_while_the_loser_cleans_up_is_cancelled_and_the_loser_still_ends(clock):
    cleaned = []

    async def attempt():
        if live.hedges:
            return "second"
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append(clock.monotonic())

    live = hedger(clock, "200ms")

    async def main():
        task = asyncio.ensure_future(live.run(attempt))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(clock, main)
    assert cleaned == [pytest.approx(0.7)]
    assert live.stuck == 0


def test_a_loser_that_ignores_its_cancellation_withholds_the_answer_for_a_second_at_most_and_stays_held(clock):
    release = asyncio.Event()

    async def attempt():
        if live.hedges:
            return "second"
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise OSError("nobody looks at this one")

    live = hedger(clock, "200ms")

    async def main():
        value = await live.run(attempt)
        took = clock.monotonic()
        assert live.stuck == 1
        gc.collect()
        release.set()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        return value, took

    value, took = run(clock, main)
    assert value == "second"
    assert took == pytest.approx(1.2)
    assert live._stuck == set()


def test_a_loser_that_fails_on_its_way_out_disturbs_nobody(clock):
    async def attempt():
        if live.hedges:
            return "second"
        try:
            await asyncio.sleep(10)
        finally:
            raise OSError("the connection could not be closed")

    live = hedger(clock, "200ms")
    assert run(clock, lambda: live.run(attempt)) == "second"


def test_a_failing_race_leaves_no_cycle_of_references(clock):
    made = weakref.WeakSet()

    class Boom(Exception):
        pass

    async def attempt():
        await asyncio.sleep(1 - len(made) / 2)
        error = Boom(len(made))
        made.add(error)
        try:
            raise error
        finally:
            del error

    async def main():
        gc.collect()
        gc.disable()
        try:
            try:
                await hedger(clock, "200ms").run(attempt)
            except Boom:
                assert len(made) == 2
            return len(made)
        finally:
            gc.enable()

    assert run(clock, main) == 0


# The delay


def test_nothing_is_hedged_before_enough_has_been_seen(clock):
    live = hedger(clock, min_samples=10)
    for number in range(10):
        assert live.delay(0.0) is None
        live.observe(0.0, 0.1 + number / 1000)
    assert live.delay(0.0) == pytest.approx(0.109, rel=0.01)


def test_samples_come_from_the_calls_themselves(clock):
    live = hedger(clock, min_samples=10)
    for _ in range(10):
        assert run(clock, lambda: live.run(Script((0.1, "first")))) == "first"
    assert live.delay(clock.monotonic()) == pytest.approx(0.1, rel=0.01)
    script = Script((10, "first"), (0.05, "second"))
    assert run(clock, lambda: live.run(script)) == "second"
    assert script.started == 2


def test_the_delay_is_the_quantile_asked_for_within_its_bounds(clock):
    live = hedger(clock, quantile="90%", min_samples=1, min_delay="20ms", max_delay="50ms")
    for number in range(1, 101):
        live.observe(0.0, number / 1000)
    assert live.delay(0.0) == 0.05
    live.reconfigure(Hedge(quantile="90%", min_samples=1))
    assert live.delay(0.0) == pytest.approx(0.09, rel=0.01)
    live.reconfigure(Hedge(quantile="90%", min_samples=1, min_delay="1s"))
    assert live.delay(0.0) == 1.0


def test_old_samples_are_forgotten(clock):
    live = hedger(clock, min_samples=5, window="10s")
    for _ in range(10):
        live.observe(0.0, 5.0)
    assert live.delay(6.0) == pytest.approx(5.0, rel=0.01)  # in the older half
    for _ in range(10):
        live.observe(6.0, 0.1)
    live.delay(11.0)
    assert live.delay(11.0) == pytest.approx(0.1, rel=0.01)
    assert live.delay(40.0) is None
    live.observe(40.0, 0.1)
    for _ in range(10):
        live.observe(40.0, 5.0)
    assert live.delay(50.0) is None  # nothing came for a whole window, so not even the newer half is left


def test_failures_are_no_samples(clock):
    live = hedger(clock, min_samples=1)
    with pytest.raises(OSError, match="x"):
        run(clock, lambda: live.run(Script((0.1, OSError("x")))))
    assert live.delay(clock.monotonic()) is None


def test_a_first_attempt_that_lost_counts_with_the_time_it_had_run(clock):
    live = hedger(clock, "200ms")
    run(clock, lambda: live.run(Script((10, "first"), (0.1, "second"))))
    assert live.state()["samples"] == 1
    assert live._latencies.value(clock.monotonic()) == pytest.approx(0.3, rel=0.01)


def test_hedging_does_not_talk_itself_into_hedging_more():
    """The share of hedged calls stays near 1 − quantile for ever, although slow first attempts are never seen to
    their end. Counting only winners, it would grow towards all.
    """
    rng = random.Random(7)
    seen = Latencies(window=60.0, quantile=0.95)
    hedged = []
    for call in range(20_000):
        now = call / 100
        first, second = rng.lognormvariate(-3, 1), rng.lognormvariate(-3, 1)
        delay = seen.value(now) if seen.count(now) >= 100 else math.inf
        hedged.append(first > delay)
        seen.record(now, min(first, delay + second))
    assert sum(hedged[-5000:]) / 5000 == pytest.approx(0.05, abs=0.02)


# What people see


def test_state_is_ready_for_json_and_repr_tells_it(clock):
    live = hedger(clock, "200ms")
    run(clock, lambda: live.run(Script((10, "first"), (0.1, "second"))))
    state = json.loads(json.dumps(live.state()))
    assert state == {"calls": 1, "hedges": 1, "won": 1, "denied": 0, "stuck": 0, "samples": 1, "delay": 0.2}
    assert repr(live) == "<Hedger 'p' after 200 ms hedges=1/1 won=1 denied=0>"
    assert repr(hedger(clock)) == "<Hedger 'p' waiting for samples hedges=0/0 won=0 denied=0>"


def test_a_hedge_is_an_event(clock):
    hub, seen = Hub(), []
    with hub.subscribe(Hedged, seen.append):
        live = Hedger(Hedge("200ms"), policy="p", clock=clock, hub=hub)
        run(clock, lambda: live.run(Script((10, "first"), (0.1, "second"))))
    assert seen == [Hedged("p", 0.2, 1)]


def test_reconfigured_it_keeps_what_it_knows(clock):
    live = hedger(clock, "200ms")
    run(clock, lambda: live.run(Script((10, "first"), (0.1, "second"))))
    live.reconfigure(Hedge("1s", max_hedges=2))
    assert (live.hedges, live.won, live.delay(0.0)) == (1, 1, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": "soon"}, "delay: expected a duration"),
        ({"delay": -1}, "delay: expected a finite number that is not negative"),
        ({"quantile": "30%"}, "quantile: expected 0.5 or more"),
        ({"quantile": 1}, "quantile: expected 0.5 or more and less than 1"),
        ({"quantile": 95}, "quantile: expected a share between 0 and 1"),
        ({"max_hedges": 0}, "max_hedges: expected a whole number of 1 or more"),
        ({"max_hedges": 6}, "max_hedges: expected 1 … 5"),
        ({"min_samples": 0.5}, "min_samples: expected a whole number"),
        ({"min_delay": "2s", "max_delay": "1s"}, "min_delay: expected max_delay"),
        ({"window": 0}, "window: expected a duration longer than zero"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(options, message):
    with pytest.raises(MisuseError, match=message):
        Hedge(**options)


def test_options_hold_plain_numbers():
    made = Hedge("50ms", quantile="99%", window="2m")
    assert (made.delay, made.quantile, made.window) == (0.05, 0.99, 120.0)
