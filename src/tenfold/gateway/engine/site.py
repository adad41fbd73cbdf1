"""What all connections of one gateway process share: the plan in force, the counters, the time, and the sweep.

Theory. Time-outs are looked at in one coarse sweep, every `TICK` seconds, instead of a timer a request: a timer costs
an insertion into a heap and a cancellation for each request, and nearly none of them ever fires. Times are counted
from the last sweep and may be short by one tick, so each has a tick added; they fire late by two at most.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from tenfold._core.tasks import Tasks
from tenfold.gateway.config import Config, Respond, Route
from tenfold.gateway.edge import Edge, EdgeOptions
from tenfold.gateway.engine.cached import CachedExchange
from tenfold.gateway.engine.certificates import Keyring
from tenfold.gateway.engine.counters import Counters
from tenfold.gateway.engine.edge_keys import MOST_VARIANTS
from tenfold.gateway.engine.ending import Ending
from tenfold.gateway.engine.forward import Exchange
from tenfold.gateway.engine.log import AccessLog
from tenfold.gateway.engine.outbox import Outbox
from tenfold.gateway.engine.plan import Plan
from tenfold.gateway.engine.pool_plan import PoolPlan
from tenfold.gateway.engine.route_plan import RoutePlan
from tenfold.gateway.engine.sending import Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenfold.gateway.engine.accepting import Arrival
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.problem import Fault
    from tenfold.gateway.framing import RequestHead

TICK: Final = 0.05
_HEADS: Final = 16 * 1024
"""What a stored response may weigh beside its body."""
_MOST_TASKS: Final = 200_000


class Site:
    """One gateway process. Belongs to one event loop."""

    __slots__ = ("arrivals", "clients", "clock", "counters", "dated", "draining", "edge", "flush", "keyring",
                 "left", "log", "loop", "now", "nowhere", "plan", "random", "retired", "tasks", "wall",
                 "write")  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock: Final = time.monotonic
        self.wall: Final = time.time
        self.counters: Final = Counters()
        self.random: Final = random.Random()
        self.tasks: Final = Tasks("gateway", limit=_MOST_TASKS)
        self.clients: set[Client] = set()
        self.arrivals: set[Arrival] = set()
        """Connections that are not clients yet."""
        self.dated: set[Sending] = set()
        """Exchanges with a deadline."""
        self.retired: list[PoolPlan] = []
        outbox = Outbox(self.loop)
        self.write: Final = outbox.write
        """Write to a connection, soon: `Outbox`."""
        self.flush: Final = outbox.flush
        self.draining = False
        self.now = self.clock() + TICK
        """About now; renewed by the sweep."""
        self.left: Callable[[], object] = _nothing
        """Called when a client has gone."""
        self.edge = edge_of(config)
        self.log = None if config.gateway.access_log is None else AccessLog(self, config.gateway.access_log)
        self.nowhere: Final = RoutePlan(Route(name="none", respond=Respond(status=404)), {}, None, None)
        """For requests that no route is for."""
        self.plan = Plan(self, config)
        self.keyring: Final = Keyring(None, self.counters)

    def exchange(self, client: Client, head: RequestHead, route: RoutePlan) -> Exchange:
        """A new exchange; it counts as under way until it is `over`."""
        self.counters.in_flight += 1
        pool = route.pool
        if pool is not None and route.route.edge is not None:
            return CachedExchange(self, client, head, route, pool)
        return Exchange(self, client, head, route, pool)  # type: ignore[arg-type] # without one nothing is forwarded

    def over(self, exchange: Ending) -> None:
        """The exchange has ended."""
        counters, route, kind = self.counters, exchange.route, exchange.status // 100
        counters.in_flight -= 1
        counters.answers[kind] += 1
        if exchange.canary:
            route.canary_answers[kind] += 1
        else:
            route.answers[kind] += 1
        if self.log is not None:
            self.log.exchange(exchange)

    def refused(self, client: Client, fault: Fault) -> None:
        """What came was no request."""
        self.counters.answers[fault.status // 100] += 1
        if self.log is not None:
            self.log.refused(client, fault)

    def gone(self, client: Client) -> None:
        """The client's connection is closed."""
        self.clients.discard(client)
        self.left()

    def cut(self) -> None:
        """Close all client connections at once."""
        for arrival in list(self.arrivals):
            arrival.cut()
        for client in list(self.clients):
            client.cut()

    async def sweep_for_ever(self) -> None:
        """Call time."""
        while True:
            await asyncio.sleep(TICK)
            self.sweep()

    def sweep(self) -> None:
        """Call time once."""
        now = self.clock()
        self.now = now + TICK
        for client in [each for each in self.clients if each.due < now]:
            client.late()
        if self.arrivals:
            for arrival in [each for each in self.arrivals if each.due < now]:
                arrival.late()
        for exchange in [each for each in self.dated if each.until < now]:
            exchange.past_deadline()
        for pool in self.plan.pools.values():
            pool.sweep(now)
        if self.retired:
            for pool in self.retired:
                pool.sweep(now)
            self.retired = [pool for pool in self.retired if not pool.over]
        if self.log is not None:
            self.log.flush()


def _nothing() -> None:
    return None


def edge_of(config: Config) -> Edge | None:
    """The cache that the routes with ``edge`` share; None where there is none."""
    routes = [route.edge for route in config.routes if route.edge is not None]
    if not routes:
        return None
    edge = config.edge
    largest = max(each.largest for each in routes) + _HEADS
    return Edge(EdgeOptions(
        name=edge.name, max_bytes=edge.max_bytes, largest_share=max(1e-9, min(0.5, largest / edge.max_bytes)),
        max_variants=MOST_VARIANTS if any(each.headers or each.cookies for each in routes) else 64,
    ))  # fmt: skip


def store_of(edge: Edge | None) -> tuple[object, ...] | None:
    """What a cache is told to be: where it changes on a reload, another one is made."""
    return None if edge is None else (edge.options.name, edge.options.bytes, edge.options.largest)
