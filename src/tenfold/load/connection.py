"""One connection: the protocol that writes a request and reads its answer."""

from __future__ import annotations

import asyncio
import socket
from os import write
from time import monotonic
from typing import TYPE_CHECKING, cast

from tenfold.load.trampoline import resume
from tenfold.load.wire import Reader

if TYPE_CHECKING:
    from tenfold.load.pool import Pool
    from tenfold.load.user import User


class Failure:
    """Why a request got no answer. ``retryable``: a reused idle connection went away before any byte came."""

    __slots__ = ("kind", "retryable")

    def __init__(self, kind: str, retryable: bool = False) -> None:
        self.kind = kind
        self.retryable = retryable


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    __slots__ = ("fd", "head_only", "open", "pool", "reader", "transport", "used", "user")

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.user: User | None = None
        self.head_only = False
        self.reader: Reader | None = None
        self.used = False
        """Whether it has carried an answer."""
        self.open = False
        self.fd = -1
        """Of a plain connection; -1 where bytes must go through TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.pool.scheme == "http":
                self.fd = raw.fileno()
        self.open = True
        self.pool.opened += 1
        self.pool.connections.add(self)

    def write(self, wire: bytes) -> None:
        """The transport's queue is empty between requests, so the bytes may go to the kernel at once; only what it
        does not take goes through the transport, which also is who meets the errors.
        """
        if self.fd >= 0:
            try:
                taken = write(self.fd, wire)
            except OSError:
                taken = 0
            if taken == len(wire):
                return
            wire = wire[taken:]
        self.transport.write(wire)

    def data_received(self, data: bytes) -> None:
        if self.user is None:  # bytes that nobody asked for: a broken peer, or an answer to a request given up
            self.drop()
            return
        pool = self.pool
        if not pool.arrived:
            pool.loop.call_soon(pool.hand_out)
        pool.arrived.append((self, data))

    def take(self, data: bytes) -> None:
        """The general way of `Pool.hand_out`: part of an answer, or one that `read_whole` leaves alone."""
        user = self.user
        if user is None:
            self.drop()
            return
        if self.reader is None:
            self.reader = Reader(self.head_only)
        if self.reader.feed(data):
            self._settle(user, self.reader)

    def _settle(self, user: User, reader: Reader) -> None:
        self.user = None
        self.reader = None
        self.used = True
        self.pool.requests += 1
        if self.pool.outgoing is None:  # nobody else has looked at the clock for this answer
            self.pool.now = monotonic()
        if reader.keep and reader.failure is None and self.open:
            self.pool.put(self)
        else:
            self.drop()
        resume(user, Failure(reader.failure) if reader.failure is not None else reader.answer)

    def eof_received(self) -> bool:
        self.pool.hand_out()  # what came before the end comes first
        self.pool.forget(self)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.hand_out()
        self.pool.forget(self)
        self.pool.refill()
        user, reader = self.user, self.reader
        if user is None:
            return
        if reader is not None and exc is None and reader.end():
            reader.keep = False
            self._settle(user, reader)
            return
        self.user = None
        resume(user, Failure("closed" if exc is None else "reset", self.used and reader is None))

    def fail(self, kind: str) -> None:
        """Give the request up and the connection with it: its answer may still come, for nobody."""
        user, self.user = self.user, None
        self.drop()
        if user is not None:
            resume(user, Failure(kind))

    def drop(self) -> None:
        """Close without ceremony."""
        self.pool.forget(self)
        if not self.transport.is_closing():
            self.transport.abort()
