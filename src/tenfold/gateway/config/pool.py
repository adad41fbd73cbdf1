"""A pool: endpoints that can do the same work, and how one of them is chosen, watched and spoken to."""

# ruff: noqa: RUF009 - `option` makes a dataclass field, and fields are made once

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenfold.balance.checks import Check
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.slow_start import SlowStart
from tenfold.gateway.config.kinds import Flag, Text, Whole, span
from tenfold.gateway.config.options import FILE
from tenfold.gateway.config.picks import PickKind, PickSpec
from tenfold.gateway.config.problems import Wrong
from tenfold.gateway.config.sources import CheckKind, EndpointsKind, Source
from tenfold.gateway.config.tables import Foreign, Options, Table, option
from tenfold.resilience.breaker import Breaker

NAME = Text(
    'a name such as "app", of letters, digits, ".", "_" and "-"', r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", label="name"
)


_ONE_EACH: Final = "is for code; there is a breaker for each endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls(Options):
    """How the gateway speaks TLS to endpoints of `https`."""

    verify: bool = option(Flag(), "Whether the endpoint's certificate is checked. False is for tests.", default=True)
    ca: str | None = option(FILE, "PEM file of the authorities; not given: the system's.", default=None)
    name: str | None = option(
        Text("a host name", r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"),
        "The server name that is sent and checked; not given: the host of the endpoint's url.",
        default=None,
    )
    certificate: str | None = option(FILE, "PEM file of the certificate that is shown to endpoints.", default=None)
    key: str | None = option(FILE, "PEM file of its private key.", default=None)

    def _check(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise Wrong(missing, "expected both certificate and key, or neither")
        if not self.verify and self.ca is not None:
            raise Wrong("ca", "means nothing with verify = false; leave one of them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Options):
    """Endpoints, declared or discovered, and what holds for all of them."""

    name: str = option(NAME, "How routes call it.")
    endpoints: tuple[Endpoint, ...] = option(
        EndpointsKind(), "The endpoints, where they are known; else `discovery`.", default=()
    )
    discovery: Source | None = option(Table(Source), "Where endpoints come from, instead of `endpoints`.", default=None)
    pick: PickSpec = option(PickKind(), "How an endpoint is chosen.", default=PickSpec())
    check: Check | None = option(CheckKind(), "How endpoints are asked whether they are well.", default=None)
    ejection: OutlierEjection | None = option(
        Foreign(OutlierEjection), "When results of requests put an endpoint out for a while.", default=None
    )
    slow_start: SlowStart | None = option(
        Foreign(SlowStart, main="window"), "How an endpoint that comes back is given its share.", default=None
    )
    breaker: Breaker | None = option(
        Foreign(Breaker, without=dict.fromkeys(("key", "max_keys"), _ONE_EACH)),
        "A circuit breaker for each endpoint.",
        default=None,
    )
    max_in_flight: int | None = option(
        Whole(1), "Most requests at once to one endpoint; not given: no bound.", default=None
    )
    queue: int = option(
        Whole(0, 1_000_000),
        "How many requests may wait where every endpoint has `max_in_flight`, or there is none.",
        default=0,
    )
    queue_timeout: float = option(span(), "How long each of them waits; then it is answered 503.", default=1.0)
    connect_timeout: float = option(span(), "For a connection to an endpoint, its TLS handshake included.", default=2.0)
    first_byte_timeout: float = option(
        span(), "From the end of the request to the first byte of the answer. (nginx 60 s.)", default=60.0
    )
    body_timeout: float = option(span(), "Between two reads of an answer's body.", default=60.0)
    idle: float = option(
        span(), "How long an unused connection is kept; below the backend's own, which is 5 s for uvicorn.", default=4.0
    )
    idle_max: int = option(Whole(0, 65_536), "Most unused connections to one endpoint, in each process.", default=64)
    tls: UpstreamTls | None = option(Table(UpstreamTls, flag=True), "TLS to endpoints of `https`.", default=None)
    preserve_host: bool = option(
        Flag(), "Whether endpoints see the client's `Host`; else that of their url.", default=True
    )

    def _check(self) -> None:
        if bool(self.endpoints) is (self.discovery is not None):
            raise Wrong(
                "discovery" if self.endpoints else "endpoints",
                f"expected either endpoints or discovery, got {'both' if self.endpoints else 'neither'}",
            )
        if self.endpoints and not any(endpoint.weight for endpoint in self.endpoints):
            raise Wrong("endpoints", "all weights are 0, so none could ever be chosen; give one of them more")
        if self.queue and self.max_in_flight is None:
            raise Wrong("queue", "means nothing without max_in_flight, because then nobody waits; say both or neither")
