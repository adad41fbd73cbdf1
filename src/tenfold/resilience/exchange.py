"""One HTTP exchange as the middleware sees it: what has been sent, and whether the client is still there.

Only `receive` tells that a client has gone, and it tells it after the body. So while a request waits for a place
the middleware reads ahead, a little, and hands what it read to the application afterwards. A call of `receive`
that is under way when the place comes is not cancelled (a server may lose what it was about to deliver): the
application gets its result.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from tenfold.resilience.wire import DEGRADATION

Message = MutableMapping[str, Any]
_READ_AHEAD: Final = 65_536
_DEGRADATION: Final = DEGRADATION.lower().encode()


class Exchange:
    """The scope of a request, and its `receive` and `send` with what passed through them remembered."""

    __slots__ = (
        "_ahead",
        "_ahead_bytes",
        "_answered",
        "_on_complete",
        "_pending",
        "_receive",
        "_send",
        "_trailers",
        "complete",
        "gone",
        "level",
        "scope",
        "started",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        level: int = 0,
    ) -> None:
        self.scope = scope
        self.level = level
        self.started = False
        """Whether the response has begun."""
        self.complete = False
        """Whether all of it has been sent, or was answered in the application's place."""
        self.gone = False
        """Whether the client is known to have left."""
        self._receive = receive
        self._send = send
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        self._pending: asyncio.Future[Message] | None = None
        self._answered = False
        self._trailers = False
        self._on_complete: Callable[[], object] | None = None

    def when_complete(self, then: Callable[[], object]) -> None:
        """Call ``then`` once the application has sent its whole response."""
        self._on_complete = then

    async def receive(self) -> Message:
        """The application's `receive`."""
        if self._ahead:
            return self._ahead.popleft()
        pending = self._pending
        if pending is not None:
            # Shielded: if the application gives up on this call, its next one gets the message.
            message = await asyncio.shield(pending)
            if self._pending is pending:
                self._pending = None
            return message
        return await self._receive()

    async def send(self, message: Message) -> None:
        """The application's `send`. What comes after the middleware has answered in its place is dropped."""
        if self._answered:
            return
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            self._trailers = bool(message.get("trailers", False))
            if self.level:
                message = {**message, "headers": [*message.get("headers", ()), self._level_header()]}
        await self._send(message)
        if not self.complete and self._is_last(kind, message):
            self.complete = True
            if self._on_complete is not None:
                self._on_complete()

    def _is_last(self, kind: str, message: Message) -> bool:
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        if kind in ("http.response.body", "http.response.zerocopysend"):
            return not self._trailers and not message.get("more_body", False)
        return kind == "http.response.pathsend"

    def _level_header(self) -> tuple[bytes, bytes]:
        return _DEGRADATION, str(self.level).encode()

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in the application's place. A HEAD request gets the same headers and no body."""
        self._answered = self.started = self.complete = True
        if self.level:
            headers = [*headers, self._level_header()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.scope.get("method") == "HEAD" else body})

    async def until_gone_or(self, granted: asyncio.Future[None]) -> None:
        """Wait until ``granted`` is done or the client has gone (`gone` says so)."""
        while not granted.done():
            if self._pending is None and self._ahead_bytes <= _READ_AHEAD:
                self._pending = asyncio.ensure_future(self._receive())
            watched: set[asyncio.Future[Any]] = {granted} if self._pending is None else {granted, self._pending}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            pending = self._pending
            if pending is None or not pending.done():
                continue
            self._pending = None
            message = pending.result()
            self._ahead.append(message)
            self._ahead_bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                self.gone = True
                return

    async def close(self) -> None:
        """End a call of `receive` that nobody asked for in the end."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending}, timeout=1.0)
            if pending.done() and not pending.cancelled():
                pending.exception()  # taken note of: there is nobody left to tell


async def deny_websocket(
    scope: MutableMapping[str, Any],
    send: Callable[[Message], Awaitable[None]],
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    """Refuse a handshake: with a real answer where the server can give one, else with 1013 "try again later",
    which a server answers with 403 before the handshake.
    """
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})
