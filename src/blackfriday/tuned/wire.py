"""One pipelined connection to a Valkey: send bytes, get the replies in order. No pool, no retry, one
deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import hiredis

LATE = 0.05  # a timer later than this says more about this process than about Valkey


class Wire(asyncio.Protocol):
    """A connection that answers commands in the order they were sent.

    patience: seconds until the oldest unanswered command gives the connection up; every command under way
    then fails with ConnectionError. ``on_lost`` is called once, after they have been told.
    """

    def __init__(self, patience: float, on_lost: Callable[[], None]) -> None:
        self._patience = patience
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[object]] = deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._answered = 0

    @classmethod
    async def connect(cls, url: str, patience: float, on_lost: Callable[[], None]) -> Wire:
        """Connect, authenticate and select; OSError or TimeoutError if that fails."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(patience):
            _, wire = await loop.create_connection(
                lambda: cls(patience, on_lost), parts.hostname or "127.0.0.1", parts.port or 6379
            )
            try:
                if parts.password:
                    names = [unquote(part) for part in (parts.username, parts.password) if part]
                    await wire.send("AUTH", *names)
                if parts.path.strip("/"):
                    await wire.send("SELECT", parts.path.strip("/"))
            except BaseException:
                wire.close()
                raise
        return wire

    def send(self, *words: str) -> asyncio.Future[object]:
        """Send one command; the future is its reply, or an exception."""
        return self.send_packed(pack(*words))

    def send_packed(self, command: bytes) -> asyncio.Future[object]:
        """Send a command that is already in bytes."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(ConnectionError("the connection to Valkey is closed"))
            return future
        self._waiting.append(future)
        self._transport.write(command)
        if self._watch is None:
            self._arm()
        return future

    def close(self) -> None:
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._patience
        self._watch = loop.call_at(due, self._look, self._answered, due)

    def _look(self, answered: int, due: float) -> None:
        """Give up if nothing came although somebody was there to take it.

        Timers run before sockets are read. In a loop that was late, the answer may be lying there: then
        Valkey is not the one to blame, and gets its whole time again.
        """
        self._watch = None
        if self._waiting:
            late = asyncio.get_running_loop().time() - due
            if answered == self._answered and late < LATE:
                self.close()
            else:
                self._arm()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._answered += 1
            future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ConnectionError("the connection to Valkey was lost"))
        self._on_lost()


def pack(*words: str) -> bytes:
    """A command in the Redis protocol."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)
