"""How long a call may take, from the first caller down to the last client.

A deadline is a point in time, not a duration: absolute seconds on the monotonic clock, in a context variable
(`tenfold.resilience.scope`). Whoever is called inherits it and may only shorten it. Between processes clocks differ,
so the wire carries what *remains*, in whole milliseconds (as gRPC's ``grpc-timeout`` does).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort
from tenfold.resilience.scope import SCOPE, Scope
from tenfold.resilience.wheel import Armed, Lines, disarm

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_HEADER: Final = "Tenfold-Timeout-Ms"
"""The request header that carries the remaining milliseconds."""

# A block that is open, and the ones around it. The objects that open blocks are shared between tasks, so what
# belongs to one entry lives in the context.
_Entry = tuple[object, Token[Scope], Armed | None, float, bool, Any]
_OPEN: Final[ContextVar[_Entry | None]] = ContextVar("tenfold_open_deadlines", default=None)
_LINES: Final = Lines()


class Deadline:
    """All that runs in the block ends within that time; whoever is called inherits what remains.

    ::

        async with Deadline("2s"):              # stops the block: `DeadlineExceeded`
            await policy_protected_call()
        with Deadline("2s"):                    # a plain block cannot be stopped: policies and clients in it look
            ...                                 # at `remaining()`

    As an option: ``Policy(deadline=Deadline("2s"))`` is the same as ``deadline="2s"``. One object may be used by many
    tasks and threads, at once and again. ``seconds`` is the duration. ``clock`` must be the one of the policies inside.

    ``async with`` raises `DeadlineExceeded` in the block's place, at most 8 ms late, never early; both kinds raise
    `DeadlineTooShort` when an inherited deadline has passed already. `MisuseError` for a duration of zero.
    """

    __slots__ = ("_clock", "_lines", "seconds")

    def __init__(self, seconds: Duration, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.seconds: Final = duration(seconds, "deadline")
        if self.seconds == 0:
            raise MisuseError('deadline: expected a duration above 0 such as "2s", got 0; leave it out for none')
        self._clock = clock
        self._lines = _LINES if clock is SYSTEM_CLOCK else Lines(clock)

    def __enter__(self) -> Deadline:
        self._open(stops=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def __aenter__(self) -> Deadline:
        self._open(stops=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timer, inherited = self._close()
        fired = None if timer is None else disarm(*timer)
        del timer  # it refers to the task, that to its exception, and that to this frame
        if fired and (error is None or isinstance(error, Exception | asyncio.CancelledError)):
            whose = "inherited deadline" if inherited else f"deadline of {format_duration(self.seconds)}"
            raise DeadlineExceeded(f"the {whose} passed while the block ran") from error
        if fired is False and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError from error

    def _open(self, *, stops: bool) -> None:
        now = self._clock.monotonic()
        outer = SCOPE.get()
        until = min(outer[0], now + self.seconds)
        if until <= now:
            raise DeadlineTooShort("the inherited deadline passed before the block began")
        timer = self._lines.arm(until) if stops else None
        token = SCOPE.set((until, outer[1]))
        _OPEN.set((self, token, timer, until, until == outer[0], _OPEN.get()))

    def _close(self) -> tuple[Armed | None, bool]:
        entry = _OPEN.get()
        if entry is None or entry[0] is not self:
            raise MisuseError("Deadline: a block must end in the task and in the order in which it began")
        _, token, timer, _, inherited, outer = entry
        _OPEN.set(outer)
        with suppress(ValueError):  # a coroutine that is closed by the garbage collector, in another context
            SCOPE.reset(token)
        return timer, inherited

    def __repr__(self) -> str:
        return f"Deadline({format_duration(self.seconds)!r})"


def deadline() -> float | None:
    """The inherited deadline in monotonic seconds; None where nobody set one."""
    until = SCOPE.get()[0]
    return None if until == math.inf else until


def remaining(clock: Clock = SYSTEM_CLOCK) -> float | None:
    """Seconds until the inherited deadline, 0 once it has passed; None where nobody set one.

    What a client passes on as its own time-out.
    """
    until = SCOPE.get()[0]
    return None if until == math.inf else max(0.0, until - clock.monotonic())


def to_remaining_ms(clock: Clock = SYSTEM_CLOCK) -> int | None:
    """What to send as ``Tenfold-Timeout-Ms``: the remaining milliseconds, rounded down; None where nobody set a
    deadline (send no header then).
    """
    left = remaining(clock)
    return None if left is None else int(left * 1000)


def from_remaining_ms(text: str | bytes | int | None, *, clock: Clock = SYSTEM_CLOCK) -> Deadline | None:
    """The deadline that a ``Tenfold-Timeout-Ms`` header asks for, to be entered around the request.

    None for no header and for one that is no whole number from 0 to 10 digits: a peer's nonsense is no reason to fail.
    0 becomes the shortest deadline there is, one microsecond: the caller has given up already.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if isinstance(text, str):
        text = text.strip()
        if not (text.isascii() and text.isdigit() and len(text) <= 10):
            return None
        text = int(text)
    if text is None or isinstance(text, bool) or text < 0:
        return None
    return Deadline(max(text / 1000, 1e-6), clock=clock)


def carry(fn: Callable[P, T]) -> Callable[P, T]:
    """``fn`` with the deadline (and every other context variable) of this moment, for a thread or a callback::

    executor.submit(carry(work), item)
    """
    context = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        # A copy for each call, because one context can be entered once at a time.
        return context.copy().run(fn, *args, **kwargs)

    return carried


async def to_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`asyncio.to_thread` that does not start what cannot end: `DeadlineTooShort` once the deadline has passed.

    The deadline travels along. A thread cannot be stopped: work that waits looks at `remaining`.
    """
    left = remaining()
    if left is not None and left <= 0:
        raise DeadlineTooShort("the deadline passed before the thread was started")
    return await asyncio.to_thread(fn, *args, **kwargs)
