"""A configuration in the form in which requests are served by it: routes looked up, pools alive.

A plan is made once and never changed; a reload makes another one, which takes over the pools that it has in common
with the old one. Requests that are under way keep the plan they began with.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tenfold.gateway.config import Config, Router
from tenfold.gateway.engine.concurrency import Concurrency
from tenfold.gateway.engine.limits import RouteLimit
from tenfold.gateway.engine.pool_plan import PRIORITIES, PoolPlan
from tenfold.gateway.engine.problem import LINE_MAX
from tenfold.gateway.engine.route_plan import RoutePlan
from tenfold.gateway.engine.sticky import own_names
from tenfold.gateway.framing import UNIX, Forwarder, Forwarding, Limits, RequestHead
from tenfold.resilience.budget import Purse

if TYPE_CHECKING:
    from tenfold.gateway.engine.site import Site

BALANCING: Final = ("pick", "check", "ejection", "slow_start", "breaker", "max_in_flight", "discovery", "tls")
"""Settings of a pool that belong to its balancer; a change of one of them asks for another balancer."""
_DOTS: Final = re.compile(rb"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


class Plan:
    """All routes and pools of one configuration."""

    __slots__ = (
        "_headers",
        "concurrency",
        "config",
        "forwarders",
        "gateway",
        "limits",
        "only",
        "pools",
        "router",
        "routes",
    )

    def __init__(self, site: Site, config: Config, old: Plan | None = None) -> None:
        gateway = config.gateway
        self.config = config
        self.gateway = gateway
        self.limits = Limits(
            head=gateway.header_max, fields=gateway.headers_max, line=min(LINE_MAX, gateway.header_max)
        )
        self.forwarders = {
            (trusted, host): Forwarder(
                Forwarding(
                    trusted=[*map(str, gateway.trusted)] if gateway.trusted_hops else [],
                    hops=gateway.trusted_hops or None,
                    request_id_name=gateway.request_id,
                    x_forwarded=gateway.forwarded in ("both", "x-forwarded"),
                    forwarded=gateway.forwarded in ("both", "forwarded"),
                    request_id="pass" if trusted else "new",
                    host="client" if host else "endpoint",
                )
            )
            for trusted in (False, True)
            for host in (False, True)
        }
        """By whether the peer is trusted, and whether the endpoint sees the client's Host."""
        before = {} if old is None else old.pools
        self.pools: dict[str, PoolPlan] = {}
        for pool in config.pools:
            found = before.get(pool.name)
            if found is None or any(getattr(found.options, name) != getattr(pool, name) for name in BALANCING):
                found = PoolPlan(site, pool, found)
            self.pools[pool.name] = found
        before_routes = {} if old is None else old.routes
        self.routes: dict[str, RoutePlan] = {}
        for route in config.routes:
            budget = None if route.retries is None else route.retries.budget
            kept = before_routes.get(route.name)
            purse = None if budget is None else Purse(budget)
            if budget is not None and kept is not None and kept.purse is not None:
                purse = kept.purse
                purse.reconfigure(budget)
            made = self.routes[route.name] = RoutePlan(route, self.pools, gateway.body_max, purse)
            if kept is not None:
                made.take_over(kept)
        self.concurrency: Concurrency = Concurrency(PRIORITIES, None if old is None else old.concurrency)
        own = own_names(config.pools, config.routes)
        for name, each in self.routes.items():
            self._limit(each, before_routes.get(name), own, site)
        self.router = Router(config.routes)
        self._headers = any(route.headers for route in config.routes)
        first = config.routes[0]
        all_of_it = first.path == "/" and not (first.exact or first.host or first.methods or first.headers)
        self.only = self.routes[first.name] if len(config.routes) == 1 and all_of_it else None
        """The route that all requests take, where there is but one: nothing needs to be looked up then."""

    def _limit(self, plan: RoutePlan, kept: RoutePlan | None, own: frozenset[bytes], site: Site) -> None:
        """What a route holds its requests to."""
        route = plan.route
        plan.own_cookies = own
        plan.plain = not (
            own
            or plan.pool is None
            or plan.strip
            or any((route.rate_limit, route.deadline, route.canary, route.request_headers))
        )
        if route.rate_limit is not None:
            plan.limit = RouteLimit(route, route.rate_limit, None if kept is None else kept.limit, site.clock())
        if route.adaptive is not None and route.pool is not None:
            plan.adaptive = self.concurrency.places(route.pool, route.adaptive)
            if route.canary is not None:
                plan.canary_adaptive = self.concurrency.places(route.canary.pool, route.adaptive)

    def trusts(self, address: str) -> bool:
        """Whether the peer with that address may say who the client is."""
        return address != UNIX and self.forwarders[True, True].trusts(address)

    def match(self, head: RequestHead) -> RoutePlan | None:
        """The route of a request, where there are several."""
        headers: dict[str, str] = {}
        if self._headers:
            headers = {
                name.decode("latin-1"): b", ".join(values).decode("latin-1") for name, values in head.fields.items()
            }
        path = head.target.partition(b"?")[0].decode("latin-1")
        route = self.router.match(head.method.decode(), (head.host or b"").decode("latin-1"), path, headers)
        return None if route is None else self.routes[route.name]

    def dotted(self, head: RequestHead) -> bool:
        """Whether routes could be told apart by a path that a backend would read as another one."""
        target = head.target
        if b"/." not in target and b"/%" not in target:
            return False
        return _DOTS.search(target.partition(b"?")[0]) is not None

    def __repr__(self) -> str:
        return f"<Plan of {len(self.routes)} routes and {len(self.pools)} pools>"
