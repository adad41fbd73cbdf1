"""Shards that have replicas: reads there as lag and causality allow, writes through a promotion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold.db import AsyncCluster, causality, create_async_cluster
from tenfold.db.shards import Dispatcher, Message, Outbox, OutboxOptions, ShardedCluster, TwoPhase
from tenfold.servers import Postgres, Topology


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "visits"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]


@pytest.fixture(scope="module")
def servers(topology: Topology) -> Topology:
    return topology


@pytest.fixture(scope="module")
def alone(plain: Callable[[int], Topology]) -> Postgres:
    return plain(1).shards[0]


@pytest.fixture
async def shard(servers: Topology) -> AsyncIterator[AsyncCluster]:
    await servers.revive()
    for replica in servers.replicas:
        await replica.resume_replay()
    urls = [replica.url for replica in servers.replicas]
    async with create_async_cluster(
        servers.primary.url, urls, max_lag=None, watch_period="50ms", failover_wait="20s"
    ) as made:
        yield made


@pytest.fixture
async def cluster(
    servers: Topology, shard: AsyncCluster, alone: Postgres, remade: Callable[..., Awaitable[None]]
) -> AsyncIterator[ShardedCluster]:
    async with ShardedCluster({"many": shard, "one": alone.url}, models=[Base]) as cluster:
        await remade(cluster, Base.metadata)
        await cluster.insert(Visit, [{"id": n, "customer": n, "total": 0} for n in range(100)])
        for replica in servers.replicas:
            await replica.caught_up()
        await shard.watch.settle()
        yield cluster


def key_on(cluster: ShardedCluster, name: str) -> int:
    return next(key for key in range(100) if cluster.map.shard_of(key) == name)


def total(key: int) -> sa.Select[tuple[int]]:
    return select(Visit.total).where(Visit.customer == key)


async def test_reads_go_to_replicas_and_writes_to_the_primary(
    cluster: ShardedCluster, shard: AsyncCluster, servers: Topology
) -> None:
    key = key_on(cluster, "many")
    port = select(func.inet_server_port()).select_from(Visit).where(Visit.customer == key)
    replicas = {replica.port for replica in servers.replicas}
    assert {(await cluster.execute(port)).scalar_one() for _ in range(20)} <= replicas
    assert (await cluster.execute(port.execution_options(route="primary"))).scalar_one() == servers.primary.port
    before = sum(node.account.checkouts for node in shard.nodes()[1:])
    assert (await cluster.execute(select(func.count()).select_from(Visit))).scalar_one() == 100
    async with cluster.stream(select(Visit.id).order_by(Visit.id)) as rows:
        assert [row.id async for row in rows] == list(range(100))
    assert sum(node.account.checkouts for node in shard.nodes()[1:]) >= before + 2
    written = await cluster.execute(update(Visit).where(Visit.customer == key).values(total=3).returning(Visit.total))
    assert written.scalar_one() == 3
    drawn = select(func.nextval("drawn"))
    async with cluster.async_engine("many").begin() as connection:
        await connection.execute(sa.text("CREATE SEQUENCE IF NOT EXISTS drawn"))
    assert (await cluster.execute(drawn.execution_options(shard_key=key))).scalar_one() >= 1


async def test_each_shard_has_its_part_of_a_scope(
    cluster: ShardedCluster, shard: AsyncCluster, servers: Topology
) -> None:
    """Replicas that lag serve who has written nothing there, and never who has."""
    many, one = key_on(cluster, "many"), key_on(cluster, "one")
    for replica in servers.replicas:
        await replica.pause_replay()
    try:
        with causality() as scope:
            await cluster.execute(update(Visit).where(Visit.customer == one).values(total=5))
            before = sum(node.account.checkouts for node in shard.nodes()[1:])
            assert (await cluster.execute(total(many))).scalar_one() == 0
            assert sum(node.account.checkouts for node in shard.nodes()[1:]) > before  # the other shard's write
            first = await scope.outgoing()
            assert first is not None
            assert [at.lsn for at in first.positions] == [cluster.map.epoch]  # without replicas no more than the map
            async with cluster.session(shard_key=many) as session:
                visit = (await session.execute(select(Visit).where(Visit.customer == many))).scalar_one()
                visit.total = 7
                await session.commit()
            assert (await cluster.execute(total(many))).scalar_one() == 7
            assert (await cluster.execute(select(func.sum(Visit.total)))).scalar_one() == 12
            async with cluster.stream(select(Visit.total).order_by(Visit.total.desc()).limit(2)) as rows:
                assert [row.total async for row in rows] == [7, 5]
            assert scope.wrote
            token = await scope.outgoing()
        assert token is not None
        assert {at.system for at in token.positions} == {shard.system, first.positions[0].system}
        assert (await cluster.execute(total(many))).scalar_one() == 0  # nobody asked for more
        with causality(token):
            assert (await cluster.execute(total(many))).scalar_one() == 7
        async with cluster.session() as session:  # without a scope, a session remembers that it has written
            await session.execute(update(Visit).where(Visit.customer == many).values(total=8))
            await session.commit()
            assert (await session.execute(select(func.sum(Visit.total)))).scalar_one() == 13
    finally:
        for replica in servers.replicas:
            await replica.resume_replay()


async def test_a_replica_that_has_not_heard_of_the_map_is_passed_over(
    cluster: ShardedCluster, servers: Topology
) -> None:
    for replica in servers.replicas:
        await replica.pause_replay()
    try:
        await cluster.install(cluster.map.moved([], "many"))
        assert (await cluster.execute(select(func.count()).select_from(Visit))).scalar_one() == 100
        async with cluster.stream(select(Visit.id).order_by(Visit.id)) as rows:
            assert len([row async for row in rows]) == 100
        assert cluster.stale == 0
    finally:
        for replica in servers.replicas:
            await replica.resume_replay()


async def test_writes_go_on_through_a_promotion(cluster: ShardedCluster, servers: Topology) -> None:
    """Sessions, statements and batches wait for the next primary; what a commit left unknown is the only exception."""
    key = key_on(cluster, "many")
    done, stop = 0, asyncio.Event()

    async def write() -> None:
        nonlocal done
        number = 1000
        while not stop.is_set():
            number += 1
            try:
                async with cluster.session(shard_key=key) as session:
                    session.add(Visit(id=number, customer=key, total=0))
                    await session.commit()
                await cluster.execute(insert(Visit).values(id=number + 100_000, customer=key, total=0))
                await cluster.insert(Visit, [{"id": number + 200_000, "customer": key, "total": 0}])
            except sa.exc.DBAPIError:
                continue  # under way when the primary went
            done += 1

    former = servers.primary
    writer = asyncio.create_task(write())
    async with asyncio.timeout(30):
        while done < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await servers.promote(servers.replicas[0])
    async with asyncio.timeout(30):
        before = done
        while done < before + 10 and not writer.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    stop.set()
    await writer
    count = select(func.count()).select_from(Visit).where(Visit.customer == key, Visit.id > 1000)
    assert (await cluster.execute(count.execution_options(route="primary"))).scalar_one() >= 3 * done
    assert cluster.async_engine("many").url.port == servers.primary.port != former.port


async def test_a_shard_of_one_server_that_was_restarted_fails_nobody_who_comes_after(
    cluster: ShardedCluster, alone: Postgres
) -> None:
    """Connections of before the restart are found dead at the fence, where nothing has happened yet."""
    key = key_on(cluster, "one")

    async def write() -> None:
        async with cluster.session(shard_key=key) as session:
            await session.execute(update(Visit).where(Visit.customer == key).values(total=Visit.total + 1))
            await session.commit()
        await cluster.execute(update(Visit).where(Visit.customer == key).values(total=Visit.total + 1))

    await asyncio.gather(*(write() for _ in range(5)))  # several connections are in the pool
    for _ in range(2):
        await alone.kill()
        await alone.start()
        await write()
    assert (await cluster.execute(total(key))).scalar_one() == 14


async def test_outbox_and_two_phase_go_on_through_a_promotion_of_the_home(
    cluster: ShardedCluster, servers: Topology
) -> None:
    """The shard with the decision log, one outbox and the coordinators' locks gets another primary."""
    keys = key_on(cluster, "many"), key_on(cluster, "one")
    outbox = Outbox(cluster)
    await outbox.create_tables()

    async def add(session: AsyncSession, message: Message) -> None:
        await session.execute(update(Visit).where(Visit.customer == message.key).values(total=Visit.total + 10))

    async def change() -> None:
        async with two.transaction() as tx:
            for key in sorted(keys):
                await (await tx.session(key)).execute(
                    update(Visit).where(Visit.customer == key).values(total=Visit.total + 1)
                )
        async with cluster.session() as session:
            await session.execute(update(Visit).where(Visit.customer == keys[0]).values(total=Visit.total + 1))
            await outbox.send(session, "add", key=keys[1], body=None)
            await session.commit()

    async with (
        TwoPhase(cluster, age="0s") as two,
        Dispatcher(cluster, {"add": add}, options=OutboxOptions(poll="50ms")) as dispatcher,
    ):
        await change()
        for replica in servers.replicas:
            await replica.caught_up()
        await servers.promote(servers.replicas[0])
        await change()
        async with asyncio.timeout(30):
            while any(waiting.count for waiting in (await outbox.waiting()).values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (two.committed, two.aborted) == (2, 0)
        assert dispatcher.counters.delivered == 2
        assert (await two.recover()).complete
    read = [(await cluster.execute(total(key).execution_options(route="primary"))).scalar_one() for key in keys]
    assert read == [4, 22]
