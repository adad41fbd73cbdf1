"""A small HTTP/1.1 server for the admin API, on asyncio's streams and the gateway's own strict parser.

Theory. It is asked a few times a second by people and scrapers who may be let in or not, so it is made to be short and
hard to exhaust, not fast: a connection has few bytes for its head and its body and little time for both, a stranger is
sent away before a byte of the body is read, and there are at most `CONNECTIONS` of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.tasks import Tasks
from tenfold.gateway.admin.guard import Denied
from tenfold.gateway.config import Address
from tenfold.gateway.engine.problem import PHRASES, own
from tenfold.gateway.framing import End, Limits, Refusal, RequestHead, RequestReader

_log: Final = logging.getLogger("tenfold.gateway")

CONNECTIONS: Final = 128
LIMITS: Final = Limits(head=16 * 1024, fields=64, line=8 * 1024)
BODY_MAX: Final = 1024 * 1024
HEAD_TIMEOUT: Final = 10.0
"""Seconds for a head, and for a body."""
IDLE_TIMEOUT: Final = 60.0
WRITE_TIMEOUT: Final = 10.0
LINGER: Final = 1.0
_PIECE: Final = 64 * 1024
_JSON: Final = b"application/json"


class Request:
    """One request, whole."""

    __slots__ = ("body", "head", "method", "path", "query", "segments")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.method = head.method.decode()
        path, _, query = head.target.decode("latin-1").partition("?")
        self.path = path
        self.segments = tuple(unquote(each) for each in path.strip("/").split("/"))
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.body = b""

    def json(self) -> dict[str, Any]:
        """The body as an object; empty for none. Raises `MisuseError` for anything else."""
        if not self.body:
            return {}
        try:
            found = json.loads(self.body)
        except ValueError as error:
            raise MisuseError(f"body: expected JSON, got {error}") from None
        if not isinstance(found, dict):
            raise MisuseError(f"body: expected a JSON object, got a {type(found).__name__}")
        return found


class Response:
    """An answer. With ``stream`` the connection is that function's after the head, and closed after it."""

    __slots__ = ("body", "extra", "kind", "status", "stream")

    def __init__(self, status: int, kind: bytes, body: bytes = b"", extra: bytes = b"") -> None:
        self.status = status
        self.kind = kind
        self.body = body
        self.extra = extra
        self.stream: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None


def answer(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status, _JSON, json.dumps(value).encode() + b"\n")


def problem(status: int, detail: str, extra: bytes = b"", **more: Any) -> Response:
    """An error (RFC 9457)."""
    title = PHRASES.get(status, b"Error").decode()
    told = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return Response(status, b"application/problem+json", json.dumps(told).encode() + b"\n", extra)


Guard = Callable[[Request], Denied | None]
Handler = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Serves ``handler`` at ``address`` for those whom ``guard`` lets in, within its block; or on the socket ``bound``,
    which listens already, and stays the caller's.
    """

    def __init__(
        self, address: Address, guard: Guard, handler: Handler, bound: tuple[Address, socket.socket] | None = None
    ) -> None:
        self._bound = bound
        self._guard = guard
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks = Tasks("admin", limit=CONNECTIONS)
        self.address = address

    async def start(self) -> None:
        """Listen. Raises `OSError` where that is not possible."""
        address = self.address
        try:
            if self._bound is not None:
                self.address, made = self._bound
                start = asyncio.start_unix_server if self.address.path else asyncio.start_server
                self._server = await start(self._accept, sock=made.dup())
            elif address.path:
                with suppress(FileNotFoundError):
                    if stat.S_ISSOCK(os.stat(address.path).st_mode):
                        os.unlink(address.path)
                self._server = await asyncio.start_unix_server(self._accept, address.path)
                os.chmod(address.path, 0o600)
            else:
                self._server = await asyncio.start_server(self._accept, address.host, address.port)
                port = self._server.sockets[0].getsockname()[1]
                self.address = Address(address.host, port)
        except OSError as error:
            raise OSError(error.errno, f"admin: cannot listen on {address}: {error.strerror}") from error
        await self._tasks.__aenter__()

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self.address.path and self._bound is None:
            with suppress(FileNotFoundError):
                os.unlink(self.address.path)
        await self._tasks.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._tasks) >= CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks.spawn(self._connection(reader, writer), name="admin connection")

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it went away, or was too slow
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = RequestReader(LIMITS, decoded=True)
        events: list[Any] = []
        while await _head(parser, events, reader):
            event = events.pop(0)
            if type(event) is Refusal:
                await _send(writer, problem(event.status, event.sentence, reason=event.token), close=True)
                await _linger(reader, writer)
                return
            request = Request(event)
            refused = self._guard(request)
            if refused is not None:
                response = problem(refused.status, refused.detail, refused.extra)
                await _send(writer, response, close=True, head_only=request.method == "HEAD")
                await _linger(reader, writer)
                return
            failure = await _body(request, parser, events, reader, writer)
            response = await self._answer(request) if failure is None else failure
            if request.method == "HEAD":
                response.stream = None
            elif request.method != "GET":
                _log.info("admin: %s %s: %d", request.method, request.path, response.status)
            keep = failure is None and request.head.keep_alive and response.stream is None
            await _send(writer, response, close=not keep, head_only=request.method == "HEAD")
            if response.stream is not None:
                await response.stream(reader, writer)
                return
            if not keep:
                await _linger(reader, writer)
                return
            events = list(parser.next())

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handler(request)
        except MisuseError as error:
            return problem(400, str(error), problems=list(getattr(error, "problems", ())))
        except TimeoutError:
            return problem(504, "the workers did not answer in time")
        except TenfoldError as error:
            return problem(503, str(error))
        except Exception:  # noqa: BLE001 - one request must not end the connections of others
            _log.exception("admin: %s %s failed", request.method, request.path)
            return problem(500, "an error of the gateway's own; its log has it")


async def _head(parser: RequestReader, events: list[Any], reader: asyncio.StreamReader) -> bool:
    """Wait for the next head. False: the client is done."""
    if not events and parser.idle:
        async with asyncio.timeout(IDLE_TIMEOUT):
            data = await reader.read(_PIECE)
        if not data:
            return False
        events += parser.feed(data)
    async with asyncio.timeout(HEAD_TIMEOUT):
        while not events:
            data = await reader.read(_PIECE)
            if not data:
                return False
            events += parser.feed(data)
    return True


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Shut our side and read on for a moment, so that no reset destroys the answer (RFC 9112 §9.6)."""
    if not writer.can_write_eof():
        return
    writer.write_eof()
    async with asyncio.timeout(LINGER):
        for _ in range(BODY_MAX // _PIECE + 1):
            if not await reader.read(_PIECE):
                return


async def _body(
    request: Request,
    parser: RequestReader,
    events: list[Any],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> Response | None:
    """Read the rest of a request; a response if that cannot be done."""
    head, pieces, size = request.head, [], 0
    if head.length > BODY_MAX:
        return problem(413, f"the body is larger than {BODY_MAX} bytes")
    if head.expects_continue and not events:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with asyncio.timeout(HEAD_TIMEOUT):
        while True:
            for event in events:
                if type(event) is bytes:
                    size += len(event)
                    pieces.append(event)
                elif isinstance(event, End):
                    events.clear()
                    request.body = b"".join(pieces)
                    return None
                else:
                    return problem(400, "the body is malformed")
            if size > BODY_MAX:
                return problem(413, f"the body is larger than {BODY_MAX} bytes")
            data = await reader.read(_PIECE)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            events[:] = parser.feed(data)


async def _send(writer: asyncio.StreamWriter, response: Response, *, close: bool, head_only: bool = False) -> None:
    extra = response.extra + b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    if response.stream is not None:
        phrase = PHRASES.get(response.status, b"OK")
        kind = b"Content-Type: %b\r\n" % response.kind if response.kind else b""
        writer.write(b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (response.status, phrase, kind, extra))
    else:
        writer.write(own(response.status, response.kind, response.body, close=close, extra=extra, head_only=head_only))
    async with asyncio.timeout(WRITE_TIMEOUT):
        await writer.drain()
