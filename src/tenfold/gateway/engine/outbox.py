"""What is to be written, put off until the bytes that have come are all read.

Theory. When a loop wakes up under load, it finds some dozens of sockets readable. If each is answered at once, each
write wakes a peer that has gone to sleep since the last one, and to wake a process on another core costs more than the
write: an interrupt, a switch of context, cold caches on both sides. If the answers are written one after the other at
the end, the first wakes the peer and the others find it awake, which halves what the kernel takes for a request (the
same reason for which Linux has interrupt coalescing and NAPI). So small writes are collected and done in one go, before
the loop looks at its sockets again, and no later than after `MOST` of them: a peer that works while we read is worth
more than a longer run. Large ones are done at once, since they are worth a wake-up and should not lie about.

The order of writes to one connection is kept. Whoever closes a connection in good order calls `flush` before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

MOST: Final = 16
"""Writes that may wait."""
SMALL: Final = 16 * 1024
"""Bytes up to which one may wait."""


class Outbox:
    """The writes that wait, of all connections of one gateway process."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write it, soon or now."""
        waiting = self._waiting
        if len(data) > SMALL:
            if waiting:
                self.flush()
            transport.write(data)
            return
        if not waiting:
            self._loop.call_soon(self.flush)
        waiting.append((transport, data))
        if len(waiting) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Write all that waits. What was for a connection that is closing by now is dropped, as the transport would."""
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for transport, data in waiting:
                if not transport.is_closing():
                    transport.write(data)

    def __repr__(self) -> str:
        return f"<Outbox of {len(self._waiting)} writes>"
