"""Ordered reads over four real shards: which rows, in which order, at what price, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from tenfold.db.shards import ShardedCluster
from tenfold.resilience.deadline import Deadline
from tenfold.servers import Topology

META = sa.MetaData()
NOTE = sa.Table(
    "ordered_notes",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("rank", sa.Integer),
    sa.Column("title", sa.Text(collation="C")),
    sa.Column("weight", sa.Double),
    info={"shard_key": "customer"},
)
C = NOTE.c
TITLES = ["a", "B", "b", "é", "E", "", None, "\U0001f600", "\ufffd"]
WEIGHTS = [0.5, -0.5, float("nan"), None, float("inf"), 0.0, -0.0]
ROWS = [
    {"id": n, "customer": n % 23, "rank": n * 7 % 5 or None, "title": TITLES[n % 9], "weight": WEIGHTS[n % 7]}
    for n in range(300)
]


@pytest.fixture(scope="module")
def servers() -> Iterator[Topology]:
    with asyncio.Runner() as runner:
        topology = Topology(shards=5)
        runner.run(topology.start())
        try:
            runner.run(_filled(topology))
            yield topology
        finally:
            runner.run(topology.close())


async def _filled(topology: Topology) -> None:
    """Four shards, and one server that holds all rows."""
    for shards in (topology.shards[:4], topology.shards[4:]):
        async with ShardedCluster([shard.url for shard in shards], models=[META]) as cluster:
            for name in cluster.shards:
                async with cluster.async_engine(name).begin() as connection:
                    await connection.run_sync(META.create_all)
            await cluster.insert(NOTE, ROWS)


@pytest.fixture
async def cluster(servers: Topology) -> AsyncIterator[ShardedCluster]:
    async with ShardedCluster([shard.url for shard in servers.shards[:4]], models=[META]) as cluster:
        yield cluster


async def test_every_mix_of_directions_and_nulls_is_that_of_one_server(
    cluster: ShardedCluster, servers: Topology
) -> None:
    """Ties in the first two terms, so that the third decides; hidden and selected sort columns; cuts at every depth."""
    turns = [sa.asc, sa.desc]
    nulls = [lambda term: term, sa.nulls_first, sa.nulls_last]
    async with ShardedCluster([servers.shards[4].url], models=[META]) as one:
        for number, (column, turn, null, other) in enumerate(product([C.rank, C.title, C.weight], turns, nulls, turns)):
            statement = (
                select(C.id, C.rank)
                .order_by(null(turn(column)), other(C.customer), C.id)
                .limit([0, 1, 7, 40, 400][number % 5])
                .offset([0, 3, 150, 299, 301][number % 4])
            )
            assert cluster.plan(statement).kind == "scatter"
            got = (await cluster.execute(statement)).all()
            assert got == (await one.execute(statement)).all(), str(statement)


async def test_a_limit_of_none_a_shard_without_rows_and_a_table_without_rows(cluster: ShardedCluster) -> None:
    few = select(C.id).where(C.id < 2).order_by(C.id.desc())
    assert (await cluster.execute(few.limit(10))).scalars().all() == [1, 0]  # two shards have none
    for statement in (few.limit(0), few.limit(0).offset(1), select(C.id).where(C.id < 0).order_by(C.id).limit(5)):
        result = await cluster.execute(statement)
        assert (list(result.keys()), result.all()) == (["id"], [])


async def test_a_deep_page_is_read_by_cursors_and_is_the_same(cluster: ShardedCluster) -> None:
    """Past 10,000 rows a shard, rows are merged as they come, in batches of 500 and of 7 alike."""
    statement = select(C.id, C.weight).order_by(C.rank.desc(), C.id)
    whole = (await cluster.execute(statement)).all()
    assert len(whole) == 300
    sent = _statements(cluster)
    shallow = (await cluster.execute(statement.limit(9_000).offset(1_000))).all()
    assert (len(sent), shallow) == (4, [])  # fetched whole
    ten = [f"{row.id} {row.weight}" for row in whole]  # NaN is not equal to itself
    for batch in (7, 500):
        async with ShardedCluster(
            [cluster.engine(name).url for name in cluster.shards], models=[META], batch=batch
        ) as other:
            got = await other.execute(statement.limit(20_000).offset(10))
            assert [f"{row.id} {row.weight}" for row in got.all()] == ten[10:]
            assert (await other.execute(statement.limit(1).offset(10_000))).all() == []
            assert _held(other) == 0


async def test_a_scattered_read_is_one_statement_a_shard_and_no_transaction(cluster: ShardedCluster) -> None:
    """The driver logs what it sends as a simple query: that would be BEGIN, COMMIT or ROLLBACK."""
    statement = select(C.id, C.title).order_by(C.title.desc(), C.id).limit(20)
    sent, simple = _statements(cluster), []

    def log(record: Any) -> None:
        simple.append(record.query)

    def listen(dbapi: Any, *_: Any) -> None:
        dbapi.driver_connection.add_query_logger(log)

    for name in cluster.shards:
        sa.event.listen(cluster.engine(name), "checkout", listen)
    for _ in range(5):
        assert len((await cluster.execute(statement)).all()) == 20
    assert (len(sent), simple) == (20, [])
    async with cluster.async_engine("s0").begin() as connection:
        await connection.execute(sa.text("SELECT 1"))
    assert [query.rstrip(";").split()[0] for query in simple] == ["BEGIN", "COMMIT"]  # so it does hear them


async def test_listeners_of_the_engines_hear_scattered_reads(cluster: ShardedCluster) -> None:
    heard = _statements(cluster)
    await cluster.execute(select(C.id).order_by(C.id).limit(1))
    assert len(heard) == 4


async def test_a_failing_shard_is_told_and_the_others_are_let_go(cluster: ShardedCluster) -> None:
    statement = select(C.id, (100 / (C.id - 17)).label("x")).order_by(C.id).limit(100)
    tasks = len(asyncio.all_tasks())
    with pytest.raises(sa.exc.DBAPIError, match="division by zero"):
        await cluster.execute(statement)
    assert (len(asyncio.all_tasks()), _held(cluster)) == (tasks, 0)
    assert len((await cluster.execute(select(C.id).order_by(C.id).limit(9))).all()) == 9


async def test_a_shard_that_hangs_ends_with_the_deadline(cluster: ShardedCluster) -> None:
    """One shard's table is locked by somebody: the read ends in time, the other three are free and so is the task."""
    statement = select(C.id).order_by(C.id).limit(100)
    expected = (await cluster.execute(statement)).all()
    tasks = len(asyncio.all_tasks())
    async with cluster.async_engine("s2").begin() as connection:
        await connection.execute(sa.text("LOCK TABLE ordered_notes"))
        with pytest.raises(TimeoutError):
            async with Deadline("200ms"):
                await cluster.execute(statement)
        assert (len(asyncio.all_tasks()), _held(cluster)) == (tasks, 1)  # the one that has the lock
    assert (await cluster.execute(statement)).all() == expected


async def test_a_caller_that_goes_leaves_no_task_and_no_connection(cluster: ShardedCluster) -> None:
    statement = select(C.id).order_by(C.id).limit(100)
    await cluster.execute(statement)
    tasks = len(asyncio.all_tasks())
    for turns in range(12):  # at every await on the way
        reader = asyncio.create_task(cluster.execute(statement))
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert (len(asyncio.all_tasks()), _held(cluster)) == (tasks, 0)
    assert len((await cluster.execute(statement)).all()) == 100


def _held(cluster: ShardedCluster) -> int:
    return sum(cluster.engine(name).pool.checkedout() for name in cluster.shards)  # type: ignore[attr-defined]


def _statements(cluster: ShardedCluster) -> list[str]:
    heard: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    for name in cluster.shards:
        sa.event.listen(cluster.engine(name), "before_cursor_execute", hear)
    return heard
