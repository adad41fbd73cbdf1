"""At most so many calls at a time, and a short queue before them (Nygard, "Release It!", calls it a bulkhead: what
floods one compartment must not sink the ship).

Theory. The places are permits in a list. Taking one is ``free.pop()`` and giving it back ``free.append(permit)``, each
a single step under the interpreter's lock, so the way without contention takes no lock of ours. Between a caller that
finds no permit and one that gives the last one back, a wake-up could be lost. As in Dekker's algorithm, each
writes its own flag before it reads the other's: who waits first enters the queue (`Places.waiting`) and then looks at
``free`` again; who leaves first appends to ``free`` and then looks at ``waiting``.

Whoever wakes hands the permit over under the lock, to the one who waited longest, whatever loop or thread that one is
in. A waiter that was cancelled or ran out of time finds out under the same lock whether it has got one, and passes it
on.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import events as _asyncio_events
from collections import deque
from dataclasses import dataclass, field

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration, whole_number
from tenfold.resilience.errors import BulkheadFull

Permit = int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulkhead:
    """At most ``size`` calls at a time.

    ``queue`` more may wait for a place (default: as many as there are places; 0: nobody), each for ``wait`` (default
    1 s) and never beyond its deadline. Who finds the queue full, or waits in vain, gets `BulkheadFull`.

    Raises `MisuseError` for a size below 1.
    """

    size: int = field(kw_only=False)
    queue: int | None = None
    wait: Duration = 1.0

    def __post_init__(self) -> None:
        whole_number(self.size, "bulkhead size", least=1)
        if self.queue is not None:
            whole_number(self.queue, "bulkhead queue")
        object.__setattr__(self, "wait", duration(self.wait, "bulkhead wait"))
        if self.wait == 0 and self.queue:
            raise MisuseError(f"bulkhead: a queue of {self.queue} in which nobody may wait; give a wait, or queue=0")


class _Waiter:
    """Somebody in the queue. ``permit`` is set under the lock, by whoever hands one over."""

    __slots__ = ("permit",)

    def __init__(self) -> None:
        self.permit: Permit | None = None

    def notify(self) -> bool:
        raise NotImplementedError


class _TaskWaiter(_Waiter):
    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def notify(self) -> bool:
        if _asyncio_events._get_running_loop() is self.loop:
            self.end()
            return True
        try:
            self.loop.call_soon_threadsafe(self.end)
        except RuntimeError:  # the loop is closed, and nobody in it will ever take the permit
            return False
        return True

    def end(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _ThreadWaiter(_Waiter):
    __slots__ = ("gate",)

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Lock()
        self.gate.acquire()

    def notify(self) -> bool:
        self.gate.release()
        return True


class Places:
    """The live places of a `Bulkhead`, for any number of loops and threads at once::

        try:
            permit = places.free.pop()
        except IndexError:
            permit = await places.wait(until)       # in a plain function: places.wait_thread(until)
        ...
        places.free.append(permit)
        if places.waiting:
            places.wake()

    ``until`` is the caller's deadline in monotonic seconds.
    """

    __slots__ = (
        "_debt",
        "_lock",
        "_monotonic",
        "_queue",
        "_serial",
        "free",
        "options",
        "rejected",
        "waited",
        "waiting",
    )

    def __init__(self, options: Bulkhead, clock: Clock = SYSTEM_CLOCK) -> None:
        self._lock = threading.Lock()
        self._monotonic = clock.monotonic
        self._queue: deque[_Waiter] = deque()
        self._debt = 0  # permits to be withdrawn, after the size has shrunk
        self._serial = options.size
        self.options = options
        self.free: list[Permit] = list(range(options.size))
        self.waiting = 0
        """Above 0: whoever gives a permit back must call `wake`."""
        self.waited = 0
        """Calls that had to queue."""
        self.rejected = 0
        """Calls that got no place."""

    @property
    def in_use(self) -> int:
        """Permits that are out."""
        return self.options.size + self._debt - len(self.free)

    async def wait(self, until: float) -> Permit:
        """A permit, as soon as one is free. Raises `BulkheadFull`; cancelled, it loses none."""
        seconds = self._patience(until)
        loop = asyncio.get_running_loop()
        waiter = _TaskWaiter(loop)
        self._enter(waiter, seconds)
        if waiter.permit is not None:
            return waiter.permit
        timer = loop.call_later(seconds, waiter.end)
        try:
            await waiter.future
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            timer.cancel()
        return self._claim(waiter, seconds)

    def wait_thread(self, until: float) -> Permit:
        """As `wait`, for a plain function; blocks the thread."""
        seconds = self._patience(until)
        waiter = _ThreadWaiter()
        self._enter(waiter, seconds)
        if waiter.permit is not None:
            return waiter.permit
        try:
            waiter.gate.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        except BaseException:
            self._abandon(waiter)
            raise
        return self._claim(waiter, seconds)

    def release(self, permit: Permit) -> None:
        """Give a permit back."""
        self.free.append(permit)
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Hand free permits to those who wait, the longest first."""
        while True:
            with self._lock:
                woken = self._hand_over()
            lost = [waiter for waiter in woken if not waiter.notify()]
            if not lost:
                return
            with self._lock:
                self.free.extend(waiter.permit for waiter in lost if waiter.permit is not None)

    def reconfigure(self, options: Bulkhead) -> None:
        """Another size, at once: permits that are out and too many are withdrawn as they come back."""
        with self._lock:
            more = options.size - self.options.size
            forgiven = min(max(more, 0), self._debt)
            self._debt += max(-more, 0) - forgiven
            for _ in range(max(more, 0) - forgiven):
                self.free.append(self._serial)
                self._serial += 1
            self.options = options
            self._count()
        self.wake()

    # Under the lock

    def _hand_over(self) -> list[_Waiter]:
        woken = []
        try:
            while self._debt:
                self.free.pop()
                self._debt -= 1
            while self._queue:
                permit = self.free.pop()
                waiter = self._queue.popleft()
                waiter.permit = permit
                woken.append(waiter)
        except IndexError:
            pass  # somebody who did not queue was faster
        self._count()
        return woken

    def _count(self) -> None:
        self.waiting = len(self._queue) + self._debt

    # The queue

    def _patience(self, until: float) -> float:
        return min(float(self.options.wait), until - self._monotonic())

    def _enter(self, waiter: _Waiter, seconds: float) -> None:
        with self._lock:
            size = self.options.size
            limit = size if self.options.queue is None else self.options.queue
            full = len(self._queue) >= limit
            if full or seconds <= 0:
                self.rejected += 1
                why = f"and {len(self._queue)} calls wait already" if full else "and there is no time to wait for one"
                raise BulkheadFull(f"all {size} places are taken, {why}")
            self._queue.append(waiter)
            self.waited += 1
            self._count()
        # Not before the queue shows us: see the theory above.
        self.wake_unless_empty()

    def wake_unless_empty(self) -> None:
        """`wake`, if a permit is free."""
        if self.free:
            self.wake()

    def _claim(self, waiter: _Waiter, seconds: float) -> Permit:
        with self._lock:
            if waiter.permit is not None:
                return waiter.permit
            self._leave(waiter)
            self.rejected += 1
        raise BulkheadFull(f"all {self.options.size} places are taken; waited {format_duration(seconds)} for one")

    def _abandon(self, waiter: _Waiter) -> None:
        with self._lock:
            permit = waiter.permit
            if permit is None:
                self._leave(waiter)
        if permit is not None:
            self.release(permit)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        self._count()

    def state(self) -> dict[str, object]:
        """Plain values: ``size``, ``in_use``, ``queued``, ``waited``, ``rejected``."""
        return {
            "size": self.options.size,
            "in_use": self.in_use,
            "queued": len(self._queue),
            "waited": self.waited,
            "rejected": self.rejected,
        }

    def __repr__(self) -> str:
        return f"<Places {self.in_use} of {self.options.size} in use, queued={len(self._queue)}>"
