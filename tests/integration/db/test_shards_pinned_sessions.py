"""Sessions that are told their shard key with a call, and what they find by an id alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from tenfold.db.shards import CannotAnswer, CrossShard, ShardedCluster
from tenfold.servers import Topology


class Base(DeclarativeBase):
    pass


class Country(Base):
    __tablename__ = "pinned_countries"
    __shard_everywhere__ = True
    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list[Order]] = relationship(back_populates="country")


class Order(Base):
    __tablename__ = "pinned_orders"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int] = mapped_column(default=0)
    country_id: Mapped[int] = mapped_column(sa.ForeignKey("pinned_countries.id"), default=1)
    country: Mapped[Country] = relationship(back_populates="orders")
    lines: Mapped[list[Line]] = relationship(back_populates="order", order_by="Line.id")


class Line(Base):
    __tablename__ = "pinned_lines"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    order_id: Mapped[int] = mapped_column(sa.ForeignKey("pinned_orders.id"))
    order: Mapped[Order] = relationship(back_populates="lines")


@pytest.fixture(scope="module")
def servers(plain: Callable[[int], Topology]) -> Topology:
    return plain(2)


@pytest.fixture
async def cluster(servers: Topology) -> AsyncIterator[ShardedCluster]:
    """Orders 1 … 8 of the customers of these numbers, with two lines each."""
    async with ShardedCluster([shard.url for shard in servers.shards], models=[Base], pool_size=3) as cluster:
        for name in cluster.shards:
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
                await connection.execute(sa.insert(Country), [{"id": 1}])
        keys = range(1, 9)
        await cluster.insert(Order, [{"id": n, "customer": n, "total": n, "country_id": 1} for n in keys])
        lines = [{"id": n * 10 + part, "customer": n, "order_id": n} for n in keys for part in (1, 2)]
        await cluster.insert(Line, lines)
        yield cluster


def pair(cluster: ShardedCluster) -> tuple[int, int]:
    """A customer of the second shard, and one of the first: the home, where tables that stand everywhere are read."""
    second = next(key for key in range(1, 9) if cluster.map.shard_of(key) == cluster.map.names[1])
    return second, next(key for key in range(1, 9) if cluster.map.shard_of(key) == cluster.map.names[0])


def pin(key: int) -> dict[str, int]:
    return {"shard_key": key}


async def test_the_pin_of_a_call_is_obeyed(cluster: ShardedCluster) -> None:
    one, other = pair(cluster)
    async with cluster.session() as session:
        with pytest.raises(CannotAnswer, match="shard_key"):
            await session.get(Order, one)
        found = await session.get(Order, one, execution_options=pin(one))
        assert found is not None
        assert found.customer == one
        assert session.sync_session.shard == cluster.map.shard_of(one)  # type: ignore[attr-defined]
        with pytest.raises(CrossShard):
            await session.get(Order, other, execution_options=pin(other))
        assert await session.get(Order, other, execution_options=pin(one)) is None  # the caller has said where
    async with cluster.session() as session:
        statement = select(Order).where(Order.id == one)
        assert [order.id for order in await session.scalars(statement, execution_options=pin(one))] == [one]
    async with cluster.session() as session:
        everything = select(Order.customer)
        found_here = set(await session.scalars(everything, execution_options=pin(one)))
        assert one in found_here
        assert other not in found_here
    async with cluster.session() as session:
        change = sa.update(Order).where(Order.id == one).values(total=99)
        await session.execute(change, execution_options=pin(one))
        await session.commit()
    totals = select(Order.total).where(Order.customer == one)
    assert (await cluster.execute(totals)).scalars().all() == [99]


async def test_the_pin_of_a_call_is_checked_where_the_session_was_opened_for_a_key(cluster: ShardedCluster) -> None:
    one, other = pair(cluster)
    async with cluster.session(shard_key=one) as session:
        with pytest.raises(CrossShard):
            await session.get(Order, other, execution_options=pin(other))
        assert await session.get(Order, other) is None  # it was asked of this customer's shard
        found = await session.get(Order, one)
        assert found is not None
        assert (await session.get(Country, 1)) is not None


async def test_what_is_found_by_its_id_is_given_and_what_is_not_found_is_no_answer(cluster: ShardedCluster) -> None:
    one, other = pair(cluster)
    async with cluster.session() as session:
        (await session.scalars(select(Line).where(Line.customer == one))).all()
        found = await session.get(Order, one)
        assert found is not None
        assert found.customer == one
        for ask in (session.get, session.get_one):
            with pytest.raises(CannotAnswer, match=r"no Order \d+ on shard s1.*execution_options"):
                await ask(Order, other)
        with pytest.raises(CannotAnswer, match="entities of several shards"):
            await session.scalars(select(Order).where(Order.id == one))


async def test_merge_looks_where_its_object_belongs(cluster: ShardedCluster) -> None:
    one, other = pair(cluster)
    async with cluster.session() as session:
        await session.merge(Order(id=one, customer=one, total=5))
        await session.merge(Order(id=100 + one, customer=one, total=6))  # not there yet
        with pytest.raises(CrossShard):
            await session.merge(Order(id=other, customer=other, total=7))
        await session.commit()
    found = await cluster.execute(select(Order.id, Order.total).where(Order.customer == one).order_by(Order.id))
    assert found.all() == [(one, 5), (100 + one, 6)]


async def test_what_is_loaded_for_an_object_is_read_where_the_object_lives(cluster: ShardedCluster) -> None:
    one, other = pair(cluster)
    async with cluster.session() as session:
        order = (
            await session.scalars(select(Order).where(Order.customer == one).options(selectinload(Order.lines)))
        ).one()
        assert [line.id for line in order.lines] == [one * 10 + 1, one * 10 + 2]
        await session.commit()  # everything expires, the shard key too
        await session.refresh(order, ["total", "lines"])
        assert (order.total, len(order.lines)) == (one, 2)
        assert session.sync_session.shard == cluster.map.shard_of(one)  # type: ignore[attr-defined]
        await session.commit()
        total = await session.run_sync(lambda _: order.total)
        assert total == one
        await session.commit()
        (await session.scalars(select(Line).where(Line.customer == other))).all()  # elsewhere this time
        with pytest.raises(CrossShard):
            await session.refresh(order)
    async with cluster.session(expire_on_commit=False) as session:
        order = (await session.scalars(select(Order).where(Order.customer == one))).one()
        await session.commit()
        (await session.scalars(select(Line).where(Line.customer == other))).all()
        with pytest.raises(CrossShard):  # and not "it has no lines"
            await session.run_sync(lambda _: order.lines)
        await session.rollback()
        await session.refresh(order)
        assert [line.id for line in await session.run_sync(lambda _: order.lines)] == [one * 10 + 1, one * 10 + 2]


async def test_an_object_that_was_made_here_is_found_again_after_the_commit(cluster: ShardedCluster) -> None:
    one, _ = pair(cluster)
    async with cluster.session() as session:
        order = Order(id=500, customer=one)
        session.add(order)
        await session.commit()
        await session.refresh(order)
        assert order.customer == one
        await session.commit()
        order.total = 8  # a write to what has expired
        await session.commit()
    async with cluster.session(shard_key=one) as session:
        found = await session.get(Order, 500)
        assert found is not None
        await session.commit()
        found.total = 10  # the same in a session that was opened for the key
        await session.commit()
    assert (await cluster.execute(select(Order.total).where(Order.customer == one, Order.id == 500))).all() == [(10,)]


async def test_tables_that_stand_everywhere_are_read_on_the_session_s_shard(cluster: ShardedCluster) -> None:
    one, _ = pair(cluster)
    async with cluster.session() as session:
        order = (await session.scalars(select(Order).where(Order.customer == one))).one()
        assert (await session.scalars(select(Country.id))).all() == [1]
        assert (await session.get(Country, 1)) is not None
        assert await session.get(Country, 2) is None  # it stands on every shard, so this is an answer
        country = await session.run_sync(lambda _: order.country)
        with pytest.raises(CannotAnswer, match="entities of several shards"):  # its orders are on all shards
            await session.run_sync(lambda _: country.orders)
    async with cluster.session() as session:
        with pytest.raises(CannotAnswer, match="loader options"):
            (await session.scalars(select(Country).options(selectinload(Country.orders)))).all()
    async with cluster.session(shard=cluster.map.names[1]) as session:
        session.add(Country(id=2))
        await session.commit()
        assert await session.get(Country, 2) is not None
