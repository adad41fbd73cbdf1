"""Which engine can do what: one table, of which the refusals at check time, the warnings and the docs are made.

A configuration that an engine cannot carry out is refused as a whole, before anything runs: a route whose breaker is
silently not there is worse than one that does not start. Where an engine does the same by other means, with a
difference that one may notice, the check warns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tenfold.balance.checks import HttpCheck
from tenfold.gateway.config.kinds import WRONG
from tenfold.gateway.config.picks import PICKS
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.rule import Route

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
    of: Literal["gateway", "pool", "route"]
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
    for name in ("query", "headers", "cookies", "stale_while_revalidate", "stale_if_error"):
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


def _always(_: Any) -> Iterator[tuple[str, ...]]:
    return iter(())


CAPABILITIES: Final = (
    Capability("HTTP/1.1 to clients and endpoints, keep-alive, upgrades (WebSocket)", "gateway", _always),
    Capability("HTTP/2 to clients", "gateway", _given("http2"), embedded="no", why="speaks HTTP/1.1 with clients"),
    Capability("TLS, several names", "gateway", _given("tls")),
    Capability("PROXY protocol, unix sockets, several addresses and processes", "gateway", _given("proxy_protocol")),
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
    Capability("checks over HTTP and TCP", "pool", _always),
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
    Capability("retries on another endpoint", "route", _given("retries")),
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
    Capability("rate limits in one process", "route", _given("rate_limit")),
    Capability(
        "rate limits shared by a store", "route", _shared, haproxy="no", why="counts in its own memory; leave store out"
    ),
    Capability("priorities", "route", _priority, haproxy="no", why="serves its queues in the order of arrival"),
    Capability(
        "adaptive concurrency", "route", _given("adaptive"), haproxy="no", why="has fixed limits; say max_in_flight"
    ),
    Capability("header changes, redirects, answers, `strip_prefix`", "route", _always),
    Capability("body limits", "route", _given("body_max")),
    Capability(
        "the edge: an HTTP cache",
        "route",
        _given("edge"),
        haproxy="differs",
        why="keeps small responses for a fixed time in its own cache, without revalidation and purge by tag",
    ),
    Capability(
        "the edge: keys of its own, stale responses",
        "route",
        _edge_rules,
        haproxy="no",
        why="has no such setting in its cache",
    ),
)
"""The whole table, in the order of the docs."""

Found = Iterator[tuple[Path, str]]


def refusals(engine: str, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route]) -> Found:
    """What ``engine`` cannot do of what is asked: the path of each key, and a sentence."""
    return _asked(engine, "no", gateway, pools, routes)


def differences(engine: str, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route]) -> Found:
    """What ``engine`` does, but in another way."""
    return _asked(engine, "differs", gateway, pools, routes)


def _asked(engine: str, level: Level, gateway: Any, pools: Mapping[int, Pool], routes: Mapping[int, Route]) -> Found:
    tables: dict[str, list[tuple[Path, Any]]] = {
        "gateway": [] if gateway is WRONG else [(("gateway",), gateway)],
        "pool": [(("pool", n), each) for n, each in pools.items()],
        "route": [(("route", n), each) for n, each in routes.items()],
    }
    for capability in CAPABILITIES:
        if capability.level(engine) == level:
            for at, table in tables[capability.of]:
                for keys in capability.uses(table):
                    yield (*at, *keys), f"the engine {engine} {capability.why}"


def engines_table() -> str:
    """The table as Markdown, for the docs."""
    lines = ["| what | embedded | haproxy | |", "|---|---|---|---|"]
    for each in CAPABILITIES:
        who = "embedded" if each.embedded != "yes" else "haproxy"
        note = f"{who} {each.why}" if each.why else ""
        lines.append(f"| {each.name} | {each.embedded} | {each.haproxy} | {note} |")
    return "\n".join(lines)
