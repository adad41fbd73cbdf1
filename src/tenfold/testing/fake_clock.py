"""`FakeClock`: an hour of timers, back-offs and time-outs in a millisecond, in the same order every time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, TypeVar

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.testing.virtual_loop import Ready, VirtualLoop

T = TypeVar("T")


class DeadlockError(TenfoldError):
    """Every task waits and nothing can wake one.

    ``waiting`` has one line for each: name, coroutine, place.
    """

    def __init__(self, message: str, waiting: tuple[str, ...]) -> None:
        super().__init__("\n  ".join((message, *waiting)))
        self.waiting: Final = waiting


class FakeClock:
    """A `Clock` whose time passes only when told to, and the event loop that lives by it::

        with FakeClock() as clock:
            clock.run(main())                   # every sleep and time-out in main() takes no time

    With ``auto`` (the default) the clock jumps to the next timer whenever nothing can run. Without it, it
    stands until ``await clock.advance("5m")``. Either way it never jumps while real work is in flight: see
    `tenfold.testing.virtual_loop` for the rule and what ``autojump_threshold`` (default 50 ms) and
    ``patience`` (default 10 s), both real time, mean in it.

    ``start`` is the first value of `monotonic` and ``epoch`` the Unix time at that moment (default 2023-11-14
    22:13:20 UTC). A program that polls ``loop.time()`` without ever waiting sees no time pass. A thread that
    the loop did not start is invisible to it: wrap the wait for it in `hold`.
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        epoch: float = 1_700_000_000.0,
        auto: bool = True,
        autojump_threshold: Duration = 0.05,
        patience: Duration = 10.0,
    ) -> None:
        self.auto = auto
        """Whether the clock jumps by itself. May be changed at any time."""
        self._now = float(start)
        self._offset = epoch - self._now
        self._threshold = duration(autojump_threshold, "autojump_threshold")
        self._patience = duration(patience, "patience")
        self._runner: asyncio.Runner | None = None
        self._loop: VirtualLoop | None = None
        self._holds = 0
        self._goal: tuple[float, asyncio.Future[None]] | None = None

    # The clock

    def monotonic(self) -> float:
        """Virtual seconds since ``start``."""
        return self._now

    def time(self) -> float:
        """Virtual seconds since the Unix epoch."""
        return self._now + self._offset

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep` on this clock. Raises `MisuseError` in another loop than the clock's own."""
        self._in_own_loop("sleep")
        await asyncio.sleep(seconds)

    # Moving it

    async def advance(self, by: Duration) -> None:
        """Let ``by`` pass: fire each timer on the way at its own time, and return once all is settled.

        Timers due exactly at the end have fired, and every task has run until it waits again. Only one
        `advance` at a time. Raises `MisuseError` in another loop than the clock's own.
        """
        loop = self._in_own_loop("advance")
        if self._goal is not None:
            raise MisuseError("advance: another task is advancing this clock; let one task drive it")
        reached: asyncio.Future[None] = loop.create_future()
        goal = self._goal = (self._now + duration(by, "advance"), reached)
        try:
            await reached
        finally:
            if self._goal is goal:  # cancelled on the way
                self._goal = None

    def jump(self, by: Duration) -> None:
        """Move the hands at once, running nothing, as if the machine had been suspended.

        Timers that are passed over fire late. Needs no loop, so it also serves pure code that takes a clock.
        """
        self._now += duration(by, "jump")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Stand still in the block, ``patience`` real seconds at most: something real is under way."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    # Running

    def __enter__(self) -> FakeClock:
        if self._runner is not None:
            raise MisuseError("FakeClock is entered already; make one clock for each block")
        self._runner = asyncio.Runner(loop_factory=self._make_loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        self.auto = True  # tasks that clean up may have to wait, and nobody is left to advance the clock
        try:
            if runner is not None:
                runner.close()
        finally:
            self._loop = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end on the loop of this block; its result. May be called several times.

        Raises what ``work`` raises, `DeadlockError` when nothing can go on, and `MisuseError` outside of the
        block.
        """
        if self._runner is None:
            work.close()
            raise MisuseError("FakeClock.run: the clock has no loop yet; use it as `with FakeClock() as clock:`")
        return self._runner.run(work)

    def _make_loop(self) -> VirtualLoop:
        self._loop = VirtualLoop(self)
        return self._loop

    def _in_own_loop(self, what: str) -> VirtualLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._loop is None:
            raise MisuseError(f"{what}: this event loop is not the clock's own; start it with `clock.run(...)`")
        return self._loop

    # The rule (called by the loop when nothing is ready to run)

    def idle(self, poll: Callable[[float], Ready], next_timer: float | None) -> Ready:
        """What the loop does instead of waiting; see `tenfold.testing.virtual_loop`."""
        ready = poll(0.0)
        if ready:
            return ready
        goal = self._goal
        limit = goal[0] if goal is not None else math.inf if self.auto else -math.inf
        target = next_timer if next_timer is not None and next_timer <= limit else None
        ready = poll(self._real_wait(last_resort=target is None and goal is None))
        if ready:
            return ready
        if target is not None:
            self._now = max(self._now, target)
        elif goal is not None:
            self._now = max(self._now, goal[0])
            self._goal = None
            if not goal[1].done():
                goal[1].set_result(None)
        else:
            raise self._deadlock(next_timer)
        return []

    def _real_wait(self, *, last_resort: bool) -> float:
        loop = self._loop
        if loop is None:
            return 0.0
        if self._holds or loop.jobs or loop.children:
            return self._patience
        if loop.watches:
            return self._patience if last_resort else self._threshold
        # A thread that the loop knows nothing of may be about to wake it: a moment's grace before the
        # verdict.
        return self._threshold if last_resort else 0.0

    def _deadlock(self, next_timer: float | None) -> DeadlockError:
        tasks = sorted(asyncio.all_tasks(self._loop), key=lambda task: task.get_name())
        if next_timer is not None:
            reason = (
                f"the clock stands at {self._now:g} s, the next timer is due in "
                f"{format_duration(next_timer - self._now)}, and nobody advances the clock: "
                "call `await clock.advance(...)` or use FakeClock(auto=True)"
            )
        else:
            reason = f"nothing is ready, no timer is set, at {self._now:g} s; these tasks wait for ever:"
        return DeadlockError(reason, tuple(_describe(task) for task in tasks))

    def __repr__(self) -> str:
        mode = "auto" if self.auto else "manual"
        return f"<FakeClock {self._now:g} s {mode}{' running' if self._loop is not None else ''}>"


def _describe(task: asyncio.Task[Any]) -> str:
    """``name: coroutine at file:line``, the place being the innermost frame of the task's own chain of
    awaits.
    """
    place: Any = task.get_coro()
    name = getattr(place, "__qualname__", repr(place))
    frame = getattr(place, "cr_frame", None)
    while (inner := getattr(place, "cr_await", None)) is not None and getattr(inner, "cr_frame", None) is not None:
        place, frame = inner, inner.cr_frame
    where = f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
    return f"{task.get_name()}: {name}{where}"
