"""Several PostgreSQL databases as one, as far as that is true. See `ShardedCluster`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Final, TypeVar

from sqlalchemy import Insert, Table, insert
from sqlalchemy.engine import URL, Result
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.cluster import AsyncCluster
from tenfold.db.committed import committed_so_far
from tenfold.db.shards import execute
from tenfold.db.shards.batch import Batch
from tenfold.db.shards.keys import check
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.opened import OpenShards, named
from tenfold.db.shards.parallel import together
from tenfold.db.shards.planned import Planned
from tenfold.db.shards.run import Runs
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.session import ShardSession
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.state import sharded_state
from tenfold.db.token import Token
from tenfold.db.transaction import Isolation, RunOptions

T = TypeVar("T")


class ShardedCluster(OpenShards):
    """``ShardedCluster({"a": url, "b": url}, models=[Base], map=ShardMap.hash(["a", "b"]))``

    ``shards``: URLs by name, or a list of URLs, which are then called s0, s1 … The first is the home of the map. In a
    URL's place may stand an `AsyncCluster` (`create_async_cluster`): a primary with replicas, where writes go to
    whichever is the primary, and `execute`, `read` and `stream` read from replicas as the cluster's ``max_lag``, the
    statement's ``execution_options(route=…)`` and the present `causality` scope allow. It is closed with this one.
    ``models``: what `Scheme` takes. ``map`` is stored when the home has none yet; a stored one wins. None: hash over
    all. ``deadline`` (30 s) bounds each call, an inherited `tenfold.resilience.Deadline` shortens it. ``concurrency``
    (16): shards that one read asks at a time. ``max_groups`` (100,000): groups or distinct rows that a merge may hold.
    ``batch`` (500): rows that `stream` fetches at a time. ``rowwise``: names of SQL functions, beside the built-in
    ones, that see one row and have no effect. ``pool_size`` (10): connections to each shard that is given as a URL.
    ``name`` ("shards") is what its metrics are told apart by; ``hub`` gets its events.

    Used as ``async with``; belongs to the event loop that entered it. Raises `MisuseError` for what makes no sense,
    `CannotAnswer` for statements whose answer would not be that of one database, `StaleMap` when the map stays in
    change, `UnknownShard` for keys that have moved to a shard it does not know,
    `tenfold.resilience.DeadlineExceeded` (a `TimeoutError`) past the deadline.
    """

    def __init__(
        self,
        shards: Mapping[str, str | URL | AsyncCluster] | Sequence[str | URL | AsyncCluster],
        *,
        models: Iterable[Any],
        map: ShardMap | None = None,
        deadline: Duration = "30s",
        concurrency: int = 16,
        max_groups: int = 100_000,
        batch: int = 500,
        rowwise: Iterable[str] = (),
        pool_size: int = 10,
        connect_timeout: Duration = "2s",
        random: Random | None = None,
        name: str = "shards",
        hub: Hub = EVENTS,
    ) -> None:
        self.name: Final = name
        served, random = named(shards), random or Random()
        super().__init__(
            served,
            map if map is not None else ShardMap.hash(sorted(served)),
            deadline=deadline,
            options={
                "pool_size": whole_number(pool_size, "pool_size", least=1),
                "max_overflow": 0,
                "connect_args": {"timeout": duration(connect_timeout, "connect_timeout")},
            },
            random=random,
            hub=hub,
        )
        self.scheme: Final = Scheme(*models)
        self._concurrency = whole_number(concurrency, "concurrency", least=1)
        self._max_groups = whole_number(max_groups, "max_groups", least=1)
        self._batch = whole_number(batch, "batch", least=1)
        self._planned = Planned(self.scheme, lambda: self.map, frozenset(name.lower() for name in rowwise))
        self._runs = Runs(self, random)
        self.scattered = 0
        """Reads that went to several shards."""

    # -- deciding

    def plan(self, statement: Any, parameters: Any = None, *, shard_key: Any = None) -> Plan:
        """How ``statement`` would be answered. Raises `CannotAnswer`."""
        return self._planned.plan(statement, parameters, shard_key)

    def explain(self, statement: Any, parameters: Any = None) -> str:
        """The plan, or the reason for the refusal, in words."""
        return self._planned.explain(statement, parameters)

    # -- reading and writing

    def session(self, *, shard_key: Any = None, shard: str | None = None, **options: Any) -> AsyncSession:
        """An `AsyncSession` whose transactions live on one shard each. ``options`` are SQLAlchemy's.

        ``shard_key`` or ``shard`` (by name) bind it from the start; statements then run there as they stand. Otherwise
        the first statement or object with a shard key decides, or a call with
        ``execution_options={"shard_key": …}``. Raises `CrossShard` for a second shard in a transaction.
        """
        if shard is not None and shard not in self._given and shard not in self.map.names:
            raise MisuseError(f"shard: expected one of {', '.join(self._given)}, got {shard!r}")
        return self.sessionmaker(**options)(shard_key=shard_key, shard=shard)

    def sessionmaker(self, **options: Any) -> async_sessionmaker[AsyncSession]:
        """An `async_sessionmaker` of such sessions, for what takes one; ``options`` are SQLAlchemy's.

        Called, it takes ``shard_key`` or ``shard`` as `session` does.
        """
        for taken in ("bind", "binds", "sync_session_class"):
            if taken in options:
                raise MisuseError(f"sessionmaker: {taken}= is the cluster's own; leave it out")
        return async_sessionmaker(sync_session_class=ShardSession, cluster=self, **options)

    async def run(
        self,
        fn: Callable[[AsyncSession], Awaitable[T]],
        *,
        shard_key: Any,
        isolation: Isolation | None = None,
        deadline: Duration | None = None,
        options: RunOptions | None = None,
    ) -> T:
        """Run ``fn(session)`` in a transaction on the shard of ``shard_key`` and commit; give back what it returned.

        As `AsyncCluster.run`: again from the start, in a fresh session, after a serialization failure, a deadlock, or a
        loss of the server before COMMIT. ``deadline`` (the cluster's) bounds all of it. Raises what ``fn`` raises,
        `CommitUnknown`, `RetriesExhausted`, `DeadlineExceeded`, and what `session` raises.
        """
        self._entered()
        within = self._deadline.seconds if deadline is None else deadline
        return await self._runs.run(fn, check(shard_key), isolation=isolation, deadline=within, options=options)

    async def execute(self, statement: Any, parameters: Any = None) -> Result[Any]:
        """Run one statement: a read on one shard or several, or a write on one, committed when this returns.

        The result is whole. Rows are SQLAlchemy's; where a select names entities, it gives their columns.
        """
        made = self.plan(statement, parameters)
        if made.kind == "scatter" or made.merge is not None:
            return await self.read(statement, parameters, planned=made)

        async def once() -> Result[Any]:
            shard = self.plan(statement, parameters).shards[0]
            async with self._members[shard].begin(self.map.epoch) as connection:
                result = await connection.execute(statement, parameters)
                return result.freeze()() if result.returns_rows else result

        return await self.fenced(once)

    async def read(
        self, statement: Any, parameters: Any = None, *, primary: bool = False, planned: Plan | None = None
    ) -> Result[Any]:
        """A SELECT in autocommit, on one shard or several. ``primary``: not of a replica. ``planned``: its `plan`."""
        epoch = self.map.epoch

        async def once() -> Result[Any]:
            nonlocal planned
            only_primaries = primary or await self._mark.only_primaries(self.refresh, statement)
            if planned is None or self.map.epoch != epoch:
                planned = self.plan(statement, parameters)
            made, planned = planned, None
            if made.merge is None:  # the map has changed meanwhile
                return await self.execute(statement, parameters)
            self.scattered += made.kind == "scatter"
            return await execute.fetch(
                made, parameters, self._members, self.map.epoch,
                concurrency=self._concurrency, batch=self._batch, max_groups=self._max_groups, primary=only_primaries,
            )  # fmt: skip

        return await self.fenced(once)

    @asynccontextmanager
    async def stream(self, statement: Any, parameters: Any = None) -> AsyncIterator[AsyncIterator[Any]]:
        """``async with cluster.stream(select(…)) as rows: async for row in rows``: the rows of several shards as they
        come.

        The deadline bounds the whole block. Leaving it, by whichever way, closes all cursors.
        """
        self._entered()
        async with self._deadline, AsyncExitStack() as stack:

            async def once() -> AsyncIterator[Any]:
                only_primaries = await self._mark.only_primaries(self.refresh, statement)
                made = self.plan(statement, parameters)
                if made.merge is None or made.merge.groups is not None:
                    return _each(await self.execute(statement, parameters))
                opened = execute.stream(
                    made, parameters, self._members, self.map.epoch,
                    batch=self._batch, max_groups=self._max_groups, primary=only_primaries,
                )  # fmt: skip
                rows = await stack.enter_async_context(opened)
                self.scattered += 1
                return rows

            yield await self._current.fenced(once)

    async def token(self) -> Token:
        """A token of all that has been committed so far on the shards that have replicas, under the map as it is stored
        now, and of what the present `causality` scope wants besides: see `AsyncCluster.token`. For the reads of this
        cluster; a shard that is one server needs none. The shards are asked at the same time.
        """
        self._entered()
        async with self._deadline:
            await self.refresh()
            asked = [member.position for member in self._members.values()]
            found = [*await together(asked, self._concurrency), self._mark.position]
        unknown = bool(set(self.map.names) - self._members.keys())
        return committed_so_far([position for position in found if position is not None], elsewhere=unknown)

    async def insert(self, target: Table | type | Insert, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert many rows, each on its shard, one transaction for each shard. Returns how many.

        Raises `PartialWrite` when some shards have committed and others failed: their rows are named in it.
        """
        self._entered()
        statement = target if isinstance(target, Insert) else insert(target)
        batch = Batch(statement, self.scheme, self._members, lambda: self.map, self.refresh, self._concurrency)
        async with self._deadline:
            return await batch.write(rows)

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON: servers, connections, the map, transactions.

        May be called from any thread. See `tenfold.db.shards.state` and, for metrics, `tenfold.observe`.
        """
        members = list(self._members.values())
        return sharded_state(self.name, members, self.map, self._runs, scattered=self.scattered, stale=self.stale)

    def __repr__(self) -> str:
        return f"ShardedCluster({', '.join(self._given)}; {self.map!r})"


async def _each(result: Result[Any]) -> AsyncIterator[Any]:
    for row in result:
        yield row
