"""Places: how many at a time, who is next, and that no permit is lost whatever happens to those who wait."""

import asyncio
import math
import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.bulkhead import Bulkhead, Places
from tenfold.resilience.errors import BulkheadFull
from tenfold.testing import FakeClock

FOREVER = math.inf


@pytest.fixture
def clock():
    with FakeClock(start=1000.0) as clock:
        yield clock


def places(size, clock=None, **options):
    return Places(Bulkhead(size, **options), *([clock] if clock else []))


async def taken(live, until=FOREVER):
    try:
        return live.free.pop()
    except IndexError:
        return await live.wait(until)


def test_who_waited_longest_is_next(clock):
    live = places(1, clock, queue=10, wait="1h")
    order = []

    async def one(n):
        permit = await taken(live)
        order.append(n)
        await asyncio.sleep(1)
        live.release(permit)

    async def main():
        await asyncio.gather(*(one(n) for n in range(8)))

    clock.run(main())
    assert order == list(range(8))
    assert (live.in_use, live.waiting, live.waited) == (0, 0, 7)


def test_a_full_queue_turns_away_at_once(clock):
    live = places(1, clock, queue=1)

    async def main():
        permit = await taken(live)
        waiter = asyncio.create_task(taken(live))
        await asyncio.sleep(0)
        began = clock.monotonic()
        with pytest.raises(BulkheadFull, match="and 1 calls wait already"):
            await taken(live)
        assert clock.monotonic() == began
        live.release(permit)
        live.release(await waiter)

    clock.run(main())
    assert live.rejected == 1


@pytest.mark.parametrize(("wait", "until", "took"), [("2s", FOREVER, 2), ("1h", 1003.0, 3)])
def test_a_wait_ends_at_its_time_or_at_the_deadline(clock, wait, until, took):
    live = places(1, clock, wait=wait)

    async def main():
        await taken(live)
        began = clock.monotonic()
        with pytest.raises(BulkheadFull, match="waited"):
            await taken(live, until)
        assert clock.monotonic() - began == pytest.approx(took)
        with pytest.raises(BulkheadFull, match="no time"):
            await taken(live, clock.monotonic())
        return live.waiting, len(live.free)

    assert clock.run(main()) == (0, 0)
    live.free.append(0)
    assert live.in_use == 0


@pytest.mark.parametrize("when", ["while it waits", "in the turn in which it is woken", "after another one was woken"])
def test_a_cancelled_waiter_loses_no_permit(clock, when):
    live = places(1, clock, wait="1h", queue=9)

    async def main():
        permit = await taken(live)
        first, second = asyncio.create_task(taken(live)), asyncio.create_task(taken(live))
        await asyncio.sleep(1)
        if when == "while it waits":
            first.cancel()
            await asyncio.sleep(0)
            live.release(permit)
        elif when == "in the turn in which it is woken":
            live.release(permit)
            first.cancel()
        else:
            live.release(permit)
            second.cancel()
            live.release(await first)
        left = second if first.cancelled() or first.cancelling() else None
        if left is not None:
            live.release(await left)
            with pytest.raises(asyncio.CancelledError):
                await first
        else:
            with pytest.raises(asyncio.CancelledError):
                await second
        return live.in_use, live.waiting

    assert clock.run(main()) == (0, 0)
    assert len(live.free) == 1


def test_it_shrinks_as_permits_come_back_and_grows_at_once(clock):
    live = places(4, clock, wait="1h", queue=9)

    async def main():
        permits = [await taken(live) for _ in range(4)]
        live.reconfigure(Bulkhead(2, wait="1h", queue=9))
        assert live.in_use == 4
        waiter = asyncio.create_task(taken(live))
        await asyncio.sleep(1)
        live.release(permits.pop())
        live.release(permits.pop())
        await asyncio.sleep(1)
        assert not waiter.done()
        assert live.in_use == 2
        live.reconfigure(Bulkhead(3, wait="1h", queue=9))
        permits.append(await waiter)
        assert live.in_use == 3
        live.reconfigure(Bulkhead(1))
        live.reconfigure(Bulkhead(3))
        for permit in permits:
            live.release(permit)
        return live.in_use, len(live.free), live.waiting

    assert clock.run(main()) == (0, 3, 0)


def test_it_shrinks_free_permits_at_once():
    live = places(5)
    live.reconfigure(Bulkhead(2))
    assert (len(live.free), live.in_use, live.waiting) == (2, 0, 0)


def test_a_thread_waits_for_a_permit_that_a_task_gives_back():
    live = places(1, wait="20s")
    got = []
    entered = threading.Event()

    def thread():
        entered.set()
        permit = live.wait_thread(FOREVER)
        got.append(permit)
        live.release(permit)

    async def main():
        permit = live.free.pop()
        waiting = threading.Thread(target=thread)
        waiting.start()
        await asyncio.to_thread(entered.wait, 10)
        while not live.waiting:  # noqa: ASYNC110 - the other side is a thread
            await asyncio.sleep(0)
        live.release(permit)
        await asyncio.to_thread(waiting.join, 10)

    asyncio.run(main())
    assert len(got) == 1
    assert live.in_use == 0


def test_a_thread_gives_up_in_time():
    live = places(1, wait="1ms")
    live.free.pop()
    with pytest.raises(BulkheadFull, match="waited"):
        live.wait_thread(FOREVER)
    assert live.waiting == 0


def test_two_loops_in_two_threads_and_plain_threads_share_one_bulkhead():
    live = places(3, wait="30s", queue=1000)
    lock = threading.Lock()
    now = most = done = 0

    def enter(step):
        nonlocal now, most, done
        with lock:
            now += step
            most = max(most, now)
            done += step < 0

    async def task():
        for _ in range(20):
            permit = await taken(live)
            enter(1)
            await asyncio.sleep(0)
            enter(-1)
            live.release(permit)

    async def main():
        await asyncio.gather(*(task() for _ in range(10)))

    def plain():
        for _ in range(50):
            try:
                permit = live.free.pop()
            except IndexError:
                permit = live.wait_thread(FOREVER)
            enter(1)
            enter(-1)
            live.release(permit)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    threads += [threading.Thread(target=plain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == 2 * 10 * 20 + 3 * 50
    assert most <= 3
    assert (live.in_use, live.waiting, sorted(live.free)) == (0, 0, [0, 1, 2])


def test_a_loop_that_was_closed_while_a_task_waited_takes_no_permit_with_it():
    live = places(1, wait="1h")
    permit = live.free.pop()
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(taken(live))
    loop.run_until_complete(asyncio.sleep(0))
    assert live.waiting == 1
    waiter._log_destroy_pending = False
    loop.close()
    live.release(permit)
    assert (live.in_use, live.waiting) == (0, 0)
    assert asyncio.run(taken(live)) == permit


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Bulkhead(0), "size: expected a whole number of 1 or more"),
        (lambda: Bulkhead(True), "size: expected a whole number"),
        (lambda: Bulkhead(5, queue=-1), "queue: expected a whole number"),
        (lambda: Bulkhead(5, wait="soon"), "wait: expected a duration"),
        (lambda: Bulkhead(5, queue=3, wait=0), "nobody may wait"),
    ],
)
def test_what_makes_no_sense_is_refused(make, sentence):
    with pytest.raises(MisuseError, match=sentence):
        make()


def test_it_says_how_things_stand():
    live = places(2)
    live.free.pop()
    assert live.state() == {"size": 2, "in_use": 1, "queued": 0, "waited": 0, "rejected": 0}
    assert repr(live) == "<Places 1 of 2 in use, queued=0>"
