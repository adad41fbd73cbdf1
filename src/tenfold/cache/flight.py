"""One load however many ask: the load is a task of its own, and whoever waits for it waits on a future of
their own.

A waiter that is cancelled takes only its own future with it. An error reaches each waiter once and is
forgotten with the flight. The task belongs to the event loop's state, which awaits it when the cache is
closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any, Final


class _Absent:
    """What a loader of many did not return; nobody else can make one."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class Flight:
    """A load under way for one key. ``epoch`` and the nonces were taken before it began."""

    __slots__ = (
        "_error",
        "_landed",
        "_value",
        "_waiters",
        "epoch",
        "key",
        "lease",
        "slot",
        "subject",
        "tag_nonces",
        "tags",
    )

    def __init__(
        self, slot: Hashable, key: str, tags: tuple[str, ...], epoch: int, subject: Any = None
    ) -> None:
        self.slot = slot  # under which others find and join it
        self.key = key
        self.tags = tags
        self.epoch = epoch
        self.subject = subject  # the id that a loader of many knows it by
        self.lease: bytes | None = None
        self.tag_nonces: list[bytes] = []
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

    def land(self, value: Any) -> None:
        """Hand the value to everybody. Later landings are ignored."""
        if self._landed:
            return
        self._landed, self._value = True, value
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(value)
        self._waiters.clear()

    def crash(self, error: BaseException) -> None:
        """Hand the error to everybody. Later landings are ignored."""
        if self._landed:
            return
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
