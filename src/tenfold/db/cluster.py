"""A primary and its replicas behind SQLAlchemy's own sessions, statements and results.

Writes go to the primary. A read-only session or connection gets one replica and keeps it; if none answers,
the primary serves it, over connections that refuse to write. Read-only connections run in autocommit: under
READ COMMITTED each statement has a snapshot of its own anyway, and a single-statement read saves the round
trips of BEGIN and ROLLBACK.

A replica may lag behind the primary. This slice does not measure by how much: what a writer must read back at
once is read from the primary.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.db.node import Node
from tenfold.db.routing import order
from tenfold.db.urls import asyncpg_url

# By which a server says that it cannot be reached or does not accept connections; anything else is the
# caller's error.
_NOT_THERE: Final = (OSError, TimeoutError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class _Servers:
    """The nodes of one event loop: connections belong to the loop that made them."""

    primary: Node
    primary_for_reads: Node
    replicas: tuple[Node, ...]

    def all(self) -> tuple[Node, ...]:
        return (self.primary, self.primary_for_reads, *self.replicas)


class AsyncCluster:
    """See `create_async_cluster`, which makes it."""

    def __init__(
        self,
        primary: URL,
        replicas: Sequence[URL],
        options: Mapping[str, Any],
        *,
        random: Random | None = None,
    ) -> None:
        self._primary, self._replicas, self._options = primary, tuple(replicas), dict(options)
        self._random = random or Random()
        self._servers: dict[asyncio.AbstractEventLoop, _Servers] = {}

    def sessionmaker(self, **options: Any) -> async_sessionmaker[AsyncSession]:
        """An `async_sessionmaker` whose sessions also take ``read_only=True``; ``options`` are SQLAlchemy's.

        A read-only session keeps the replica of its first statement until it is closed. It refuses to flush
        changes.
        """
        for taken in ("bind", "binds", "sync_session_class"):
            if taken in options:
                raise MisuseError(f"sessionmaker: {taken}= is the cluster's own; leave it out")
        return async_sessionmaker(sync_session_class=_RoutedSession, cluster=self, **options)

    @asynccontextmanager
    async def connect(self, *, read_only: bool = False) -> AsyncIterator[AsyncConnection]:
        """A Core connection: to the primary, or ``read_only`` to a replica in autocommit."""
        connection = await (self._connect_for_reads() if read_only else self._here().primary.engine.connect())
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A Core connection to the primary in a transaction that commits at the end."""
        async with self._here().primary.engine.begin() as connection:
            yield connection

    async def aclose(self) -> None:
        """Close the running loop's connections. The cluster may be used again afterwards."""
        servers = self._servers.pop(asyncio.get_running_loop(), None)
        if servers is not None:
            await asyncio.gather(*[node.engine.dispose() for node in servers.all()])

    async def __aenter__(self) -> AsyncCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def nodes(self) -> tuple[Node, ...]:
        """The servers as the running loop sees them: the primary first, then its connections for reads, then
        replicas.
        """
        return self._here().all()

    def __repr__(self) -> str:
        primary = self._primary.render_as_string(hide_password=True)
        return f"AsyncCluster({primary}, {len(self._replicas)} replicas)"

    # -- inside

    def _here(self) -> _Servers:
        loop = asyncio.get_running_loop()
        servers = self._servers.get(loop)
        if servers is None:
            for old in [one for one in self._servers if one.is_closed()]:
                del self._servers[old]
            servers = self._servers[loop] = self._settle()
        return servers

    def _settle(self) -> _Servers:
        reads = {**self._options, "isolation_level": "AUTOCOMMIT"}
        arguments = dict(reads.pop("connect_args"))
        arguments["server_settings"] = {"default_transaction_read_only": "on"}
        reads["connect_args"] = arguments
        return _Servers(
            primary=Node("primary", self._primary, time.monotonic, **self._options),
            primary_for_reads=Node("primary for reads", self._primary, time.monotonic, **reads),
            replicas=tuple(
                Node(f"replica {number}", url, time.monotonic, **reads) for number, url in enumerate(self._replicas)
            ),
        )

    def _candidates(self) -> list[Node]:
        servers = self._here()
        return [*order(servers.replicas, time.monotonic(), self._random), servers.primary_for_reads]

    async def _connect_for_reads(self) -> AsyncConnection:
        *replicas, last = self._candidates()
        for node in replicas:
            node.reserve(time.monotonic())
            try:
                connection = await node.engine.connect()
            except _NOT_THERE as error:
                node.fail(error, time.monotonic())
                continue
            node.succeed()
            return connection
        return await last.engine.connect()

    def engine_for_reads(self) -> Engine:
        """As `_connect_for_reads`, from within SQLAlchemy's greenlet: an engine that has a live connection to
        give.
        """
        *replicas, last = self._candidates()
        for node in replicas:
            engine = node.engine.sync_engine
            node.reserve(time.monotonic())
            try:
                engine.connect().close()  # goes back on top of the pool, where the session takes it from
            except _NOT_THERE as error:
                node.fail(error, time.monotonic())
                continue
            node.succeed()
            return engine
        return last.engine.sync_engine

    def engine_for_writes(self) -> Engine:
        """The primary's engine."""
        return self._here().primary.engine.sync_engine


class _RoutedSession(Session):
    """A session that asks the cluster for its engine, once."""

    def __init__(self, *, cluster: AsyncCluster, read_only: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._cluster = cluster
        self._read_only = read_only
        self._target: Engine | None = None

    def get_bind(self, *arguments: Any, bind: Engine | Connection | None = None, **options: Any) -> Engine | Connection:
        if bind is not None:
            return bind
        if self._target is None:
            self._target = self._cluster.engine_for_reads() if self._read_only else self._cluster.engine_for_writes()
        return self._target

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        if self._read_only and (self.new or self.dirty or self.deleted):
            raise MisuseError(
                "this session was opened with read_only=True and holds changes; expected reads only. "
                "Open one without read_only to write"
            )
        super().flush(objects)

    def close(self) -> None:
        super().close()
        self._target = None


def create_async_cluster(
    primary: str | URL,
    replicas: Sequence[str | URL] = (),
    *,
    pool_size: int = 10,
    pool_timeout: Duration = "5s",
    connect_timeout: Duration = "1s",
    statement_timeout: Duration = "30s",
    max_lag: None = None,
) -> AsyncCluster:
    """A cluster of one ``primary`` and any number of streaming ``replicas``, given by URL. Connects when
    first used.

    ``pool_size`` (10) connections at most to each server (the primary has two pools: for writes, and for
    reads that no replica answers). ``pool_timeout`` (5 s) bounds the wait for a free one, ``connect_timeout``
    (1 s) the making of one, ``statement_timeout`` (30 s) one statement.

    Raises `MisuseError` for URLs that are not PostgreSQL's, for numbers that make no sense, and for
    ``max_lag``, which is not built yet. Statements raise what SQLAlchemy raises.
    """
    if max_lag is not None:
        raise MisuseError(
            f"max_lag: lag is not measured yet (got {max_lag!r}); leave it out, "
            "and read from the primary what must be fresh"
        )
    if type(pool_size) is not int or pool_size < 1:
        raise MisuseError(f"pool_size: expected a whole number of at least 1, got {pool_size!r}")
    if isinstance(replicas, str):
        raise MisuseError('replicas: expected a list of URLs such as ["postgresql://…"], got one text')
    return AsyncCluster(
        asyncpg_url(primary, "primary"),
        [asyncpg_url(url, f"replicas[{number}]") for number, url in enumerate(replicas)],
        {
            "pool_size": pool_size,
            "max_overflow": 0,
            "pool_timeout": duration(pool_timeout, "pool_timeout"),
            "pool_use_lifo": True,
            "connect_args": {
                "timeout": duration(connect_timeout, "connect_timeout"),
                "command_timeout": duration(statement_timeout, "statement_timeout"),
            },
        },
    )
