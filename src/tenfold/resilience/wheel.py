"""Time-outs that really stop an asyncio task and cost a tenth of `asyncio.timeout`.

Theory. `asyncio.timeout` puts one timer into the loop's heap per call and takes it out again. Almost no time-out
ever fires, so the work is in arming and disarming; hashed wheels make both O(1) (Varghese and Lauck, "Hashed and
hierarchical timing wheels", SOSP 1987). Here a *bucket* is a dictionary ``limit -> task`` for all limits in one
tick of 1/128 s, and it fires at its end: never early, late by a tick at most (and by what the loop itself lags).
Neighbouring calls of one policy fall into the same bucket, so each policy keeps the last one at hand (a `Line`), and
arming is a comparison and a store.

Unlike a classic wheel this one has no fixed number of slots: buckets are made as they are needed, and the loop has one
timer, for the first of them. A bucket that was emptied in time would lie about until its tick, an hour perhaps; so
whenever the buckets have doubled the empty ones are swept out, which costs a constant each.

Who takes an entry out decides: the frame that finds its entry still there was in time, and a bucket that fires
takes the entry out *before* it cancels the task. Both happen in the loop's own thread, so a cancellation can never
reach what the task awaits next: it is delivered at the await that is under way, or never asked for.

Cancelling follows the protocol of `asyncio.timeout` (Python 3.11): the frame notes ``task.cancelling()`` when it
arms; fired, it calls ``task.uncancel()``, and only if the count is back to what it was is the cancellation its own.
Otherwise somebody else cancelled the task too, and that one wins.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
import threading
from asyncio import tasks as _asyncio_tasks
from collections.abc import Callable
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock

TICK: Final = 1 / 128
"""Seconds; a power of two, so that the edges of buckets are exact."""

Task = asyncio.Task[Any]
Armed = tuple[dict[float, Task], float, Task, int]
"""What `disarm` needs: the bucket, the limit that is the key in it, the task, and ``task.cancelling()`` before."""


def _current_task(loop: Any) -> Task | None:
    return None if loop is None else asyncio.current_task(loop)


def _task_of() -> Callable[[Any], Task | None]:
    # `asyncio.current_task(loop)` of Python 3.11 asks for the running loop first, which costs a system call. The table
    # that it then looks into is the same for all kinds of loops; from 3.14 on it is not kept any more.
    table = getattr(_asyncio_tasks, "_current_tasks", None)
    if sys.version_info < (3, 14) and isinstance(table, dict):
        return table.get
    return _current_task


task_of: Final = _task_of()
"""The task that a loop runs at the moment; None for a loop that runs none."""


class Bucket:
    """The limits of one tick, and how many lines have it at hand."""

    __slots__ = ("armed", "slot", "users")

    def __init__(self, slot: float) -> None:
        self.slot: Final = slot
        self.armed: dict[float, Task] = {}
        self.users = 0

    @property
    def end(self) -> float:
        """When it fires."""
        return (self.slot + 1.0) * TICK

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it."""
        return not (self.armed or self.users)


class Wheel:
    """The buckets of one event loop. Used in that loop's thread only."""

    __slots__ = ("_buckets", "_monotonic", "_next", "_slots", "_sweep_at", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop: Final = loop
        self._monotonic = clock.monotonic
        self._buckets: dict[float, Bucket] = {}
        self._slots: list[float] = []  # a heap; may hold slots that have no bucket any more
        self._sweep_at = 64
        self._next = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def take(self, slot: float) -> Bucket:
        """The bucket of tick number ``slot``, for a line to have at hand."""
        found = self._buckets.get(slot)
        if found is None:
            if len(self._slots) >= self._sweep_at:
                self._sweep()
            found = self._buckets[slot] = Bucket(slot)
            heapq.heappush(self._slots, slot)
            if slot < self._next:
                self._set(found)
        found.users += 1
        return found

    def give(self, bucket: Bucket) -> None:
        """A line has it at hand no more."""
        bucket.users -= 1
        if bucket.idle and self._buckets.get(bucket.slot) is bucket:
            del self._buckets[bucket.slot]

    def _sweep(self) -> None:
        self._buckets = {slot: bucket for slot, bucket in self._buckets.items() if not bucket.idle}
        self._slots = sorted(self._buckets)
        self._sweep_at = max(64, 2 * len(self._slots))

    def _set(self, bucket: Bucket) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = bucket.slot
        # At least a millisecond: uvloop rounds to whole ones from a start it has cached, and would spin.
        self._timer = self.loop.call_later(max(bucket.end - self._monotonic(), 0.001), self._fire)

    def _fire(self) -> None:
        self._timer, self._next = None, math.inf
        now = self._monotonic()
        while self._slots:
            bucket = self._buckets.get(self._slots[0])
            if bucket is not None and not bucket.idle and now < bucket.end:
                self._set(bucket)
                return
            heapq.heappop(self._slots)
            if bucket is None:
                continue
            del self._buckets[bucket.slot]
            while bucket.armed:
                _, task = bucket.armed.popitem()
                task.cancel()

    @property
    def armed(self) -> int:
        """Calls that would be stopped."""
        return sum(len(bucket.armed) for bucket in self._buckets.values())

    def __repr__(self) -> str:
        return f"<Wheel armed={self.armed} buckets={len(self._buckets)}>"


class Line:
    """One policy's view of one loop's wheel: the bucket it used last, for limits in ``start <= limit < end``."""

    __slots__ = ("_bucket", "_wheel", "armed", "end", "loop", "start")

    def __init__(self, wheel: Wheel | None) -> None:
        self._wheel = wheel
        self._bucket: Bucket | None = None
        self.loop: Final = None if wheel is None else wheel.loop
        self.armed: dict[float, Task] = {}
        self.start = self.end = math.inf

    def turn(self, limit: float) -> None:
        """Go to the bucket of ``limit``."""
        wheel, old = self._wheel, self._bucket
        assert wheel is not None
        bucket = self._bucket = wheel.take(limit // TICK)
        if old is not None:
            wheel.give(old)
        self.armed = bucket.armed
        self.start = bucket.slot * TICK
        self.end = self.start + TICK


NO_LINE: Final = Line(None)
"""What a thread has that never ran a loop: no task is current in it."""


def unused(armed: dict[float, Task], limit: float) -> float:
    """The first limit from ``limit`` on that no other call of this bucket has; they differ by less than a
    nanosecond.
    """
    while limit in armed:
        limit = math.nextafter(limit, math.inf)
    return limit


class Lines:
    """The lines of one policy, by thread.

    A thread's identity is cheaper to ask for than its running loop. A line found by it counts only if its loop is
    running a task right now; else `find` looks again, the slow way. A loop that has moved to another thread is
    forgotten in the old one, so that the old thread cannot take the other's task for its own.
    """

    __slots__ = ("_clock", "_lines", "get")

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lines: dict[int, Line] = {}
        self.get: Final = self._lines.get

    def find(self) -> tuple[Line, Task]:
        """The line of the running loop and its current task. Raises `RuntimeError` outside of a task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time-out needs a running asyncio task")
        loop = asyncio.get_running_loop()
        ident = threading.get_ident()
        line = self._lines.get(ident)
        if line is None or line.loop is not loop:
            line = Line(wheel_of(loop, self._clock))
            with _LOCK:
                for other in [other for other, old in self._lines.items() if old.loop is loop or _closed(old.loop)]:
                    del self._lines[other]
                self._lines[ident] = line
        return line, task

    def arm(self, limit: float) -> Armed:
        """Stop the current task at ``limit``, until `disarm`. What generated code does in line."""
        line, task = self.find()
        base = task.cancelling()
        if not line.start <= limit < line.end:
            line.turn(limit)
        limit = unused(line.armed, limit)
        line.armed[limit] = task
        return line.armed, limit, task, base

    def __len__(self) -> int:
        return len(self._lines)


_LOCK: Final = threading.Lock()
_WHEELS: Final[dict[tuple[asyncio.AbstractEventLoop, int], tuple[Wheel, Clock]]] = {}


def wheel_of(loop: asyncio.AbstractEventLoop, clock: Clock = SYSTEM_CLOCK) -> Wheel:
    """The wheel of ``loop`` on ``clock``; made when first asked for. Wheels of closed loops are let go then."""
    key = (loop, id(clock))
    found = _WHEELS.get(key)
    if found is None:
        with _LOCK:
            found = _WHEELS.get(key)
            if found is None:
                for old in [old for old in _WHEELS if old[0].is_closed()]:
                    del _WHEELS[old]
                found = _WHEELS[key] = (Wheel(loop, clock), clock)  # the clock is held, so its id stays its own
    return found[0]


def _closed(loop: asyncio.AbstractEventLoop | None) -> bool:
    return loop is None or loop.is_closed()


def disarm(armed: dict[float, Task], limit: float, task: Task, base: int) -> bool | None:
    """Take the entry out. None: in time. True: it had fired, and the cancellation is its own. False: it had fired, and
    somebody else cancelled the task too.
    """
    if armed.pop(limit, None) is not None:
        return None
    return task.uncancel() <= base
