"""How journeys are driven: coroutines resumed by hand, without an `asyncio.Task` each.

A Task costs a heap of bookkeeping for every resumption (a handle, a context run, a wake-up through the loop).
A journey needs none of it: the bytes of its answer arrive in a callback, and that very callback sends the
answer into the coroutine. What waits arranges its own waking first and then yields `PARKED`.

The price: inside a journey there is no current task, so `asyncio.timeout`, `asyncio.wait_for` and whatever
stands on them refuse to work. Requests take ``timeout=`` and `User.think` waits. Any plain future is honoured
as a Task would honour it, so `asyncio.sleep`, `asyncio.to_thread` and awaiting a Task of one's own work
inside a journey.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.load.user import User

PARKED: Final = object()
"""What a coroutine yields after it arranged for `resume` to be called."""


class _Running:
    __slots__ = ("user",)

    def __init__(self) -> None:
        self.user: User | None = None


running: Final = _Running()  # a slot is stored in a fraction of the time that a module's name takes
"""Its ``user`` is the one whose journey runs right now; `step` and `check` look here. Set on every
resumption.
"""


def resume(user: User, value: object) -> None:
    """Run the journey of ``user`` to its next wait, handing it ``value``."""
    running.user = user
    try:
        waits_for = user._coroutine.send(value)
    except BaseException as error:  # noqa: BLE001 - `over` counts it, or raises it again
        over(user, error)
    else:
        running.user = None
        if waits_for is not PARKED:
            foreign(user, waits_for)


def over(user: User, error: BaseException) -> None:
    """The journey of ``user`` has ended with ``error``. Counted by its kind; the run goes on."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    running.user = None
    user._engine.finished(user, None if isinstance(error, StopIteration) else error)


def throw(user: User, error: BaseException) -> None:
    """As `resume`, raising ``error`` where the journey waits."""
    user._coroutine = _Throws(user, error)
    resume(user, None)


class _Throws:
    """Stands in for a coroutine once, and then puts it back."""

    def __init__(self, user: User, error: BaseException) -> None:
        self._user, self._error = user, error
        self._coroutine = user._coroutine

    def send(self, _: object) -> Any:
        self._user._coroutine = self._coroutine
        return self._coroutine.throw(self._error)


def foreign(user: User, waits_for: Any) -> None:
    """The journey of ``user`` waits for something that is not ours."""
    if waits_for is None:  # asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(resume, user, None)
    elif getattr(waits_for, "_asyncio_future_blocking", None):
        waits_for._asyncio_future_blocking = False
        # The future's own coroutine reads its result; resuming with None makes it do so.
        waits_for.add_done_callback(lambda _: user._wake())
    else:
        kind = type(waits_for).__name__
        throw(
            user,
            MisuseError(
                f"a journey can wait for requests, user.think() and asyncio futures, and got {kind}; "
                "run other things in a task of your own and await that"
            ),
        )
