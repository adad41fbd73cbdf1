"""From an accepted socket to a client: the PROXY header, then the handshake, each by its deadline.

Theory. A balancer that passes TCP on says first who the client is, in clear, before the client's own bytes, the
handshake included. The header may come in any pieces and the client's first bytes may come with its last one, so it is
gathered until it is whole, and what is left is handed to who comes next. Who is not a client yet counts as one where
the number of clients is bounded, so that a flood of connections that never say a word ends at the same wall.

A connection that never becomes a client is closed and counted, and no more: a log line for each would be a gift to
whoever wants the disk full.
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.gateway.engine import problem
from tenfold.gateway.engine.client_side import Client
from tenfold.gateway.engine.tls import Tls
from tenfold.gateway.framing import Refusal
from tenfold.gateway.framing.limits import Limits
from tenfold.gateway.framing.proxy_protocol import read_proxy

if TYPE_CHECKING:
    from tenfold.gateway.engine.site import Site

_LIMITS: Final = Limits()


class Arrival:
    """A connection that is not a client yet. The sweep calls `late` when it is due."""

    __slots__ = ("_site", "due", "transport")

    def __init__(self, site: Site) -> None:
        self._site = site
        self.transport: asyncio.Transport | None = None
        self.due = inf
        site.arrivals.add(self)

    def late(self) -> None:
        """Its time is over."""
        self.cut()

    def cut(self) -> None:
        """Close at once."""
        self.due = inf
        if self.transport is None:  # the socket failed before it was ours
            self.over()
        else:
            self.transport.abort()

    def over(self) -> None:
        """It has become a client, or never will."""
        site = self._site
        if self in site.arrivals:
            site.arrivals.discard(self)
            site.left()


class Handshake(Arrival):
    """A client that is in its handshake."""

    __slots__ = ("client", "tls")

    def __init__(self, site: Site, context: ssl.SSLContext, peer: str | None = None) -> None:
        super().__init__(site)
        self.client = Client(site, "https", peer)
        self.tls = Tls(context, self.client, None, self._done)
        self.due = site.now + site.plan.gateway.tls_timeout

    def cut(self) -> None:
        if self.tls.wired:
            self.transport = self.tls
        super().cut()

    def _done(self, error: BaseException | None) -> None:
        site = self._site
        if error is None:
            site.counters.handshakes += 1
        else:
            site.counters.handshakes_failed += 1
            if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
                self.tls.raw.write(problem.render(problem.PLAIN_HTTP, close=True))
        self.over()


class Proxied(Arrival, asyncio.Protocol):
    """A connection whose PROXY header is still to come."""

    __slots__ = ("_data",)

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._data = b""
        self.due = site.now + site.plan.gateway.header_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # a socket's transport is one

    def data_received(self, data: bytes) -> None:
        if self.due == inf:
            return
        self._data += data
        found = read_proxy(self._data, _LIMITS)
        if found is None:
            return
        site = self._site
        if isinstance(found, Refusal):
            self.cut()
            return
        peer = None if found.source is None else found.source[0]
        rest = self._data[found.size :]
        self._data = b""
        client = next_protocol(site, peer)
        transport = self.transport
        assert transport is not None
        self.due = inf
        transport.set_protocol(client)
        client.connection_made(transport)
        site.counters.proxied += 1
        self.over()
        if rest and not transport.is_closing():
            client.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._site.counters.proxied_failed += 1
        self.over()


def next_protocol(site: Site, peer: str | None) -> asyncio.Protocol:
    """Who takes a TCP connection whose PROXY header, if there was to be one, has been read."""
    certificates = site.keyring.certificates
    if certificates is None:
        return Client(site, "http", peer)
    return Handshake(site, certificates.context, peer).tls


def first_protocol(site: Site, *, local: bool) -> asyncio.Protocol:
    """Who takes a connection that was just accepted; ``local``: by a unix socket, where both ends are ours."""
    if local:
        return Client(site)
    if site.plan.gateway.proxy_protocol:
        return Proxied(site)
    return next_protocol(site, None)
