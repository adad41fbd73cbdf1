"""Clusters whose role is an application's: no superuser, not the owner of anything, with limits and settings of its
own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import await_only

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.probe import probe
from tenfold.db.reshard import ReshardError, Resharding
from tenfold.db.shards import Outbox, ShardedCluster, ShardMap, SnowflakeIds, TwoPhase
from tenfold.db.wal import read_history
from tenfold.servers import Postgres, Topology


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders_of_a_role"
    __shard_key__ = "customer"
    customer: Mapped[int] = mapped_column(primary_key=True)


def as_app(server: Postgres) -> str:
    return server.url.replace("tenfold@", "app@")


async def admin(server: Postgres, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def servers(topology: Topology) -> Topology:
    asyncio.run(
        admin(
            topology.primary,
            "CREATE ROLE app LOGIN",
            "CREATE TABLE item (id int PRIMARY KEY)",
            "INSERT INTO item VALUES (1)",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON item TO app",
        )
    )
    return topology


@pytest.fixture
async def primary(servers: Topology) -> AsyncIterator[Postgres]:
    yield servers.primary
    await admin(servers.primary, "ALTER ROLE app RESET ALL", "ALTER ROLE app CONNECTION LIMIT -1")


async def test_the_probe_knows_what_the_role_may_not_see(servers: Topology) -> None:
    replica = servers.replicas[0]
    await replica.caught_up()
    for url, hidden in ((replica.url, False), (as_app(replica), True)):
        connection = await asyncpg.connect(url)
        try:
            found = await probe(connection)
        finally:
            await connection.close()
        assert (found.role, found.hidden, found.read_only) == ("replica", hidden, False)


async def test_the_history_of_a_timeline_needs_one_right(primary: Postgres) -> None:
    history = primary.folder / "pg_wal" / "000000FF.history"
    history.write_text("1\t0/3000158\tno recovery target specified\n")
    connection = await asyncpg.connect(as_app(primary))
    try:
        assert await read_history(connection, {}, 255) is None
        await admin(primary, "GRANT EXECUTE ON FUNCTION pg_read_file(text, bigint, bigint, boolean) TO app")
        found = await read_history(connection, {}, 255)
        assert found is not None
        assert found.continues(1)
        assert await read_history(connection, {}, 254) is None  # there is no such file
    finally:
        history.unlink()
        await connection.close()


async def test_a_role_that_is_read_only_costs_no_generation_of_connections(primary: Postgres) -> None:
    await admin(primary, "ALTER ROLE app SET default_transaction_read_only = on")
    async with create_async_cluster(as_app(primary)) as cluster:
        node = await cluster.writer()
        for _ in range(3):
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await cluster.execute(text("UPDATE item SET id = 1"))
            assert cluster.watch.winner is node
        assert node.generation == 0
        async with cluster.begin() as connection:  # whoever says so writes
            await connection.execute(text("SET TRANSACTION READ WRITE"))
            await connection.execute(text("UPDATE item SET id = 1"))


async def test_a_server_that_takes_no_more_connections_goes_on_with_those_that_it_has(primary: Postgres) -> None:
    async with create_async_cluster(as_app(primary), pool_size=3) as cluster:
        node = await cluster.writer()
        only = await node.engine.connect()
        pid = (await only.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await admin(primary, "ALTER ROLE app CONNECTION LIMIT 2")  # the watch has the other one

        def come_back(*_: Any) -> None:
            await_only(only.close())  # while the next one is being made

        event.listen(node.engine.sync_engine, "do_connect", come_back)
        with pytest.raises(DBAPIError, match="too many connections"):
            async with cluster.connect():
                pass
        for _ in range(3):
            async with cluster.begin() as connection:
                assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() == pid


async def test_own_tables_are_used_by_who_may_not_create_any(plain: Callable[[int], Topology]) -> None:
    server = (await asyncio.to_thread(plain, 1)).shards[0]
    await admin(server, "CREATE ROLE app LOGIN", "CREATE TABLE orders_of_a_role (customer int PRIMARY KEY)")

    async def fn(session: AsyncSession) -> int:
        return (await session.execute(select(func.count()).select_from(Order))).scalar_one()

    async def use(url: str) -> None:
        async with ShardedCluster({"a": url}, models=[Base], map=ShardMap.hash(["a"])) as cluster:
            await Outbox(cluster).create_tables()
            async with SnowflakeIds(cluster.async_engine("a")), TwoPhase(cluster):
                assert await cluster.run(fn, shard_key=1) == 0

    with pytest.raises(MisuseError, match=r'role "app" may not create .*tenfold_shard_map.*GRANT CREATE ON SCHEMA'):
        await use(as_app(server))
    await use(server.url)
    await admin(
        server,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app",
    )
    await use(as_app(server))


async def test_a_reshard_goes_on_when_its_role_has_been_given_what_it_lacked(
    plain: Callable[[int], Topology],
) -> None:
    shards = dict(zip("ab", (await asyncio.to_thread(plain, 2)).shards, strict=True))
    urls = {name: server.url for name, server in shards.items()}
    tool = Resharding({name: as_app(server) for name, server in shards.items()}, models=[Base])

    async def on_each(statement: str) -> None:
        for server in shards.values():
            await admin(server, statement)

    await on_each("CREATE TABLE orders_of_a_role (customer int PRIMARY KEY)")
    await on_each("CREATE ROLE app LOGIN")
    await on_each("GRANT SET ON PARAMETER session_replication_role TO app")
    await on_each("GRANT CREATE ON SCHEMA public TO app")
    async with ShardedCluster(urls, models=[Base], map=ShardMap.hash(["a"], buckets=4)) as cluster:
        await cluster.insert(Order, [{"customer": number} for number in range(20)])
        with pytest.raises(ReshardError, match=r"PostgreSQL refused .*permission denied for table tenfold_shard_map"):
            await tool.plan(even=True)
        await on_each("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app")
        await tool.plan(even=True)
        with pytest.raises(ReshardError, match="permission denied for database"):
            await tool.run()
        await on_each("GRANT CREATE ON DATABASE postgres TO app")
        with pytest.raises(ReshardError, match="permission denied for table orders_of_a_role"):
            await tool.run()  # which leaves the source half prepared
        await on_each("ALTER TABLE orders_of_a_role OWNER TO app")
        await tool.run(finish=True)
        await cluster.refresh()
        assert sorted(cluster.map.shards) == ["a", "a", "b", "b"]
        assert (await cluster.execute(select(func.count(Order.customer)))).scalar_one() == 20
