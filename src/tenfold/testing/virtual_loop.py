"""The event loop under `FakeClock`: asyncio's own, with another idea of what time it is.

asyncio's loop does one thing at a time: run what is ready; when nothing is, ask the selector to wait for I/O
*until the next timer is due*. That wait is the only place where a program of coroutines lets time pass, so it
is the only place to change: the selector below, asked to wait, looks for real I/O first and, if there is
none, sets the clock to the next timer and returns at once. Everything that counts in ``loop.time()`` follows:
`asyncio.sleep`, `asyncio.timeout`, ``wait_for``, ``call_at``. (trio's ``MockClock`` with
``autojump_threshold`` is the same idea.)

What must not be starved by this is the world outside of the loop, for which virtual time means nothing:

=====================================  ==================================================================
in flight                              before the clock may jump
=====================================  ==================================================================
nothing                                no wait at all
a watched socket or pipe               ``autojump_threshold`` real seconds without any I/O
``run_in_executor``, a child process,  until it has ended, but for ``patience`` real seconds at most
a ``hold()`` block
=====================================  ==================================================================

With nothing ready and no timer left to jump to, the same waits decide when to call it a deadlock (a watched
socket gets ``patience`` then, for its peer may be real). Virtual time stands still during every real wait.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Ready = list[tuple[selectors.SelectorKey, int]]


class Idle(Protocol):
    """What the loop asks when it has nothing to run (`FakeClock` answers)."""

    def idle(self, poll: Callable[[float], Ready], next_timer: float | None) -> Ready:
        """Wait with ``poll(real seconds)`` or move the clock; what was ready.

        ``next_timer``: when it is due.
        """
        ...

    def monotonic(self) -> float:
        """The loop's time."""
        ...


class VirtualSelector(selectors.BaseSelector):
    """A real selector that asks the clock instead of waiting."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.on_idle: Callable[[], Ready] | None = None

    def select(self, timeout: float | None = None) -> Ready:
        """What is ready. With something to run (``timeout`` 0), what is ready now."""
        if self.on_idle is None or (timeout is not None and timeout <= 0):
            return self._real.select(timeout)
        return self.on_idle()

    def poll(self, seconds: float) -> Ready:
        """What becomes ready within that many *real* seconds."""
        return self._real.select(seconds)

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in `selectors.BaseSelector`."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """As in `selectors.BaseSelector`."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in `selectors.BaseSelector`."""
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        """As in `selectors.BaseSelector`."""
        self.on_idle = None
        self._real.close()

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """As in `selectors.BaseSelector`."""
        return self._real.get_map()


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop on a virtual clock, which knows what it has in flight outside of itself."""

    _scheduled: list[asyncio.TimerHandle]  # asyncio's heap of timers; the head is the next that is not cancelled

    def __init__(self, clock: Idle) -> None:
        self._clock = clock
        self._virtual = VirtualSelector()
        self._jobs = 0
        self._children: weakref.WeakSet[asyncio.SubprocessTransport] = weakref.WeakSet()
        super().__init__(self._virtual)
        self._own_watches = len(self._virtual.get_map())  # the pipe by which other threads wake the loop
        self._virtual.on_idle = self._idle

    def time(self) -> float:
        """Virtual seconds."""
        now = self._clock.monotonic()
        # asyncio runs the timers due before now + resolution. From 2**24 s on, a fixed 1 ns is less than half
        # the distance between two floats and adds nothing: the loop would spin on a timer that is due exactly
        # now.
        self._clock_resolution = max(1e-9, 2 * math.ulp(now))
        return now

    def _idle(self) -> Ready:
        return self._clock.idle(self._virtual.poll, self._scheduled[0].when() if self._scheduled else None)

    @property
    def watches(self) -> int:
        """Sockets and pipes that are being waited on."""
        return len(self._virtual.get_map()) - self._own_watches

    @property
    def jobs(self) -> int:
        """Calls that run in an executor, name look-ups included."""
        return self._jobs

    @property
    def children(self) -> int:
        """Child processes of this loop that have not ended."""
        return sum(child.get_returncode() is None for child in self._children)

    # What follows only keeps count of what goes out.

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As in asyncio, counted."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_ended)
        return future

    def _job_ended(self, future: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As in asyncio, counted: the threads end in real time."""
        self._jobs += 1
        try:
            # Without ``timeout``, which came with Python 3.12: it would be a timer on the virtual clock.
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """As in asyncio, counted."""
        transport, protocol = await super().subprocess_exec(*args, **kwargs)
        self._children.add(transport)
        return transport, protocol

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """As in asyncio, counted."""
        transport, protocol = await super().subprocess_shell(*args, **kwargs)
        self._children.add(transport)
        return transport, protocol
