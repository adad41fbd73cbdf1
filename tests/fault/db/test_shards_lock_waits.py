"""Transactions over several shards that wait for each other: each server sees half of the circle, none the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import RetriesExhausted, RunOptions
from tenfold.db.shards import CrossShardTransaction, LockTimeout, ShardedCluster, TwoPhase
from tenfold.resilience import Deadline, DeadlineExceeded
from tenfold.servers import Topology


class Base(DeclarativeBase):
    pass


class Purse(Base):
    __tablename__ = "purses"
    __shard_key__ = "owner"
    owner: Mapped[int] = mapped_column(primary_key=True)
    money: Mapped[int]


@pytest.fixture(scope="module")
def servers(plain: Callable[[int], Topology]) -> Topology:
    return plain(2)


@pytest.fixture
async def cluster(servers: Topology, remade: Callable[..., Awaitable[None]]) -> AsyncIterator[ShardedCluster]:
    async with ShardedCluster([shard.url for shard in servers.shards], models=[Base]) as cluster:
        await remade(cluster, Base.metadata)
        await cluster.insert(Purse, [{"owner": n, "money": 100} for n in range(20)])
        yield cluster


def owners(cluster: ShardedCluster) -> tuple[int, int]:
    one, other = (next(n for n in range(20) if cluster.map.shard_of(n) == name) for name in ("s0", "s1"))
    return one, other


async def add(tx: CrossShardTransaction, owner: int, money: int) -> None:
    session = await tx.session(owner)
    await session.execute(update(Purse).where(Purse.owner == owner).values(money=Purse.money + money))


async def money(cluster: ShardedCluster, *who: int) -> list[int]:
    rows = await cluster.execute(select(Purse.owner, Purse.money).where(Purse.owner.in_(who)))
    found = {row.owner: row.money for row in rows}
    return [found[one] for one in who]


async def test_a_deadlock_across_shards_ends_and_both_commit(cluster: ShardedCluster) -> None:
    """Two transactions hold a row each on shards of their own, and want the other's."""
    one, other = owners(cluster)
    both = asyncio.Barrier(2)
    attempts = 0

    async with TwoPhase(cluster, lock_timeout="500ms") as two:

        async def move(giver: int, taker: int, amount: int) -> None:
            first = True

            async def work(tx: CrossShardTransaction) -> None:
                nonlocal attempts, first
                attempts += 1
                again, first = not first, False
                await add(tx, giver, -amount)
                if not again:
                    await both.wait()
                await add(tx, taker, amount)

            await two.run(work, options=RunOptions(attempts=50))

        async with asyncio.timeout(60):
            await asyncio.gather(move(one, other, 5), move(other, one, 7))
        assert attempts == 2 + two.retries
        assert two.retries >= 1
        assert two.committed == 2
        assert await money(cluster, one, other) == [102, 98]
        assert (await cluster.execute(select(func.sum(Purse.money)))).scalar_one() == 2000
        assert (await two.recover()).complete


async def test_many_that_touch_keys_in_any_order_all_end(cluster: ShardedCluster) -> None:
    one, other = owners(cluster)
    async with TwoPhase(cluster, lock_timeout="200ms") as two:

        async def move(giver: int, taker: int) -> None:
            async def work(tx: CrossShardTransaction) -> None:
                await add(tx, giver, -1)
                await add(tx, taker, 1)

            await two.run(work, options=RunOptions(attempts=100))

        async with asyncio.timeout(90):
            await asyncio.gather(*(move(*((one, other) if n % 2 else (other, one))) for n in range(8)))
        assert two.committed == 8
        assert await money(cluster, one, other) == [100, 100]


async def test_a_wait_is_bounded_from_the_second_shard_on_and_told_in_a_sentence(cluster: ShardedCluster) -> None:
    one, other = owners(cluster)
    async with TwoPhase(cluster, lock_timeout="100ms") as two, cluster.async_engine("s0").begin() as holder:
        await holder.execute(update(Purse).where(Purse.owner == one).values(money=1))

        async def work(tx: CrossShardTransaction) -> None:
            await add(tx, other, 1)
            await add(tx, one, 1)

        with pytest.raises(LockTimeout, match=r"on s1, s0 waited up to 100 ms for a lock.*two.run") as told:
            async with two.transaction() as tx:
                await work(tx)
        assert told.value.shards == ("s1", "s0")

        async def first_again(tx: CrossShardTransaction) -> None:
            await tx.session(one)  # bounded too, although it was opened first
            await add(tx, other, 1)
            await add(tx, one, 1)

        with pytest.raises(RetriesExhausted, match="failed 2 times, the last time with: the transaction on s0, s1"):
            await two.run(first_again, options=RunOptions(attempts=2))
        with pytest.raises(DeadlineExceeded):
            await two.run(work, deadline="300ms", options=RunOptions(attempts=100))
        with pytest.raises(DBAPIError, match="could not obtain lock"):  # noqa: PT012 - NOWAIT's
            async with two.transaction() as tx:
                await tx.session(other)
                await (await tx.session(one)).execute(
                    select(Purse).where(Purse.owner == one).with_for_update(nowait=True)
                )
        assert (two.committed, await money(cluster, other)) == (0, [100])
        async with cluster.async_engine("s1").begin() as free:
            await free.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
            await free.execute(update(Purse).where(Purse.owner == other).values(money=100))


async def test_the_deadline_is_told_to_the_servers(cluster: ShardedCluster) -> None:
    one, other = owners(cluster)
    show = sa.text("SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'")
    async with TwoPhase(cluster) as two:
        async with Deadline("20s"), two.transaction() as tx:
            sessions = [await tx.session(key) for key in (one, other)]
            for session in sessions:
                assert 0 < (await session.execute(show)).scalar_one() <= 20_500
        async with two.transaction() as tx:
            sessions = [await tx.session(key) for key in (one, other)]
            assert [(await session.execute(show)).scalar_one() for session in sessions] == [0, 0]
    with pytest.raises(MisuseError, match="lock_timeout: expected"):
        TwoPhase(cluster, lock_timeout=0)
