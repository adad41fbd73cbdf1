"""Several PostgreSQL databases as one, as far as that is true. See `ShardedCluster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Final, TypeVar

from sqlalchemy import Insert, Table, insert
from sqlalchemy.engine import URL, Engine, Result
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.cluster import AsyncCluster
from tenfold.db.shards import execute
from tenfold.db.shards.batch import Batch
from tenfold.db.shards.current import CurrentMap
from tenfold.db.shards.errors import StaleMap
from tenfold.db.shards.keys import check
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.mark import MapMark
from tenfold.db.shards.member import Member, ReplicatedMember
from tenfold.db.shards.members import Members
from tenfold.db.shards.opened import given, named, opened
from tenfold.db.shards.planned import Planned
from tenfold.db.shards.run import Runs
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.session import ShardSession
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.state import sharded_state
from tenfold.db.transaction import Isolation, RunOptions
from tenfold.resilience.deadline import Deadline

T = TypeVar("T")


class ShardedCluster:
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
        self._given = named(shards)
        self.scheme: Final = Scheme(*models)
        first = map if map is not None else ShardMap.hash(sorted(self._given))
        if unknown := set(first.names) - self._given.keys():
            raise MisuseError(f"map: it names {', '.join(sorted(unknown))}, of which no URL was given")
        self.home: Final = next(iter(self._given))
        """The shard that keeps the map."""
        self._deadline = Deadline(deadline)
        self._concurrency = whole_number(concurrency, "concurrency", least=1)
        self._max_groups = whole_number(max_groups, "max_groups", least=1)
        self._batch = whole_number(batch, "batch", least=1)
        self._options = {
            "pool_size": whole_number(pool_size, "pool_size", least=1),
            "max_overflow": 0,
            "connect_args": {"timeout": duration(connect_timeout, "connect_timeout")},
        }
        self._members = Members(lambda: self.map)
        self._current = CurrentMap(first, self._members, self.home, random or Random(), hub)
        self._mark = MapMark(lambda: self.map.epoch)
        self._ready = False
        self._planned = Planned(self.scheme, lambda: self.map, frozenset(name.lower() for name in rowwise))
        self._runs = Runs(self, random or Random())
        self.scattered = 0
        """Reads that went to several shards."""

    async def __aenter__(self) -> ShardedCluster:
        for name in self._given:
            self._members[name] = self._opened(name)
        try:
            async with self._deadline:
                await self._prepare()
        except BaseException:
            await self.aclose()
            raise
        self._ready = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        members, self._ready = list(self._members.values()), False
        self._members.clear()
        await asyncio.gather(*(member.aclose() for member in members))

    # -- deciding

    @property
    def map(self) -> ShardMap:
        """The version of the map that this process goes by."""
        return self._current.map

    @property
    def stale(self) -> int:
        """How often a statement met a shard under another map."""
        return self._current.stale

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
            only_primaries = primary or await self._mark.only_primaries(self.refresh)
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
                only_primaries = await self._mark.only_primaries(self.refresh)
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

    async def insert(self, target: Table | type | Insert, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert many rows, each on its shard, one transaction for each shard. Returns how many.

        Raises `PartialWrite` when some shards have committed and others failed: their rows are named in it.
        """
        self._entered()
        statement = target if isinstance(target, Insert) else insert(target)
        batch = Batch(statement, self.scheme, self._members, lambda: self.map, self.refresh, self._concurrency)
        async with self._deadline:
            return await batch.write(rows)

    # -- the map

    async def refresh(self, stale: StaleMap | None = None, attempt: int = 1) -> None:
        """Take over the stored map. After `StaleMap` waits a little first when this is not the first attempt.

        Raises ``stale`` when a map in change has outlasted ten attempts.
        """
        await self._current.refresh(stale, attempt)

    async def install(self, new: ShardMap, *, lock_timeout: Duration = "5s") -> None:
        """Make ``new`` (derived from `map`, see `ShardMap.moved`) the map of all processes. Moves no data.

        Waits up to ``lock_timeout`` for the transactions under way on each shard. Raises `MisuseError` when another
        change came first.
        """
        await self._current.install(new, duration(lock_timeout, "lock_timeout"))

    async def repair(self, *, lock_timeout: Duration = "5s") -> None:
        """End a change of the map that was interrupted: publish the stored map anew, above every shard's epoch."""
        await self._current.repair(duration(lock_timeout, "lock_timeout"))

    # -- the shards

    async def add_shard(self, name: str, shard: str | URL | AsyncCluster) -> None:
        """Take in a shard that was not there when this process started; before buckets move there, in every process.

        Makes the tables of the map there, as entering does. Its own tables, and an outbox's, are the migrations'. An
        `AsyncCluster` is closed with this one. Raises `MisuseError` for a name that is known.
        """
        self._entered()
        if name in self._given:
            raise MisuseError(f"name: expected that of another shard than {', '.join(self._given)}, got {name!r}")
        self._given[name] = given(shard, "shard")
        member = self._members[name] = self._opened(name)
        try:
            async with self._deadline:
                await self.refresh()
                await self._prepare()
        except BaseException:
            del self._given[name], self._members[name]
            await shielded(member.aclose())
            raise

    def engine(self, shard: str) -> Engine:
        """SQLAlchemy's (synchronous) engine of one shard's primary, for tools. Statements through it pass no fence."""
        return self.member(shard).engine.sync_engine

    def async_engine(self, shard: str) -> AsyncEngine:
        """The engine of one shard's present primary, for DDL and tools. Statements through it pass no fence."""
        return self.member(shard).engine

    def member(self, shard: str) -> Member:
        """One shard's servers, for what is built upon the cluster."""
        if shard not in self._members and not (self._ready and shard in self.map.names):
            raise MisuseError(f"shard: expected one of {', '.join(self._given)} of an entered cluster, got {shard!r}")
        return self._members[shard]

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of all shards, those without a bucket too; the first is the home of the map."""
        return tuple(self._given)

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON: servers, connections, the map, transactions.

        May be called from any thread. See `tenfold.db.shards.state` and, for metrics, `tenfold.observe`.
        """
        members = list(self._members.values())
        return sharded_state(self.name, members, self.map, self._runs, scattered=self.scattered, stale=self.stale)

    def __repr__(self) -> str:
        return f"ShardedCluster({', '.join(self._given)}; {self.map!r})"

    # -- inside

    def _opened(self, name: str) -> Member:
        return opened(name, self._given[name], self._mark, pool_timeout=self._deadline.seconds, options=self._options)

    async def _prepare(self) -> None:
        await self._current.prepare()
        if any(isinstance(member, ReplicatedMember) for member in self._members.values()):
            await self._mark.identify_home(self._members[self.home].engine)

    def _entered(self) -> None:
        if not self._ready:
            raise MisuseError("ShardedCluster: expected to be entered (`async with cluster`), and is not")

    async def fenced(self, once: Callable[[], Awaitable[T]]) -> T:
        """What ``once()`` returns under the cluster's deadline; called again with a newer map after `StaleMap`."""
        self._entered()
        async with self._deadline:
            return await self._current.fenced(once)


async def _each(result: Result[Any]) -> AsyncIterator[Any]:
    for row in result:
        yield row
