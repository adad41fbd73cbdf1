"""A primary and its replicas behind SQLAlchemy's own sessions, statements and results.

Writes go to whichever server is the primary now: a `Watch` sees promotions, and while none is primary, writers wait
for a while. A read-only session or connection gets one replica and keeps it; if none may serve, the primary does, up
to a bound, over connections that refuse to write. Read-only connections run in autocommit: under READ COMMITTED each
statement has a snapshot of its own anyway, and a single-statement read saves the round trips of BEGIN and ROLLBACK.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final, TypeVar

from sqlalchemy.engine import URL, CursorResult, Engine
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.sql.base import Executable
from sqlalchemy.util import await_only

from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration
from tenfold.db.causal_cluster import ClusterCausality
from tenfold.db.causal_hooks import SessionHooks
from tenfold.db.causal_read import CausalOptions
from tenfold.db.choose import Choice, Want, best, choose
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.committed import committed_so_far
from tenfold.db.loops import LoopServers, Servers
from tenfold.db.node import Node
from tenfold.db.places import ClusterPlaces
from tenfold.db.pool import release
from tenfold.db.read_connection import reader
from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.route import Needs, most_lag
from tenfold.db.route_explanation import RouteExplanation
from tenfold.db.router import Router
from tenfold.db.session import routed_sessionmaker
from tenfold.db.state import cluster_state
from tenfold.db.token import Token
from tenfold.db.transaction import Isolation, Runner, RunOptions
from tenfold.db.watch import Watch
from tenfold.resilience import remaining

T = TypeVar("T")

_BETWEEN_TRIES: Final = (0.01, 0.03)


class AsyncCluster:
    """See `create_async_cluster` (`tenfold.db.create`), which makes it."""

    def __init__(
        self,
        primary: URL,
        replicas: Sequence[URL],
        options: ClusterOptions,
        *,
        name: str = "database",
        random: Random | None = None,
        causal: CausalOptions | None = None,
        hub: Hub = EVENTS,
    ) -> None:
        self.name: Final = name
        self._urls = {"primary": primary, **{f"replica {number}": url for number, url in enumerate(replicas)}}
        self.options = options
        self._random = random or Random()
        self._hub = hub
        places = ClusterPlaces(self)
        self._loops = LoopServers(self._settle, lambda servers: places.forget(servers.nodes))
        self._here = self._loops.here
        self._runner = Runner(self, self._random)
        self.causal = ClusterCausality(self, causal)
        hooks = SessionHooks(self.causal.capture, self.causal.history, lambda: self.system)
        self.router = Router(places, causality=hooks, hub=hub)

    def sessionmaker(self, **options: Any) -> async_sessionmaker[AsyncSession]:
        """An `async_sessionmaker` whose sessions send each statement where it belongs; ``options`` are SQLAlchemy's.

        Statements that are surely reads run on a replica, everything else on the primary, and what follows it in the
        session too; within `causality` later reads may go back to a replica that shows it. A session also takes
        ``read_only=True`` (one replica until it is closed; it refuses to flush changes) and ``route``: ``"primary"``,
        ``"replica"``, or for what its reads need `AtLeast` or `Stale`. See `tenfold.db.session`.
        """
        return routed_sessionmaker(self.router, **options)

    def session(self, **options: Any) -> AsyncSession:
        """One session as `sessionmaker` makes them, for ``async with``."""
        return self.sessionmaker(**options)()

    async def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        route: str | Needs | None = None,
    ) -> CursorResult[Any]:
        """Run one statement by itself: a read on a replica, anything else committed on the primary. Buffered.

        See `Router.execute`.
        """
        return await self.router.execute(statement, parameters, route=route)

    def explain_route(self, statement: Executable | str, *, route: str | Needs | None = None) -> RouteExplanation:
        """Where ``statement`` would go as the first of a session, and why; for a read also which servers would not get
        it. Sends nothing. See `Router.explain`.
        """
        told = self.router.explain(statement, route=route)
        if told.to != "replica":
            return told
        choices = self.choices(Want(after=self.router.wanted(told.needs), max_lag=most_lag(told.needs)))
        doubts = {one.node.name: f"{one.node.name} ({one.why})" for one in choices if one.rank == "unknown"}
        return replace(
            told,
            places=tuple(doubts.get(place.partition(" (")[0], place) for place in told.places),
            out=tuple(f"{one.node.name} ({one.why})" for one in choices if not one.ok),
        )

    @asynccontextmanager
    async def connect(self, *, read_only: bool = False) -> AsyncIterator[AsyncConnection]:
        """A Core connection: to the primary, or ``read_only`` to a replica in autocommit.

        Within `causality`, a replica shows what the scope wants, and what was written over a connection to the primary
        counts when that connection is given back.

        Raises `NoPrimary` when no primary is seen within ``failover_wait``, `ReadsRefused` when no server may serve a
        reader, `PoolExhausted`, and what SQLAlchemy raises.
        """
        within = float(self.options.release_timeout)
        if read_only:
            async with reader(self, within) as connection:
                yield connection
            return
        connection = await self.connect_for_writes()
        try:
            with self.causal.writing():
                yield connection
        finally:
            await release(connection, within)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A Core connection to the primary in a transaction that commits at the end."""
        async with self.connect() as connection, connection.begin():
            yield connection

    async def run(
        self,
        fn: Callable[[AsyncSession], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        deadline: Duration | None = None,
        options: RunOptions | None = None,
    ) -> T:
        """Run ``fn(session)`` in a transaction on the primary and commit; again from the start where that is safe.

        See `Runner.run`.
        """
        try:
            return await self._runner.run(fn, isolation=isolation, deadline=deadline, options=options)
        finally:
            self.causal.committed()  # also where nobody knows whether it was

    async def token(self) -> Token:
        """A token of all that has been committed on the cluster so far, by anybody, and of what the present `causality`
        scope wants besides: for `AtLeast`, for a scope, or signed (`TokenKeys.sign`) for somebody else.

        One round trip to the primary. It takes no session: any position that is read after a commit covers it, so ask
        once that has returned. Waits for a primary as writers do; raises `NoPrimary`, and what SQLAlchemy raises.
        """
        return committed_so_far([await self.causal.capture()])

    async def aclose(self) -> None:
        """Close the running loop's connections. The cluster may be used again afterwards."""
        await self._loops.close()

    async def __aenter__(self) -> AsyncCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def nodes(self) -> tuple[Node, ...]:
        """The servers as the running loop sees them, in the order in which they were declared."""
        return self._here().nodes

    def each_engine(self, install: Callable[[Engine], None], *, key: Hashable = None) -> None:
        """Have ``install`` called with each engine of each node: of every loop that uses the cluster now, of others
        when they first do, and again after `aclose`. Needs no running loop.

        ``key`` (``install`` itself) says what it is: the same once more does nothing; another ``install`` with that key
        takes the first one's place, and is called with the engines that have the first already.
        """
        self._loops.each_engine(install, key)

    @property
    def watch(self) -> Watch:
        """The running loop's watch over the servers."""
        return self._here().watch

    @property
    def system(self) -> int | None:
        """The identifier of the system that the running loop's servers are; None while none of them has said it."""
        servers = self._here()
        system = servers.watch.election.system
        if system is not None:
            return system
        return next((shown.system for node in servers.nodes if (shown := node.shown) is not None), None)

    async def writer(self, wait: float | None = None) -> Node:
        """The node that takes the writes now; waits ``wait`` seconds for one (default ``failover_wait``), and no longer
        than the inherited deadline. Raises `NoPrimary`.
        """
        return await self.watch.primary(self.patience(wait))

    def patience(self, wait: float | None = None) -> float:
        """The monotonic time until which a writer waits for a primary from now on."""
        longest = float(self.options.failover_wait) if wait is None else wait
        left = remaining()
        return time.monotonic() + (longest if left is None else min(longest, left))

    def choices(self, want: Want) -> list[Choice[Node]]:
        """All nodes for that wish, best first, each with the reason why it stands there."""
        servers = self._here()
        primary = servers.watch.election.winner
        now = time.monotonic()
        return choose(want, servers.nodes, now, self._random, primary=primary, spill=self.options.spill)

    def has_room(self, choice: Choice[Node], want: Want) -> bool:
        """Whether ``choice`` still holds when its turn comes: meanwhile other readers may have taken the primary's
        places, who found the same replicas gone at the same time.
        """
        spill = self.options.spill
        if choice.rank != "spill" or want.after is not None or spill is None or len(self.nodes()) == 1:
            return True
        return choice.node.in_flight < spill

    async def connect_for_writes(
        self, wait: float | None = None, *, isolation: Isolation | None = None
    ) -> AsyncConnection:
        """A connection to the primary, for the caller to `release`; waits through a failover as `writer` does."""
        until = self.patience(wait)
        while True:
            node = await self.watch.primary(until)
            engine = node.engine if isolation is None else node.engine.execution_options(isolation_level=isolation)
            try:
                return await engine.connect()
            except NOT_THERE as error:
                await self.stand_by(node, error, until)

    async def opened(self, isolation: Isolation | None) -> tuple[AsyncConnection, AsyncSession]:
        """A connection as `connect_for_writes` makes it and a session on it, for the caller to `release`."""
        connection = await self.connect_for_writes(isolation=isolation)
        return connection, AsyncSession(bind=connection, expire_on_commit=False, close_resets_only=False)

    async def stand_by(self, node: Node, error: Exception, until: float) -> None:
        """``node`` refused a writer's connection: have it asked anew, and pause before the next try.

        Raises ``error`` where it says something else, or at the monotonic time ``until``.
        """
        if not is_gone(error) or time.monotonic() >= until:
            raise error
        self.watch.doubt(node, f"it refused a connection: {type(error).__name__}")
        await asyncio.sleep(self._random.uniform(*_BETWEEN_TRIES))

    def best_reader(self, pinned: str | None = None) -> Node | None:
        """The replica for the next reader, found the cheap way (`choose.best`); None: see `choices`."""
        servers = self._here()
        primary = servers.watch.election.winner
        return best(servers.nodes, time.monotonic(), self._random, primary=primary, pinned=pinned)

    def node_for_writes(self) -> Node:
        """The primary's node. Within SQLAlchemy's greenlet it waits through a failover; raises `NoPrimary`."""
        servers = self._here()
        node = servers.watch.winner
        if node is None:
            try:
                node = await_only(self.writer())
            except MissingGreenlet:
                node = servers.nodes[0]  # somebody just looks; nothing is sent from here
        return node

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON: servers, connections, reads, tokens, transactions.

        May be called from any thread. See `tenfold.db.state` and, for Prometheus and OpenTelemetry, `tenfold.observe`.
        """
        loops = [(servers.nodes, servers.watch) for servers in self._loops.all()]
        return cluster_state(self.name, loops, self.router, self.causal.counters, self._runner)

    def __repr__(self) -> str:
        primary = self._urls["primary"].render_as_string(hide_password=True)
        return f"AsyncCluster({primary}, {len(self._urls) - 1} replicas)"

    # -- inside

    def _settle(self) -> Servers:
        nodes = tuple(
            Node(name, url, self.options, hub=self._hub, random=self._random) for name, url in self._urls.items()
        )
        return Servers(nodes, Watch(nodes, self.options, hub=self._hub, random=self._random))
