"""A task started is a task somebody holds and awaits: `Tasks` is that somebody, `shielded` awaits through
cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, TypeVar

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.units import Duration, duration, format_duration, whole_number

_log: Final = logging.getLogger("tenfold.tasks")
T = TypeVar("T")


class TasksClosedError(TenfoldError):
    """`Tasks.spawn` before the owner was entered or after it was closed."""


class TasksFullError(TenfoldError):
    """`Tasks.spawn` while as many tasks run as the owner may hold. ``limit`` is that number."""

    def __init__(self, message: str, limit: int) -> None:
        super().__init__(message)
        self.limit: Final = limit


class TasksStuckError(TenfoldError):
    """Tasks that went on after they were cancelled and the deadline had passed. ``names`` says which."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names: Final = names


class Tasks:
    """Owner of background tasks, for work that outlives the call that started it.

    Unlike `asyncio.TaskGroup` the tasks are independent: one that fails is logged, counted and handed to
    ``on_error``, and the others go on. Leaving the block cancels what still runs and waits for it up to
    ``grace``, even when the one who leaves is cancelled meanwhile.

    ``limit`` bounds how many run at a time (default 1000). ``grace`` is how long cancelled tasks get to clean
    up (default 5 s); for one that takes longer `TasksStuckError` is raised, or logged if the block is already
    ending in an exception.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int = 1000,
        grace: Duration = 5.0,
        on_error: Callable[[asyncio.Task[Any], BaseException], object] | None = None,
    ) -> None:
        whole_number(limit, "limit", least=1)
        self.name: Final = name
        self.limit: Final = limit
        self.failures = 0
        """How many tasks have ended in an exception."""
        self._grace = duration(grace, "grace")
        self._on_error = on_error
        self._running: set[asyncio.Task[Any]] = set()
        self._open = False
        self._count = 0

    async def __aenter__(self) -> Tasks:
        if self._open:
            raise MisuseError(f"Tasks {self.name!r} is entered already; make one owner for each block")
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except TasksStuckError as stuck:
            if error is None:
                raise
            _log.error("%s", stuck)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Start ``work`` as a task of this owner. Its name is ``"owner/name"``; a number stands in for no
        name.

        Raises `TasksClosedError` outside of the block and `TasksFullError` at the limit; ``work`` is closed
        then, so that nothing warns of a coroutine that was never awaited.
        """
        if not self._open or len(self._running) >= self.limit:
            work.close()
            if not self._open:
                raise TasksClosedError(f"tasks of {self.name!r}: not open; spawn inside its `async with` block")
            raise TasksFullError(
                f"tasks of {self.name!r}: all {self.limit} run; shed the work or raise the limit", self.limit
            )
        self._count += 1
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}/{name or self._count}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Refuse new tasks, cancel the running ones, wait for them up to ``grace``. May be called twice.

        Raises `TasksStuckError` when some are still running then; they stay held, so that they are not lost
        from sight.
        """
        if asyncio.current_task() in self._running:
            raise MisuseError(f"tasks of {self.name!r}: one of them cannot close its own owner")
        self._open = False
        running = tuple(self._running)  # nothing can be added any more
        for task in running:
            task.cancel()
        if running:
            await shielded(self._settle(running))

    async def _settle(self, running: tuple[asyncio.Task[Any], ...]) -> None:
        _, stuck = await asyncio.wait(running, timeout=self._grace)
        if stuck:
            names = tuple(sorted(task.get_name() for task in stuck))
            raise TasksStuckError(
                f"tasks of {self.name!r} still run {format_duration(self._grace)} after they were cancelled: "
                f"{', '.join(names)}; let them end on CancelledError or give a longer grace",
                names,
            )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self.failures += 1
        _log.error("task %s failed", task.get_name(), exc_info=error)
        if self._on_error is not None:
            self._on_error(task, error)

    def __len__(self) -> int:
        return len(self._running)

    def __bool__(self) -> bool:
        return True  # an owner without tasks is still an owner

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        running = f"running={len(self._running)}/{self.limit}"
        return f"<Tasks {self.name!r} {state} {running} failures={self.failures}>"


async def shielded(work: Coroutine[Any, Any, T], *, timeout: Duration | None = None) -> T:
    """Run ``work`` to its end although the caller may be cancelled meanwhile; for clean-up and for what must
    not be halved.

    `asyncio.shield` lets go of the work when the caller is cancelled; this waits for it and passes the
    cancellation on afterwards, with the exception of ``work``, if it raised one, as the cause. After
    ``timeout`` (default: none) the work is cancelled after all and `TimeoutError` raised.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + duration(timeout, "timeout")
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    expired = False
    while not task.done():
        left = None if deadline is None or expired else deadline - loop.time()
        try:
            await asyncio.wait((task,), timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
            continue
        if not task.done() and not expired:
            expired = True
            task.cancel()
    failure = None if task.cancelled() else task.exception()
    if cancelled is not None:
        raise cancelled from failure
    if expired and task.cancelled():
        raise TimeoutError(f"shielded work did not end within {format_duration(duration(timeout or 0.0))}")
    return task.result()
