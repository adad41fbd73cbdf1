"""Connections to one endpoint: kept alive, taken up again, and dropped at the first doubt.

Theory. A connection that was idle may close just as a request is written to it (RFC 9112 §9.3.1). Two things keep that
rare: the connection used last is taken first, and none is kept for longer than `Pool.idle` (4 s), which is below what
backends allow (uvicorn: 5 s). What remains is told from a fault of the endpoint by `UpstreamConnection.used`, and the
exchange decides. Bytes that come while nothing was asked for belong to nobody, so such a connection is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from tenfold.gateway.engine.problem import CONNECT, CONNECT_TIMEOUT, Fault
from tenfold.gateway.engine.tls import Tls
from tenfold.gateway.engine.upstream_tls import fault_of_handshake, system_context
from tenfold.gateway.framing import Limits, ResponseEvent, ResponseReader

if TYPE_CHECKING:
    from tenfold.balance import Endpoint
    from tenfold.gateway.config import Pool
    from tenfold.gateway.engine.site import Site
    from tenfold.gateway.engine.tally import Tally

_log: Final = logging.getLogger("tenfold.gateway")

LIMITS: Final = Limits(head=64 * 1024, fields=200)
"""What responses may have; twice what is taken from clients, because nobody else is to blame here."""


class HandshakeError(Exception):
    """A handshake with an endpoint failed; ``cause`` says why."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause: Final = cause


class Taker(Protocol):
    """Who uses a connection."""

    def connected(self, connection: UpstreamConnection) -> None: ...

    def unconnected(self, fault: Fault) -> None: ...

    def at_once(self, connection: UpstreamConnection, data: bytes) -> bool: ...

    def answered(self, connection: UpstreamConnection, events: list[ResponseEvent]) -> None: ...

    def lost(self, connection: UpstreamConnection) -> None: ...

    def late(self, connection: UpstreamConnection) -> None: ...

    def upstream_full(self, connection: UpstreamConnection) -> None: ...

    def upstream_free(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to an endpoint, used by one exchange at a time, or idle."""

    __slots__ = ("due", "open", "reader", "taker", "transport", "upstream", "used")

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.reader = ResponseReader(LIMITS)
        self.taker: Taker | None = None
        self.used = 0
        """Requests that it has served."""
        self.due = inf
        """When the sweep calls time."""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # a socket's transport is one
        self.open = True
        self.upstream.connections.add(self)
        self.upstream.site.counters.upstreams += 1

    def data_received(self, data: bytes) -> None:
        taker = self.taker
        if taker is None:
            self.upstream.site.counters.unsolicited += 1
            self.drop()
            return
        if not taker.at_once(self, data):
            taker.answered(self, self.reader.feed(data))

    def eof_received(self) -> bool:
        taker = self.taker
        if taker is not None:
            events = self.reader.eof()
            if events:
                taker.answered(self, events)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop()
        taker, self.taker = self.taker, None
        if taker is not None:
            taker.lost(self)

    def pause_writing(self) -> None:
        if self.taker is not None:
            self.taker.upstream_full(self)

    def resume_writing(self) -> None:
        if self.taker is not None:
            self.taker.upstream_free(self)

    def drop(self) -> None:
        """Close it, and let nobody take it again."""
        if self.open:
            self.open = False
            self.upstream.forget(self)
            self.transport.abort()


class Upstream:
    """The connections to one endpoint."""

    __slots__ = ("_context", "_name", "_where", "authority", "connections", "endpoint", "gone", "idle", "opening",
                 "options", "site", "tally")  # fmt: skip

    def __init__(
        self, site: Site, options: Pool, endpoint: Endpoint, tally: Tally, context: ssl.SSLContext | None = None
    ) -> None:
        self.site = site
        self.options = options
        self.endpoint = endpoint
        self.tally = tally
        self.idle: list[UpstreamConnection] = []
        self.connections: set[UpstreamConnection] = set()
        self.opening = 0
        self.gone = False
        """The endpoint has left: what is under way ends, and nothing is kept."""
        self._context: ssl.SSLContext | None = None
        """For the handshake; None: it is spoken to in clear."""
        self._name = ""
        parts = urlsplit(endpoint.url)
        if parts.scheme == "unix":
            self._where: tuple[str, int] | str | None = unquote(parts.path)
            self.authority = b"localhost"
        elif parts.scheme not in ("http", "https"):  # a discovery's word: a file's is refused when it is read
            _log.error("endpoint %s: expected http, https or unix, got %s; it gets no requests", endpoint.id,
                       endpoint.url)  # fmt: skip
            self._where, self.authority = None, b""
        else:
            if parts.scheme == "https":
                self._context = system_context() if context is None else context
                said = None if options.tls is None else options.tls.name
                self._name = said or parts.hostname or ""
            port = parts.port or (443 if self._context is not None else 80)
            self._where = (parts.hostname or "", port)
            self.authority = parts.netloc.rpartition("@")[2].encode()

    def take(self) -> UpstreamConnection | None:
        """The warmest idle connection, if there is one."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.open and not connection.transport.is_closing():
                self.site.counters.reused += 1
                return connection
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Keep it for the next request, or close it."""
        connection.taker = None
        if not connection.open:
            return
        if self.gone or connection.transport.is_closing() or len(self.idle) >= self.options.idle_max:
            connection.drop()
            return
        connection.used += 1
        connection.due = self.site.now + self.options.idle
        self.idle.append(connection)

    def connect(self, taker: Taker) -> None:
        """Open a connection for ``taker``, which is told of it, or of the failure."""
        self.opening += 1
        self.site.tasks.spawn(self._connect(taker), name="connect")

    async def _connect(self, taker: Taker) -> None:
        counters = self.site.counters
        loop = self.site.loop
        fault: Fault | None = None
        connection: UpstreamConnection | None = None
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                made: tuple[Any, Any]
                if self._where is None:
                    raise OSError("not a place that this engine can go to")
                if isinstance(self._where, str):
                    made = await loop.create_unix_connection(lambda: UpstreamConnection(self), self._where)
                elif self._context is not None:
                    made = None, await self._connect_tls(self._context, self._where)
                else:
                    made = await loop.create_connection(lambda: UpstreamConnection(self), *self._where)
                connection = made[1]
                counters.connects += 1
        except TimeoutError:
            fault = CONNECT_TIMEOUT
        except HandshakeError as error:
            fault = fault_of_handshake(error.cause)
        except OSError:
            fault = CONNECT
        finally:
            self.opening -= 1
        if fault is not None or connection is None:
            counters.connects_failed += 1
            taker.unconnected(fault or CONNECT)
        else:
            taker.connected(connection)

    async def _connect_tls(self, context: ssl.SSLContext, where: tuple[str, int]) -> UpstreamConnection:
        loop = self.site.loop
        connection = UpstreamConnection(self)
        ready: asyncio.Future[BaseException | None] = loop.create_future()

        def done(error: BaseException | None) -> None:
            if not ready.done():
                ready.set_result(error)

        tls = Tls(context, connection, self._name, done)
        await loop.create_connection(lambda: tls, *where)
        try:
            error = await ready
        except asyncio.CancelledError:
            tls.abort()
            raise
        if error is not None:
            raise HandshakeError(error)
        return connection

    def forget(self, connection: UpstreamConnection) -> None:
        """It is closed or closing."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.site.counters.upstreams -= 1
            if connection in self.idle:
                self.idle.remove(connection)

    def retire(self) -> None:
        """The endpoint has left."""
        self.gone = True
        for connection in list(self.idle):
            connection.drop()

    def sweep(self, now: float) -> None:
        """Close what was idle for too long, and call time where an answer is due."""
        for connection in [each for each in self.connections if each.due < now]:
            taker = connection.taker
            if taker is None:
                connection.drop()
            else:
                taker.late(connection)

    def __repr__(self) -> str:
        return f"<Upstream {self.endpoint.id!r} connections={len(self.connections)} idle={len(self.idle)}>"
