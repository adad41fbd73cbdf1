"""A client connection as a pipe: read on or not, write, wait, and the ways in which it ends.

Theory. A connection with bytes unread must not be closed, because the kernel then sends a reset that can destroy the
answer on its way (RFC 9112 §9.6): our side is shut first, and what still comes is read and thrown away for a moment.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.gateway.framing import Link, RequestHead, RequestReader

if TYPE_CHECKING:
    from tenfold.gateway.engine.forward import Exchange
    from tenfold.gateway.engine.plan import Plan
    from tenfold.gateway.engine.site import Site

LINGER: Final = 2.0
"""Seconds for which a client that is still sending is read after the last answer."""
LINGER_BYTES: Final = 1024 * 1024


class ClientEnds(asyncio.Protocol):
    """The state of a client connection, and what is done to it whatever is asked on it (`Client`)."""

    __slots__ = (
        "_busy",
        "_chunked",
        "_heading",
        "_left",
        "_lingers",
        "_linked",
        "_links",
        "_most",
        "_open",
        "_reading",
        "_unsent",
        "due",
        "eof",
        "exchange",
        "full",
        "origin",
        "peer",
        "plain_fields",
        "quiet_since",
        "reader",
        "scheme",
        "site",
        "transport",
        "trusted",
        "tunnel",
    )  # fmt: skip

    transport: asyncio.Transport
    reader: RequestReader
    trusted: bool
    """Whether it may say who the client is."""
    peer: str
    """Its address, or `UNIX`."""

    def __init__(self, site: Site, scheme: str = "http", peer: str | None = None) -> None:
        self.site = site
        self.scheme = scheme
        """``"https"`` where it came by TLS."""
        self.peer = peer or ""  # where it is empty, the socket knows
        self.exchange: Exchange | None = None
        self.due = inf
        """When the sweep calls time."""
        self.eof = False
        self.full = False
        """The client takes no more for now."""
        self.tunnel: Exchange | None = None
        self.plain_fields: dict[bytes, list[bytes]] | None = None
        """Fields for which a fresh response is the answer (`served`), and the start of the URLs that they are about."""
        self.origin = b""
        self.quiet_since = 0.0
        """Since when it has waited for its next request."""
        self._links: tuple[Link | None, Link | None] = (None, None)
        self._linked: Plan | None = None
        """The plan that they are of."""
        self._open = False
        self._busy = False
        self._heading = False
        self._reading = True
        self._lingers = False
        self._left = LINGER_BYTES
        self._most: int | None = None
        self._unsent: Exchange | None = None
        """One that begins once it has what came of its body together with its head."""
        self._chunked = False

    # -- reading and writing ------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        if self._reading and self._open:
            self._reading = False
            self.transport.pause_reading()
            if self.exchange is not None and not self.exchange.ended and not self.full:
                self.due = inf

    def resume_reading(self) -> None:
        """Read on."""
        if not self._reading and self._open and not self.reader.held:
            self._reading = True
            self.transport.resume_reading()
            if self.exchange is not None and not self.exchange.ended and not self.full:
                self.due = self.site.now + self.site.plan.gateway.body_timeout

    @property
    def closing(self) -> bool:
        """Whether this answer is the last on the connection."""
        return self.eof or self.site.draining

    def write(self, data: bytes) -> None:
        """To the client."""
        if self._open:
            site = self.site
            site.counters.bytes_out += len(data)
            site.write(self.transport, data)

    def _idle(self) -> None:
        self._heading = False
        self.quiet_since = self.site.now
        if not self.full:
            self.due = self.site.now + self.site.plan.gateway.idle_timeout

    # -- who it is ----------------------------------------------------------------------------------------------------

    def link(self, host: bool) -> Link:
        """This connection's share in the heads of requests; ``host``: the client's Host is kept."""
        plan = self.site.plan
        if plan is not self._linked:
            self._linked = plan
            self._links = (None, None)
        found = self._links[host]
        if found is None:
            found = plan.forwarders[self.trusted, host].link(self.peer, self.scheme)
            self._links = (self._links[0], found) if host else (found, self._links[1])
        return found

    def believed(self, head: RequestHead) -> str:
        """The client's address as far as it can be believed."""
        return self.link(True).client(head)

    # -- the end ------------------------------------------------------------------------------------------------------

    @property
    def _goes_on(self) -> bool:
        return self._open and not self._lingers and self.tunnel is None and not self.transport.is_closing()

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return self.exchange is None and not self._lingers and self.reader.idle

    def shut(self) -> None:
        """Close once all is written."""
        if self._open:
            self._lingers = True
            self.due = self.site.now + self.site.plan.gateway.write_timeout
            self.site.flush()
            self.transport.close()

    def _linger(self) -> None:
        """Shut our side, and read on for a moment."""
        if not self._open or self._lingers:
            return
        if self.eof or not self.transport.can_write_eof():
            self.shut()
            return
        self._lingers = True
        self.due = self.site.now + LINGER
        self.site.flush()
        self.transport.write_eof()
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()

    def cut(self) -> None:
        """Close at once."""
        if self._open:
            self.site.flush()
            self.transport.abort()
