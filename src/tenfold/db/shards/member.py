"""One shard's servers as the sharded cluster sees them: a plain engine, or a primary with replicas.

Both give the same few things: a transaction under the fence, a connection in autocommit, a reader's connection where
replicas may answer. What waits for a failover does so only while nothing has happened yet: up to and including the
fence, which is the first statement of a transaction.

Each shard that has replicas is a system of its own in the present causality scope; a commit on any shard counts there
with the epoch of the map that it was made under (`mark`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from tenfold.db import pool_policy
from tenfold.db.classify.verdict import READ
from tenfold.db.cluster import AsyncCluster
from tenfold.db.pool import cut_idle, release
from tenfold.db.position import Position
from tenfold.db.read_connection import reader
from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.route import asked_route, decide
from tenfold.db.shards import direct
from tenfold.db.shards.mark import MapMark
from tenfold.db.shards.order import Row
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.store import EXPECTED, SHARD, fence

_log: Final = logging.getLogger("tenfold.db.shards")
T = TypeVar("T")
"""What statements are shown and named by."""
_RELEASE: Final = 2.0


class Member:
    """A shard that is one server, behind ``engine``."""

    cluster: AsyncCluster | None = None
    """What it is, unless it is one server."""

    def __init__(self, name: str, engine: AsyncEngine, mark: MapMark) -> None:
        self.name, self._mark = name, mark
        self._engine = engine
        self._pooled: bool | None = None
        event.listen(engine.sync_engine, "do_connect", self._do_connect)
        event.listen(engine.sync_engine, "connect", lambda _, record: pool_policy.note(record.info, self._pooled))
        event.listen(engine.sync_engine, "begin", fence)
        event.listen(engine.sync_engine, "checkout", _must_be_open)

    def _do_connect(self, dialect: object, record: object, cargs: object, cparams: dict[str, Any]) -> None:
        url, timeout = self._engine.url, float(cparams.get("timeout", _RELEASE))
        self._pooled = pool_policy.obey(cparams, lambda: self._pooled, lambda: pool_policy.asked(url, timeout))

    @property
    def engine(self) -> AsyncEngine:
        """Of the present primary."""
        return self._engine

    @property
    def pooled(self) -> bool:
        """Whether a pooler is known to stand before it: see `pool_policy`."""
        return bool(self._pooled)

    async def settle(self) -> None:
        """Return when `engine` is known to be a primary's."""

    def at_writer(self, connect: Callable[[Engine], T]) -> T:
        """What ``connect(engine)`` returns for the primary. In SQLAlchemy's greenlet."""
        try:
            return connect(self._engine.sync_engine)
        except NOT_THERE as error:
            if not is_gone(error):
                raise
        return connect(self._engine.sync_engine)  # the pool has dropped the connections of before a restart

    async def connect(self) -> AsyncConnection:
        """A connection to the primary, for the caller to `give_back`."""
        return await self._engine.connect()

    async def give_back(self, connection: AsyncConnection) -> None:
        """Roll back what is open on it and return it to its pool, although the caller may be cancelled meanwhile."""
        await release(connection, _RELEASE)

    @asynccontextmanager
    async def begin(self, epoch: int | None) -> AsyncIterator[AsyncConnection]:
        """A transaction on the primary that commits at the end, under the fence of ``epoch``; None: under none.

        Raises `StaleMap`.
        """
        connection = await self.begun(epoch)
        try:
            yield connection
            await connection.commit()
        finally:
            self.committed()
            await self.give_back(connection)

    async def begun(self, epoch: int | None) -> AsyncConnection:
        """A connection with a transaction that has passed the fence, for the caller to commit and `give_back`."""
        number, until = 0, self._patience()
        while True:
            number += 1
            connection = await self.connect()
            try:
                if epoch is not None:
                    await connection.execution_options(**{EXPECTED: epoch, SHARD: self.name})
                await connection.begin()
            except NOT_THERE as error:
                await self._stand_by(connection, error, number, until)  # the fence has written nothing
            except BaseException:
                await self.give_back(connection)
                raise
            else:
                return connection

    @asynccontextmanager
    async def alone(self, *, writes: bool = True) -> AsyncIterator[AsyncConnection]:
        """A connection to the primary in autocommit. ``writes``: whether a statement on it may change something."""
        connection = await self.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection
        finally:
            if writes:
                self.committed()
            else:
                self.saw_primary()
            await self.give_back(connection)

    async def ask(self, question: Callable[[Connection], T], *, writes: bool) -> T:
        """What ``question`` finds on the primary in autocommit. It runs in SQLAlchemy's greenlet, which is entered
        once for it and for the connection.
        """
        try:
            return await greenlet_spawn(_asked, self._engine.sync_engine, question)
        finally:
            if writes:
                self.committed()

    async def part(self, statement: Any, parameters: Any) -> tuple[Sequence[str], Sequence[Row]] | None:
        """Names and rows of a row-wise SELECT on the primary, by the shortest way (`direct`); None: ask as usual."""
        return await greenlet_spawn(direct.ask, self._engine.sync_engine, statement, parameters)

    async def serves(self, plan: Plan) -> tuple[bool, bool]:
        """Whether ``plan`` only reads, and whether `reader` may serve it. Raises `MisuseError` for what is no route."""
        asked_route(_asked_for(plan))
        return False, False

    @asynccontextmanager
    async def reader(self, plan: Plan) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit that shows what the present scope wants and ``plan``'s statement needs, to a
        replica if one may serve.
        """
        async with self.alone(writes=False) as connection:
            yield connection

    async def position(self) -> Position | None:
        """Behind all that has been committed on it so far; None where it has no replicas, to which that matters."""
        return None

    def committed(self) -> None:
        """Something may have been committed on the primary: the present causality scope counts it."""
        self._mark.committed()

    def saw_primary(self) -> None:
        """The primary was read: where reads are monotonic, later ones of the present scope must not show less."""

    async def aclose(self) -> None:
        """Close the connections, within the time for a release; after that they are cut."""
        pool: Any = self._engine.sync_engine.pool  # `dispose` puts another in its place
        try:
            async with asyncio.timeout(_RELEASE):
                await self._engine.dispose()
        except TimeoutError:
            _log.warning("shard %s did not answer when its connections were closed, and they were cut", self.name)
        finally:
            cut_idle(pool)

    # -- inside

    def _patience(self) -> float:
        return 0.0

    async def _stand_by(self, connection: AsyncConnection, error: Exception, number: int, until: float) -> None:
        await self.give_back(connection)
        if number > 1 or not is_gone(error):
            raise error


class ReplicatedMember(Member):
    """A shard that is an `AsyncCluster`: its connections, its watch, its choice of readers."""

    def __init__(self, name: str, cluster: AsyncCluster, mark: MapMark) -> None:
        self.name, self._mark = name, mark
        self.cluster = self._cluster = cluster

    @property
    def engine(self) -> AsyncEngine:
        watch, nodes = self._cluster.watch, self._cluster.nodes()
        return _fenced((watch.winner or nodes[0]).engine)

    @property
    def pooled(self) -> bool:
        return any(node.pooled for node in self._cluster.nodes())

    async def settle(self) -> None:
        await self._cluster.writer()

    def at_writer(self, connect: Callable[[Engine], T]) -> T:
        def fenced(engine: Engine) -> T:
            _listen(engine)
            return connect(engine)

        return self._cluster.router.places.at_writer(fenced)

    async def connect(self) -> AsyncConnection:
        connection = await self._cluster.connect_for_writes()
        _listen(connection.sync_engine)
        return connection

    async def give_back(self, connection: AsyncConnection) -> None:
        await release(connection, float(self._cluster.options.release_timeout))

    async def ask(self, question: Callable[[Connection], T], *, writes: bool) -> T:
        async with self.alone(writes=writes) as connection:
            return await connection.run_sync(question)

    async def part(self, statement: Any, parameters: Any) -> tuple[Sequence[str], Sequence[Row]] | None:
        return None  # the cluster listens to its connections

    async def serves(self, plan: Plan) -> tuple[bool, bool]:
        statement = _asked_for(plan)
        verdict, router = READ, self._cluster.router
        if plan.kind == "single":  # what scatters is row-wise, and so a read
            await greenlet_spawn(router.keep_fresh)
            verdict = router.classifier(statement)
        return verdict.is_read, decide(verdict, asked_route(statement)).to == "replica"

    @asynccontextmanager
    async def reader(self, plan: Plan) -> AsyncIterator[AsyncConnection]:
        cluster, route = self._cluster, asked_route(_asked_for(plan))
        needs = None if isinstance(route, str) else route
        async with reader(cluster, float(cluster.options.release_timeout), needs) as connection:
            yield connection
            if self._cluster.causal.options.monotonic:
                self._mark.saw()

    async def position(self) -> Position | None:
        return await self._cluster.causal.capture()

    def committed(self) -> None:
        super().committed()
        self._cluster.causal.committed()

    def saw_primary(self) -> None:
        if self._cluster.causal.options.monotonic:
            self._cluster.causal.saw_primary()
            self._mark.saw()

    async def aclose(self) -> None:
        await self._cluster.aclose()

    # -- inside

    def _patience(self) -> float:
        return self._cluster.patience()

    async def _stand_by(self, connection: AsyncConnection, error: Exception, number: int, until: float) -> None:
        pool = connection.sync_engine.pool
        await self.give_back(connection)
        node = next((node for node in self._cluster.nodes() if node.engine.sync_engine.pool is pool), None)
        if node is None:  # its generation is over; the next connection is another's
            raise error
        await self._cluster.stand_by(node, error, until)


def _asked_for(plan: Plan) -> Any:
    """The statement as it was given."""
    return plan.statement if plan.original is None else plan.original


def _asked(engine: Engine, question: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return question(connection.execution_options(isolation_level="AUTOCOMMIT"))


def _must_be_open(dbapi: Any, record: Any, proxy: Any) -> None:
    """What the server has closed while it was idle, as when it was restarted, is replaced by the pool."""
    if dbapi.driver_connection.is_closed():
        raise DisconnectionError


def _fenced(engine: AsyncEngine) -> AsyncEngine:
    _listen(engine.sync_engine)
    return engine


def _listen(engine: Any) -> None:
    if not event.contains(engine, "begin", fence):
        event.listen(engine, "begin", fence)
