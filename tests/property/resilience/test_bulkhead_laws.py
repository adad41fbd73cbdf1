"""Places under random arrivals, departures, cancellations and resizing: never too many inside, none lost."""

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.resilience.bulkhead import Bulkhead, Places
from tenfold.resilience.errors import BulkheadFull
from tenfold.testing import FakeClock

CALLS = st.lists(
    st.tuples(
        st.integers(0, 30),  # when it comes
        st.integers(0, 10),  # how long it stays
        st.one_of(st.none(), st.integers(0, 40)),  # when it is cancelled
        st.sampled_from([5.0, 1e9]),  # its deadline, from when it comes
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    CALLS,
    st.integers(1, 5),
    st.sampled_from([0, 2, None]),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=4),
)
def test_never_too_many_and_none_lost(calls, size, queue, resizes):
    with FakeClock() as clock:
        live = Places(Bulkhead(size, queue=queue, wait=8.0), clock)
        inside = 0
        out = {}
        order = []

        largest = size

        def check():
            assert len(set(out.values())) == len(out), "a permit was given out twice"
            # A permit that was handed to somebody in the queue is in use before that one has noticed. After shrinking,
            # those inside leave one by one.
            assert inside == len(out) <= live.in_use <= largest

        async def call(n, comes, stays, lasts):
            nonlocal inside
            await asyncio.sleep(comes)
            until = clock.monotonic() + lasts
            try:
                permit = live.free.pop()
            except IndexError:
                try:
                    permit = await live.wait(until)
                except BulkheadFull:
                    assert clock.monotonic() <= until + 1e-6
                    return
            inside += 1
            out[n] = permit
            order.append(n)
            check()
            try:
                await asyncio.sleep(stays)
            finally:
                inside -= 1
                del out[n]
                live.release(permit)

        async def resize(when, to):
            nonlocal largest
            await asyncio.sleep(when)
            largest = max(largest, to)
            live.reconfigure(Bulkhead(to, queue=queue, wait=8.0))

        async def main():
            others = [asyncio.create_task(resize(when, to)) for when, to in resizes]
            tasks = [asyncio.create_task(call(n, *each[:2], each[3])) for n, each in enumerate(calls)]
            loop = asyncio.get_running_loop()
            for task, (_, _, cancelled, _) in zip(tasks, calls, strict=True):
                if cancelled is not None:
                    loop.call_later(cancelled, task.cancel)
            for task in (*tasks, *others):
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        clock.run(main())
        assert (live.in_use, live.waiting, inside) == (0, 0, 0)
        assert len(live.free) == live.options.size
        assert len(set(live.free)) == len(live.free)
