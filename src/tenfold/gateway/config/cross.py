"""What must fit together across tables, and what is allowed and yet hardly meant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tenfold.gateway.config.kinds import WRONG
from tenfold.gateway.config.options import Admin, Gateway
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.problems import Findings
from tenfold.gateway.config.rule import Route
from tenfold.resilience.config_read import unknown

_BACKEND_IDLE: Final = 5.0
"""After how many seconds uvicorn closes an idle connection; who keeps one longer writes into a closed one."""
_BODIES: Final = ("POST", "PUT", "PATCH", "DELETE")


def check(
    gateway: Gateway | Any,
    admin: Admin | Any,
    pools: Mapping[int, Pool],
    routes: Mapping[int, Route],
    declared: Sequence[str] | None,
    findings: Findings,
) -> None:
    """Tell ``findings`` what does not fit. Tables that were wrong themselves are not here; ``declared`` has the names
    of all pools of the file all the same, as far as they are known: no pool is unknown because its check was misspelt.
    """
    if gateway is not WRONG and admin not in (WRONG, None):
        _addresses(gateway, admin, findings)
    _twice("pool", {n: pool.name for n, pool in pools.items()}, findings)
    _twice("route", {n: route.name for n, route in routes.items()}, findings)
    if declared is not None:
        _pools_of(routes, declared, findings)
    _told_apart(routes, findings)
    if gateway is not WRONG and any(network.prefixlen == 0 for network in gateway.trusted):
        findings.doubtful(("gateway", "trusted"), "everybody is trusted to say who the client is; name your proxies")
    for n, pool in pools.items():
        _pool_warnings(n, pool, routes, findings)
    by_name = {pool.name: pool for pool in pools.values()}
    for n, route in routes.items():
        _route_warnings(n, route, by_name.get(route.pool or ""), findings)
    if routes and not any(_takes_all(route) for route in routes.values()):
        findings.doubtful(
            ("route",), 'what no route is for is answered 404; a route with path = "/" would take the rest'
        )


def _addresses(gateway: Gateway, admin: Admin, findings: Findings) -> None:
    for address in gateway.listen:
        if address.meets(admin.listen):
            line = findings.line(("gateway", "listen"))
            findings.wrong(("admin", "listen"), f"the gateway listens on {address} (line {line}); take another address")


def _twice(table: str, names: Mapping[int, str], findings: Findings) -> None:
    first: dict[str, int] = {}
    for n, name in names.items():
        if name in first:
            line = findings.line((table, first[name], "name"))
            findings.wrong((table, n, "name"), f"the {table} on line {line} is called {name!r} too; take another name")
        first.setdefault(name, n)


def _pools_of(routes: Mapping[int, Route], declared: Sequence[str], findings: Findings) -> None:
    for n, route in routes.items():
        used: list[tuple[tuple[str | int, ...], str | None]] = [(("route", n, "pool"), route.pool)]
        if route.canary is not None:
            used.append((("route", n, "canary", "pool"), route.canary.pool))
        for path, name in used:
            if name is not None and name not in declared:
                sentence = unknown(name, declared, "pool") if declared else "unknown pool; the file has none"
                findings.wrong(path, f"{name!r}: {sentence}")


def _told_apart(routes: Mapping[int, Route], findings: Findings) -> None:
    """Two routes that the router ranks alike for one request: the second would never see it."""
    seen: dict[tuple[Any, ...], list[int]] = {}
    for n, route in routes.items():
        for host in route.host or ("",):
            alike = (host.lower(), route.path, route.exact, route.headers, bool(route.methods))
            for earlier in seen.get(alike, ()):
                common = set(routes[earlier].methods) & set(route.methods)
                if common or not route.methods:
                    what = f" for {' and '.join(sorted(common))}" if common else ""
                    on = f" on {host}" if host else ""
                    line = findings.line(("route", earlier))
                    findings.wrong(
                        ("route", n),
                        f"can never be told apart{what} from the route on line {line}: both are for "
                        f"{route.path}{' exactly' if route.exact else ''}{on}; change one of them",
                    )
                    break
            seen.setdefault(alike, []).append(n)


def _takes_all(route: Route) -> bool:
    return route.path == "/" and not (route.exact or route.host or route.methods or route.headers)


def _pool_warnings(n: int, pool: Pool, routes: Mapping[int, Route], findings: Findings) -> None:
    at = ("pool", n)
    used = {route.pool for route in routes.values()} | {r.canary.pool for r in routes.values() if r.canary is not None}
    if pool.name not in used and not findings.is_told(("route",)):
        findings.doubtful((*at, "name"), f"no route uses {pool.name!r}")
    if len(pool.endpoints) != 1 and pool.check is None and pool.ejection is None:
        findings.doubtful(
            (*at, "name"), f"nothing notices when an endpoint of {pool.name!r} is down; give it a check or ejection"
        )
    if pool.slow_start is not None and pool.check is None and pool.ejection is None and pool.discovery is None:
        findings.doubtful((*at, "slow_start"), "endpoints never come back here without a check, ejection or discovery")
    if pool.idle >= _BACKEND_IDLE:
        findings.doubtful(
            (*at, "idle"),
            f"connections are kept for {pool.idle:g} s, and many backends close them after 5 s (uvicorn); "
            "make it less than theirs",
        )
    schemes = {endpoint.url.partition(":")[0] for endpoint in pool.endpoints}
    if pool.discovery is not None:
        schemes.add(pool.discovery.scheme if pool.discovery.kind != "file" else "https")
    if pool.tls is not None and "https" not in schemes:
        findings.doubtful((*at, "tls"), "means nothing, because no endpoint is https")
    if pool.tls is not None and not pool.tls.verify:
        findings.doubtful(
            (*at, "tls", "verify"), "whoever sits between the gateway and its endpoints can read and change all"
        )


def _route_warnings(n: int, route: Route, pool: Pool | None, findings: Findings) -> None:
    at = ("route", n)
    if route.retries is not None and pool is not None and pool.first_byte_timeout >= (route.deadline or math.inf):
        findings.doubtful(
            (*at, "retries"),
            f"an endpoint that hangs is never retried: pool {pool.name!r} waits {pool.first_byte_timeout:g} s for it "
            f"(first_byte_timeout), and the deadline is {route.deadline:g} s; make the first less",
        )
    if route.canary is not None and route.canary.weight == 1:
        findings.doubtful((*at, "canary", "weight"), "everybody gets the canary; make its pool the route's own")
    bodies = not route.methods or any(method in _BODIES for method in route.methods)
    if route.edge is not None and route.body_max == 0 and bodies:
        findings.doubtful(
            (*at, "body_max"),
            "a POST with a body is refused here, so that it never invalidates what the edge keeps; "
            "say methods, or take bodies",
        )
    if route.edge is not None and route.methods and "GET" not in route.methods:
        findings.doubtful((*at, "edge"), "keeps nothing, because the route is not for GET")
