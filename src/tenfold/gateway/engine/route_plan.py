"""A route with what its requests share: its pools, its limits, what it changes, and what it has counted."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.engine.edge_keys import EdgeKeys
from tenfold.gateway.engine.pool_plan import PRIORITIES, PoolPlan
from tenfold.gateway.engine.tally import answers

if TYPE_CHECKING:
    from tenfold.gateway.config import Canary, HeaderChanges, Route
    from tenfold.gateway.engine.concurrency import PoolPlaces
    from tenfold.gateway.engine.limits import RouteLimit
    from tenfold.gateway.framing import RequestHead
    from tenfold.resilience.budget import Purse


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
