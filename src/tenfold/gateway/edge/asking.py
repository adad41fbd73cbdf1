"""The first half of the edge: what it holds, and what it decides about a request."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from tenfold.gateway.edge.conditional import ORIGIN_ONLY
from tenfold.gateway.edge.control import NOTHING_SAID, Control, of_request
from tenfold.gateway.edge.decide import Action, judge
from tenfold.gateway.edge.decision import DROPPED, Decision
from tenfold.gateway.edge.flight import Flight
from tenfold.gateway.edge.message import Request
from tenfold.gateway.edge.options import EdgeOptions
from tenfold.gateway.edge.purged import Purged
from tenfold.gateway.edge.status import Fwd, line_start
from tenfold.gateway.edge.store import Store
from tenfold.gateway.edge.stored import Stored
from tenfold.gateway.edge.vary import select

ASKS: Final = frozenset({*DROPPED, *ORIGIN_ONLY, b"cache-control", b"pragma", b"authorization"})
"""A request with none of these is answered by a fresh response as it is."""
_MOST_UNCOLLAPSED: Final = 10_000


class Asking:
    """The state of an edge, and `lookup`."""

    __slots__ = (
        "_flights",
        "_line",
        "_line_hit",
        "_purged",
        "_resources",
        "_store",
        "_uncollapsed",
        "collapsed",
        "errors_hidden",
        "hits",
        "misses",
        "options",
        "purged",
        "refused",
        "revalidations",
        "stale",
        "stored",
        "too_large",
    )

    def __init__(self, options: EdgeOptions | None = None) -> None:
        self.options: Final = options or EdgeOptions()
        self._store = Store(
            self.options.bytes,
            self.options.max_items,
            max_variants=self.options.max_variants,
            encoding=self.options.normalise_encoding,
        )
        self._resources = self._store.resources
        self._flights: dict[Hashable, Flight] = {}
        self._uncollapsed: dict[Hashable, float] = {}
        self._purged = Purged()
        self._line = line_start(self.options.name)
        self._line_hit = self._line + b"; hit; ttl="
        self.hits = self.misses = self.stale = self.revalidations = self.collapsed = self.errors_hidden = 0
        self.stored = self.refused = self.too_large = self.purged = 0

    def lookup(self, request: Request, now: float) -> Decision:
        """What to do with a request. Never raises, whatever its fields say."""
        resource = self._resources.get(request.url)
        if resource is not None and request.method == b"GET" and ASKS.isdisjoint(request.fields):
            stored = resource.only or self._store.find(request)[0]
            if stored is not None and now < stored.plain_until:
                self.hits += 1
                stored.entry.n += 1.0  # type: ignore[union-attr] # what is in the index has an entry
                return Decision(Action.SERVE, request, stored, now, plain=True)
        return self._look(request, now)

    def _look(self, request: Request, now: float) -> Decision:
        fields = request.fields
        if request.method not in (b"GET", b"HEAD"):
            return self._forward(request, None, Fwd.METHOD, now)
        if ORIGIN_ONLY[0] in fields or ORIGIN_ONLY[1] in fields:
            return self._forward(request, None, Fwd.BYPASS, now)
        asked = of_request(fields)
        may_ask = not asked.only_if_cached
        stored, known = self._store.find(request)
        if stored is not None and b"authorization" in request.fields and not stored.auth_ok:
            decision = self._ask(request, None, Fwd.BYPASS, asked, now, may_ask=may_ask)
            decision.detail = b"authorization"
            return decision
        if stored is None:
            return self._ask(request, None, Fwd.VARY_MISS if known else Fwd.URI_MISS, asked, now, may_ask=may_ask)
        action, fwd = judge(stored, asked if self.options.honour_request else NOTHING_SAID, now)
        if fwd is not None:
            return self._ask(request, stored, fwd, asked, now, may_ask=may_ask)
        self.hits += 1
        if stored.entry is not None:
            stored.entry.n += 1.0
        decision = Decision(Action.SERVE, request, stored, now)
        if stored.fresh_until <= now:
            self.stale += 1
        if action is Action.SERVE_STALE_WHILE_REVALIDATE:
            decision.detail = b"stale-while-revalidate"
            key = self._flight_key(request)
            if request.method == b"GET" and may_ask and key not in self._flights:
                decision.action = action
                decision.began = self._purged.count
                decision.flight = self._flights[key] = Flight(
                    key, request.url, decision.began, self.options.max_followers
                )
        return decision

    def _ask(
        self, request: Request, stored: Stored | None, fwd: Fwd, asked: Control, now: float, *, may_ask: bool
    ) -> Decision:
        if not may_ask:
            self.misses += 1
            decision = Decision(Action.ONLY_IF_CACHED_504, request, None, now)
            decision.fwd = fwd
            decision.detail = b"only-if-cached"
            return decision
        fields = request.fields
        refuses = asked.no_cache or asked.no_store or fwd is Fwd.REQUEST or fwd is Fwd.BYPASS
        if (refuses and self.options.honour_request) or asked.no_store or b"authorization" in fields:
            return self._forward(request, stored, fwd, now)
        key = self._flight_key(request)
        until = self._uncollapsed.get(key)
        if until is not None:
            if now < until:
                return self._forward(request, stored, fwd, now)
            del self._uncollapsed[key]
        is_head = request.method == b"HEAD"
        partial = is_head or any(name in fields for name in DROPPED)
        flight = self._flights.get(key)
        if flight is not None:
            follower = flight.join(request, partial=partial)
            if follower is None:
                return self._forward(request, stored, fwd, now)
            self.collapsed += 1
            decision = Decision(Action.WAIT, request, stored, now)
            decision.fwd = fwd
            decision.follower = follower
            decision.began = flight.began
            return decision
        decision = self._forward(request, stored, fwd, now)
        if decision.action is Action.REVALIDATE or not partial:
            decision.flight = self._flights[key] = Flight(key, request.url, decision.began, self.options.max_followers)
        return decision

    def _forward(self, request: Request, stored: Stored | None, fwd: Fwd, now: float) -> Decision:
        self.misses += 1
        asks = stored is not None and request.method == b"GET" and bool(stored.conditions)
        decision = Decision(Action.REVALIDATE if asks else Action.FORWARD, request, stored, now)
        decision.fwd = fwd
        decision.began = self._purged.count
        return decision

    def _flight_key(self, request: Request) -> Hashable:
        resource = self._resources.get(request.url)
        names = resource.names[0] if resource is not None and resource.names else ()
        return request.url, names, select(names, request.fields, encoding=self.options.normalise_encoding)

    def _no_collapse(self, flight: Flight, now: float) -> None:
        """The response cannot be shared: those that wait go on alone, and for a while nobody waits."""
        flight.release()
        self._forget(flight)
        blocked = self._uncollapsed
        blocked.pop(flight.key, None)
        blocked[flight.key] = now + float(self.options.uncollapsed)
        if len(blocked) > _MOST_UNCOLLAPSED:
            del blocked[next(iter(blocked))]

    def _cancel(self, flight: Flight) -> None:
        """The leader is gone: another one leads, or the flight is over."""
        if flight.cancel() is None:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        """Nobody joins it any more; those that follow it go on following."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
