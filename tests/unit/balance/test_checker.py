import asyncio
import logging
import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.checker import Checker
from tenfold.balance.checks import FunctionCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.testing import FakeClock

A = Endpoint("a", "http://127.0.0.1:1")
B = Endpoint("b", "http://127.0.0.1:2")


@pytest.fixture
def fake_clock():
    with FakeClock() as clock:
        yield clock


def watching(clock, fn, work, **options):
    """Run ``work(checker, verdicts)`` on the fake clock; the verdicts."""
    verdicts = []

    async def main():
        checker = Checker(
            FunctionCheck(fn, **{"jitter": 0, **options}),
            lambda id, verdict, now: verdicts.append((id, verdict.ok, round(now, 3))),
            clock=clock,
            random=lambda: 0.5,
        )
        try:
            await work(checker, verdicts)
        finally:
            await checker.aclose()
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("check ")] == []

    clock.run(main())
    return verdicts


async def yes(endpoint):
    return True


def test_asks_every_interval(fake_clock):
    async def work(checker, verdicts):
        checker.watch(A)
        await asyncio.sleep(7.5)

    assert watching(fake_clock, yes, work, interval="2s") == [("a", True, t) for t in (1, 3, 5, 7)]


def test_many_endpoints_are_not_asked_all_at_once(fake_clock):
    draw = random.Random(7).random

    async def main():
        asked = []
        check = FunctionCheck(yes, interval="2s")
        checker = Checker(check, lambda id, verdict, now: asked.append(now), clock=fake_clock, random=draw)
        for number in range(400):
            checker.watch(Endpoint(f"e{number}", "http://127.0.0.1:1"))
        await asyncio.sleep(20)
        await checker.aclose()
        return asked

    asked = fake_clock.run(main())
    tenths = [sum(1 for at in asked if tenth <= at * 10 < tenth + 1) for tenth in range(200)]
    assert len(asked) == pytest.approx(400 * 10, rel=0.05)
    assert max(tenths) <= 3 * 400 / 20  # an even spread would be 20 in each tenth of a second


def test_the_time_that_an_answer_takes_is_part_of_the_interval(fake_clock):
    async def slow(endpoint):
        await asyncio.sleep(0.8)
        return True

    async def work(checker, verdicts):
        checker.watch(A)
        await asyncio.sleep(7.5)

    assert watching(fake_clock, slow, work, interval="2s") == [("a", True, t) for t in (1.8, 3.8, 5.8)]


def test_backs_off_from_a_dead_endpoint_and_comes_back_at_its_first_yes(fake_clock):
    async def dead_until_50(endpoint):
        return fake_clock.monotonic() >= 50

    async def work(checker, verdicts):
        checker.watch(A)
        await asyncio.sleep(85)

    verdicts = watching(fake_clock, dead_until_50, work, interval="2s", fall=2, backoff="30s")
    assert [at for _, ok, at in verdicts if not ok] == [1, 3, 7, 15, 31]
    assert [at for _, ok, at in verdicts if ok][:4] == [61, 63, 65, 67]


def test_no_answer_in_time_is_a_no_and_holds_up_nobody(fake_clock):
    async def hangs_at_a(endpoint):
        if endpoint is A:
            await asyncio.Event().wait()
        return True

    async def work(checker, verdicts):
        checker.watch(A)
        checker.watch(B)
        await asyncio.sleep(4)

    verdicts = watching(fake_clock, hangs_at_a, work, interval="2s", timeout="500ms")
    assert verdicts == [("b", True, 1), ("a", False, 1.5), ("b", True, 3), ("a", False, 3.5)]


def test_a_cancelled_check_is_no_failure(fake_clock):
    async def hangs(endpoint):
        await asyncio.Event().wait()

    async def work(checker, verdicts):
        checker.watch(A)
        checker.watch(B)
        await asyncio.sleep(1.2)  # both have been asked and have not answered
        checker.forget("a")
        await asyncio.sleep(0.1)
        await checker.aclose()

    assert watching(fake_clock, hangs, work, interval="2s", timeout="1s") == []


def test_an_endpoint_declared_otherwise_is_asked_where_it_is_now(fake_clock):
    asked = []

    async def remember(endpoint):
        asked.append(endpoint.url)
        return True

    async def work(checker, verdicts):
        checker.watch(A)
        checker.watch(Endpoint("a", "http://127.0.0.1:1"))  # the same again
        await asyncio.sleep(1.5)
        checker.watch(Endpoint("a", "http://127.0.0.1:9"))
        await asyncio.sleep(1.5)
        assert len(checker) == 1

    watching(fake_clock, remember, work, interval="2s")
    assert asked == ["http://127.0.0.1:1", "http://127.0.0.1:9"]


def test_a_receiver_that_raises_stops_nothing(fake_clock, caplog):
    calls = []

    def receive(id, verdict, now):
        calls.append(now)
        raise RuntimeError("no")

    async def main():
        checker = Checker(FunctionCheck(yes, interval="2s", jitter=0), receive, clock=fake_clock, random=lambda: 0.5)
        checker.watch(A)
        await asyncio.sleep(4)
        await checker.aclose()
        return checker

    with caplog.at_level(logging.CRITICAL, "tenfold.balance"):
        checker = fake_clock.run(main())
    assert calls == [1, 3]
    assert checker.failures == 2


def test_is_closed_for_good_and_may_be_closed_twice(fake_clock):
    async def work(checker, verdicts):
        checker.watch(A)
        await checker.aclose()
        await checker.aclose()
        with pytest.raises(MisuseError, match="closed"):
            checker.watch(B)
        assert repr(checker) == "<Checker FunctionCheck closed probes=0 failures=0>"

    watching(fake_clock, yes, work)


def test_closing_waits_for_a_check_that_cleans_up(fake_clock):
    cleaned = []

    async def careful(endpoint):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            cleaned.append(endpoint.id)

    async def work(checker, verdicts):
        checker.watch(A)
        await asyncio.sleep(1.1)
        await checker.aclose()
        assert cleaned == ["a"]

    watching(fake_clock, careful, work, interval="2s")
