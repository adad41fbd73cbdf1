"""Who waits for a load that another process has under way, and what wakes them.

A waiter takes its place *before* it looks at the lease, and the look marks the lease as awaited in the same step in
which it reads it. So a settlement is either seen by the look or announced after it, and none is missed. Waking means
"look again", never "it is there": a spurious wake-up costs one look, so that in doubt everybody is woken: when tags are
invalidated, when the subscription had a gap or is lost, when level 2 is switched off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Settlements:
    """The waiters of one event loop, by key."""

    __slots__ = ("_waiting", "listening")

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self.listening = False
        """Whether announcements reach this process now."""

    def __len__(self) -> int:
        return sum(len(waiters) for waiters in self._waiting.values())

    def watch(self, key: str) -> asyncio.Future[None]:
        """A future that is done once something happens to ``key``. `leave` it afterwards."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(waiter)
        return waiter

    def leave(self, key: str, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(key)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[key]

    def heard(self, names: Iterable[str]) -> None:
        """A message: ``s:KEY`` settled, ``e:KEY`` invalidated, ``t:TAG`` invalidated."""
        if not self._waiting:
            return
        for name in names:
            if name.startswith("t:"):
                self.wake()
                return
            self._wake(self._waiting.get(name[2:], ()))

    def wake(self) -> None:
        """Everybody looks again."""
        for waiters in self._waiting.values():
            self._wake(waiters)

    def hears(self, listening: bool) -> None:
        """The subscription stands or is lost."""
        self.listening = listening
        self.wake()

    def _wake(self, waiters: Iterable[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
