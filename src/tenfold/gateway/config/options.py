"""The gateway itself: where it listens, what it allows, who administers it, what it caches, which engine it drives.

Each key says its kind, meaning and default in one place; the reader, the writer, the check and the reference all go by
that. Times are seconds and sizes bytes once they are read.
"""

# ruff: noqa: RUF009 - `option` makes a dataclass field, and fields are made once

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from tenfold.gateway.config.address import Address, AddressKind, NetworkKind
from tenfold.gateway.config.compound import Many
from tenfold.gateway.config.environment import Secret
from tenfold.gateway.config.kinds import Choice, Flag, Hidden, Text, Whole, part, span, volume
from tenfold.gateway.config.problems import Wrong
from tenfold.gateway.config.tables import Options, Table, option

KIB = 1024
MIB = 1024 * KIB
TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
HEADER = Text('the name of a header such as "X-User"', TOKEN)
FILE = Text("the path of a file", r"[^\x00]+", label="path")
LOCATION = Text('a path such as "/health"', r"/[!-~]*", label="path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Options):
    """What a gateway shows to clients that come by TLS. The first of several is for names that no other has."""

    certificate: str = option(FILE, "PEM file of the certificate and its chain; read anew when it changes.")
    key: str = option(FILE, "PEM file of the private key.")
    names: tuple[str, ...] = option(
        Many(
            Text('a name such as "shop.example" or "*.shop.example"', r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
        ),
        "Server names (SNI) it is for; none: those that the certificate has.",
        default=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog(Options):
    """A line for each request, or for a share of them."""

    path: str = option(FILE, 'The file it is appended to; "-" is standard output.', default="-")
    format: str = option(Choice("json", "text"), "One JSON object a line, or the combined format.", default="json")
    sample: float = option(part(), "The share of requests that get a line.", default=1.0)
    errors: bool = option(Flag(), "Whether every answer from 500 on gets one, whatever `sample` says.", default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway(Options):
    """Where clients come in, and what all of them are held to."""

    listen: tuple[Address, ...] = option(
        Many(AddressKind(), least=1, single=True, what="a list of addresses"),
        "Where to listen. `0.0.0.0:8080` is all addresses; port 0 lets the system choose.",
        restart=True,
    )
    processes: int = option(
        Whole(1, 256),
        "How many processes share the addresses (SO_REUSEPORT). Each has its own connections, limits and edge.",
        default=1,
        restart=True,
    )
    tls: tuple[Certificate, ...] = option(
        Many(Table(Certificate), single=True, what="a table or a list of tables"),
        "Certificates; with any, all TCP addresses speak TLS.",
        default=(),
    )
    tls_least: str = option(Choice("1.2", "1.3"), "The oldest version of TLS that is spoken.", default="1.2")
    http2: bool = option(Flag(), "Whether clients may speak HTTP/2.", default=False, restart=True)
    proxy_protocol: bool = option(
        Flag(),
        "Whether every TCP connection begins with a PROXY header (versions 1 and 2).",
        default=False,
        restart=True,
    )
    trusted: tuple[IPv4Network | IPv6Network, ...] = option(
        Many(NetworkKind(), single=True, what="a list of networks"),
        "Proxies whose `Forwarded` and `X-Forwarded-*` are believed. From others these headers are dropped.",
        default=(),
    )
    trusted_hops: int = option(
        Whole(0, 32),
        "How many trusted proxies stand before this one at most; the client is found behind them.",
        default=1,
    )
    forwarded: str = option(
        Choice("both", "forwarded", "x-forwarded", "off"),
        "What tells backends of the client: `Forwarded` (RFC 7239), `X-Forwarded-*`, both or neither.",
        default="both",
    )
    request_id: str = option(
        HEADER,
        "The header that carries an id for each request; one from a trusted proxy is kept.",
        default="X-Request-Id",
    )
    connections: int = option(
        Whole(1), "Most client connections at once, in each process; further ones wait to be accepted.", default=20_000
    )
    header_max: int = option(
        volume(1 * KIB), "Most bytes of a request's head; more is answered 431. (Tomcat 8, nginx 32, HAProxy 16 KiB.)",
        default=32 * KIB,
    )  # fmt: skip
    headers_max: int = option(
        Whole(1, 10_000), "Most header lines of a request. (HAProxy 101, Apache 100.)", default=100
    )
    body_max: int | None = option(
        volume(off=True), 'Most bytes of a request\'s body; more is answered 413. "off": no bound.', default=None
    )
    header_timeout: float = option(
        span(), "For a request's head to be complete, from its first byte (slow headers).", default=10.0
    )
    body_timeout: float = option(span(), "Between two reads of a request's body.", default=30.0)
    write_timeout: float = option(span(), "For a client to take what was written to it.", default=30.0)
    idle_timeout: float = option(span(), "For the next request on a connection. (nginx 75 s, Node 5 s.)", default=60.0)
    tunnel_timeout: float = option(
        span(), "Without a byte in either direction after an upgrade (WebSocket).", default=3600.0
    )
    tls_timeout: float = option(span(), "For the handshake.", default=10.0)
    drain_timeout: float = option(
        span(zero=True), "For requests under way when the gateway is told to stop; then they are cut.", default=30.0
    )
    access_log: AccessLog | None = option(Table(AccessLog, main="path", flag=True), "The access log.", default=None)

    def _check(self) -> None:
        for number, address in enumerate(self.listen):
            for other in self.listen[:number]:
                if address.meets(other):
                    raise Wrong("listen", f"{address} and {other} cannot both be listened to; leave one out")
        names = [name.lower() for each in self.tls for name in each.names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise Wrong("tls", f"expected one certificate for {twice}, got two")
        if self.forwarded == "off" and self.trusted:
            raise Wrong("trusted", 'means nothing with forwarded = "off"; leave one of them out')
        if self.http2 and not self.tls:
            raise Wrong(
                "http2", "expected tls with a certificate, because clients agree on HTTP/2 in its handshake; got none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin(Options):
    """Who may look into the gateway and change it while it runs."""

    listen: Address = option(
        AddressKind(), "Where the admin API and `/metrics` are.", default=Address("127.0.0.1", 8081), restart=True
    )
    token: Secret = option(Hidden(16), "What callers must show as `Authorization: Bearer …`.", show=False)
    public: bool = option(
        Flag(),
        "Says that `listen` may be reached from other machines; without it only loopback is taken.",
        default=False,
        restart=True,
    )
    metrics_token: bool = option(Flag(), "Whether `/metrics` asks for the token too.", default=True)
    names: tuple[str, ...] = option(
        Many(Text("the name of a host", r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"), what="a list of names"),
        "Names by which callers may address it, besides `localhost` and addresses in figures; a request with another "
        "`Host` is refused, because a web page could have sent it (DNS rebinding).",
        default=(),
    )

    def _check(self) -> None:
        if not self.listen.loopback and not self.public:
            raise Wrong(
                "listen",
                f"{self.listen} can be reached from other machines; expected a loopback address such as "
                '"127.0.0.1:8081", or public = true beside it',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Options):
    """The HTTP cache (RFC 9111). In `[edge]` for all routes; each may say otherwise, but for `max_bytes`,
    `name`, `invalidate_from` and `cache`.
    """

    max_bytes: int = option(
        volume(64 * KIB), "What all kept responses may take together, in each process.", default=256 * MIB
    )
    largest: int = option(volume(1), "The largest body that is kept.", default=8 * MIB)
    name: str = option(Text("a token", TOKEN), "How `Cache-Status` (RFC 9211) calls this cache.", default="tenfold")
    query: tuple[str, ...] | None = option(
        Many(Text("the name of a parameter", r"[!-~]+"), what="a list of parameters"),
        "Parameters of the query that are part of the key; not given: the query as it is.",
        default=None,
    )
    headers: tuple[str, ...] = option(
        Many(HEADER, what="a list of headers"), "Request headers that are part of the key, besides `Vary`.", default=()
    )
    cookies: tuple[str, ...] = option(
        Many(Text("the name of a cookie", TOKEN), what="a list of cookies"),
        "Cookies that are part of the key.",
        default=(),
    )
    ttl: float = option(
        span(zero=True), "How long a 200 counts as fresh that says nothing of it; 0: it is not kept.", default=0.0
    )
    stale_while_revalidate: float = option(
        span(zero=True),
        "How long a stale response is served while a fresh one is fetched, where it does not say.",
        default=0.0,
    )
    stale_if_error: float = option(
        span(zero=True),
        "How long a stale response is served where the backend fails, where it does not say.",
        default=0.0,
    )
    collapse: bool = option(Flag(), "Whether one request fetches for all that wait for the same.", default=True)
    tag_header: str = option(HEADER, "The response header that has the tags to purge by.", default="Surrogate-Key")
    invalidate_from: str | None = option(
        Text(
            'the url of a Valkey or Redis such as "redis://127.0.0.1:6379/0"', r"(rediss?|unix)://[!-~]+", label="url"
        ),
        "The level 2 of a `tenfold.cache`: tags that are invalidated there purge the edge. After a connection that "
        "was cut all tagged responses are purged, because something may have been missed.",
        default=None,
        show=False,  # it may hold a password
    )
    cache: str = option(
        Text('the name of a cache such as "shop"', r"[\w.-]+", label="name"),
        "The name of that cache: what the app gives to `Cache`.",
        default="cache",
    )

    def _check(self) -> None:
        if self.largest > self.max_bytes:
            raise Wrong("largest", f"expected max_bytes ({self.max_bytes} B) or less, got {self.largest} B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Options):
    """What carries the traffic."""

    name: str = option(
        Choice("embedded", "haproxy"), "The gateway's own engine, or an HAProxy that it drives.", default="embedded",
        restart=True,
    )  # fmt: skip
    binary: str | None = option(FILE, "The HAProxy to run; not given: it is looked for.", default=None, restart=True)
    directory: str | None = option(
        FILE,
        "Where HAProxy's configuration and sockets are kept; not given: a temporary one.",
        default=None,
        restart=True,
    )
    reconcile: float = option(span(), "How often HAProxy's state is compared with what it should be.", default=5.0)

    def _check(self) -> None:
        if self.name == "embedded":
            for name in ("binary", "directory"):
                if getattr(self, name) is not None:
                    raise Wrong(name, 'means nothing for the embedded engine; leave it out, or say name = "haproxy"')
