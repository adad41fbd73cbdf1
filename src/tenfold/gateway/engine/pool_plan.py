"""A pool that is alive: who may be asked, over which connections, and who waits for a place."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from tenfold.balance import ANY, Balancer, Endpoint, Request
from tenfold.gateway.engine.sticky import StickyCookie
from tenfold.gateway.engine.tally import Tally, Times
from tenfold.gateway.engine.upstream import Upstream
from tenfold.gateway.engine.upstream_tls import checked, context_of
from tenfold.gateway.engine.users import select

if TYPE_CHECKING:
    from tenfold.gateway.config import Pool
    from tenfold.gateway.engine.sending import Sending
    from tenfold.gateway.engine.site import Site
    from tenfold.gateway.framing import RequestHead

PRIORITIES: Final = ("critical", "normal", "batch", "sheddable")
_HASHED: Final = ("ring_hash", "maglev", "rendezvous")


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
