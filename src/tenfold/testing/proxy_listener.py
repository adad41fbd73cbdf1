"""Where a `FaultProxy` listens: one loopback port that it can refuse connections on without giving it up."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from tenfold._core.errors import MisuseError

_BACKLOG: Final = 1024


class Listener:
    """Accepts connections at ``port`` (0: a free one) of 127.0.0.1 and hands each to ``on_client``,
    unblocked.

    It starts refusing. The kernel answers a connection to a port that is bound but not listened on with RST,
    which the client sees as "connection refused"; so refusing means to exchange the socket for one that is
    only bound.
    """

    def __init__(self, port: int, on_client: Callable[[socket.socket], None]) -> None:
        self._on_client = on_client
        self._socket = self._bind(port, asked_for=True)
        self._listening = False
        self.address: Final[tuple[str, int]] = self._socket.getsockname()

    @property
    def listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listening

    def accept(self) -> None:
        """Accept connections from now on."""
        if not self._listening:
            self._socket.listen(_BACKLOG)
            asyncio.get_running_loop().add_reader(self._socket, self._ready)
            self._listening = True

    def refuse(self) -> None:
        """Refuse connections from now on; those in the backlog are reset."""
        if self._listening:
            placeholder = self._bind(self.address[1])  # before the other lets go: nobody can take the port between
            self.close()
            self._socket = placeholder

    def close(self) -> None:
        """Give up the port."""
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._listening = False
        self._socket.close()

    def _ready(self) -> None:
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # the client has gone again
        client.setblocking(False)
        self._on_client(client)

    @staticmethod
    def _bind(port: int, *, asked_for: bool = False) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not asked_for:
                _share(bound)
            bound.bind(("127.0.0.1", port))
            _share(bound)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE and asked_for:
                raise MisuseError(
                    f"FaultProxy: port {port} is taken; choose another or leave it out for a free one"
                ) from error
            raise
        return bound


def _share(bound: socket.socket) -> None:
    """Let another socket of this process bind the same port too."""
    if hasattr(socket, "SO_REUSEPORT"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def parse_upstream(upstream: str) -> tuple[str, int]:
    """Host and port of ``"host:port"``, ``"[::1]:port"`` or a URL that names a port. Raises `MisuseError`."""
    text = upstream if "://" in upstream else f"tcp://{upstream}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise MisuseError(
            f'upstream: expected "host:port" such as "127.0.0.1:5432", or a URL with a port, got {upstream!r}'
        )
    return host, port


def url_at(upstream: str, address: str) -> str:
    """The URL ``upstream`` with ``address`` as host and port; ``"tcp://address"`` if it is no URL."""
    if "://" not in upstream:
        return f"tcp://{address}"
    parts = urlsplit(upstream)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{address}"))
