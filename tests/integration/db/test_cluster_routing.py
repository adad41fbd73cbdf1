"""Sessions and connections on a primary and two replicas: who is asked, who is refused, who takes over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import String, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, create_async_cluster

PORT = text("SELECT inet_server_port()")


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String)


@pytest.fixture
async def cluster(items: Any) -> AsyncIterator[AsyncCluster]:
    async with create_async_cluster(items.primary.url, [replica.url for replica in items.replicas]) as cluster:
        yield cluster


async def asked(cluster: AsyncCluster, times: int) -> Counter[int]:
    session_of = cluster.sessionmaker()

    async def one() -> int:
        async with session_of(read_only=True) as session:
            return (await session.execute(PORT)).scalar_one()

    return Counter([await one() for _ in range(times)])


async def test_reads_go_to_replicas_and_writes_to_the_primary(cluster: AsyncCluster, items: Any) -> None:
    async with asyncio.timeout(10):
        while any(node.seen.lag_state != "fresh" for node in cluster.nodes()[1:]):  # noqa: ASYNC110 - first probes
            await asyncio.sleep(0.01)
    ports = await asked(cluster, 60)
    assert set(ports) == {replica.port for replica in items.replicas}
    assert min(ports.values()) >= 10
    session_of = cluster.sessionmaker(expire_on_commit=False)
    replicas = {replica.port for replica in items.replicas}
    async with session_of() as session:
        assert (await session.execute(PORT)).scalar_one() in replicas
        session.add(Item(id=11, name="new"))
        await session.commit()
        assert (await session.execute(PORT)).scalar_one() == items.primary.port  # it must see what it wrote
    async with session_of(route="primary") as session:
        assert (await session.execute(PORT)).scalar_one() == items.primary.port
    async with cluster.session() as session:
        assert (await session.execute(PORT)).scalar_one() in replicas
    assert (await cluster.execute(PORT)).scalar_one() in replicas
    assert (await cluster.execute(PORT, route="primary")).scalar_one() == items.primary.port
    assert cluster.explain_route(PORT).to == "replica"
    assert cluster.explain_route(text("DELETE FROM items")).to == "primary"
    async with session_of.begin() as session:
        item = await session.get(Item, 11)
        assert item is not None
        item.name = "renamed"
    for replica in items.replicas:
        await replica.caught_up()
    async with session_of(read_only=True) as session:
        assert (await session.execute(select(Item.name).where(Item.id == 11))).scalar_one() == "renamed"
        assert (await session.scalar(select(func.count()).select_from(Item))) == 11


async def test_one_replica_for_the_whole_session(cluster: AsyncCluster) -> None:
    session_of = cluster.sessionmaker()
    for _ in range(10):
        async with session_of(read_only=True) as session:
            ports = set()
            for _ in range(5):
                ports.add((await session.execute(PORT)).scalar_one())
                await session.commit()
            assert len(ports) == 1


async def test_core_connections(cluster: AsyncCluster, items: Any) -> None:
    async with cluster.connect(read_only=True) as connection:
        assert (await connection.execute(PORT)).scalar_one() in {replica.port for replica in items.replicas}
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        assert await driver.fetchval("SELECT name FROM items WHERE id = $1", 3) == "item 3"
    async with cluster.begin() as connection:
        assert (await connection.execute(PORT)).scalar_one() == items.primary.port
        await connection.execute(text("UPDATE items SET name = 'x' WHERE id = 1"))
    async with cluster.connect() as connection:
        assert (await connection.execute(text("SELECT name FROM items WHERE id = 1"))).scalar_one() == "x"


async def test_a_read_is_wrapped_in_nothing(cluster: AsyncCluster) -> None:
    """Neither BEGIN nor ROLLBACK nor a reset. The driver logs these, and not prepared statements."""
    seen: list[str] = []

    def note(record: Any) -> None:
        seen.append(record.query)

    async def read(read_only: bool) -> None:
        async with cluster.connect(read_only=read_only) as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_query_logger(note)
            for _ in range(3):
                assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
            assert driver.is_in_transaction() is not read_only

    for _ in range(10):
        await read(read_only=True)
    assert seen == []
    await read(read_only=False)
    assert seen == ["BEGIN;", "ROLLBACK;"]


async def test_a_read_only_session_does_not_write(cluster: AsyncCluster, items: Any) -> None:
    session_of = cluster.sessionmaker()
    async with session_of(read_only=True) as session:
        session.add(Item(id=99, name="no"))
        with pytest.raises(MisuseError, match="opened with read_only=True and holds changes"):
            await session.flush()
    async with session_of(read_only=True) as session:
        with pytest.raises(MisuseError, match="for the primary: it is INSERT"):
            await session.execute(text("INSERT INTO items VALUES (99, 'no')"))
    async with create_async_cluster(items.primary.url) as alone, alone.connect(read_only=True) as connection:
        assert (await connection.execute(PORT)).scalar_one() == items.primary.port
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await connection.execute(text("INSERT INTO items VALUES (99, 'no')"))


async def test_dead_replicas_cost_no_error(cluster: AsyncCluster, items: Any) -> None:
    await asked(cluster, 20)  # connections to both lie in the pools
    first, second = items.replicas
    await first.kill()
    assert set(await asked(cluster, 40)) == {second.port}
    await second.kill()
    assert set(await asked(cluster, 40)) == {items.primary.port}
    async with cluster.connect(read_only=True) as connection:
        assert (await connection.execute(PORT)).scalar_one() == items.primary.port
    primary, *replicas = cluster.nodes()
    assert primary.failures == 0
    assert all(node.failures >= 1 and "failed" in repr(node) for node in replicas)
    await first.start()
    await second.start()
    async with asyncio.timeout(15):
        while set(await asked(cluster, 20)) != {first.port, second.port}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_frozen_replica_costs_one_connect_timeout(items: Any) -> None:
    urls = [replica.url for replica in items.replicas]
    async with create_async_cluster(items.primary.url, urls, connect_timeout="1s") as cluster:
        await items.replicas[0].pause()
        try:
            began = time.monotonic()
            ports = await asked(cluster, 40)
            elapsed = time.monotonic() - began
        finally:
            await items.replicas[0].resume()
        assert set(ports) == {items.replicas[1].port}
        assert elapsed < 10, f"{elapsed:.2f} s"  # about half of them would wait 1 s each


async def test_a_statement_that_takes_too_long_is_ended(items: Any) -> None:
    async with create_async_cluster(items.primary.url, statement_timeout="200ms") as cluster:
        began = time.monotonic()
        async with cluster.connect() as connection:
            with pytest.raises(TimeoutError):
                await connection.execute(text("SELECT pg_sleep(20)"))
        assert time.monotonic() - began < 15


async def test_the_pool_is_bounded(items: Any) -> None:
    async with create_async_cluster(items.primary.url, pool_size=2, pool_timeout="100ms") as cluster:
        async with cluster.connect(), cluster.connect():
            with pytest.raises(PoolTimeout):
                async with cluster.connect():
                    pass
        async with cluster.connect() as connection:
            assert (await connection.execute(PORT)).scalar_one() == items.primary.port


async def test_closing_leaves_no_connection(items: Any) -> None:
    count = text(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'tenfold watch'"
    )
    async with create_async_cluster(items.primary.url) as watcher, watcher.connect(read_only=True) as watch:
        before = (await watch.execute(count)).scalar_one()
        cluster = create_async_cluster(items.primary.url, [replica.url for replica in items.replicas])

        async def use() -> None:
            async with cluster.begin() as connection:
                await connection.execute(text("SELECT pg_sleep(0.05)"))

        await asyncio.gather(*[use() for _ in range(5)])
        assert (await watch.execute(count)).scalar_one() == before + 5
        await cluster.aclose()
        async with asyncio.timeout(5):
            while (await watch.execute(count)).scalar_one() != before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def test_one_cluster_serves_two_event_loops(items_url: str) -> None:
    cluster = create_async_cluster(items_url)

    async def use() -> int:
        try:
            async with cluster.connect(read_only=True) as connection:
                found: int = (await connection.execute(text("SELECT 42"))).scalar_one()
                return found
        finally:
            await cluster.aclose()

    assert asyncio.run(use()) == asyncio.run(use()) == 42


@pytest.fixture
def items_url(topology: Any) -> str:
    url: str = topology.primary.url
    return url
