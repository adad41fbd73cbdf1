"""Writing the heads that are passed on: what came, less what was for us, plus what we know of the client.

Theory. Fields that Connection names and those that RFC 9110 §7.6.1 lists are for the next hop and end here; the readers
have taken them out already. What is said *of the client* (Forwarded of RFC 7239, X-Forwarded-*) is worth as much as the
one who says it: from a peer that is a trusted hop it is kept and our peer's address added, from any other it is
removed. The client's address is the rightmost that is no trusted hop's.

Nothing is parsed again here: lines are joined as they came, and what is the same for every request of a connection is
rendered once and kept by its `Link`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from tenfold.gateway.framing import fields as f
from tenfold.gateway.framing.forwarding import UNIX, Forwarding, networks
from tenfold.gateway.framing.head import CHUNKED, RequestHead, ResponseHead
from tenfold.gateway.framing.naming import Identity, Naming

_PROTO: Final = b"x-forwarded-proto"


class Forwarder:
    """`Forwarding` in the form that is needed for every request. One for each route or gateway, shared by all."""

    __slots__ = ("_networks", "_unix", "naming", "options", "upgrades", "via_1_0", "via_1_1")

    def __init__(self, options: Forwarding) -> None:
        self.options: Final = options
        self._networks = networks(options.trusted)
        self._unix = UNIX in options.trusted
        self.upgrades: Final = frozenset(name.lower().encode() for name in options.upgrades)
        self.naming: Final = Naming(options)
        name = options.via
        self.via_1_1: Final = None if name is None else b"Via: 1.1 " + name.encode()
        self.via_1_0: Final = None if name is None else b"Via: 1.0 " + name.encode()

    def trusts(self, address: str) -> bool:
        """Whether the peer with that address may say who the client is."""
        if address == UNIX:
            return self._unix
        if not self._networks:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self._networks)

    def link(self, peer: str, scheme: str) -> Link:
        """For one client connection: the peer's address (or `UNIX`) and ``"http"`` or ``"https"``."""
        return Link(self, peer, scheme)


class Link:
    """One client connection's share in every head: who the client is, and over what it came."""

    __slots__ = ("_after", "_authority", "_before", "_block", "_host", "_known_host", "_peer", "_plain", "_scheme",
                 "forwarder", "identify", "peer", "trusted")  # fmt: skip

    def __init__(self, forwarder: Forwarder, peer: str, scheme: str) -> None:
        self.forwarder: Final = forwarder
        self.identify: Final = forwarder.naming.identify
        self.peer: Final = peer
        self.trusted: Final = forwarder.trusts(peer)
        self._peer = peer.encode()
        self._scheme = scheme.encode()
        self._host: bytes | None = None
        self._block = b""
        self._plain: list[bytes] | None = None
        """The lines of the last request. Where the next one has the same list, `_before` and `_after` are what stands
        before and behind its identity, once that has come twice (empty before).
        """
        self._before = self._after = b""
        self._known_host: bytes | None = None
        self._authority: bytes | None = None
        """The one that they name; None: they name the client's."""

    def client(self, head: RequestHead) -> str:
        """The client's address as far as it can be believed: the rightmost that is not a trusted hop's."""
        if not self.trusted:
            return self.peer
        found = self.peer
        chain = b",".join(value for kind, value, _ in head.claims if kind == f.X_FOR)
        parts = chain.decode("latin-1").split(",")
        for part in parts[: -1 - (self.forwarder.options.hops or len(parts)) : -1]:
            try:
                found = str(ipaddress.ip_address(part.strip()))
            except ValueError:
                break
            if not self.forwarder.trusts(found):
                break
        return found

    def secure(self, head: RequestHead) -> bool:
        """Whether the client came by TLS: to us, or as a trusted hop's first X-Forwarded-Proto says, to the first."""
        if self._scheme == b"https" or not self.trusted:
            return self._scheme == b"https"
        said = (value for kind, value, line in head.claims if kind == f.X_CLAIM and line[:17].lower() == _PROTO)
        return next(said, b"").partition(b",")[0].strip().lower() == b"https"

    def upgrade(self, head: RequestHead) -> bytes | None:
        """The protocol to which the request may be switched: hand it to `ResponseReader.expect`."""
        protocol = head.upgrade
        if protocol is None or head.length != 0 or protocol not in self.forwarder.upgrades:
            return None
        return protocol

    def request(self, head: RequestHead, identity: Identity, authority: bytes = b"") -> bytes:
        """The bytes of the head for the upstream whose host and port are ``authority``."""
        plain, lines, host = head.plain, identity.lines, head.host
        if plain is self._plain and lines:
            if not self._before or host is not self._known_host or authority != (self._authority or authority):
                self._known(head, authority)
            return b"".join((head.method, b" ", head.target, self._before, lines, self._after))
        self._plain, self._before = plain, b""
        before, after = self._around(head, authority)
        out = [b"%b %b HTTP/1.1" % (head.method, head.target), *before]
        if lines:
            out.append(lines)
        out += after
        out.append(b"\r\n")
        return b"\r\n".join(out)

    def _known(self, head: RequestHead, authority: bytes) -> None:
        """Render what is the same for all requests with the very same fields (`RequestReader` hands on one list then,
        and all that is done to a head on its way replaces the list), so that they need no more than be put together.
        """
        before, after = self._around(head, authority)
        self._before = b"\r\n".join((b" HTTP/1.1", *before, b""))
        self._after = b"\r\n".join((b"", *after, b"\r\n"))
        self._known_host = head.host
        clients = self.forwarder.options.host == "client" and head.host
        self._authority = None if clients else authority

    def _around(self, head: RequestHead, authority: bytes) -> tuple[list[bytes], list[bytes]]:
        """The lines before and behind its identity."""
        forwarder = self.forwarder
        before = [*head.plain]
        host = head.host
        if host is None or host != self._host:
            self._remember(host)
        policy = forwarder.options.host
        if policy == "client":
            before.append(b"Host: " + (host or authority))
        else:
            before.append(b"Host: " + (authority if policy == "endpoint" else policy.encode()))
        if self.trusted:
            self._claims(head, before)
        elif self._block:
            before.append(self._block)
        after = []
        if head.length == CHUNKED:
            after.append(b"Transfer-Encoding: chunked")
        if head.expects_continue:
            after.append(b"Expect: 100-continue")
        if head.upgrade is not None and (protocol := self.upgrade(head)) is not None:
            after.append(b"Connection: Upgrade\r\nUpgrade: " + protocol)
        via = forwarder.via_1_0 if head.http10 else forwarder.via_1_1
        if via is not None:
            after.append(via)
        return before, after

    def response(
        self,
        head: ResponseHead,
        *,
        close: bool,
        http10: bool = False,
        chunked: bool | None = None,
        extra: Sequence[bytes] = (),
    ) -> bytes:
        """The bytes of the head for the client.

        ``close``: we shall close the connection after it; ``http10``: the client speaks HTTP/1.0. ``chunked`` says
        that the body is sent in chunks (None: as it came). ``extra`` are lines to add.
        """
        line = head.lines[0]
        if head.http10 or len(line) < 13:
            line = b"HTTP/1.1 %d %b" % (head.status, head.reason)
        out = [line]
        out += head.plain
        out += extra
        if chunked or (chunked is None and head.length == CHUNKED):
            out.append(b"Transfer-Encoding: chunked")
        if head.upgrade is not None and head.status in (101, 426):
            out.append(b"Upgrade: " + head.upgrade)
            out.append(b"Connection: Upgrade, close" if close else b"Connection: Upgrade")
        elif close:
            out.append(b"Connection: close")
        elif http10:
            out.append(b"Connection: keep-alive")
        via = self.forwarder.via_1_0 if head.http10 else self.forwarder.via_1_1
        if via is not None:
            out.append(via)
        out.append(b"\r\n")
        return b"\r\n".join(out)

    def _remember(self, host: bytes | None) -> None:
        """Render what is said of the client to an upstream when nothing that came is believed."""
        options = self.forwarder.options
        lines = []
        if options.x_forwarded:
            if self.peer != UNIX:
                lines.append(b"X-Forwarded-For: " + self._peer)
            lines.append(b"X-Forwarded-Proto: " + self._scheme)
            if host is not None:
                lines.append(b"X-Forwarded-Host: " + host)
        if options.forwarded:
            lines.append(b"Forwarded: " + self._forwarded(host))
        self._host = host
        self._block = b"\r\n".join(lines)

    def _forwarded(self, host: bytes | None) -> bytes:
        peer = b"unknown" if self.peer == UNIX else b'"[%b]"' % self._peer if b":" in self._peer else self._peer
        text = b"for=%b;proto=%b" % (peer, self._scheme)
        return text if host is None else text + b';host="%b"' % host

    def _claims(self, head: RequestHead, out: list[bytes]) -> None:
        """What a trusted hop said of the client, and our part added."""
        options = self.forwarder.options
        chain = []
        elements = []
        names = set()
        for kind, value, line in head.claims:
            if kind == f.X_FOR:
                chain.append(value)
            elif kind == f.FORWARDED:
                elements.append(value)
            elif kind == f.X_CLAIM:
                out.append(line)
                names.add(line.partition(b":")[0].lower())
        if options.x_forwarded:
            if self.peer != UNIX:
                chain.append(self._peer)
            if b"x-forwarded-proto" not in names:
                out.append(b"X-Forwarded-Proto: " + self._scheme)
            if head.host is not None and b"x-forwarded-host" not in names:
                out.append(b"X-Forwarded-Host: " + head.host)
        if options.forwarded:
            elements.append(self._forwarded(head.host))
        if chain:
            out.append(b"X-Forwarded-For: " + b", ".join(chain))
        if elements:
            out.append(b"Forwarded: " + b", ".join(elements))

    def __repr__(self) -> str:
        return f"<Link {self.peer} {self._scheme.decode()} {'trusted' if self.trusted else 'not trusted'}>"
