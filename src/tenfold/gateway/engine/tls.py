"""TLS between a socket and a protocol: the same on every event loop, for clients and for endpoints.

Theory. TLS closes each direction by an alert, close_notify, of its own (RFC 8446 §6.1), so that an end can be told from
a cable that was cut. The transports of asyncio and uvloop hide this: they cannot close one direction, they take a
client that has said all it had to say for one that has left, and they take a cut connection for an end. A gateway needs
all three: a client's half-close is no abort, what is unread at the end is drained while our side is shut already, and
an answer that lasts until the connection closes is complete only with a close_notify (RFC 9112 §9.8). So the records
go through OpenSSL in memory here, and the socket's own transport carries them.

The layer is the protocol of the socket's transport and the transport of the protocol above it. What one read of the
socket brings is handed up in one piece, so that a pause of reading never has to stop in the middle.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_READ: Final = 16 * 1024
"""As much as a record can hold, which is all that one read gives."""
CUT: Final = "the connection was closed in the handshake"

Done = Callable[[BaseException | None], object]
"""Told once how the handshake ended: None, or why it did not come about."""


class Tls(asyncio.Transport, asyncio.Protocol):
    """One connection. ``inner`` is the protocol above: it is connected when the handshake is complete, and lost when
    the socket is; before, ``done`` is all that hears of it.

    ``name`` is the server name to ask for and to check; None is the server's side.
    """

    __slots__ = ("_closing", "_done", "_ended", "_incoming", "_object", "_outgoing", "_owing", "_paused", "_shut",
                 "context", "inner", "name", "open", "raw")  # fmt: skip

    raw: asyncio.Transport
    _object: ssl.SSLObject

    def __init__(self, context: ssl.SSLContext, inner: asyncio.Protocol, name: str | None, done: Done) -> None:
        super().__init__()
        self.context = context
        self.inner = inner
        self.name = name
        self.open = False
        """The handshake is complete, and the socket not lost."""
        self._done: Done | None = done
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._closing = False
        self._shut = False
        """Our close_notify is on its way: nothing is written after it."""
        self._ended = False
        """The other side's has come."""
        self._owing = False
        """The protocol above has yet to hear of that, for it does not read now."""
        self._paused = False

    @property
    def wired(self) -> bool:
        """Whether it has its socket."""
        return hasattr(self, "raw")

    # -- as the protocol of the socket --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = transport  # type: ignore[assignment] # a socket's transport is one
        server = self.name is None
        try:
            self._object = self.context.wrap_bio(self._incoming, self._outgoing, server, self.name)
        except ValueError as error:  # no name that TLS could carry
            self._fail(ssl.SSLError(str(error)))
            return
        if not server:
            self._shake()

    def data_received(self, data: bytes) -> None:
        if self._closing and not self._shut:
            return  # the handshake has failed
        self._incoming.write(data)
        if not self.open and not self._shake():
            return
        self._read()

    def eof_received(self) -> bool:
        if not self.open:
            self._fail(ConnectionResetError(CUT))
            return False
        if self._ended:
            return not self._closing
        if self.name is not None:
            return False  # cut, and no end: the protocol above is lost, and hears of no end before
        return self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self.open = False
            self.inner.connection_lost(exc)
        else:
            self._tell(exc or ConnectionResetError(CUT))

    def pause_writing(self) -> None:
        if self.open:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self.open:
            self.inner.resume_writing()

    # -- records ------------------------------------------------------------------------------------------------------

    def _shake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST":  # who speaks no TLS would not read our alert
                self._flush()
            self._fail(error)
            return False
        self._flush()
        self.open = True
        self.inner.connection_made(self)
        self._tell(None)
        return True

    def _read(self) -> None:
        """Hand up all that has come."""
        found: list[bytes] = []
        read, pending, incoming = self._object.read, self._object.pending, self._incoming
        failed = False
        try:
            while data := read(_READ):
                found.append(data)
                if not incoming.pending and not pending():
                    break
            else:
                self._ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError:
            failed = True
        if self._outgoing.pending and not self._shut:
            self._flush()  # an answer to a key update, or an alert
        if found:
            self.inner.data_received(found[0] if len(found) == 1 else b"".join(found))
        if failed:
            self.abort()
        elif self._ended and self.open and not self._closing:
            if self._paused:
                self._owing = True
            elif not self._end():
                self.close()

    def _end(self) -> bool:
        """Tell the protocol above that no more comes; whether it wants to go on writing."""
        self._ended = True
        return bool(self.inner.eof_received()) and not self._closing

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self.raw.is_closing():
            self.raw.write(data)

    def _fail(self, error: BaseException) -> None:
        self._closing = True
        self._tell(error)
        self.raw.close()

    def _tell(self, error: BaseException | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error)

    def _say_end(self) -> None:
        if not self._shut and self.open:
            self._shut = True
            with suppress(ssl.SSLError):  # it waits for the other side's, which we need not
                self._object.unwrap()
            self._flush()

    # -- as the transport of the protocol above -----------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. After the end has been said it is dropped, as a closed socket's transport does."""
        if self._shut or not data:
            return
        try:
            sent = self._object.write(data)
            while sent < len(data):
                data = memoryview(data)[sent:]
                sent = self._object.write(data)
        except ssl.SSLError:  # of a connection that has failed before: OpenSSL says so ever after
            self.abort()
            return
        self._flush()

    def can_write_eof(self) -> bool:
        """TLS can, and TCP can."""
        return True

    def write_eof(self) -> None:
        """Say that no more comes, and read on."""
        self._say_end()
        if not self.raw.is_closing() and self.raw.can_write_eof():
            self.raw.write_eof()

    def close(self) -> None:
        """Close once all is written, without waiting for the other side to say its end."""
        if not self._closing:
            self._say_end()
            self._closing = True
            self.raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = self._shut = True
        self.raw.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._closing or self.raw.is_closing()

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        self._paused = True
        self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._paused = False
        self.raw.resume_reading()
        if self._owing:
            asyncio.get_running_loop().call_soon(self._owed)

    def _owed(self) -> None:
        if self._owing and self.open and not self._paused:
            self._owing = False
            if not self._end():
                self.close()

    def is_reading(self) -> bool:
        """Whether it does."""
        return not self._paused and self.raw.is_reading()

    def get_write_buffer_size(self) -> int:
        """What the socket has not taken yet."""
        return self.raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object``, and what the socket's transport knows."""
        if name == "ssl_object":
            return self._object
        return self.raw.get_extra_info(name, default)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "open" if self.open else "in its handshake"
        return f"<Tls {'server' if self.name is None else self.name!r} {state}>"
