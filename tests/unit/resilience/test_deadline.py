"""Deadlines: inherited, shortened, stopped at, carried into threads and over the wire."""

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.deadline import (
    Deadline,
    carry,
    deadline,
    from_remaining_ms,
    remaining,
    to_remaining_ms,
    to_thread,
)
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort
from tenfold.resilience.scope import NO_SCOPE, SCOPE
from tenfold.resilience.wheel import TICK
from tenfold.testing import FakeClock


@pytest.fixture
def clock():
    with FakeClock(start=1000.0) as clock:
        yield clock


def test_children_take_the_minimum(clock):
    with Deadline("10s", clock=clock):
        assert deadline() == 1010
        with Deadline("2s", clock=clock):
            assert deadline() == 1002
        with Deadline("1m", clock=clock):
            assert deadline() == 1010
        clock.jump("4s")
        assert remaining(clock) == 6
        clock.jump("1h")
        assert remaining(clock) == 0
    assert deadline() is remaining(clock) is None
    assert SCOPE.get() == NO_SCOPE


def test_who_retries_is_not_its_business(clock):
    token = SCOPE.set((math.inf, True))
    try:
        with Deadline("10s", clock=clock):
            assert SCOPE.get() == (1010, True)
    finally:
        SCOPE.reset(token)


def test_an_asynchronous_block_is_stopped_never_early_and_hardly_late(clock):
    async def main():
        began = clock.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"deadline of 2\.00 s"):
            async with Deadline("2s", clock=clock):
                await asyncio.sleep(100)
        took = clock.monotonic() - began
        await asyncio.sleep(10)
        assert asyncio.current_task().cancelling() == 0
        return took

    assert 2 <= clock.run(main()) <= 2 + TICK


def test_one_object_serves_many_tasks_at_once_and_again(clock):
    limit = Deadline("1s", clock=clock)

    async def one(seconds):
        async with limit, limit:
            await asyncio.sleep(seconds)
        return seconds

    async def main():
        for _ in range(2):
            found = await asyncio.gather(*(one(n / 10) for n in range(20)), return_exceptions=True)
            assert found[:10] == [n / 10 for n in range(10)]
            assert {type(error) for error in found[11:]} == {DeadlineExceeded}

    clock.run(main())


def test_who_is_cancelled_is_cancelled(clock):
    async def body():
        async with Deadline("5s", clock=clock):
            await asyncio.sleep(100)

    async def main():
        task = asyncio.create_task(body())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())


def test_what_the_block_raises_passes(clock):
    async def main():
        with pytest.raises(KeyError):
            async with Deadline("5s", clock=clock):
                raise KeyError
        with pytest.raises(KeyError), Deadline("5s", clock=clock):
            raise KeyError
        assert SCOPE.get() == NO_SCOPE

    clock.run(main())


def test_a_block_is_not_begun_after_the_inherited_deadline(clock):
    async def begin():
        async with Deadline("10s", clock=clock):
            raise AssertionError("begun")

    with Deadline("1s", clock=clock):
        clock.jump("1s")
        with pytest.raises(DeadlineTooShort), Deadline("10s", clock=clock):
            raise AssertionError("begun")
        with pytest.raises(DeadlineTooShort):
            clock.run(begin())


def test_blocks_end_in_the_order_in_which_they_began(clock):
    first, second = Deadline("1s", clock=clock), Deadline("2s", clock=clock)
    with first, pytest.raises(MisuseError, match="in the order"):
        second.__exit__(None, None, None)


def test_tasks_inherit_it_and_threads_by_carry(clock):
    async def child():
        return deadline()

    def thread():
        return deadline()

    async def main():
        async with Deadline("7s", clock=clock):
            assert await asyncio.create_task(child()) == 1007
            carried = carry(thread)
            with ThreadPoolExecutor(4) as pool:
                assert pool.submit(thread).result() is None
                assert {future.result() for future in [pool.submit(carried) for _ in range(20)]} == {1007}

    clock.run(main())


def test_carried_functions_run_at_once_and_keep_their_arguments():
    barrier = threading.Barrier(3, timeout=10)

    def work(a, *, b):
        barrier.wait()  # all three are inside at the same time: one context could not be entered so
        return a + b, remaining() is not None

    with Deadline("1m"):
        carried = carry(work)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(carried, n, b=1) for n in range(3)]
        assert [future.result(10) for future in found] == [(1, True), (2, True), (3, True)]


async def test_a_thread_is_not_started_after_the_deadline():
    begun = []
    token = SCOPE.set((0.0, False))
    try:
        with pytest.raises(DeadlineTooShort):
            await to_thread(begun.append, 1)
    finally:
        SCOPE.reset(token)
    assert begun == []
    async with Deadline("1m"):
        assert await to_thread(deadline) == deadline()


def test_over_the_wire_goes_what_remains(clock):
    assert to_remaining_ms(clock) is None
    with Deadline("2s", clock=clock):
        clock.jump(0.4996)
        sent = to_remaining_ms(clock)
        assert sent == 1500
        clock.jump("1h")
        assert to_remaining_ms(clock) == 0
    # Another process, another clock.
    with FakeClock(start=5.0) as other, from_remaining_ms(str(sent), clock=other):
        assert deadline() == 6.5


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "1e3", "٣", "99999999999", -1, True, b"\xff"])
def test_nonsense_on_the_wire_is_no_deadline(text):
    assert from_remaining_ms(text) is None


@pytest.mark.parametrize(("text", "seconds"), [("250", 0.25), (b" 250 ", 0.25), (250, 0.25), ("0", 1e-6)])
def test_what_is_understood_on_the_wire(text, seconds):
    assert from_remaining_ms(text).seconds == seconds


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MisuseError, match="above 0"):
        Deadline(0)
    with pytest.raises(MisuseError, match="expected a duration"):
        Deadline("soon")
    assert repr(Deadline("2s")) == "Deadline('2.00 s')"
