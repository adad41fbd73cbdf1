"""Four real shards: where rows go, what a session holds together, what a change of the map cannot break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tenfold._core.errors import MisuseError
from tenfold.db.shards import (
    CannotAnswer,
    CrossShard,
    PartialWrite,
    ShardedCluster,
    ShardMap,
    StaleMap,
    TooManyGroups,
)
from tenfold.db.shards.store import fence
from tenfold.resilience.deadline import Deadline
from tenfold.servers import Topology


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "sales"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]
    lines: Mapped[list[Line]] = relationship(back_populates="sale")


class Line(Base):
    __tablename__ = "sale_lines"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    sale_id: Mapped[int] = mapped_column(sa.ForeignKey("sales.id"))
    sale: Mapped[Sale] = relationship(back_populates="lines")


class Loose(Base):
    __tablename__ = "loose"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(scope="module")
def shards(plain: Callable[[int], Topology]) -> Topology:
    return plain(4)


def make(shards: Topology, **options: Any) -> ShardedCluster:
    return ShardedCluster([shard.url for shard in shards.shards], models=[Base], **options)


@pytest.fixture
async def cluster(shards: Topology, remade: Callable[..., Awaitable[None]]) -> AsyncIterator[ShardedCluster]:
    async with make(shards) as cluster:
        await remade(cluster, Base.metadata)
        yield cluster


def sales(count: int) -> list[dict[str, int]]:
    return [{"id": n, "customer": n % 40, "total": n * 7 % 101} for n in range(count)]


async def held(cluster: ShardedCluster, shard: str) -> set[int]:
    async with cluster.async_engine(shard).connect() as connection:
        return set((await connection.execute(select(Sale.customer))).scalars())


async def test_every_row_goes_where_the_map_says(cluster: ShardedCluster) -> None:
    assert await cluster.insert(Sale, sales(200)) == 200
    for name in cluster.map.names:
        customers = await held(cluster, name)
        assert customers == {key for key in range(40) if cluster.map.shard_of(key) == name}
        assert customers


async def test_a_session_stays_on_one_shard(cluster: ShardedCluster) -> None:
    here = cluster.map.shard_of(1)
    other = next(key for key in range(2, 40) if cluster.map.shard_of(key) != here)
    async with cluster.session() as session:
        session.add(Sale(id=1, customer=1, total=5))
        await session.flush()
        assert session.sync_session.shard == here  # type: ignore[attr-defined]
        session.add(Line(id=1, customer=1, sale_id=1))
        await session.commit()
        assert session.sync_session.shard is None  # type: ignore[attr-defined]
    async with cluster.session() as session:
        sale = (await session.execute(select(Sale).where(Sale.customer == 1))).scalar_one()
        assert [line.id for line in await session.run_sync(lambda _: list(sale.lines))] == [1]
        with pytest.raises(CrossShard, match="outbox") as caught:
            await session.execute(select(Sale).where(Sale.customer == other))
        assert (caught.value.bound, caught.value.wanted) == (here, cluster.map.shard_of(other))
        with pytest.raises(CannotAnswer, match="is bound to shard"):
            await session.execute(select(func.count()).select_from(Sale))
        sale.customer = other
        with pytest.raises(CannotAnswer, match=r"shard key sales\.customer of a stored object was changed"):
            await session.flush()
    async with cluster.session() as session:
        session.add_all([Sale(id=2, customer=1, total=5), Sale(id=3, customer=other, total=5)])
        with pytest.raises(CrossShard):
            await session.flush()
    async with cluster.session() as session:
        assert (await session.execute(select(func.count()).select_from(Sale))).scalar_one() == 1
    async with cluster.session(shard_key=1) as session:
        assert (await session.get(Sale, 1)) is not None
        for misplaced in (
            insert(Sale).values(id=9, customer=other, total=0),
            select(Sale.id).execution_options(shard_key=other),
        ):
            with pytest.raises(CrossShard):
                await session.execute(misplaced)
        session.add(Sale(id=9, customer=other, total=0))
        with pytest.raises(CrossShard):
            await session.flush()
    async with cluster.session() as session:
        with pytest.raises(CannotAnswer, match="entities of several shards"):
            await session.get(Sale, 1)


async def test_a_rollback_lets_go_of_the_shard(cluster: ShardedCluster) -> None:
    async with cluster.session() as session:
        for key in (1, 2, 3, 4, 5):
            await session.execute(insert(Sale).values(id=key, customer=key, total=0))
            await session.rollback()
    assert (await cluster.execute(select(func.count()).select_from(Sale))).scalar_one() == 0


async def test_writes_are_single_or_refused(cluster: ShardedCluster) -> None:
    await cluster.insert(Sale, sales(80))
    done: Any = await cluster.execute(update(Sale).where(Sale.customer == 3).values(total=-1))
    assert done.rowcount == 2
    given = await cluster.execute(insert(Sale).returning(Sale.id), {"id": 900, "customer": 7, "total": 1})
    assert given.scalar_one() == 900
    for statement, reason in (
        (update(Sale).values(total=0), "does not say which customer"),
        (update(Sale).where(Sale.customer.in_(range(40))).values(total=0), "no transaction in common"),
        (update(Sale).where(Sale.customer == 3).values(customer=4), "UPDATE of the shard key"),
        (sa.delete(Sale).where(Sale.id == 3), "does not say which customer"),
        (insert(Sale).values(id=1, total=3), "comes without its shard key"),
        (select(Loose), "not known to be sharded"),
        (sa.text("DELETE FROM sales"), "says nothing about its keys"),
    ):
        with pytest.raises(CannotAnswer, match=reason):
            await cluster.execute(statement)
        assert cluster.explain(statement).startswith("refused: ")
    assert (await cluster.execute(select(func.min(Sale.total)))).scalar_one() == -1
    count = sa.text("SELECT count(*) FROM sales").execution_options(shard_key=3)
    assert (await cluster.execute(count)).scalar_one() < 81


async def test_unique_holds_within_a_shard_and_partial_inserts_are_told(cluster: ShardedCluster) -> None:
    assert await cluster.insert(Sale, [{"id": 1, "customer": key, "total": 0} for key in (1, 3)]) == 2  # two shards
    assert cluster.map.shard_of(1) != cluster.map.shard_of(3)
    with pytest.raises(PartialWrite, match="ON CONFLICT") as caught:
        await cluster.insert(Sale, [{"id": 1, "customer": 1, "total": 0}, {"id": 2, "customer": 3, "total": 0}])
    assert caught.value.done == {cluster.map.shard_of(3): 1}
    assert isinstance(caught.value.failed[cluster.map.shard_of(1)], IntegrityError)


async def test_a_stale_process_is_sent_on_before_anything_happens(cluster: ShardedCluster, shards: Topology) -> None:
    await cluster.insert(Sale, sales(40))
    bucket, old = cluster.map.bucket_of(1), cluster.map.shard_of(1)
    new = next(name for name in cluster.map.names if name != old)
    async with make(shards) as other:
        await other.install(other.map.moved([bucket], new))
    epoch = cluster.map.epoch
    async with cluster.session() as session:
        session.add(Sale(id=100, customer=1, total=0))
        await session.commit()
    assert (cluster.map.epoch, cluster.stale) == (epoch + 1, 1)
    async with cluster.async_engine(new).connect() as connection:
        assert (await connection.execute(select(Sale.customer).where(Sale.id == 100))).scalar_one() == 1
    async with make(shards) as other:
        await other.install(other.map.moved([bucket], old))
    assert (await cluster.execute(select(func.count()).select_from(Sale))).scalar_one() == 41
    async with make(shards) as other:
        await other.install(other.map.moved([bucket], new))
    await cluster.insert(Sale, [{"id": 101, "customer": 1, "total": 0}, {"id": 102, "customer": 2, "total": 0}])
    async with make(shards) as other:
        await other.install(other.map.moved([bucket], old))
    async with cluster.stream(select(Sale.id)) as rows:
        assert len([row async for row in rows]) == 43
    assert cluster.stale >= 4
    with pytest.raises(MisuseError, match="another change came first"):
        await cluster.install(cluster.map.at(cluster.map.epoch))


async def test_the_fence_waits_for_writers_and_stops_those_that_come_late(cluster: ShardedCluster) -> None:
    """A writer that passed the fence ends before the change; one that waited at it sees the new epoch."""
    shard = cluster.map.shard_of(1)
    async with cluster.session(shard_key=1) as session:
        session.add(Sale(id=1, customer=1, total=0))
        await session.flush()
        change = asyncio.create_task(cluster.install(cluster.map.moved([0], "s0")))
        async with cluster.async_engine(shard).connect() as probe:
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            async with asyncio.timeout(5):
                while not (await probe.execute(waiting)).scalar_one():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        assert not change.done()
        late = cluster.async_engine(shard).execution_options(tenfold_epoch=cluster.map.epoch, tenfold_shard=shard)

        async def write_late() -> None:
            async with late.begin() as connection:
                await connection.execute(insert(Sale).values(id=2, customer=1, total=0))

        writer = asyncio.create_task(write_late())
        await session.commit()
    await change
    try:
        await writer
        passed = {1, 2}  # it came before the change took its lock
    except StaleMap as stale:
        assert (stale.shard, stale.found) == (shard, cluster.map.epoch)  # noqa: PT017
        passed = {1}
    async with cluster.async_engine(shard).connect() as connection:
        assert set((await connection.execute(select(Sale.id))).scalars()) == passed


async def test_writers_during_changes_lose_nothing_and_misplace_nothing(
    cluster: ShardedCluster, shards: Topology
) -> None:
    """Four writers, and a process that keeps moving empty buckets of keys that were not written yet."""
    placed: dict[int, str] = {}
    stop = asyncio.Event()

    async def change() -> int:
        changes = 0
        async with make(shards) as other:
            while not stop.is_set():
                await other.install(other.map.moved(range(changes % 4, 1024, 4), f"s{changes % 3}"))
                changes += 1
                await asyncio.sleep(0)
        return changes

    async def write(worker: int) -> None:
        async with make(shards, pool_size=2) as own:
            for n in range(10):
                while not await written(own, worker * 1000 + n):
                    pass

    async def written(own: ShardedCluster, key: int) -> bool:
        async with own.session() as session:
            session.add(Sale(id=key, customer=key, total=own.map.epoch))
            try:
                await session.flush()
            except StaleMap:  # changes without a pause may outrun a slow machine; nothing has happened
                return False
            assert session.sync_session.shard == own.map.shard_of(key)  # type: ignore[attr-defined]
            placed[key] = session.sync_session.shard  # type: ignore[attr-defined]
            await session.commit()
            return True

    changer = asyncio.create_task(change())
    try:
        await asyncio.gather(*(write(worker) for worker in range(1, 5)))
    finally:
        stop.set()
    assert await changer >= 3
    found: dict[int, str] = {}
    for name in ("s0", "s1", "s2", "s3"):
        for key in await held(cluster, name):
            assert key not in found
            found[key] = name
    assert found == placed
    assert len(found) == 40


async def test_an_interrupted_change_refuses_writes_until_it_is_repaired(cluster: ShardedCluster) -> None:
    async with cluster.async_engine("s2").begin() as connection:
        await connection.execute(sa.text("UPDATE tenfold_shard_epoch SET epoch = epoch + 1"))
    key = next(key for key in range(40) if cluster.map.shard_of(key) == "s2")
    with pytest.raises((StaleMap, TimeoutError)):
        async with Deadline("300ms"):
            await cluster.execute(insert(Sale), {"id": 1, "customer": key, "total": 0})
    with pytest.raises((StaleMap, TimeoutError)):
        async with Deadline("300ms"):
            await cluster.execute(select(func.count()).select_from(Sale))
    await cluster.repair()
    assert (await cluster.execute(select(func.count()).select_from(Sale))).scalar_one() == 0


async def test_a_stream_is_bounded_and_leaves_nothing_behind(cluster: ShardedCluster) -> None:
    await cluster.insert(Sale, sales(1200))
    async with cluster.stream(select(Sale.id, Sale.total).order_by(Sale.total.desc(), Sale.id)) as rows:
        first = [await anext(rows) for _ in range(3)]
        assert [(row.id, row.total) for row in first] == sorted(
            ((row["id"], row["total"]) for row in sales(1200)), key=lambda pair: (-pair[1], pair[0])
        )[:3]
    opened = asyncio.Event()

    async def hold() -> None:
        async with cluster.stream(select(Sale.id).order_by(Sale.id)) as rows:
            await anext(rows)
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for name in cluster.map.names:
        pool: Any = cluster.engine(name).pool
        assert pool.checkedout() == 0


async def test_one_failing_shard_ends_the_read_on_all(cluster: ShardedCluster) -> None:
    await cluster.insert(Sale, sales(40))
    async with cluster.async_engine("s1").begin() as connection:
        await connection.execute(sa.text("ALTER TABLE sales RENAME COLUMN total TO gone"))
    with pytest.raises(sa.exc.ProgrammingError, match="total"):
        await cluster.execute(select(func.sum(Sale.total)))
    for name in cluster.map.names:
        pool: Any = cluster.engine(name).pool
        assert pool.checkedout() == 0


async def test_the_merge_is_bounded(shards: Topology, cluster: ShardedCluster) -> None:
    await cluster.insert(Sale, sales(60))
    async with make(shards, max_groups=10) as small:
        with pytest.raises(TooManyGroups):
            await small.execute(select(Sale.id).distinct())
        with pytest.raises(TooManyGroups):
            await small.execute(select(Sale.total, func.count()).group_by(Sale.total))


async def test_a_deadline_holds(cluster: ShardedCluster) -> None:
    async with cluster.async_engine("s1").begin() as connection:
        await connection.execute(sa.text("LOCK TABLE sales"))
        with pytest.raises(TimeoutError):
            async with Deadline("150ms"):
                await cluster.execute(select(Sale.id))


async def test_the_stored_map_wins_and_wrong_urls_are_noticed(cluster: ShardedCluster, shards: Topology) -> None:
    async with make(shards, map=ShardMap.hash(["s0", "s1"])) as other:
        assert other.map.epoch == cluster.map.epoch
        assert len(other.map.names) == len(cluster.map.names)
    urls = [shard.url for shard in shards.shards]
    with pytest.raises(MisuseError, match="check the URLs"):
        async with ShardedCluster([urls[0], urls[2], urls[1], urls[3]], models=[Base]):
            pass
    with pytest.raises(MisuseError, match="of which no URL was given"):
        async with ShardedCluster(urls[:1], models=[Base]):
            pass


def test_the_fence_is_what_engines_listen_with(shards: Topology) -> None:
    """Without the option nothing is asked: DDL and tools work on a database that has no epoch."""

    async def run() -> Any:
        async with make(shards) as cluster:
            engine = cluster.async_engine("s0")
            assert sa.event.contains(engine.sync_engine, "begin", fence)
            async with engine.begin() as connection:
                return (await connection.execute(sa.text("SELECT 1"))).scalar_one()

    assert asyncio.run(run()) == 1
