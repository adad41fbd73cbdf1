"""`ShardedCluster.run`: a function as a transaction on the shard of a key, run again as `tenfold.db.transaction` does.

Each try is a session of its own, which asks the map anew where the key lives. Of a commit whose answer was lost a shard
that is an `AsyncCluster` can tell, as its watch has seen whether its server went down. A plain server has no watch: it
can tell that the transaction was aborted, and its "committed" may be said of somebody else's, so that is not believed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tenfold._core.tasks import shielded
from tenfold._core.units import Duration
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.node import Node
from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.shards.keys import Key
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.transaction import Isolation, Runner, RunOptions
from tenfold.resilience.budget import Purse

T = TypeVar("T")
_PLAIN: Final = ClusterOptions()
"""For shards that are given as a URL: how long a lost server is waited for, and a rollback."""
_BETWEEN_TRIES: Final = (0.01, 0.03)


class Shards(Protocol):
    """What is needed of the cluster."""

    @property
    def map(self) -> ShardMap: ...
    def member(self, shard: str) -> Member: ...
    def session(self, *, shard_key: Any = None, **options: Any) -> AsyncSession: ...


class Runs:
    """Runs functions as transactions; their budget for further tries is one, and so are the counters."""

    __slots__ = ("_cluster", "_purse", "_random", "calls", "resolved", "retries", "unknown")

    def __init__(self, cluster: Shards, random: Random) -> None:
        self._cluster, self._random = cluster, random
        self._purse: Purse | None = None
        self.calls = self.retries = self.resolved = self.unknown = 0

    async def run(
        self,
        fn: Callable[[AsyncSession], Awaitable[T]],
        key: Key,
        *,
        isolation: Isolation | None,
        deadline: Duration,
        options: RunOptions | None,
    ) -> T:
        """See `ShardedCluster.run`."""
        runner = Runner(_HostOfKey(self._cluster, key, self._random), self._random)
        runner.purse = self._purse = self._purse or runner.purse
        self.calls += 1
        try:
            return await runner.run(fn, isolation=isolation, deadline=deadline, options=options)
        finally:
            self.retries += runner.retries
            self.resolved += runner.resolved
            self.unknown += runner.unknown


class _Plain:
    """A plain server, to be asked what became of a transaction; it cannot say whether it was down meanwhile."""

    pooled = True
    epoch = 0

    class seen:  # noqa: N801 - as a node has it
        position = None

    def __init__(self, engine: AsyncEngine) -> None:
        self.reads = engine


class _HostOfKey:
    """The shard of a key, as a `Runner` wants its cluster."""

    def __init__(self, cluster: Shards, key: Key, random: Random) -> None:
        self.cluster, self.key, self.random = cluster, key, random
        self.been_there = False

    @property
    def member(self) -> Member:
        return self.cluster.member(self.cluster.map.shard_of(self.key))

    @property
    def options(self) -> ClusterOptions:
        replicated = self.member.cluster
        return _PLAIN if replicated is None else replicated.options

    async def opened(self, isolation: Isolation | None) -> tuple[AsyncConnection, AsyncSession]:
        until = time.monotonic() + float(self.options.failover_wait)
        while True:
            session = self.cluster.session(
                shard_key=self.key, isolation=isolation, expire_on_commit=False, close_resets_only=False
            )
            try:
                connection = await session.connection()  # passes the fence
            except BaseException as error:
                await shielded(_close(session))
                # A server that was there a moment ago is waited for: this function has already begun once.
                lost = isinstance(error, NOT_THERE) and is_gone(error)
                if not lost or not self.been_there or time.monotonic() >= until:
                    raise
            else:
                self.been_there = True
                return connection, session
            await asyncio.sleep(self.random.uniform(*_BETWEEN_TRIES))

    async def writer(self, wait: float | None = None) -> Node:
        replicated = self.member.cluster
        if replicated is not None:
            return await replicated.writer(wait)
        plain: Any = _Plain(self.member.engine)
        return plain  # type: ignore[no-any-return]

    def nodes(self) -> tuple[Node, ...]:
        replicated = self.member.cluster
        return () if replicated is None else replicated.nodes()


async def _close(session: AsyncSession) -> None:
    with suppress(*NOT_THERE):  # what was wrong is being raised
        await session.close()
