"""A configuration in the form in which requests are served by it: routes looked up, pools alive.

A plan is made once and never changed; a reload makes another one, which takes over the pools that it has in common
with the old one. Requests that are under way keep the plan they began with.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from tenfold.balance import ANY, Balancer, Endpoint, Request
from tenfold.gateway.config import Canary, Config, HeaderChanges, Pool, Route, Router
from tenfold.gateway.engine.concurrency import Concurrency, PoolPlaces
from tenfold.gateway.engine.edge_keys import EdgeKeys
from tenfold.gateway.engine.limits import RouteLimit
from tenfold.gateway.engine.problem import LINE_MAX
from tenfold.gateway.engine.sticky import StickyCookie, own_names
from tenfold.gateway.engine.tally import Tally, Times, answers
from tenfold.gateway.engine.upstream import Upstream
from tenfold.gateway.engine.upstream_tls import checked, context_of
from tenfold.gateway.engine.users import select
from tenfold.gateway.framing import UNIX, Forwarder, Forwarding, Limits, RequestHead
from tenfold.resilience.budget import Purse

if TYPE_CHECKING:
    from tenfold.gateway.engine.sending import Sending
    from tenfold.gateway.engine.site import Site

PRIORITIES: Final = ("critical", "normal", "batch", "sheddable")
BALANCING: Final = ("pick", "check", "ejection", "slow_start", "breaker", "max_in_flight", "discovery", "tls")
"""Settings of a pool that belong to its balancer; a change of one of them asks for another balancer."""
_HASHED: Final = ("ring_hash", "maglev", "rendezvous")
_DOTS: Final = re.compile(rb"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


class PoolPlan:
    """A pool that is alive: its balancer, the connections to its endpoints, and who waits for a place."""

    __slots__ = (
        "balancer", "context", "gone", "keyed", "options", "selector", "site", "sticky", "tallies", "times",
        "upstreams", "version", "waiting",
    )  # fmt: skip

    def __init__(self, site: Site, options: Pool, old: PoolPlan | None = None) -> None:
        self.site = site
        self.options = options
        self.context = None if options.tls is None else context_of(options.tls, f"pool {options.name} tls")
        source: Any = options.endpoints if options.discovery is None else options.discovery.make()
        self.balancer = Balancer(
            source,
            name=options.name,
            pick=options.pick.make(),
            check=checked(options.check, self.context, options.tls),
            eject=options.ejection,
            slow_start=options.slow_start,
            max_in_flight=options.max_in_flight,
            breaker=options.breaker,
        )
        self.upstreams: dict[str, Upstream] = {}
        self.times: Times = Times() if old is None else old.times
        self.tallies: dict[str, Tally] = {} if old is None else old.tallies
        self.waiting: tuple[deque[Sending], ...] = tuple(deque() for _ in PRIORITIES)
        self.version = 0
        self.gone = False
        self.selector = ""
        self.keyed = False
        self.sticky = StickyCookie.of(options)
        spec: Any = options.pick
        while spec is not None:
            if spec.name in (*_HASHED, "ip_hash"):
                self.keyed = True
                self.selector = spec.key if spec.name in _HASHED else "client"
            spec = spec.parameters.get("inner")

    def upstream(self, endpoint: Endpoint) -> Upstream:
        """The connections to that endpoint."""
        found = self.upstreams.get(endpoint.id)
        if found is None or found.endpoint.url != endpoint.url:
            if found is not None:
                found.retire()
            tally = self.tallies.setdefault(endpoint.id, Tally())
            found = self.upstreams[endpoint.id] = Upstream(self.site, self.options, endpoint, tally, self.context)
            found.gone = self.gone
        return found

    def request(self, head: RequestHead, client: str, cookie: str = "") -> Request:
        """What the pick may know of a request; ``cookie`` is the value of its sticky cookie."""
        if not self.keyed:
            return Request(cookie=cookie) if cookie else ANY
        return Request(key=select(self.selector, head, client) or client, client=client, cookie=cookie)

    def reconfigure(self, options: Pool) -> None:
        """Other settings that are not the balancer's, and other endpoints."""
        self.options = options
        for upstream in self.upstreams.values():
            upstream.options = options
        if options.discovery is None:
            self.balancer.replace(options.endpoints)

    @property
    def queued(self) -> int:
        """How many requests wait for a place."""
        return sum(map(len, self.waiting))

    def wake(self) -> None:
        """A place has become free: the first of the most important tries to take it."""
        for several in self.waiting:
            if several:
                exchange = several.popleft()
                self.site.loop.call_soon(exchange.retry_queued)
                return

    def sweep(self, now: float) -> None:
        """Connections whose time is over, endpoints that left, requests that waited too long."""
        if self.balancer.version != self.version:
            self.version = self.balancer.version
            urls = {each.id: each.url for each in self.balancer.endpoints}
            if not self.gone:
                for id in [id for id in self.tallies if id not in urls]:
                    del self.tallies[id]
            for id in [id for id, each in self.upstreams.items() if urls.get(id) != each.endpoint.url]:
                upstream = self.upstreams[id]
                upstream.retire()
                if not upstream.connections and not upstream.opening:
                    del self.upstreams[id]
                else:
                    self.version = -1  # look again
        for upstream in list(self.upstreams.values()):
            upstream.sweep(now)
        if self.queued:
            self.wake()  # an endpoint may have come, or come back
        for several in self.waiting:
            for exchange in [each for each in several if each.due < now]:
                several.remove(exchange)
                exchange.waited_too_long()

    def retire(self) -> None:
        """The pool is no longer used by new requests."""
        self.gone = True
        for upstream in self.upstreams.values():
            upstream.retire()

    @property
    def over(self) -> bool:
        """Whether nothing is under way any more."""
        busy = any(each.connections or each.opening for each in self.upstreams.values())
        return not busy and not self.queued and not self.balancer.in_flight

    def __repr__(self) -> str:
        return f"<PoolPlan {self.options.name!r} {self.balancer!r}>"


class RoutePlan:
    """A route with what its requests share."""

    __slots__ = (
        "adaptive", "answers", "attempts", "body_max", "canary", "canary_adaptive", "canary_answers", "canary_pool",
        "deadline", "edge_keys", "limit", "own_cookies", "plain", "pool", "priority", "purse", "quick",
        "request_changes", "response_changes", "retry_statuses", "route", "strip",
    )  # fmt: skip

    def __init__(self, route: Route, pools: dict[str, PoolPlan], body_max: int | None, purse: Purse | None) -> None:
        self.route = route
        self.pool = None if route.pool is None else pools[route.pool]
        self.canary: Canary | None = route.canary
        self.canary_pool = None if route.canary is None else pools[route.canary.pool]
        self.answers = answers()
        """How many requests have ended, by class of status (`tally.CLASSES`); those that went to the canary apart."""
        self.canary_answers = answers()
        self.body_max = body_max if route.body_max is None else route.body_max
        self.attempts = 1 if route.retries is None else route.retries.attempts
        self.purse = purse
        self.limit: RouteLimit | None = None
        self.adaptive: PoolPlaces | None = None
        self.canary_adaptive: PoolPlaces | None = None
        self.own_cookies: frozenset[bytes] = frozenset()
        """Cookies of the gateway's own, which endpoints do not see."""
        self.plain = False
        """Whether nothing is to be done with a request but to forward it, or to look it up in the edge."""
        self.edge_keys = EdgeKeys.of(route.edge)
        self.retry_statuses = frozenset(route.retry_statuses)
        self.deadline = route.deadline
        self.priority = PRIORITIES.index(route.priority)
        self.request_changes = None if route.request_headers is None else Changer(route.request_headers)
        self.response_changes = None if route.response_headers is None else Changer(route.response_headers)
        self.quick = route.edge is not None and route.edge.query is None and self.edge_keys is None and _as_usual(route)
        """Whether a stored answer needs no more than the route's look-up and the edge's."""
        self.strip = len(route.path.rstrip("/").encode()) if route.strip_prefix else 0

    def change(self, head: RequestHead) -> None:
        """What the route does to a request: its prefix goes, headers are changed."""
        if self.strip:
            prefix, rest = head.target[: self.strip], head.target[self.strip :]
            head.target = rest if rest[:1] == b"/" else b"/" + rest
            head.plain = [line for line in head.plain if line.partition(b":")[0].lower() != b"x-forwarded-prefix"]
            head.plain.append(b"X-Forwarded-Prefix: " + prefix)
        changes = self.request_changes
        if changes is not None:
            changes.apply(head)
            if changes.host is not None:
                head.host = changes.host

    def take_over(self, old: RoutePlan) -> None:
        """Go on counting where the route of that name was, as far as requests go to the same pools."""
        if old.route.pool == self.route.pool:
            self.answers = old.answers
        if old.canary is not None and self.canary is not None and old.canary.pool == self.canary.pool:
            self.canary_answers = old.canary_answers


_NOT_IN_THE_WAY: Final = frozenset(
    ("name", "host", "path", "exact", "methods", "headers", "pool", "edge", "retries", "deadline", "response_headers")
)
"""Settings of a route that an answer from the store has done with, or has no use for."""


def _as_usual(route: Route) -> bool:
    """Whether a route has no other settings than those."""
    return all(getattr(route, each.name) == each.default for each in fields(route) if each.name not in _NOT_IN_THE_WAY)


class Changer:
    """Header changes as bytes."""

    __slots__ = ("added", "gone", "host")

    def __init__(self, changes: HeaderChanges) -> None:
        names = {name.lower().encode() for name in (*changes.remove, *changes.set)}
        self.host = next((v.encode() for name, v in changes.set.items() if name.lower() == "host"), None)
        self.gone = frozenset(names)
        self.added = [
            f"{name}: {value}".encode()
            for name, value in (*changes.set.items(), *changes.add.items())
            if name.lower() != "host"
        ]

    def apply(self, head: Any) -> None:
        """To a head that is about to be passed on."""
        gone = self.gone
        if gone:
            head.plain = [line for line in head.plain if line.partition(b":")[0].lower() not in gone]
            head.claims = [claim for claim in head.claims if claim[2].partition(b":")[0].lower() not in gone]
        head.plain = [*head.plain, *self.added]


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
