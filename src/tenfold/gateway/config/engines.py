"""Which engine can do what: one table, of which the refusals at check time, the warnings and the docs are made.

A configuration that an engine cannot carry out is refused as a whole, before anything runs: a route whose breaker is
silently not there is worse than one that does not start. Where an engine does the same by other means, with a
difference that one may notice, the check warns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tenfold.balance.checks import HttpCheck
from tenfold.gateway.config.kinds import WRONG
from tenfold.gateway.config.picks import PICKS
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.rule import Route

if TYPE_CHECKING:
    pass

Level = Literal["yes", "differs", "no"]
ENGINES: Final = ("embedded", "haproxy")
HAPROXY_PICKS: Final = (
    "round_robin", "weighted_round_robin", "random", "weighted_random", "least_request", "p2c", "ring_hash", "ip_hash"
)  # fmt: skip
"""Picks that HAProxy has a ``balance`` algorithm for."""
_LOAD_HEADER: Final = HttpCheck().load_header

Uses = Callable[[Any], Iterable[tuple[str, ...]]]
"""Of a table: the keys that ask for something; none: it is not asked for."""


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that a file can ask for. ``embedded`` and ``haproxy`` say who does it, ``why`` what the one that does
    not does instead, or what is different there. ``of`` is the table it is asked for in, ``uses`` the keys.
    """

    name: str
    of: Literal["gateway", "admin", "pool", "route"]
    uses: Uses
    embedded: Level = "yes"
    haproxy: Level = "yes"
    why: str = ""

    def level(self, engine: str) -> Level:
        """What ``engine`` does of it."""
        return self.embedded if engine == "embedded" else self.haproxy


def _given(*names: str) -> Uses:
    """Any of these keys has something in it."""

    def uses(table: Any) -> Iterator[tuple[str, ...]]:
        return ((name,) for name in names if getattr(table, name) not in (None, False, (), 0))

    return uses


def _pick(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.pick.name not in HAPROXY_PICKS:
        yield ("pick",)


def _bound(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.pick.name in HAPROXY_PICKS and set(pool.pick.parameters) - {"key", "bound"}:
        yield ("pick",)


def _statistics(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.ejection is not None:
        if pool.ejection.deviations is not None:
            yield "ejection", "deviations"
        if pool.ejection.latency_factor is not None:
            yield "ejection", "latency_factor"


def _in_a_row(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.ejection is not None and pool.check is None:
        yield ("ejection",)


def _bent(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.slow_start is not None and pool.slow_start.aggression != 1:
        yield "slow_start", "aggression"


def _load(pool: Pool) -> Iterator[tuple[str, ...]]:
    if isinstance(pool.check, HttpCheck) and pool.check.load_header != _LOAD_HEADER:
        yield "check", "load_header"


def _budget(route: Route) -> Iterator[tuple[str, ...]]:
    if route.retries is not None and route.retries.budget is not None:
        yield ("retries",)


def _edge_rules(route: Route) -> Iterator[tuple[str, ...]]:
    for name in ("query", "headers", "cookies", "stale_while_revalidate", "stale_if_error", "invalidate_from"):
        if route.edge is not None and getattr(route.edge, name):
            yield "edge", name


def _shared(route: Route) -> Iterator[tuple[str, ...]]:
    if route.rate_limit is not None and route.rate_limit.store is not None:
        yield "rate_limit", "store"


def _cookie(route: Route) -> Iterator[tuple[str, ...]]:
    if route.canary is not None and route.canary.cookie is not None:
        yield "canary", "cookie"


def _priority(route: Route) -> Iterator[tuple[str, ...]]:
    if route.priority != "normal":
        yield ("priority",)


def _unlike(name: str, value: object) -> Uses:
    """That key is something else than ``value``."""

    def uses(table: Any) -> Iterator[tuple[str, ...]]:
        if getattr(table, name) != value:
            yield (name,)

    return uses


def _whole(_: Any) -> Iterator[tuple[str, ...]]:
    """The table itself."""
    yield ()


def _https(pool: Pool) -> Iterator[tuple[str, ...]]:
    if any(endpoint.url.startswith("https:") for endpoint in pool.endpoints):
        yield ("endpoints",)
    if pool.discovery is not None and pool.discovery.kind != "file" and pool.discovery.scheme == "https":
        yield "discovery", "scheme"
    if pool.tls is not None:
        yield ("tls",)


def _sticky(pool: Pool) -> Iterator[tuple[str, ...]]:
    spec: Any = pool.pick
    while spec is not None:
        if spec.name == "sticky":
            yield ("pick",)
        spec = spec.parameters.get("inner")


def _edge_keys(route: Route) -> Iterator[tuple[str, ...]]:
    if route.edge is not None:
        for name in ("headers", "cookies"):
            if getattr(route.edge, name):
                yield "edge", name
        if route.edge.tag_header.lower() != "surrogate-key":
            yield "edge", "tag_header"


def _initial(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.check is not None and pool.check.initial != "up":
        yield "check", "initial"


def _ejected(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.ejection is not None and pool.check is not None:
        yield ("ejection",)


def _hosts(pool: Pool) -> Iterator[tuple[str, ...]]:
    hosts = {endpoint.url.partition("://")[2] for endpoint in pool.endpoints}
    if not pool.preserve_host and (len(hosts) > 1 or pool.discovery is not None):
        yield ("preserve_host",)


def _two_timeouts(pool: Pool) -> Iterator[tuple[str, ...]]:
    if pool.first_byte_timeout != pool.body_timeout:
        yield ("first_byte_timeout",)


def _by(route: Route) -> Iterator[tuple[str, ...]]:
    if route.canary is not None and route.canary.by is not None:
        yield "canary", "by"


def _bodies(route: Route) -> Iterator[tuple[str, ...]]:
    if route.body_max is not None:
        yield ("body_max",)


def _always(_: Any) -> Iterator[tuple[str, ...]]:
    return iter(())


CAPABILITIES: Final = (
    Capability("HTTP/1.1 to clients and endpoints, keep-alive, upgrades (WebSocket)", "gateway", _always),
    Capability("HTTP/2 to clients", "gateway", _given("http2"), embedded="no", why="speaks HTTP/1.1 with clients"),
    Capability("TLS to clients, several names", "gateway", _given("tls")),
    Capability("the PROXY protocol", "gateway", _given("proxy_protocol")),
    Capability(
        "the size of a request's head",
        "gateway",
        _unlike("header_max", 32 * 1024),
        haproxy="differs",
        why="holds heads in buffers of that size, answers 400 to larger ones, and takes 15 KiB where nothing is said",
    ),
    Capability("several addresses, unix sockets", "gateway", _always),
    Capability("several processes", "gateway", _unlike("processes", 1)),
    Capability("another name for the request's id", "gateway", _unlike("request_id", "X-Request-Id")),
    Capability("a number of trusted proxies", "gateway", _unlike("trusted_hops", 1)),
    Capability(
        "the admin API and `/metrics`",
        "admin",
        _whole,
    ),
    Capability("live reload of pools and routes", "gateway", _always),
    Capability("picks " + ", ".join(f"`{name}`" for name in HAPROXY_PICKS), "pool", _always),
    Capability(
        "picks " + ", ".join(f"`{name}`" for name in PICKS if name not in HAPROXY_PICKS),
        "pool",
        _pick,
        haproxy="no",
        why="has no such pick; it has " + ", ".join(HAPROXY_PICKS),
    ),
    Capability(
        "parameters of picks but `key` and `bound`", "pool", _bound, haproxy="no", why="has values of its own for them"
    ),
    Capability(
        "the pick `sticky`, within others too",
        "pool",
        _sticky,
        haproxy="no",
        why="has no such pick; it has " + ", ".join(HAPROXY_PICKS),
    ),
    Capability("checks over HTTP and TCP", "pool", _always),
    Capability("TLS to endpoints", "pool", _https),
    Capability(
        "a load that endpoints report in a header of their check",
        "pool",
        _load,
        haproxy="differs",
        why="does not read the load that endpoints report; weights stay as declared",
    ),
    Capability(
        "ejection by failures in a row",
        "pool",
        _in_a_row,
        haproxy="no",
        why="brings an endpoint back by its check; give the pool a check",
    ),
    Capability(
        "ejection against peers", "pool", _statistics, haproxy="no", why='does not compare endpoints; say "off"'
    ),
    Capability(
        "how long and how many are ejected",
        "pool",
        _ejected,
        haproxy="differs",
        why="ejects after so many failures in a row, until the check has said yes, and knows no share",
    ),
    Capability(
        "a check's `initial` other than up",
        "pool",
        _initial,
        haproxy="no",
        why='takes endpoints for well until their check says no; say initial = "up"',
    ),
    Capability(
        "`preserve_host = false` with endpoints of several hosts",
        "pool",
        _hosts,
        haproxy="no",
        why="tells all endpoints of a pool the same Host; give each a pool, or preserve_host = true",
    ),
    Capability(
        "`first_byte_timeout` and `body_timeout` apart",
        "pool",
        _two_timeouts,
        haproxy="differs",
        why="has one time for both, the longer of the two",
    ),
    Capability("slow start in a straight line", "pool", _always),
    Capability("slow start along a curve", "pool", _bent, haproxy="no", why="raises weights in a straight line; say 1"),
    Capability(
        "breakers", "pool", _given("breaker"), haproxy="no", why="has no circuit breaker; ejection is the nearest"
    ),
    Capability("`max_in_flight` and its queue", "pool", _given("max_in_flight")),
    Capability("discovery by file, DNS and Kubernetes", "pool", _given("discovery")),
    Capability("canary by weight, header and user", "route", _always),
    Capability(
        "canary by a cookie of the gateway",
        "route",
        _cookie,
        haproxy="no",
        why='sets no such cookie; say by = "client"',
    ),
    Capability(
        "canary by user, alike in both engines",
        "route",
        _by,
        haproxy="differs",
        why="hashes users in its own way, so that a change of the engine may move them to the other side",
    ),
    Capability(
        "retries on another endpoint",
        "route",
        _given("retries"),
        haproxy="differs",
        why="retries without a budget, so that an outage is multiplied by the attempts, and without a pause; goes by "
        "the most attempts of all routes to a pool; under a hash it may ask the same endpoint again",
    ),
    Capability(
        "retries of answers with some statuses",
        "route",
        _given("retry_statuses"),
        haproxy="no",
        why="tries again only what got no answer, and waits for no Retry-After; leave it out",
    ),
    Capability(
        "retry budgets",
        "route",
        _budget,
        haproxy="differs",
        why="retries without a budget, so that an outage is multiplied by the attempts",
    ),
    Capability(
        "deadlines",
        "route",
        _given("deadline"),
        haproxy="differs",
        why="gives every try the whole of it, not all of them",
    ),
    Capability(
        "rate limits in one process",
        "route",
        _given("rate_limit"),
        haproxy="differs",
        why="counts in a sliding window of burst ÷ rate, which admits the same in any such window",
    ),
    Capability(
        "rate limits shared by a store", "route", _shared, haproxy="no", why="counts in its own memory; leave store out"
    ),
    Capability("priorities", "route", _priority, haproxy="no", why="serves its queues in the order of arrival"),
    Capability(
        "adaptive concurrency",
        "route",
        _given("adaptive"),
        haproxy="no",
        why="has fixed limits; say max_in_flight",
    ),
    Capability(
        "problems (RFC 9457) that name the limit which fired",
        "route",
        _always,
        haproxy="differs",
        why="answers what is no request (400) and a head that takes too long (408) with a page of its own, and 503 "
        "where an endpoint takes no connection",
    ),
    Capability("header changes, redirects, answers, `strip_prefix`", "route", _always),
    Capability(
        "body limits",
        "route",
        _bodies,
        haproxy="differs",
        why="asks for the length of a body there, and answers 411 where it is not said",
    ),
    Capability(
        "the edge: an HTTP cache",
        "route",
        _given("edge"),
        haproxy="differs",
        why="keeps small responses for a fixed time in its own cache, without revalidation and purge, and begins "
        "empty after a reload",
    ),
    Capability(
        "the edge: request headers and cookies in the key, another header of tags",
        "route",
        _edge_keys,
        haproxy="no",
        why="has no such setting in its cache",
    ),
    Capability(
        "the edge: keys of its own, stale responses, tags invalidated in a cache",
        "route",
        _edge_rules,
        haproxy="no",
        why="has no such setting in its cache",
    ),
)
"""The whole table, in the order of the docs."""

Found = Iterator[tuple[Path, str]]


def refusals(
    engine: str, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route], admin: Any = None
) -> Found:
    """What ``engine`` cannot do of what is asked: the path of each key, and a sentence."""
    return _asked(engine, "no", gateway, pools, routes, admin)


def differences(
    engine: str, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route], admin: Any = None
) -> Found:
    """What ``engine`` does, but in another way."""
    return _asked(engine, "differs", gateway, pools, routes, admin)


def _asked(
    engine: str, level: Level, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route], admin: Any
) -> Found:
    tables: dict[str, list[tuple[Path, Any]]] = {
        "gateway": [] if gateway is WRONG else [(("gateway",), gateway)],
        "admin": [] if admin is WRONG or admin is None else [(("admin",), admin)],
        "pool": [(("pool", n), each) for n, each in pools.items()],
        "route": [(("route", n), each) for n, each in routes.items()],
    }
    told = set()
    for capability in CAPABILITIES:
        if capability.level(engine) == level:
            for at, table in tables[capability.of]:
                for keys in capability.uses(table):
                    if (*at, *keys) not in told:  # one sentence a key is enough
                        told.add((*at, *keys))
                        yield (*at, *keys), f"the engine {engine} {capability.why}"


_shown: Final = {"yes": "yes", "differs": "differs", "no": "no"}


def engines_table() -> str:
    """The table as Markdown, for the docs."""
    lines = ["| what | embedded | haproxy | |", "|---|---|---|---|"]
    for each in CAPABILITIES:
        lacking = [name for name in ENGINES if each.level(name) != "yes"]
        note = "; ".join(f"{name} {each.why}" for name in lacking)
        lines.append(f"| {each.name} | {_shown[each.embedded]} | {_shown[each.haproxy]} | {note} |")
    return "\n".join(lines)
