"""Several PostgreSQL databases as one, as far as that is true. See `ShardedCluster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

from sqlalchemy import Insert, Table, event, insert
from sqlalchemy.engine import URL, Engine, Result
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.shards import execute, store
from tenfold.db.shards.batch import Batch
from tenfold.db.shards.errors import CannotAnswer, StaleMap
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.plan import plan
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.session import ShardSession
from tenfold.db.shards.shape import Plan
from tenfold.db.urls import asyncpg_url
from tenfold.resilience.deadline import Deadline

T = TypeVar("T")
_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.5
_PLANS: Final = 256


@dataclass(frozen=True, slots=True)
class MapChanged(Event):
    """This process has taken over another version of the map."""

    old: int
    new: int


class ShardedCluster:
    """``ShardedCluster({"a": url, "b": url}, models=[Base], map=ShardMap.hash(["a", "b"]))``

    ``shards``: URLs by name, or a list of URLs, which are then called s0, s1 … The first is the home of the map.
    ``models``: what `Scheme` takes. ``map`` is stored when the home has none yet; a stored one wins. None: hash over
    all. ``deadline`` (30 s) bounds each call, an inherited `tenfold.resilience.Deadline` shortens it. ``concurrency``
    (16): shards that one read asks at a time. ``max_groups`` (100,000): groups or distinct rows that a merge may hold.
    ``batch`` (500): rows that `stream` fetches at a time. ``rowwise``: names of SQL functions, beside the built-in
    ones, that see one row and have no effect. ``pool_size`` (10): connections to each shard.

    Used as ``async with``; belongs to the event loop that entered it. Raises `MisuseError` for what makes no sense,
    `CannotAnswer` for statements whose answer would not be that of one database, `StaleMap` when the map stays in
    change, `tenfold.resilience.DeadlineExceeded` (a `TimeoutError`) past the deadline.
    """

    def __init__(
        self,
        shards: Mapping[str, str | URL] | Sequence[str | URL],
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
    ) -> None:
        if isinstance(shards, str) or not shards:
            raise MisuseError("shards: expected URLs by name or a list of URLs, one at least")
        named = dict(shards) if isinstance(shards, Mapping) else {f"s{n}": url for n, url in enumerate(shards)}
        self._urls = {name: asyncpg_url(url, f"shards[{name!r}]") for name, url in named.items()}
        self.scheme: Final = Scheme(*models)
        self._map = map if map is not None else ShardMap.hash(sorted(self._urls))
        if unknown := set(self._map.names) - self._urls.keys():
            raise MisuseError(f"map: it names {', '.join(sorted(unknown))}, of which no URL was given")
        self._home = next(iter(self._urls))
        self._deadline = Deadline(deadline)
        self._concurrency = whole_number(concurrency, "concurrency", least=1)
        self._max_groups = whole_number(max_groups, "max_groups", least=1)
        self._batch = whole_number(batch, "batch", least=1)
        self._rowwise = frozenset(name.lower() for name in rowwise)
        self._options = {
            "pool_size": whole_number(pool_size, "pool_size", least=1),
            "max_overflow": 0,
            "connect_args": {"timeout": duration(connect_timeout, "connect_timeout")},
        }
        self._random = random or Random()
        self._engines: dict[str, AsyncEngine] = {}
        self._ready = False
        # Statements are immutable and compared by identity, so one that is kept by its module is planned once.
        self._plans: dict[Any, tuple[int, Plan]] = {}
        self.stale = 0
        """How often a statement met a shard under another map."""
        self.scattered = 0
        """Reads that went to several shards."""

    async def __aenter__(self) -> ShardedCluster:
        for name, url in self._urls.items():
            self._engines[name] = create_async_engine(url, pool_timeout=self._deadline.seconds, **self._options)
            event.listen(self._engines[name].sync_engine, "begin", store.fence)
        try:
            async with self._deadline:
                self._map = await store.prepare(self._engines, self._home, self._map)
        except BaseException:
            await self.aclose()
            raise
        self._ready = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        engines, self._engines = self._engines, {}
        self._ready = False
        await asyncio.gather(*(engine.dispose() for engine in engines.values()))

    # -- deciding

    @property
    def map(self) -> ShardMap:
        """The version of the map that this process goes by."""
        return self._map

    def plan(self, statement: Any, parameters: Any = None, *, shard_key: Any = None) -> Plan:
        """How ``statement`` would be answered. Raises `CannotAnswer`."""
        if parameters is not None or shard_key is not None:
            return plan(statement, parameters, self.scheme, self._map, shard_key=shard_key, rowwise=self._rowwise)
        found = self._plans.get(statement)
        if found is None or found[0] != self._map.epoch:
            made = plan(statement, None, self.scheme, self._map, rowwise=self._rowwise)
            if not made.volatile:
                if len(self._plans) >= _PLANS:
                    self._plans.clear()
                self._plans[statement] = (self._map.epoch, made)
            return made
        return found[1]

    def explain(self, statement: Any, parameters: Any = None) -> str:
        """The plan, or the reason for the refusal, in words."""
        try:
            made = self.plan(statement, parameters)
        except CannotAnswer as refused:
            return f"refused: {refused}"
        sent = str(made.statement.compile(dialect=self._dialect())).replace("\n", "")
        return f"{made}\n  sent: {sent}"

    # -- reading and writing

    def session(self, *, shard_key: Any = None, shard: str | None = None, **options: Any) -> AsyncSession:
        """An `AsyncSession` whose transactions live on one shard each. ``options`` are SQLAlchemy's.

        ``shard_key`` or ``shard`` (by name) bind it from the start; statements then run there as they stand. Otherwise
        the first statement or object with a shard key decides. Raises `CrossShard` for a second shard in a transaction.
        """
        if shard is not None and shard not in self._urls:
            raise MisuseError(f"shard: expected one of {', '.join(self._urls)}, got {shard!r}")
        return AsyncSession(sync_session_class=ShardSession, cluster=self, shard_key=shard_key, shard=shard, **options)

    async def execute(self, statement: Any, parameters: Any = None) -> Result[Any]:
        """Run one statement: a read on one shard or several, or a write on one, committed when this returns.

        The result is whole. Rows are SQLAlchemy's; where a select names entities, it gives their columns.
        """
        made = self.plan(statement, parameters)
        if made.kind == "scatter" or made.merge is not None:
            return await self.read(statement, parameters)

        async def once() -> Result[Any]:
            shard = self.plan(statement, parameters).shards[0]
            options = {store.EXPECTED: self._map.epoch, store.SHARD: shard}
            async with self._engines[shard].execution_options(**options).begin() as connection:
                result = await connection.execute(statement, parameters)
                return result.freeze()() if result.returns_rows else result

        return await self._fenced(once)

    async def read(self, statement: Any, parameters: Any = None) -> Result[Any]:
        """A SELECT in autocommit, on one shard or several."""

        async def once() -> Result[Any]:
            made = self.plan(statement, parameters)
            if made.merge is None:  # the map has changed meanwhile
                return await self.execute(statement, parameters)
            self.scattered += made.kind == "scatter"
            return await execute.fetch(
                made, parameters, self._engines, self._map.epoch,
                concurrency=self._concurrency, max_groups=self._max_groups,
            )  # fmt: skip

        return await self._fenced(once)

    @asynccontextmanager
    async def stream(self, statement: Any, parameters: Any = None) -> AsyncIterator[AsyncIterator[Any]]:
        """``async with cluster.stream(select(…)) as rows: async for row in rows``: the rows of several shards as they
        come.

        The deadline bounds the whole block. Leaving it, by whichever way, closes all cursors.
        """
        async with self._deadline:
            attempt = 0
            while True:
                made = self.plan(statement, parameters)
                if made.merge is None or made.merge.groups is not None:
                    result = await self.execute(statement, parameters)
                    yield _each(result)
                    return
                opened = execute.stream(
                    made, parameters, self._engines, self._map.epoch, batch=self._batch, max_groups=self._max_groups
                )
                try:
                    rows = await opened.__aenter__()
                except StaleMap as stale:
                    attempt += 1
                    await self.refresh(stale, attempt)
                    continue
                break
            self.scattered += 1
            try:
                yield rows
            finally:
                await opened.__aexit__(None, None, None)

    async def insert(self, target: Table | type | Insert, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert many rows, each on its shard, one transaction for each shard. Returns how many.

        Raises `PartialWrite` when some shards have committed and others failed: their rows are named in it.
        """
        if not self._ready:
            raise MisuseError("ShardedCluster: expected to be entered (`async with cluster`), and is not")
        statement = target if isinstance(target, Insert) else insert(target)
        batch = Batch(statement, self.scheme, self._engines, lambda: self._map, self.refresh, self._concurrency)
        async with self._deadline:
            return await batch.write(rows)

    # -- the map

    async def refresh(self, stale: StaleMap | None = None, attempt: int = 1) -> None:
        """Take over the stored map. After `StaleMap` waits a little first when this is not the first attempt.

        Raises ``stale`` when a map in change has outlasted ten attempts.
        """
        if stale is not None:
            self.stale += 1
            if attempt > 10:
                raise stale
            if attempt > 1:
                most = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
                await asyncio.sleep(most * (0.5 + self._random.random() / 2))
        self._take(await store.load(self._engines[self._home]))

    async def install(self, new: ShardMap, *, lock_timeout: Duration = "5s") -> None:
        """Make ``new`` (derived from `map`, see `ShardMap.moved`) the map of all processes. Moves no data.

        Waits up to ``lock_timeout`` for the transactions under way on each shard. Raises `MisuseError` when another
        change came first.
        """
        limit = duration(lock_timeout, "lock_timeout")
        self._take(await store.install(self._engines, self._home, new, lock_timeout=limit))

    async def repair(self, *, lock_timeout: Duration = "5s") -> None:
        """End a change of the map that was interrupted: publish the stored map anew, above every shard's epoch."""
        limit = duration(lock_timeout, "lock_timeout")
        self._take(await store.repair(self._engines, self._home, lock_timeout=limit))

    def engine(self, shard: str) -> Engine:
        """SQLAlchemy's (synchronous) engine of one shard, for tools. Statements through it pass no fence."""
        return self._engine(shard).sync_engine

    def async_engine(self, shard: str) -> AsyncEngine:
        """The engine of one shard, for DDL and tools. Statements through it pass no fence."""
        return self._engine(shard)

    def __repr__(self) -> str:
        return f"ShardedCluster({', '.join(self._urls)}; {self._map!r})"

    # -- inside

    def _engine(self, shard: str) -> AsyncEngine:
        if shard not in self._engines:
            raise MisuseError(f"shard: expected one of {', '.join(self._urls)} of an entered cluster, got {shard!r}")
        return self._engines[shard]

    def _dialect(self) -> Any:
        if self._ready:
            return self._engines[self._home].dialect
        return self._urls[self._home].get_dialect()()

    def _take(self, new: ShardMap) -> None:
        if new.epoch > self._map.epoch:
            old, self._map = self._map, new
            EVENTS.emit(MapChanged(old.epoch, new.epoch))

    async def _fenced(self, once: Callable[[], Awaitable[T]]) -> T:
        if not self._ready:
            raise MisuseError("ShardedCluster: expected to be entered (`async with cluster`), and is not")
        async with self._deadline:
            attempt = 0
            while True:
                try:
                    return await once()
                except StaleMap as stale:
                    attempt += 1
                    await self.refresh(stale, attempt)


async def _each(result: Result[Any]) -> AsyncIterator[Any]:
    for row in result:
        yield row
