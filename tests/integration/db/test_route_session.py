"""Routed sessions: one target per transaction, what users ask for, correction when a replica refuses or dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.refusals import ReplicaRefused
from tenfold.db.router import Router, routed
from tenfold.db.seen import Position
from tenfold.db.session import routed_sessionmaker

PORT = select(func.inet_server_port())


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parts: Mapped[list[Part]] = relationship(lambda: Part, order_by=lambda: Part.id)


class Part(Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))


@pytest.fixture
async def cluster(items: Any) -> AsyncIterator[AsyncCluster]:
    async with create_async_cluster(items.primary.url, [replica.url for replica in items.replicas]) as cluster:
        async with cluster.begin() as connection:
            for sql in (
                "CREATE SEQUENCE IF NOT EXISTS drawn",
                "CREATE OR REPLACE FUNCTION draws() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 1::bigint'",
                "CREATE TABLE IF NOT EXISTS plain (id int)",
                "ALTER TABLE plain SET LOGGED",
                "CREATE TABLE IF NOT EXISTS parts (id int PRIMARY KEY, item_id int)",
                "INSERT INTO parts VALUES (1, 1), (2, 1), (3, 2) ON CONFLICT DO NOTHING",
            ):
                await connection.execute(text(sql))
        for replica in items.replicas:
            await replica.caught_up()
        yield cluster


@pytest.fixture
async def router(cluster: AsyncCluster) -> Router:
    router = routed(cluster, hub=Hub())
    await router.refresh()
    return router


@pytest.fixture
def session_of(router: Router) -> async_sessionmaker[Any]:
    return routed_sessionmaker(router, expire_on_commit=False)


async def port(session: Any) -> int:
    found: int = (await session.execute(PORT)).scalar_one()
    return found


def ports(items: Any) -> set[int]:
    return {replica.port for replica in items.replicas}


async def turn_volatile(cluster: AsyncCluster, items: Any) -> None:
    """Behind the catalogue's back, the function now draws from a sequence."""
    async with cluster.begin() as connection:
        await connection.execute(
            text("CREATE OR REPLACE FUNCTION draws() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''drawn'')'")
        )
    for replica in items.replicas:
        await replica.caught_up()


# -- one target


async def test_reads_then_a_flush_move_the_transaction_to_the_primary(
    session_of: Any, router: Router, items: Any
) -> None:
    async with session_of.begin() as session:
        assert await port(session) in ports(items)
        item = await session.get(Item, 1)
        item.name = "changed"
        assert await port(session) == items.primary.port  # autoflush went before it
        assert (await session.scalar(select(Item.name).where(Item.id == 1))) == "changed"
    async with session_of(route="primary") as session:
        assert (await session.scalar(select(Item.name).where(Item.id == 1))) == "changed"
    assert router.reads_on_replicas == 2


async def test_a_rolled_back_write_leaves_nothing(session_of: Any, items: Any) -> None:
    async with session_of() as session:
        assert await port(session) in ports(items)
        session.add(Item(id=50, name="never"))
        await session.flush()
        await session.rollback()
        assert await session.get(Item, 50) is None
        assert await port(session) == items.primary.port


async def test_a_closed_session_begins_anew(session_of: Any, items: Any) -> None:
    session = session_of()
    await session.execute(text("UPDATE items SET name = 'x' WHERE id = 1"))
    await session.commit()
    assert await port(session) == items.primary.port
    await session.close()
    assert await port(session) in ports(items)
    await session.close()


async def test_what_needs_one_connection_is_the_primary_s(session_of: Any, router: Router, items: Any) -> None:
    async with session_of() as session, session.begin_nested():
        assert await port(session) == items.primary.port
    strict = routed_sessionmaker(router, execution_options={"isolation_level": "SERIALIZABLE"})
    async with strict() as session:
        assert await port(session) == items.primary.port
    async with session_of() as session:
        connection = await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert (await connection.execute(PORT)).scalar_one() == items.primary.port
        assert await port(session) == items.primary.port


async def test_relationships_are_read_where_the_session_reads(session_of: Any, router: Router, items: Any) -> None:
    async with session_of() as session:
        loaded = (await session.scalars(select(Item).options(selectinload(Item.parts)).order_by(Item.id))).all()
        assert [len(item.parts) for item in loaded][:3] == [2, 1, 0]
        assert len(await session.run_sync(lambda _: loaded[0].parts)) == 2
        rows = [row async for row in await session.stream(select(Item.id).order_by(Item.id))]
        assert len(rows) == 10
        await session.refresh(loaded[0])  # and its parts again
    assert router.sent_to_primary == 0
    assert router.reads_on_replicas == 5


def held(cluster: AsyncCluster) -> dict[str, int]:
    """Connections in use by node, those for reads and those for writes."""
    pools: Any = {node.name: (node.reads.sync_engine.pool, node.engine.sync_engine.pool) for node in cluster.nodes()}
    counts = {name: sum(pool.checkedout() for pool in both) for name, both in pools.items()}
    return {name: count for name, count in counts.items() if count}


async def test_moving_gives_the_replica_s_connection_back(session_of: Any, cluster: AsyncCluster) -> None:
    async with session_of() as session:
        loaded = await session.execute(select(Item.id).order_by(Item.id))
        assert sum(held(cluster).values()) == 1
        await session.execute(text("UPDATE items SET name = 'x' WHERE id = 1"))
        assert held(cluster) == {"primary": 1}
        assert len(loaded.all()) == 10
        await session.commit()
    async with session_of() as session:
        stream = await session.stream_scalars(select(Item.id).order_by(Item.id).execution_options(yield_per=2))
        assert await anext(stream) == 1
        await session.execute(text("UPDATE items SET name = 'x' WHERE id = 1"))
        assert [number async for number in stream] == list(range(2, 11))  # a cursor keeps its connection
        await session.commit()
    assert held(cluster) == {}


# -- what users ask for


async def test_routes_that_were_asked_for(session_of: Any, items: Any) -> None:
    replicas = ports(items)
    async with session_of() as session:
        found = await session.execute(PORT, execution_options={"route": "replica"})
        assert found.scalar_one() in replicas
        found = await session.execute(PORT, execution_options={"route": "primary"})
        assert found.scalar_one() == items.primary.port
    async with session_of() as session:
        assert (await session.scalar(PORT.execution_options(route="primary"))) == items.primary.port
    async with session_of(route="primary") as session:
        assert (await session.scalar(PORT)) == items.primary.port
    async with session_of(read_only=True) as session:
        assert (await session.scalar(PORT)) in replicas
        primary = await session.scalar(PORT, execution_options={"route": "primary"})
        assert primary == items.primary.port
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await session.execute(text("INSERT INTO items VALUES (99, 'no')"), execution_options={"route": "primary"})
        session.add(Item(id=99, name="no"))
        with pytest.raises(MisuseError, match="opened with read_only=True and holds changes"):
            await session.flush()
    async with session_of() as session:
        with pytest.raises(MisuseError, match=r'expected "primary", "replica".* got \'nearest\''):
            await session.execute(PORT, execution_options={"route": "nearest"})
        with pytest.raises(DBAPIError, match="read-only transaction"):  # who asks for a replica is believed
            await session.execute(text("DELETE FROM items"), execution_options={"route": "replica"})
    with pytest.raises(MisuseError, match="bind= is the cluster's own"):
        routed_sessionmaker(session_of.kw["router"], bind=None)


async def test_a_single_read_is_wrapped_in_nothing(router: Router, cluster: AsyncCluster) -> None:
    """Neither BEGIN nor ROLLBACK. The driver logs these, and not prepared statements."""
    seen: list[str] = []
    engines = [engine for node in cluster.nodes() for engine in (node.engine, node.reads)]
    for engine in engines[:1] + engines[1::2]:  # the primary's both; a replica writes nothing
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_query_logger(lambda record: seen.append(record.query))
    seen.clear()
    for _ in range(6):
        rows = await router.execute(select(Item.id, Item.name).where(Item.id < 4).order_by(Item.id))
        assert [row.id for row in rows] == [1, 2, 3]
    assert seen == []
    assert router.reads_on_replicas == 6
    await router.execute(text("UPDATE items SET name = 'y' WHERE id = :id"), {"id": 2})
    assert seen[0] == "BEGIN;"
    assert (await router.execute(select(Item.name).where(Item.id == 2), route="primary")).scalar_one() == "y"


# -- corrections


@pytest.mark.parametrize("earlier_reads", [0, 2])
async def test_a_refused_statement_runs_on_the_primary_and_is_remembered(
    session_of: Any, router: Router, cluster: AsyncCluster, items: Any, earlier_reads: int
) -> None:
    statement = select(func.draws())
    assert router.explain(statement).to == "replica"
    await turn_volatile(cluster, items)
    events: list[ReplicaRefused] = []
    with router._hub.subscribe(ReplicaRefused, events.append):
        async with session_of() as session:
            for _ in range(earlier_reads):
                assert await port(session) in ports(items)
            first = (await session.execute(statement)).scalar_one()
            assert await port(session) == items.primary.port
            await session.commit()
        async with session_of() as session:
            assert (await session.scalar(select(func.draws()))) == first + 1
    assert [(event.sqlstate, event.node[:7]) for event in events] == [("25006", "replica")]
    assert "draws()" in events[0].statement
    assert (router.refused, router.classifier.learned) == (1, 1)
    assert router.explain(statement).verdict.reasons == ("a replica has refused it before",)
    await router.refresh()
    assert router.explain(statement).to == "primary"


async def test_a_single_statement_is_corrected_too(router: Router, cluster: AsyncCluster, items: Any) -> None:
    await turn_volatile(cluster, items)
    first = (await router.execute(select(func.draws()))).scalar_one()
    assert (await router.execute(select(func.draws()))).scalar_one() == first + 1
    assert (router.refused, router.sent_to_primary) == (1, 2)
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await router.execute(select(func.draws()), route="replica")


async def test_an_unlogged_table_is_the_primary_s(
    session_of: Any, router: Router, cluster: AsyncCluster, items: Any
) -> None:
    async with cluster.begin() as connection:
        await connection.execute(text("ALTER TABLE plain SET UNLOGGED"))
    for replica in items.replicas:
        await replica.caught_up()
    statement = text("SELECT count(*) FROM plain")
    async with session_of() as session:
        assert (await session.scalar(statement)) == 0  # 0A000, and corrected
    assert router.refused == 1
    await router.refresh()
    assert "is unlogged" in router.explain(text("SELECT * FROM plain")).verdict.reasons[0]


async def test_a_replica_that_dies_in_the_midst_of_a_session(session_of: Any, router: Router, items: Any) -> None:
    async with session_of() as session:
        first = await port(session)
        dead = next(replica for replica in items.replicas if replica.port == first)
        await dead.kill()
        second = await port(session)
        assert second in ports(items) - {first}
        assert await port(session) == second
        session.add(Item(id=60, name="after"))
        await session.commit()
    assert router.repeated == 1
    async with session_of() as session:
        assert await session.get(Item, 60, execution_options={"route": "primary"}) is not None
    for _ in range(6):
        assert (await router.execute(PORT)).scalar_one() == second
    await dead.start()


async def test_reads_that_share_a_snapshot_are_not_continued_on_another_server(items: Any, session_of: Any) -> None:
    snapshot = {"isolation_level": "REPEATABLE READ"}
    async with session_of(read_only=True) as session:
        await session.connection(execution_options=snapshot)
        first = await port(session)
        dead = next(server for server in items.replicas if server.port == first)
        await dead.kill()
        try:
            with pytest.raises(ReadsRefused, match="snapshot") as caught:
                await port(session)
            assert caught.value.__cause__ is not None
            await session.rollback()
            await session.connection(execution_options=snapshot)
            assert await port(session) in ports(items) - {first}
        finally:
            await dead.start()


async def test_an_error_of_the_statement_is_the_caller_s(session_of: Any, router: Router) -> None:
    async with session_of() as session:
        with pytest.raises(DBAPIError, match="does not exist"):
            await session.execute(text("SELECT nothing FROM items"))
        with pytest.raises(DBAPIError, match="division by zero"):
            await router.execute(text("SELECT 1 / 0"))
    assert (router.refused, router.repeated, router.sent_to_primary) == (0, 0, 0)


async def test_without_replicas_reads_are_the_primary_s_and_still_corrected(items: Any) -> None:
    async with create_async_cluster(items.primary.url) as alone:
        router = routed(alone)
        async with routed_sessionmaker(router)() as session:
            assert await port(session) == items.primary.port
            await session.execute(text("UPDATE items SET name = 'z' WHERE id = 1"))
            await session.commit()
        assert (router.reads_on_primary, router.sent_to_primary) == (1, 1)


async def test_without_a_catalogue_functions_are_doubts(cluster: AsyncCluster, items: Any) -> None:
    router = routed(cluster)
    assert router.explain(select(func.draws())).to == "primary"
    assert router.explain(select(Item.id)).to == "replica"
    async with create_async_cluster("postgresql://nobody@127.0.0.1:1/nothing", failover_wait="100ms") as nowhere:
        lost = routed(nowhere)
        with pytest.raises(OSError):  # noqa: PT011 - whatever the system says
            await lost.execute(PORT)
        assert lost.catalogue_error


async def test_a_dead_primary_does_not_stop_reads(cluster: AsyncCluster, items: Any) -> None:
    router = routed(cluster)
    await items.primary.kill()
    assert (await router.execute(select(func.draws()))).scalar_one() == 1
    async with routed_sessionmaker(router)() as session:
        assert await port(session) in ports(items)
    assert (router.catalogue_error, router.reads_on_replicas) == ("", 2)
    await items.primary.start()


# -- the causal token's hooks


class Hooks:
    def __init__(self) -> None:
        self.commits: list[int] = []
        self.position: Position | None = None

    def after_commit(self, connection: Connection) -> None:
        self.commits.append(connection.execute(PORT).scalar_one() if not connection.closed else -1)

    def begun(self) -> None:
        return None

    def wanted(self) -> Position | None:
        return self.position


async def test_the_token_s_hooks(cluster: AsyncCluster, items: Any) -> None:
    hooks = Hooks()
    router = routed(cluster, causality=hooks)
    session_of = routed_sessionmaker(router)
    async with session_of() as session:
        await port(session)
        await session.commit()
        assert hooks.commits == []
        await session.execute(text("UPDATE items SET name = 'q' WHERE id = 1"))
        await session.rollback()
        assert hooks.commits == []
    async with session_of.begin() as session:
        await session.execute(text("UPDATE items SET name = 'q' WHERE id = 1"))
    assert len(hooks.commits) == 1
    async with session_of() as session:
        await port(session)
        async with session.begin_nested():
            await session.execute(text("UPDATE items SET name = 'r' WHERE id = 1"))
        assert len(hooks.commits) == 1  # a savepoint is no commit
        await session.rollback()
        assert (await session.scalar(select(Item.name).where(Item.id == 1))) == "q"
    await router.execute(text("UPDATE items SET name = 'q' WHERE id = 1"))
    assert hooks.commits == [items.primary.port] * 2  # over connections that were still open
    seen = cluster.nodes()[0].seen.position
    assert seen is not None
    hooks.position = replace(seen, lsn=seen.lsn + 2**40)  # no replica shows it yet
    assert (await router.execute(PORT)).scalar_one() == items.primary.port
    async with session_of() as session:
        assert await port(session) == items.primary.port
    assert router.reads_on_primary == 2
