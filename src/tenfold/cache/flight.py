"""One load however many ask: the load is a task of its own, and whoever waits for it waits on a future of
their own.

A waiter that is cancelled takes only its own future with it. An error reaches each waiter once and is
forgotten with the flight. The task belongs to the event loop's state, which awaits it when the cache is
closed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Any, Final


class _Absent:
    """What a loader of many did not return; nobody else can make one."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class Flight:
    """A load under way for one key. ``epoch`` and the nonces were taken before it began.

    ``background``: nobody had to wait for it when it began. ``insist``: its callers want the loader's answer and no
    other. ``beyond``: a copy in level 2 must be fresh until later than that (monotonic) to make the load unnecessary.
    ``soft_at``: from then on its waiters are served stale, if there is something to serve.
    """

    __slots__ = (
        "_error",
        "_landed",
        "_timer",
        "_value",
        "_waiters",
        "background",
        "beyond",
        "epoch",
        "insist",
        "key",
        "lease",
        "renewed",
        "slot",
        "soft_at",
        "subject",
        "tag_nonces",
        "tags",
        "turn",
    )

    def __init__(self, slot: Hashable, key: str, tags: tuple[str, ...], epoch: int, subject: Any = None) -> None:
        self.slot = slot  # under which others find and join it
        self.key = key
        self.tags = tags
        self.epoch = epoch
        self.subject = subject  # the id that a loader of many knows it by
        self.lease: bytes | None = None
        self.turn: bytes | None = None  # to renew it, see `turns`
        self.tag_nonces: list[bytes] = []
        self.renewed = False  # level 2 may hold an older value of it
        self.background = self.insist = False
        self.beyond, self.soft_at = -math.inf, math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[Any]] = []
        self._landed = False
        self._value: Any = None
        self._error: BaseException | None = None

    async def wait(self) -> Any:
        """The loaded value, or the loader's error."""
        if not self._landed:
            waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            return await waiter
        if self._error is not None:
            raise self._error
        return self._value

    @property
    def landed(self) -> bool:
        return self._landed

    def later(self, seconds: float, act: Callable[[Flight], None]) -> None:
        """``act`` on this flight after ``seconds``, unless it has landed by then."""
        if self._timer is None and not self._landed:
            self._timer = asyncio.get_running_loop().call_later(seconds, act, self)

    @property
    def waiting(self) -> int:
        """How many wait, not counting those who were cancelled."""
        return sum(not waiter.done() for waiter in self._waiters)

    def relieve(self, value: Any) -> None:
        """Hand ``value`` to those who wait now; the load goes on."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(value)
        self._waiters.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def land(self, value: Any) -> None:
        """Hand the value to everybody. Later landings are ignored."""
        if self._landed:
            return
        self._stop_timer()
        self._landed, self._value = True, value
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(value)
        self._waiters.clear()

    def crash(self, error: BaseException) -> None:
        """Hand the error to everybody. Later landings are ignored."""
        if self._landed:
            return
        self._stop_timer()
        self._landed, self._error = True, error
        for waiter in self._waiters:
            if waiter.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                waiter.cancel()
            else:
                waiter.set_exception(error)
                waiter.exception()  # seen, even if the waiter is being cancelled right now
        self._waiters.clear()
