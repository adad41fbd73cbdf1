"""Ordered reads over four real shards: which rows, in which order, at what price, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from tenfold.db.shards import ShardedCluster
from tenfold.resilience.deadline import Deadline
from tenfold.servers import Topology
from tenfold.testing import FaultProxy

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
OTHER = sa.Table(
    "ordered_others",
    META,
    sa.Column("customer", sa.Integer, primary_key=True),
    sa.Column("value", sa.Integer),
    info={"shard_key": "customer"},
)
C = NOTE.c
TITLES = ["a", "B", "b", "é", "E", "", None, "\U0001f600", "\ufffd"]
WEIGHTS = [0.5, -0.5, float("nan"), None, float("inf"), 0.0, -0.0]
ROWS = [
    {"id": n, "customer": n % 23, "rank": n * 7 % 5 or None, "title": TITLES[n % 9], "weight": WEIGHTS[n % 7]}
    for n in range(300)
]


class Doubled(sa.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Any) -> int | None:
        return None if value is None else 2 * value


@pytest.fixture(scope="module")
def servers(plain: Callable[[int], Topology]) -> Topology:
    topology = plain(5)
    asyncio.run(_filled(topology))
    return topology


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


@pytest.mark.parametrize("heard", [False, True])
async def test_a_scattered_read_is_one_statement_a_shard_and_no_transaction(
    cluster: ShardedCluster, heard: bool
) -> None:
    """The driver logs what it sends as a simple query: that would be BEGIN, COMMIT or ROLLBACK."""
    statement = select(C.id, C.title).order_by(C.title.desc(), C.id).limit(20)
    sent, simple, checkouts = _statements(cluster) if heard else [], [], []

    def log(record: Any) -> None:
        simple.append(record.query)

    def listen(dbapi: Any, *_: Any) -> None:
        checkouts.append(1)
        dbapi.driver_connection.add_query_logger(log)

    for name in cluster.shards:
        sa.event.listen(cluster.engine(name), "checkout", listen)
    for _ in range(5):
        assert len((await cluster.execute(statement)).all()) == 20
    assert (len(checkouts), len(sent), simple) == (20, 20 * heard, [])
    async with cluster.async_engine("s0").begin() as connection:
        await connection.execute(sa.text("SELECT 1"))
    assert [query.rstrip(";").split()[0] for query in simple] == ["BEGIN", "COMMIT"]  # so it does hear them


async def test_the_short_way_is_taken_only_where_nobody_would_notice(cluster: ShardedCluster) -> None:
    """Both ways give the same; the short one says None where SQLAlchemy has something to do."""
    shard = cluster.member("s0")

    async def short(statement: Any, parameters: Any = None) -> bool:
        found = await shard.part(statement, parameters)
        if found is not None:
            async with shard.alone() as connection:
                usual = await connection.execute(statement, parameters)
                assert found[0] == tuple(usual.keys())
                assert [tuple(map(repr, row)) for row in found[1]] == [tuple(map(repr, row)) for row in usual.all()]
        return found is not None

    plain = select(C.id, C.title, C.weight, (C.rank + 1).label("more"), C.id).order_by(C.id)
    assert await short(plain)
    assert await short(plain.where(C.title == sa.bindparam("title")), {"title": "B"})
    for least in (0, 100):
        assert await short(select(C.id).where(C.id >= least, C.weight < 0.7).limit(5))
    assert not await short(plain.where(C.id.in_([1, 2])))
    assert not await short(plain.execution_options(route="primary"))
    assert not await short(select(sa.type_coerce(C.id, Doubled)))
    assert (await cluster.execute(select(sa.type_coerce(C.id, Doubled)).where(C.id.in_([4])))).scalar_one() == 8
    with _listening(sa.Engine, "before_cursor_execute"):
        assert not await short(plain)
    for name in ("begin", "engine_connect", "do_execute", "handle_error"):
        with _listening(cluster.engine("s0"), name):
            assert not await short(plain)
    assert await short(plain)


async def test_the_short_way_survives_a_changed_table_and_a_lost_connection(
    cluster: ShardedCluster, servers: Topology
) -> None:
    """Prepared statements that have outlived their table, and connections of before a restart."""
    statement = select(sa.func.max(OTHER.c.value), sa.func.count())
    name = cluster.shards[1]
    for type_ in ("int", "numeric", "int"):
        for shard in cluster.shards:
            async with cluster.async_engine(shard).begin() as connection:
                await connection.execute(sa.text(f"ALTER TABLE ordered_others ALTER value TYPE {type_}"))
        try:
            await cluster.execute(statement)
        except sa.exc.NotSupportedError as told:
            assert "cached statement plan is invalid" in str(told)  # noqa: PT017 - SQLAlchemy says so once
        assert (await cluster.execute(statement)).one() == (None, 0)
    async with cluster.async_engine(name).connect() as killer:
        await cluster.execute(statement)
        kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        await killer.execute(sa.text(f"{kill} AND backend_type = 'client backend'"))
    async with Deadline("10s"):
        assert (await cluster.execute(statement)).one() == (None, 0)


async def test_a_statement_that_is_stopped_is_not_sent_again(cluster: ShardedCluster) -> None:
    statement = select(C.id).order_by(C.id).limit(3)
    for name in cluster.shards:
        async with cluster.async_engine(name).begin() as connection:
            await connection.execute(sa.text("ALTER ROLE CURRENT_USER SET lock_timeout = '50ms'"))
    try:
        async with (
            ShardedCluster([cluster.engine(name).url for name in cluster.shards], models=[META]) as other,
            cluster.async_engine("s2").begin() as connection,
        ):
            await connection.execute(sa.text("LOCK TABLE ordered_notes"))
            waits: list[str] = []
            sa.event.listen(other.engine("s2"), "checkout", lambda *_: waits.append("s2"))
            with pytest.raises(sa.exc.DBAPIError, match="lock timeout") as caught:
                await other.execute(statement)
            assert "ordered_notes" in str(caught.value.statement)
            assert waits == ["s2"]
    finally:
        for name in cluster.shards:
            async with cluster.async_engine(name).begin() as connection:
                await connection.execute(sa.text("ALTER ROLE CURRENT_USER RESET lock_timeout"))


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


async def test_a_shard_that_says_nothing_more_ends_with_the_deadline(servers: Topology) -> None:
    """Its host is gone without a word: the connection cannot be closed in peace, and is cut."""
    urls = [shard.url for shard in servers.shards[:4]]
    statement = select(C.id).order_by(C.id).limit(100)
    async with FaultProxy(f"127.0.0.1:{servers.shards[1].port}") as proxy:
        urls[1] = urls[1].replace(f":{servers.shards[1].port}/", f":{proxy.port}/")
        async with ShardedCluster(urls, models=[META]) as cluster:
            expected = (await cluster.execute(statement)).all()
            tasks = len(asyncio.all_tasks())
            proxy.freeze()
            with pytest.raises(TimeoutError):
                async with Deadline("200ms"):
                    await cluster.execute(statement)
            assert _held(cluster) == 0
            proxy.thaw()
            assert (await cluster.execute(statement)).all() == expected
            async with asyncio.timeout(10):
                while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - the proxy's, of the connection that was cut
                    await asyncio.sleep(0.005)


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


@contextmanager
def _listening(target: Any, name: str) -> Iterator[None]:
    def hear(*_: Any) -> None:
        pass

    sa.event.listen(target, name, hear)
    try:
        yield
    finally:
        sa.event.remove(target, name, hear)


def _statements(cluster: ShardedCluster) -> list[str]:
    heard: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    for name in cluster.shards:
        sa.event.listen(cluster.engine(name), "before_cursor_execute", hear)
    return heard
