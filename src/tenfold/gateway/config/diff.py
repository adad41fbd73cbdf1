"""What is different between two configurations: what a live reload has to do, and what it cannot.

Pools are told apart by name and endpoints by id, so that an endpoint that moved to another url is a change of one and
not two of them. What the gateway holds open for good, such as the sockets it listens on, needs a restart
(which can pass the sockets on); the rest is put into force for the next request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.config.config import Config
from tenfold.gateway.config.environment import Secret
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.rule import Route
from tenfold.gateway.config.tables import Options, keys, of
from tenfold.resilience.config_read import without_passwords


@dataclass(frozen=True, slots=True)
class Setting:
    """One key that has another value."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return without_passwords(f"{self.key}: {_told(self.before)} -> {_told(self.after)}")


@dataclass(frozen=True, slots=True)
class PoolChange:
    """A pool that both have. ``weights`` are of endpoints that differ in nothing else; ``changed`` differ in more.
    ``settings`` are all keys of the pool but its endpoints.
    """

    name: str
    added: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()
    weights: tuple[Endpoint, ...] = ()
    changed: tuple[Endpoint, ...] = ()
    settings: tuple[Setting, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.weights or self.changed or self.settings)


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A route that both have, and what is different."""

    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """From one configuration to another. Falsy where nothing is different.

    ``order`` is whether routes that stayed stand in another order, ``settings`` are keys of ``gateway``, ``admin``,
    ``edge`` and ``engine``, ``restart`` those of them that a running gateway cannot put into force.
    """

    pools_added: tuple[Pool, ...] = ()
    pools_removed: tuple[Pool, ...] = ()
    pools_changed: tuple[PoolChange, ...] = ()
    routes_added: tuple[Route, ...] = ()
    routes_removed: tuple[Route, ...] = ()
    routes_changed: tuple[RouteChange, ...] = ()
    order: bool = False
    settings: tuple[Setting, ...] = ()
    restart: tuple[Setting, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)

    def lines(self) -> Iterator[str]:
        """A line for each difference, for a person; no secret is in it."""
        for pool in self.pools_added:
            yield f"pool {pool.name}: added"
        for pool in self.pools_removed:
            yield f"pool {pool.name}: removed"
        for change in self.pools_changed:
            yield from _pool_lines(change)
        for route in self.routes_added:
            yield f"route {route.name}: added"
        for route in self.routes_removed:
            yield f"route {route.name}: removed"
        for changed in self.routes_changed:
            for each in changed.settings:
                yield f"route {changed.name}: {each}"
        if self.order:
            yield "routes: in another order"
        for each in self.settings:
            yield f"{each}{' (needs a restart)' if each in self.restart else ''}"


def diff(old: Config, new: Config) -> Changes:
    """What leads from ``old`` to ``new``."""
    pools_old, pools_new = {each.name: each for each in old.pools}, {each.name: each for each in new.pools}
    routes_old, routes_new = {each.name: each for each in old.routes}, {each.name: each for each in new.routes}
    pools = [_pool(pools_old[name], each) for name, each in pools_new.items() if name in pools_old]
    routes = [
        RouteChange(name, tuple(_settings(routes_old[name], each, "")))
        for name, each in routes_new.items()
        if name in routes_old
    ]
    settings: list[Setting] = []
    restart: list[Setting] = []
    for table in ("gateway", "admin", "edge", "engine"):
        before, after = getattr(old, table), getattr(new, table)
        if before is None or after is None:
            found = [Setting(table, before, after)] if before is not after else []
            lasting = found
        else:
            found = list(_settings(before, after, f"{table}."))
            fixed = {f"{table}.{name}" for name, each in keys(type(after)) if of(each).restart}
            lasting = [each for each in found if each.key in fixed]
        settings += found
        restart += lasting
    stayed = [name for name in routes_new if name in routes_old]
    return Changes(
        pools_added=tuple(each for name, each in pools_new.items() if name not in pools_old),
        pools_removed=tuple(each for name, each in pools_old.items() if name not in pools_new),
        pools_changed=tuple(each for each in pools if each),
        routes_added=tuple(each for name, each in routes_new.items() if name not in routes_old),
        routes_removed=tuple(each for name, each in routes_old.items() if name not in routes_new),
        routes_changed=tuple(each for each in routes if each.settings),
        order=stayed != [name for name in routes_old if name in routes_new],
        settings=tuple(settings),
        restart=tuple(restart),
    )


def _settings(old: Options, new: Options, before: str, *, but: str = "") -> Iterator[Setting]:
    for name, _ in keys(type(new)):
        was, now = getattr(old, name), getattr(new, name)
        if name != but and was != now:
            yield Setting(f"{before}{name}", was, now)


def _pool(old: Pool, new: Pool) -> PoolChange:
    before, after = {each.id: each for each in old.endpoints}, {each.id: each for each in new.endpoints}
    weights: list[Endpoint] = []
    changed: list[Endpoint] = []
    for id, endpoint in after.items():
        if id in before and _all(before[id]) != _all(endpoint):
            only = _all(before[id])[1:] == _all(endpoint)[1:]
            (weights if only else changed).append(endpoint)
    return PoolChange(
        new.name,
        added=tuple(each for id, each in after.items() if id not in before),
        removed=tuple(each for id, each in before.items() if id not in after),
        weights=tuple(weights),
        changed=tuple(changed),
        settings=tuple(_settings(old, new, "", but="endpoints")),
    )


def _all(endpoint: Endpoint) -> tuple[object, ...]:
    """What an endpoint is, its weight first."""
    return endpoint.weight, endpoint.url, endpoint.zone, endpoint.priority, dict(endpoint.metadata)


def _pool_lines(change: PoolChange) -> Iterator[str]:
    for word, endpoints in (("added", change.added), ("removed", change.removed), ("changed", change.changed)):
        for endpoint in endpoints:
            yield f"pool {change.name}: endpoint {endpoint.id} {word}"
    for endpoint in change.weights:
        yield f"pool {change.name}: endpoint {endpoint.id} weight -> {endpoint.weight:g}"
    for each in change.settings:
        yield f"pool {change.name}: {each}"


def _told(value: Any) -> str:
    if isinstance(value, Secret):
        return "…"
    if isinstance(value, tuple):
        return ", ".join(map(_told, value)) or "none"
    return "none" if value is None else str(value) if not isinstance(value, str) else repr(value)
