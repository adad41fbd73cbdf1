"""Writing the heads that are passed on: what came, less what was for us, plus what we know of the client.

Theory. Fields that Connection names and those that RFC 9110 §7.6.1 lists are for the next hop and end here; the readers
have taken them out already. What is said *of the client* (Forwarded of RFC 7239, X-Forwarded-*) is worth as much as the
one who says it: from a peer that is a trusted hop it is kept and our peer's address added, from any other it is
removed. The client's address is the rightmost that is no trusted hop's.

A request gets an id and a traceparent (W3C Trace Context) unless it has good ones. Where both are new they share 128
random bits, so that logs and traces find each other. Randomness is handed in.

Nothing is parsed again here: lines are joined as they came, and what is the same for every request of a connection is
rendered once and kept by its `Link`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tenfold.gateway.framing import fields as f
from tenfold.gateway.framing.forwarding import UNIX, Forwarding, networks
from tenfold.gateway.framing.head import CHUNKED, RequestHead, ResponseHead

Draw = Callable[[int], int]
"""That many random bits as a number, as `random.Random.getrandbits` gives them."""

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_PARENT: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PROTO: Final = b"x-forwarded-proto"
_AT_ONCE: Final = 32
_NOT_ZERO: Final = 1 << 64 | 1  # neither a trace nor a span may be 0
_NONE_ZERO: Final = sum(_NOT_ZERO << 192 * number for number in range(_AT_ONCE))


_tuple: Final = tuple.__new__  # half of the time that `Identity` takes to call it


class Identity(NamedTuple):
    """What a request is called: its id, and the lines that tell the upstream."""

    request_id: bytes
    lines: bytes


class Forwarder:
    """`Forwarding` in the form that is needed for every request. One for each route or gateway, shared by all."""

    __slots__ = ("_networks", "_new", "_unix", "id_name", "id_start", "names_all", "new_lines", "options", "upgrades",
                 "via_1_0", "via_1_1")  # fmt: skip

    def __init__(self, options: Forwarding) -> None:
        self.options: Final = options
        self._networks = networks(options.trusted)
        self._unix = UNIX in options.trusted
        self.upgrades: Final = frozenset(name.lower().encode() for name in options.upgrades)
        self.names_all: Final = options.request_id != "off" and options.trace != "off"
        """Whether a request that came without an id and a trace gets both."""
        self.id_start: Final = options.request_id_name.encode() + b": "
        self.new_lines: Final = b"traceparent: 00-%b-%b-01\r\n" + self.id_start + b"%b"
        low = options.request_id_name.lower().encode()
        self.id_name: Final = None if f.KINDS.get(low) == f.REQUEST_ID else low
        """The name of the id's header, where it is not the usual one."""
        self._new: list[Identity] = []
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

    def new(self, draw: Draw) -> Identity:
        """An id and a trace for a request that came without; some are made at a time, which takes half as long."""
        if not self._new:
            text = (draw(192 * _AT_ONCE) | _NONE_ZERO).to_bytes(24 * _AT_ONCE, "big").hex().encode()
            lines = self.new_lines
            self._new = [
                _tuple(Identity, (trace := text[at : at + 32], lines % (trace, text[at + 32 : at + 48], trace)))
                for at in range(0, 48 * _AT_ONCE, 48)
            ]
        return self._new.pop()

    def link(self, peer: str, scheme: str) -> Link:
        """For one client connection: the peer's address (or `UNIX`) and ``"http"`` or ``"https"``."""
        return Link(self, peer, scheme)


class Link:
    """One client connection's share in every head: who the client is, and over what it came."""

    __slots__ = ("_after", "_authority", "_before", "_block", "_host", "_known_host", "_peer", "_plain", "_scheme",
                 "forwarder", "peer", "trusted")  # fmt: skip

    def __init__(self, forwarder: Forwarder, peer: str, scheme: str) -> None:
        self.forwarder: Final = forwarder
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

    def identify(self, head: RequestHead, draw: Draw) -> Identity:
        """The request's id and trace. Once for each request, however often it is sent upstream."""
        forwarder = self.forwarder
        options = forwarder.options
        if forwarder.id_name is not None:
            self._name_id(head, forwarder.id_name)
        if not head.claims and forwarder.names_all:
            return forwarder.new(draw)
        came = parent = None
        lines = []
        for kind, value, line in head.claims:
            if kind == f.REQUEST_ID:
                # Two are none: nobody could tell which one the other logs.
                came = value if came is None else b""
            elif kind == f.TRACE_PARENT:
                parent = value if parent is None else b""
            elif kind == f.TRACE_STATE:
                lines.append(line)
        new_trace = new_id = b""
        if options.trace == "off":
            if parent is not None:
                lines.append(b"traceparent: " + parent)
        elif options.trace == "pass" and parent and _TRACE_PARENT.fullmatch(parent):
            lines.append(b"traceparent: " + parent)
        else:
            text = (draw(192) | _NOT_ZERO).to_bytes(24, "big").hex().encode()
            new_trace = text[:32]
            lines = [b"traceparent: 00-%b-%b-01" % (new_trace, text[32:])]
        if came and options.request_id != "new" and _ID.fullmatch(came):
            new_id = came
        elif options.request_id != "off":
            new_id = new_trace or b"%032x" % draw(128)
        if new_id:
            lines.append(self.forwarder.id_start + new_id)
        return Identity(new_id, b"\r\n".join(lines))

    def _name_id(self, head: RequestHead, name: bytes) -> None:
        """The header of that name has the id, and X-Request-Id is a header like others."""
        plain = []
        claims = [claim for claim in head.claims if claim[0] != f.REQUEST_ID]
        for line in head.plain:
            found, _, value = line.partition(b":")
            if found.lower() == name:
                claims.append((f.REQUEST_ID, value.strip(b" \t"), line))
            else:
                plain.append(line)
        plain += [line for kind, _, line in head.claims if kind == f.REQUEST_ID]
        head.plain, head.claims = plain, claims

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
