"""One live part, several threads and event loops: no count is lost, and no race is run on another's loop."""

import asyncio
import sys
import threading

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.chaos import Chaos, Injector
from tenfold.resilience.fallback import Fallback, Stopgap
from tenfold.resilience.hedge import Hedge, Hedger

THREADS = 6


@pytest.fixture(autouse=True)
def switching():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work):
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as exc:  # noqa: BLE001 - shown by the test
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_a_hedger_of_several_loops():
    hedger = Hedger(Hedge(0, max_hedges=1), policy="p", hub=Hub())
    started = [0] * THREADS

    def work(number):
        async def attempt():
            loop = asyncio.get_running_loop()
            started[number] += 1
            mine = started[number]
            await asyncio.sleep(0.001 if mine % 2 else 0)
            assert asyncio.get_running_loop() is loop
            return number

        async def main():
            for _ in range(60):
                assert await hedger.run(attempt) == number

        asyncio.run(main())

    in_threads(work)
    state = hedger.state()
    assert state["calls"] == THREADS * 60
    # A hedge that is cancelled before its first step was sent and never made.
    assert state["calls"] <= sum(started) <= state["calls"] + state["hedges"]
    assert state["samples"] == state["calls"]


def test_an_injector_counts_and_shares_as_told():
    injector = Injector(Chaos(fault="50%", for_="1h", enabled=True, seed=1), policy="p", hub=Hub(), environment={})
    hits = [0] * THREADS
    now = injector._clock.monotonic()

    def work(number):
        for _ in range(2000):
            hits[number] += injector.plan(now, (), {}) is not None

    in_threads(work)
    assert injector.seen == THREADS * 2000
    assert injector.faults == sum(hits)
    assert injector.faults / injector.seen == pytest.approx(0.5, abs=0.03)


def test_a_stopgap_counts_every_use():
    stopgap = Stopgap(Fallback("pending"), policy="p", hub=Hub())

    def work(number):
        for _ in range(3000):
            stopgap.answer(OSError(), (), {})

    in_threads(work)
    assert stopgap.used == THREADS * 3000
