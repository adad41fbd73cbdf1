"""Sending a plan to its shards and putting the answer together: in parallel, bounded, and with nothing left behind.

Each shard's part is one autocommit statement on one connection, to a replica where one may serve and shows the map of
this epoch, else to the primary. The epoch comes with the rows, so that is one round trip, and a second where there are
none. Groups and short answers are fetched whole: of a LIMIT with its OFFSET up to 10,000, all that the shards send; of
more, and by `stream`, a cursor on each shard reads one batch ahead, so two batches a shard are the most that is held
beside the answer.

There is no snapshot common to the shards: each part is consistent in itself. That is why each is asked for all of
``offset + limit`` rows and not for its likely share: the rest, asked for later, would be of another snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Connection, Result
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncResult

from tenfold.db.dialect import DIALECT
from tenfold.db.pool_policy import POOLED
from tenfold.db.refusals import NOT_THERE, refusal
from tenfold.db.shards.errors import StaleMap
from tenfold.db.shards.loaded import found_by
from tenfold.db.shards.member import Member
from tenfold.db.shards.merge import combine, kmerge
from tenfold.db.shards.order import Row
from tenfold.db.shards.parallel import together
from tenfold.db.shards.shape import Merge, Plan
from tenfold.db.shards.store import EPOCH_COLUMN, check_epoch, read_epoch
from tenfold.db.wal import Info, driver_of

Members = Mapping[str, Member]
T = TypeVar("T")
_STREAMS: Final = "READ COMMITTED"  # a cursor needs a transaction
_MOST_WHOLE: Final = 10_000
_SHOWN: Final = "tenfold.db.shards.epoch"


async def fetch(
    plan: Plan,
    parameters: Any,
    members: Members,
    epoch: int,
    *,
    concurrency: int,
    batch: int,
    max_groups: int,
    primary: bool = False,
) -> Result[Any]:
    """The whole answer of a scatter plan. Raises `StaleMap` when a shard is under another map."""
    merge = plan.merge
    assert merge is not None
    if merge.groups is None and merge.limit is not None and merge.offset + merge.limit > _MOST_WHOLE:
        async with _merged(plan, parameters, members, epoch, batch, max_groups, primary) as (sorted_rows, made):
            return made(iter([values async for values in sorted_rows]))

    async def part(shard: str) -> tuple[Sequence[str], Sequence[Row]]:
        member = members[shard]

        def ask(connection: Connection) -> tuple[Sequence[str], Sequence[Row]]:
            memory = _memory(connection)
            while True:
                found = connection.execute(plan.statement, parameters)
                keys, rows = tuple(found.keys()), found.all()
                if _is_of(epoch, shard, memory, rows, connection, _epoch_at(plan, keys)):
                    return keys, rows

        async def of_replica() -> tuple[Sequence[str], Sequence[Row]]:
            async with member.reader(plan) as connection:
                return await connection.run_sync(ask)

        async def of_primary(writes: bool) -> tuple[Sequence[str], Sequence[Row]]:
            if plan.kind == "scatter" and (found := await member.part(plan.statement, parameters)) is not None:
                rows = found[1]  # for none the epoch may be asked later: every primary has it before a map is published
                check_epoch(shard, epoch, rows[0][-1] if rows else await member.ask(read_epoch, writes=False))
                return found
            return await member.ask(ask, writes=writes)

        return await _answer(member, plan, of_replica, of_primary, primary=primary)

    parts = await together([partial(part, shard) for shard in plan.shards], concurrency)
    keys = parts[0][0]
    rows = combine(_shown(plan, keys), [rows for _, rows in parts], max_groups=max_groups)
    return _row_maker(plan, keys)(iter(rows))


async def _answer(
    member: Member,
    plan: Plan,
    of_replica: Callable[[], Awaitable[T]],
    of_primary: Callable[[bool], Awaitable[T]],
    *,
    primary: bool = False,
) -> T:
    """A replica's answer, or the primary's (told whether it may write) where a replica refuses, is lost, or has not
    heard of the map yet.
    """
    reads, served = await member.serves(plan)
    if served and not primary:
        try:
            return await of_replica()
        except StaleMap as stale:
            if stale.found > stale.expected:
                raise
        except NOT_THERE as error:
            if refusal(error) is None:
                raise
    return await of_primary(not reads)


@asynccontextmanager
async def stream(
    plan: Plan,
    parameters: Any,
    members: Members,
    epoch: int,
    *,
    batch: int,
    max_groups: int,
    primary: bool = False,
) -> AsyncIterator[AsyncIterator[Any]]:
    """The rows of a scatter plan as they come. All cursors and connections are closed at the end of the block."""
    async with _merged(plan, parameters, members, epoch, batch, max_groups, primary) as (rows, made):
        yield _made(rows, made)


@asynccontextmanager
async def _merged(
    plan: Plan, parameters: Any, members: Members, epoch: int, batch: int, max_groups: int, primary: bool
) -> AsyncIterator[tuple[AsyncIterator[tuple[Any, ...]], Callable[[Iterator[Any]], Result[Any]]]]:
    """The rows' values as they come, and what makes rows of them."""
    assert plan.merge is not None
    async with AsyncExitStack() as stack:

        async def opened(shard: str) -> _Feed:
            own = await stack.enter_async_context(AsyncExitStack())

            async def open_on(connection: AsyncConnection) -> _Feed:
                await connection.execution_options(isolation_level=_STREAMS)
                feed = _Feed(shard, connection)
                try:
                    await feed.open(plan, parameters, batch, epoch)
                except BaseException:
                    await feed.close()
                    raise
                return feed

            async def open_in(place: AbstractAsyncContextManager[AsyncConnection]) -> _Feed:
                async with AsyncExitStack() as tried:
                    feed = await open_on(await tried.enter_async_context(place))
                    tried.push_async_callback(feed.close)
                    await own.enter_async_context(tried.pop_all())
                return feed

            member = members[shard]
            return await _answer(
                member,
                plan,
                lambda: open_in(member.reader(plan)),
                lambda writes: open_in(member.alone(writes=writes)),
                primary=primary,
            )

        feeds = await together([partial(opened, shard) for shard in plan.shards], len(plan.shards))
        merged = kmerge(_shown(plan, feeds[0].keys), [feed.rows() for feed in feeds], max_groups=max_groups)
        yield merged, _row_maker(plan, feeds[0].keys)


async def _made(
    rows: AsyncIterator[tuple[Any, ...]], made: Callable[[Iterator[Any]], Result[Any]]
) -> AsyncIterator[Any]:
    async for values in rows:
        yield made(iter([values])).one()


class _Feed:
    """One shard's cursor, a batch ahead of its reader."""

    def __init__(self, shard: str, connection: AsyncConnection) -> None:
        self.shard, self.connection = shard, connection
        self.keys: Sequence[str] = ()
        self._result: AsyncResult[Any] | None = None
        self._next: asyncio.Task[Sequence[Row]] | None = None
        self._batch = 0

    async def open(self, plan: Plan, parameters: Any, batch: int, epoch: int) -> None:
        self._batch = batch
        statement = plan.statement.execution_options(yield_per=batch)
        memory = _memory(self.connection)
        while True:
            self._result = await self.connection.stream(statement, parameters)
            self.keys = tuple(self._result.keys())
            first = await self._result.fetchmany(batch)
            at = _epoch_at(plan, self.keys)
            if await self.connection.run_sync(partial(_is_of, epoch, self.shard, memory, first, at=at)):
                break
            await self._result.close()
        self._next = asyncio.create_task(self._ready(first))

    async def _ready(self, rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    async def _fetch(self) -> Sequence[Row]:
        assert self._result is not None
        return await self._result.fetchmany(self._batch)

    async def rows(self) -> AsyncIterator[Row]:
        while self._next is not None:
            rows = await self._next
            self._next = asyncio.create_task(self._fetch()) if len(rows) == self._batch else None
            for row in rows:
                yield row

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            self._next = None
        if self._result is not None:
            await self._result.close()


def _memory(connection: Connection | AsyncConnection) -> Info:
    """Where to remember the epoch that a connection has shown: on it, because it stands for one start of one server.

    Behind a pooler it does not, and what it has shown before says nothing of the server that answers now. There a
    reader's statements are one transaction, and so one server's (`tenfold.db.pool_policy`): remembered for that long.
    """
    info = driver_of(connection)[1]
    return {} if POOLED in info else info


def _is_of(epoch: int, shard: str, memory: Info, rows: Sequence[Row], connection: Connection, at: int) -> bool:
    """Whether these are the rows under ``epoch``; False: they may be of before, so ask again. Raises `StaleMap`.

    Rows carry their epoch. Where there are none it is asked for, later: on a replica that has replayed the change of
    the map between the two statements, nothing was found under the old epoch. So an answer without rows counts once
    this server has shown the epoch before, by its `_memory`; epochs only grow.
    """
    check_epoch(shard, epoch, rows[0][at] if rows else read_epoch(connection))
    before, memory[_SHOWN] = memory.get(_SHOWN), epoch
    return bool(rows) or before == epoch


def _epoch_at(plan: Plan, keys: Sequence[str]) -> int:
    """Where the epoch is in a row: last, but what is loaded with entities by a join comes after it."""
    return keys.index(EPOCH_COLUMN.name) if plan.entities else -1


def _shown(plan: Plan, keys: Sequence[str]) -> Merge:
    """The plan's merge. Of entities everything is shown that came beside the epoch."""
    assert plan.merge is not None
    if not plan.entities:
        return plan.merge
    at = _epoch_at(plan, keys)
    return Merge(tuple(place for place in range(len(keys)) if place != at))


def _row_maker(plan: Plan, keys: Sequence[str]) -> Callable[[Iterator[Any]], Result[Any]]:
    """A function from tuples to a result whose rows are SQLAlchemy's, found by name, position and column."""
    assert plan.merge is not None
    names = list(keys[: len(plan.columns)])
    columns = plan.columns
    if plan.entities:
        names = [keys[place] for place in _shown(plan, keys).project]
        if names != [getattr(column, "name", None) for column in columns]:
            columns = ()
    if plan.merge.groups is not None:
        names = _names(plan)
    metadata = SimpleResultMetaData(names, extra=list(map(found_by, columns)) or None)
    return lambda rows: IteratorResult(metadata, rows)


def _names(plan: Plan) -> list[str]:
    """The names that the unpushed select list has in a result."""
    compiled: Any = plan.original.compile(dialect=DIALECT)
    return [str(entry.keyname) for entry in compiled._result_columns]
