"""A process that was started before a shard was there: what it says, and how it learns of it without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db.reshard import Resharding
from tenfold.db.shards import Dispatcher, Message, Outbox, OutboxOptions, ShardedCluster, ShardMap, UnknownShard
from tenfold.servers import Postgres, Topology


class Base(DeclarativeBase):
    pass


class Ticket(Base):
    __tablename__ = "tickets"
    __shard_key__ = "rider"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider: Mapped[int]


@pytest.fixture(scope="module")
def shards(plain: Callable[[int], Topology]) -> Topology:
    return plain(2)


@pytest.fixture
async def cluster(shards: Topology, emptied: Callable[[Postgres], Awaitable[None]]) -> AsyncIterator[ShardedCluster]:
    """One shard, with rows, an outbox, and another database beside it of which it knows nothing."""
    for shard in shards.shards:
        await emptied(shard)
    cluster = ShardedCluster({"s0": shards.shards[0].url}, models=[Base], map=ShardMap.hash(["s0"], buckets=16))
    async with cluster:
        async with cluster.async_engine("s0").begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Ticket, [{"id": n, "rider": n} for n in range(40)])
        yield cluster


async def moved(shards: Topology) -> None:
    urls = {f"s{n}": shard.url for n, shard in enumerate(shards.shards)}
    async with ShardedCluster(urls, models=[Base]) as other, other.async_engine("s1").begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    resharding = Resharding(urls, models=[Base])
    await resharding.plan(even=True)
    await resharding.run(finish=True)


async def test_keys_on_a_shard_without_a_url_are_refused_with_what_to_do_and_others_served(
    shards: Topology, cluster: ShardedCluster
) -> None:
    await moved(shards)
    await cluster.refresh()
    gone = next(key for key in range(40) if cluster.map.shard_of(key) == "s1")
    here = next(key for key in range(40) if cluster.map.shard_of(key) == "s0")

    async def in_a_session() -> None:
        async with cluster.session() as session:
            await session.execute(update(Ticket).where(Ticket.rider == gone).values(id=gone))

    async def streamed() -> None:
        async with cluster.stream(select(Ticket.id).order_by(Ticket.id)) as rows:
            assert [row async for row in rows]

    for call in (
        lambda: cluster.execute(select(Ticket).where(Ticket.rider == gone)),
        lambda: cluster.execute(insert(Ticket).values(id=1000, rider=gone)),
        lambda: cluster.execute(select(func.count()).select_from(Ticket)),
        lambda: cluster.insert(Ticket, [{"id": 1000, "rider": gone}]),
        in_a_session,
        streamed,
    ):
        with pytest.raises(
            UnknownShard, match=rf'shard s1 .* epoch {cluster.map.epoch}.*add_shard\("s1", url\)'
        ) as told:
            await call()
        assert (told.value.shard, told.value.epoch) == ("s1", cluster.map.epoch)
    assert (await cluster.execute(select(Ticket.id).where(Ticket.rider == here))).scalars().all() == [here]

    await cluster.add_shard("s1", shards.shards[1].url)
    assert (await cluster.execute(select(Ticket.id).where(Ticket.rider == gone))).scalars().all() == [gone]
    assert (await cluster.execute(select(func.count()).select_from(Ticket))).scalar_one() == 40
    await in_a_session()
    assert cluster.shards == ("s0", "s1")
    with pytest.raises(MisuseError, match="another shard than s0, s1, got 's1'"):
        await cluster.add_shard("s1", shards.shards[1].url)


async def test_a_shard_that_is_added_first_is_used_as_soon_as_buckets_go_there(
    shards: Topology, cluster: ShardedCluster
) -> None:
    """Its outbox too, by a dispatcher that has been running since before."""

    async def rename(session: AsyncSession, message: Message) -> None:
        await session.execute(update(Ticket).where(Ticket.rider == message.key).values(id=message.body))

    outbox = Outbox(cluster)
    await outbox.create_tables()
    async with Dispatcher(cluster, {"rename": rename}, options=OutboxOptions(poll="50ms")) as dispatcher:
        await cluster.add_shard("s1", shards.shards[1].url)
        await outbox.create_tables()
        await moved(shards)
        await cluster.execute(select(func.count()).select_from(Ticket))  # meets the new map
        gone = next(key for key in range(40) if cluster.map.shard_of(key) == "s1")
        async with cluster.session(shard_key=gone) as session:
            await outbox.send(session, "rename", key=gone, body=1000 + gone)
            await session.commit()
        async with asyncio.timeout(30):
            while not dispatcher.counters.delivered:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (await cluster.execute(select(Ticket.id).where(Ticket.rider == gone))).scalar_one() == 1000 + gone


async def test_a_wrong_url_is_refused_and_leaves_nothing(shards: Topology, cluster: ShardedCluster) -> None:
    with pytest.raises(MisuseError, match="the database given as s1 says that it is shard s0"):
        await cluster.add_shard("s1", shards.shards[0].url)
    with pytest.raises((OSError, sa.exc.DBAPIError)):
        await cluster.add_shard("s1", "postgresql://tenfold@127.0.0.1:1/postgres")
    assert cluster.shards == ("s0",)
    await cluster.add_shard("s1", shards.shards[1].url)
