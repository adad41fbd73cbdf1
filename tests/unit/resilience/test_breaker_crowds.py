"""Many at once: threads, tasks, two event loops. One test for each thing that other breakers get wrong there."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.breaker import Breaker, BreakerChanged, State
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.circuits import Circuits
from tenfold.resilience.errors import BreakerOpen

CALLERS = 100


def half_open(permits: int, hub: Hub | None = None, **options) -> Circuit:
    """A circuit whose open time is over at 5.0."""
    plain = {"consecutive": 1, "jitter": 0, "ramp": 0, **options}
    circuit = Circuit("payments", Breaker(permits=permits, **plain), hub=hub or Hub())
    circuit.failure(circuit.admit(0.0), 0.0, 0.01)
    assert circuit.current is State.OPEN
    return circuit


@pytest.fixture
def hasty() -> Iterator[None]:
    """New threads give way at one line in four of this package, wherever it is: without the lock they would collide
    every time, instead of once a month.
    """
    rng = random.Random(3)

    def line(frame: FrameType, what: str, _: object) -> Any:
        if rng.random() < 0.25:
            time.sleep(0)  # does not wait: lets go of the interpreter
        return line

    def call(frame: FrameType, what: str, _: object) -> Any:
        return line if "resilience" in frame.f_globals["__name__"].split(".") else None

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(call)
    try:
        yield
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
        sys.setswitchinterval(before)


def run_threads(count: int, work: Callable[[int], None]) -> None:
    """Start them at one moment, wait for all, raise what one of them raised."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            barrier.wait(30)
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=body, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


# -- "half-open lets 100 of 100 callers through" ------------------------------------------------------------------


@pytest.mark.parametrize("permits", [1, 3, 10])
def test_of_a_hundred_threads_exactly_the_permits_pass(hasty, permits):
    for _ in range(5):
        circuit = half_open(permits)
        outcomes: list[str] = []

        def one(_: int, circuit: Circuit = circuit, outcomes: list[str] = outcomes) -> None:
            try:
                circuit.admit(5.0)
            except BreakerOpen:
                outcomes.append("refused")
            else:
                outcomes.append("passed")

        run_threads(CALLERS, one)
        assert Counter(outcomes) == {"passed": permits, "refused": CALLERS - permits}
        assert (circuit.probes, circuit.rejected) == (permits, CALLERS - permits)


@pytest.mark.parametrize("permits", [1, 3, 10])
async def test_of_a_hundred_tasks_exactly_the_permits_pass(permits):
    circuit = half_open(permits)
    answer = asyncio.Event()
    inside = 0

    async def one() -> str:
        nonlocal inside
        try:
            ticket = circuit.ticket or circuit.admit(5.0)
        except BreakerOpen:
            return "refused"
        inside += 1
        await answer.wait()
        circuit.success(ticket, 6.0, 1.0)
        return "passed"

    tasks = [asyncio.create_task(one()) for _ in range(CALLERS)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert inside == permits
    answer.set()
    assert Counter(await asyncio.gather(*tasks)) == {"passed": permits, "refused": CALLERS - permits}
    assert circuit.current is State.CLOSED


# -- "a caller's cancellation counts as a failure" ----------------------------------------------------------------


async def guarded(circuit: Circuit, now: float, work) -> None:
    """What a policy does around a call."""
    ticket = circuit.ticket or circuit.admit(now)
    settle = circuit.neutral
    try:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            settle = None
            circuit.failure(ticket, now, 0.01)
            raise
        else:
            settle = None
            circuit.success(ticket, now, 0.01)
    finally:
        if settle is not None:
            settle(ticket, now)


async def test_a_thousand_cancelled_callers_do_not_open_it():
    circuit = Circuit("payments", Breaker(consecutive=1), hub=Hub())
    for _ in range(1000):
        task = asyncio.create_task(guarded(circuit, 1.0, asyncio.Event().wait()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert circuit.current is State.CLOSED
    assert (circuit.neutrals, circuit.failures) == (1000, 0)


async def test_a_cancelled_probe_gives_its_permit_back():
    circuit = half_open(1)
    for _ in range(20):
        task = asyncio.create_task(guarded(circuit, 5.0, asyncio.Event().wait()))
        await asyncio.sleep(0)
        with pytest.raises(BreakerOpen):
            circuit.admit(5.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await guarded(circuit, 5.0, asyncio.sleep(0))
    assert circuit.current is State.CLOSED


async def test_our_own_time_out_is_a_failure():
    circuit = Circuit("payments", Breaker(consecutive=2), hub=Hub())

    async def too_long() -> None:
        raise TimeoutError

    for _ in range(2):
        with pytest.raises(TimeoutError):
            await guarded(circuit, 1.0, too_long())
    assert circuit.current is State.OPEN


# -- "the lock is held while the function runs" -------------------------------------------------------------------


def test_nothing_is_locked_while_a_call_runs():
    circuit = Circuit("payments", Breaker(), hub=Hub())
    started, release = threading.Event(), threading.Event()

    def slow_call() -> None:
        ticket = circuit.ticket or circuit.admit(1.0)
        started.set()
        assert release.wait(30)
        circuit.success(ticket, 2.0, 1.0)

    thread = threading.Thread(target=slow_call, daemon=True)
    thread.start()
    assert started.wait(30)
    assert not circuit._lock.locked()
    for _ in range(100):
        circuit.success(circuit.ticket, 1.5, 0.01)
    assert circuit.successes == 100
    release.set()
    thread.join(30)
    assert circuit.successes == 101


def test_nothing_is_locked_while_a_handler_runs():
    hub = Hub()
    seen: list[tuple[str, bool]] = []
    circuit: Circuit

    def look(change: BreakerChanged) -> None:
        seen.append((change.after, circuit._lock.locked()))

    hub.subscribe(BreakerChanged, look)
    circuit = Circuit("payments", Breaker(consecutive=1, jitter=0, ramp="1s", permits=1), hub=hub)
    circuit.failure(circuit.ticket, 0.0, 0.01)
    circuit.success(circuit.admit(5.0), 5.0, 0.01)
    circuit.admit(6.0)
    circuit.force_open()
    circuit.disable()
    circuit.metrics_only()
    circuit.reset()
    assert [after for after, _ in seen] == [
        "open",
        "half_open",
        "ramp",
        "closed",
        "forced_open",
        "disabled",
        "closed",
        "closed",
    ]
    assert not any(locked for _, locked in seen)


# -- "wall clock instead of monotonic" ----------------------------------------------------------------------------


def test_no_clock_is_read_at_all(monkeypatch):
    def forbidden() -> float:
        raise AssertionError("a clock was read")

    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, forbidden)
    circuit = half_open(1)
    with pytest.raises(BreakerOpen):
        circuit.admit(4.9)
    circuit.success(circuit.admit(5.0), 5.0, 0.01)
    current = circuit.current
    circuit.state()
    monkeypatch.undo()
    assert current is State.CLOSED


# -- counters and states under threads ----------------------------------------------------------------------------


def test_no_count_is_lost_between_threads(hasty):
    circuit = Circuit("payments", Breaker(ratio=1.0, consecutive="off", window="1s", slow_call="1s"), hub=Hub())
    rounds, threads = 400, 4

    def work(number: int) -> None:
        rng = random.Random(number)
        for n in range(rounds):
            ticket = circuit.ticket or circuit.admit(n / 100)
            kind = n % 4
            if kind == 0:
                circuit.failure(ticket, n / 100, 0.01)
            elif kind == 1:
                circuit.neutral(ticket, n / 100)
            else:
                # Some are late, so that buckets turn in the middle of it; slow ones take the long way.
                circuit.success(ticket, n / 100 - rng.random(), 2.0 if n % 8 == 2 else 0.01)

    run_threads(threads, work)
    assert circuit.current is State.CLOSED, circuit.reason
    counters = circuit.counters()
    assert counters["successes"] == rounds * threads // 2
    assert counters["failures"] == rounds * threads // 4
    assert counters["neutral"] == rounds * threads // 4
    assert counters["slow"] == rounds * threads // 8
    assert counters["stale"] == 0


def test_under_a_storm_permits_are_never_exceeded_and_never_lost(hasty):
    permits = 3
    circuit = Circuit(
        "payments", Breaker(consecutive=2, permits=permits, ramp=0, open="1ms", open_max="2ms"), hub=Hub()
    )
    clock = iter(range(10**9))
    tally: Counter[str] = Counter()
    guard = threading.Lock()

    def work(number: int) -> None:
        rng = random.Random(number)
        mine: Counter[str] = Counter()
        for _ in range(300):
            now = next(clock) / 1e4
            try:
                ticket = circuit.ticket or circuit.admit(now)
            except BreakerOpen:
                mine["rejected"] += 1
                continue
            assert len(circuit._out) <= permits
            mine["admitted"] += 1
            kind = rng.random()
            if kind < 0.4:
                circuit.failure(ticket, now, 0.01)
            elif kind < 0.6:
                circuit.neutral(ticket, now)
            else:
                circuit.success(ticket, now, 0.01)
        with guard:
            tally.update(mine)

    run_threads(4, work)
    counters = circuit.counters()
    assert counters["rejected"] == tally["rejected"] > 0
    settled = sum(counters[name] for name in ("successes", "failures", "neutral", "stale"))
    assert settled == tally["admitted"]
    assert counters["opened"] > 10
    assert circuit._out == {}


def test_two_event_loops_share_one_circuit(hasty):
    permits = 4
    circuit = half_open(permits)
    outcomes: Counter[str] = Counter()
    meet = threading.Barrier(2)
    tried = threading.Barrier(2)

    async def one(answer: asyncio.Event) -> str:
        try:
            ticket = circuit.ticket or circuit.admit(5.0)
        except BreakerOpen:
            return "refused"
        await answer.wait()
        circuit.success(ticket, 6.0, 1.0)
        return "passed"

    async def main() -> Counter[str]:
        answer = asyncio.Event()
        tasks = [asyncio.create_task(one(answer)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(tried.wait, 30)  # both loops have tried before one probe is answered
        answer.set()
        return Counter(await asyncio.gather(*tasks))

    found: list[Counter[str]] = []

    def work(_: int) -> None:
        meet.wait(30)
        found.append(asyncio.run(main()))

    run_threads(2, work)
    outcomes = found[0] + found[1]
    assert outcomes == {"passed": permits, "refused": 100 - permits}
    assert circuit.current is State.CLOSED


def test_threads_that_meet_at_a_new_key_share_its_circuit(hasty):
    circuits = Circuits("payments", Breaker(), hub=Hub())
    found: list[Circuit] = []
    run_threads(16, lambda _: found.extend(circuits.of(key) for key in range(20)))
    assert len(set(map(id, found))) == 20
    assert len(circuits) == 20
