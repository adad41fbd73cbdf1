"""Where clients are accepted: sockets that listen, and stop to while there are as many clients as may be."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from typing import Any, Final

from tenfold.gateway.config import Address
from tenfold.gateway.engine.accepting import first_protocol
from tenfold.gateway.engine.site import Site

_log: Final = logging.getLogger("tenfold.gateway")
_BACKLOG: Final = 1024
_AT_ONCE: Final = 128


class Listener:
    """A socket that accepts clients, as long as there may be more of them.

    ``made`` is one that listens on the address already; the file of a unix socket is its maker's to remove then.
    """

    __slots__ = ("_made", "_site", "_socket", "address", "dealt", "paused")

    def __init__(self, site: Site, address: Address, made: socket.socket | None = None) -> None:
        self._site = site
        self._made = made
        self._socket: socket.socket | None = _listening(address) if made is None else made
        self.dealt = True
        """Whether clients are to be accepted here, and not by another process that holds the socket too."""
        self.paused = True
        self.address = address
        if not address.path:
            self.address = Address(address.host, self._socket.getsockname()[1])

    def start(self) -> None:
        """Accept."""
        if self._socket is not None and self.dealt:
            self.paused = False
            self._site.loop.add_reader(self._socket.fileno(), self.accept)

    def _pause(self) -> None:
        if not self.paused and self._socket is not None:
            self.paused = True
            self._site.loop.remove_reader(self._socket.fileno())

    def accept(self) -> None:
        """Those that wait, up to a number."""
        site = self._site
        for _ in range(_AT_ONCE):
            if self._socket is None or not self.dealt:
                return
            if len(site.clients) + len(site.arrivals) >= site.plan.gateway.connections:
                self._pause()
                return
            try:
                connection, _peer = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _log.error("gateway: cannot accept on %s: %s", self.address, error)
                    self._pause()
                    site.loop.call_later(0.5, self.start)
                    return
                continue  # that client has gone already
            connection.setblocking(False)
            if not self.address.path:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            site.tasks.spawn(self._serve(connection), name="accept")

    async def _serve(self, connection: socket.socket) -> None:
        site, local = self._site, bool(self.address.path)
        await site.loop.connect_accepted_socket(lambda: first_protocol(site, local=local), connection)

    def deal(self, dealt: bool) -> None:
        """Accept here from now on, or leave it to others."""
        self.dealt = dealt
        if dealt:
            self.start()
        else:
            self._pause()

    def close(self) -> None:
        """Accept no more."""
        if self._socket is not None:
            self._pause()
            listening, self._socket = self._socket, None
            listening.close()
            if self.address.path and self._made is None:
                _unlink(self.address.path)

    def __repr__(self) -> str:
        return f"<Listener {self.address}{' paused' if self.paused else ''}>"


def _listening(address: Address) -> socket.socket:
    if address.path:
        _unlink(address.path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        where: Any = address.path
    else:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.setblocking(False)
        made.bind(where)
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"gateway: cannot listen on {address}: {error.strerror}") from error
    return made


def _unlink(path: str) -> None:
    """Remove a socket that an earlier process left behind; and nothing else."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return
