"""Loads gathered into one query, bulk upserts and hot counters, on one real PostgreSQL."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    UniqueConstraint,
    event,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.bulk import Upserted, upsert
from tenfold.db.dataloader import KeyNotFound, Loader, many_by, one_by
from tenfold.db.hot_rows import HotRowBusy, HotRows, UnknownHotRow, hot_rows_table
from tenfold.resilience import Deadline


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))


META: MetaData = Base.metadata
PRICES = Table(
    "Prices",
    META,
    Column("id", Integer, primary_key=True),
    Column("sku", String, nullable=False),
    Column("shop", Integer, nullable=False, server_default="1"),
    Column("Price", Numeric(10, 2)),
    Column("extra", JSON),
    Column("at", DateTime(timezone=True)),
    Column("doubled", Numeric, nullable=True),
    UniqueConstraint("shop", "sku"),
    Index("some_prices", "Price", unique=True, postgresql_where=text("false")),
)
STOCK = hot_rows_table("stock", META, String)


@pytest.fixture
async def engine(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(META.drop_all)
        await connection.run_sync(META.create_all)
    return engine


def queries(engine: AsyncEngine) -> list[str]:
    seen: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    return seen


# -- loads by key


async def test_a_hundred_nested_objects_are_two_queries(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Customer), [{"id": n, "name": f"c{n}"} for n in range(30)])
        await connection.execute(insert(Order), [{"id": n, "customer_id": n % 30} for n in range(100)])
    seen = queries(engine)
    async with AsyncSession(engine) as session, one_by(session, select(Customer), Customer.id) as customers:

        async def resolve(order: Order) -> str:
            return str((await customers(order.customer_id)).name)

        orders = list(await session.scalars(select(Order).order_by(Order.id)))
        names = await asyncio.gather(*map(resolve, orders))
    assert names == [f"c{n % 30}" for n in range(100)]
    assert len(seen) == 2
    assert (customers.batches, customers.loads, customers.hits) == (1, 30, 70)


async def test_rows_of_many_and_of_none(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Customer), [{"id": n, "name": "x"} for n in range(3)])
        await connection.execute(insert(Order), [{"id": n, "customer_id": n % 2} for n in range(5)])
    cluster = create_async_cluster(engine.url)
    async with (
        cluster,
        cluster.connect(read_only=True) as connection,
        many_by(connection, select(Order.id).order_by(Order.id.desc()), Order.customer_id) as orders,
        one_by(connection, select(Customer.id, Customer.name), Customer.id) as customers,
    ):
        assert await orders.many([1, 0, 2, 1]) == [[3, 1], [4, 2, 0], [], [3, 1]]
        assert await customers.many([2, 9]) == [(2, "x"), None]


async def test_one_text_for_any_number_of_keys(engine: AsyncEngine) -> None:
    seen = queries(engine)
    async with AsyncSession(engine) as session:
        for count in (1, 2, 50):
            async with one_by(session, select(Customer), Customer.id) as customers:
                assert await customers.many(range(count)) == [None] * count
    assert len(seen) == 3
    assert len(set(seen)) == 1


async def test_batches_are_bounded_and_run_in_turn() -> None:
    calls: list[int] = []
    running = 0

    async def load(keys: list[int]) -> dict[int, int]:
        nonlocal running
        running += 1
        assert running == 1
        calls.append(len(keys))
        await asyncio.sleep(0)
        running -= 1
        return {key: -key for key in keys}

    async with Loader(load, max_batch=40) as loader:
        assert await loader.many(range(100)) == [-n for n in range(100)]
        assert await asyncio.gather(*[loader(n) for n in range(100)]) == [-n for n in range(100)]
    assert calls == [40, 40, 20]


async def test_an_error_is_of_its_key_alone_and_not_kept() -> None:
    sick = True

    async def load(keys: list[int]) -> dict[int, Any]:
        if 99 in keys:
            raise OSError("down")
        return {key: ValueError(f"bad {key}") if key == 2 and sick else key for key in keys if key != 3}

    async with Loader(load) as loader:
        found = await asyncio.gather(*[loader(n) for n in range(4)], return_exceptions=True)
        assert found[:2] == [0, 1]
        assert isinstance(found[2], ValueError)
        assert isinstance(found[3], KeyNotFound)
        assert found[3].key == 3
        sick = False
        assert await loader(2) == 2
        both = await asyncio.gather(loader(99), loader(98), return_exceptions=True)
        assert [type(one) for one in both] == [OSError, OSError]
        assert await loader(98) == 98


async def test_cancelling_one_waiter_harms_no_other() -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    async def load(keys: list[int]) -> dict[int, int]:
        begun.set()
        await go.wait()
        return {key: key for key in keys}

    async with Loader(load) as loader:
        first, second, other = (asyncio.create_task(loader(n)) for n in (7, 7, 8))
        await begun.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert (await second, await other, loader.batches) == (7, 8, 1)
    with pytest.raises(MisuseError, match="not open"):
        await loader(9)


async def test_leaving_the_scope_ends_its_loads() -> None:
    begun = asyncio.Event()

    async def load(keys: list[int]) -> dict[int, int]:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with Loader(load) as loader:
        waiter = asyncio.create_task(loader(1))
        await begun.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_the_deadline_of_the_scope_is_the_load_s() -> None:
    from tenfold.resilience import remaining

    async def load(keys: list[int]) -> dict[int, float | None]:
        return {key: remaining() for key in keys}

    async with Deadline("60s"), Loader(load) as loader:

        async def hurried() -> float | None:
            async with Deadline("1s"):
                return await loader(1)

        left = await asyncio.create_task(hurried())
        assert left is not None
        assert left > 50


async def test_known_keys_are_bounded_and_forgotten_on_request() -> None:
    calls: list[list[int]] = []

    async def load(keys: list[int]) -> dict[int, int]:
        calls.append(keys)
        return {key: key for key in keys}

    async with Loader(load, max_keys=10) as loader:
        for n in range(25):
            await loader(n)
        assert len(loader._futures) <= 10
        loader.prime(1, 100)
        assert await loader(1) == 100
        loader.forget(1)
        assert await loader(1) == 1
    assert len(calls) == 26


# -- bulk


def prices(start: int, stop: int, price: str = "1.00") -> Iterator[dict[str, Any]]:
    for n in range(start, stop):
        yield {"id": n, "sku": f"s{n}", "Price": Decimal(price)}


async def test_counts_and_values(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        assert await upsert(connection, PRICES, prices(0, 10), chunk=3) == Upserted(10, 10, 0, 0, 0)
        assert await upsert(connection, PRICES, prices(5, 12), skip_unchanged=True) == Upserted(7, 2, 0, 5, 0)
        assert await upsert(connection, PRICES, prices(5, 12), update=[]) == Upserted(7, 0, 0, 7, 0)
        assert await upsert(connection, PRICES, prices(8, 14, "2.50"), update=["Price"]) == Upserted(6, 2, 4, 0, 0)
        assert await upsert(connection, PRICES, []) == Upserted(0, 0, 0, 0, 0)
        rows = (await connection.execute(select(PRICES.c.id, PRICES.c.shop, PRICES.c.Price).order_by("id"))).all()
    assert [tuple(row) for row in rows] == [(n, 1, Decimal("2.50" if n >= 8 else "1.00")) for n in range(14)]


async def test_the_last_of_a_key_counts_within_and_across_chunks(engine: AsyncEngine) -> None:
    random = Random(5)
    rows = [{"id": (key := random.randrange(9)), "sku": f"s{key}", "Price": n} for n in range(600)]
    last = {row["id"]: row["Price"] for row in rows}
    for chunk in (100, 1000):
        async with engine.begin() as connection:
            done = await upsert(connection, PRICES, rows, chunk=chunk)
            assert (done.read, done.inserted + done.updated + done.replaced) == (600, 600)
            found = (await connection.execute(select(PRICES.c.id, PRICES.c.Price))).all()
            assert dict(map(tuple, found)) == last
            await connection.execute(update(PRICES).values(Price=-1))


async def test_values_pass_through_the_table_s_types(engine: AsyncEngine) -> None:
    at = datetime(2024, 2, 29, 12, tzinfo=UTC)
    rows = [
        {"id": 1, "sku": "it's ü\t\\N", "extra": {"a": [1, None, "ü"]}, "at": at, "doubled": 1.5},
        {"id": 2, "sku": "", "extra": None, "at": None, "doubled": None},
    ]
    async with AsyncSession(engine) as session:
        await upsert(session, PRICES, rows, on=["sku", "shop"] if "shop" in rows[0] else None)
        await session.commit()
        found = (await session.execute(select(PRICES).order_by(PRICES.c.id))).mappings().all()
    assert [{name: row[name] for name in rows[0]} for row in found] == rows


async def test_another_unique_constraint_is_a_target(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        rows = [{"id": n, "sku": "a", "shop": n} for n in range(3)]
        assert (await upsert(connection, PRICES, rows, on=["sku", "shop"])).inserted == 3
        again = [{"id": 10 + n, "sku": "a", "shop": n} for n in range(2, 4)]
        assert await upsert(connection, PRICES, again, on=["sku", "shop"]) == Upserted(2, 1, 1, 0, 0)
        assert sorted((await connection.execute(select(PRICES.c.id))).scalars()) == [0, 1, 12, 13]


async def test_a_long_stream_takes_the_memory_of_a_chunk(engine: AsyncEngine) -> None:
    async def stream() -> AsyncIterator[dict[str, Any]]:
        for n in range(12_000):
            yield {"id": n, "sku": f"{n:0100}"}

    async with engine.begin() as connection:
        tracemalloc.start()
        try:
            assert (await upsert(connection, PRICES, stream(), chunk=500)).inserted == 12_000
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2_000_000, peak  # all rows at once take 5 MB
        assert (await connection.execute(select(func.count()).select_from(PRICES))).scalar_one() == 12_000
        left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'tenfold_bulk%'"
        assert (await connection.execute(text(left))).scalar_one() == 0


async def test_what_does_not_fit_is_refused(engine: AsyncEngine) -> None:
    cases: list[tuple[Any, str]] = [
        ({"rows": prices(0, 1), "on": ["sku"]}, r"on=\['sku'\] is no primary key.*Expected: id; shop, sku"),
        ({"rows": prices(0, 1), "on": ["Price"]}, "is no primary key"),
        ({"rows": [{"id": 1, "nope": 2}]}, "Prices has no column 'nope'"),
        ({"rows": [{"sku": "x"}]}, "the rows lack id"),
        ({"rows": [{"id": 1, "sku": "x"}, {"id": 2}]}, "row 1 has the columns id; expected those of the first row"),
        ({"rows": prices(0, 1), "chunk": 0}, "chunk: expected a whole number"),
    ]
    for given, sentence in cases:
        async with engine.connect() as connection:
            with pytest.raises(MisuseError, match=sentence):
                await upsert(connection, PRICES, **given)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(MisuseError, match="expected a transaction"):
            await upsert(connection, PRICES, prices(0, 1))


# -- hot rows


async def test_taking_gathers_from_buckets_and_refuses_only_what_is_not_there(engine: AsyncEngine) -> None:
    stock = HotRows(STOCK, random=Random(1))
    async with engine.begin() as connection:
        await stock.open(connection, "a", 20)  # four buckets have 2, twelve have 1
        assert await stock.total(connection, "a") == 20
        assert await stock.take(connection, "a", 2)
        assert await stock.take(connection, "a", 7)  # no bucket has that many
        assert await stock.total(connection, "a") == 11
        assert not await stock.take(connection, "a", 12)
        assert await stock.take(connection, "a", 11)
        assert not await stock.take(connection, "a")
        await stock.put(connection, "a", 5)
        assert await stock.rebalance(connection, "a") == 5
        amounts = (await connection.execute(select(STOCK.c.amount).order_by(STOCK.c.bucket))).scalars().all()
        assert amounts == [1] * 5 + [0] * 11
        assert await stock.take_many(connection, {"a": 2}) == []
        assert await stock.take_many(connection, {"a": 4}) == ["a"]
        for use in (stock.take, stock.put, stock.rebalance, stock.total):
            with pytest.raises(UnknownHotRow, match="no buckets for 'b'"):
                await use(connection, "b")


@pytest.mark.parametrize(("commits", "taken"), [(False, True), (True, False)])
async def test_locked_is_not_sold_out(engine: AsyncEngine, commits: bool, taken: bool) -> None:
    """One holds every bucket: the next one waits for the outcome and then has it, or is refused truly."""
    stock = HotRows(STOCK)
    async with engine.begin() as connection:
        await stock.open(connection, "a", 16)
    async with engine.connect() as holder, engine.connect() as second:
        assert await stock.take(holder, "a", 15)
        await holder.execute(select(STOCK).with_for_update())
        waiting = asyncio.create_task(stock.take(second, "a", 2))
        await blocked(engine)
        assert not waiting.done()
        await (holder.commit() if commits else holder.rollback())
        assert await waiting is taken


async def blocked(engine: AsyncEngine) -> None:
    """Returns once some backend waits for a lock."""
    waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(10), engine.connect() as connection:
        while not (await connection.execute(waits)).scalar_one():
            await connection.rollback()


async def test_who_waits_too_long_is_told_so_and_not_sold_out(engine: AsyncEngine) -> None:
    stock = HotRows(STOCK, wait="30s")
    async with engine.begin() as connection:
        await stock.open(connection, "a", 16)
    async with engine.connect() as holder, engine.connect() as second:
        await holder.execute(select(STOCK).with_for_update())
        with Deadline("200ms"), pytest.raises(HotRowBusy, match="the buckets of 'a' were in use for"):
            await stock.take(second, "a")
        await second.rollback()
        with Deadline("200ms"), pytest.raises(HotRowBusy):
            await stock.put(second, "a")
        await second.rollback()
        assert not await stock.take(second, "a", 17)  # certain without waiting
        assert (await second.execute(text("SHOW lock_timeout"))).scalar_one() == "0"


@pytest.mark.parametrize(("keys", "most"), [("a", 1), ("a", 3), ("abc", 3)])
async def test_a_sale_sells_exactly_what_there_is(engine: AsyncEngine, keys: str, most: int) -> None:
    """16 clients who never try again, some of whom roll back or put back: nobody is in a deadlock or finds the buckets
    busy, the last piece is sold and none twice, and who is refused wanted more than there was.
    """
    stock = HotRows(STOCK, wait="60s")
    wrong: list[Any] = []
    event.listen(engine.sync_engine, "handle_error", lambda context: wrong.append(context.original_exception))
    async with engine.begin() as connection:
        for key in keys:
            await stock.open(connection, key, 100)
    known = {key: [100] for key in keys}  # never more than is committed: without what is being committed
    sold = dict.fromkeys(keys, 0)

    async def client(seed: int) -> None:
        random = Random(seed)
        while not all(there[-1] < 1 for there in known.values()):
            chosen = random.sample(keys, random.randint(1, len(keys)))
            wanted = {key: random.randint(1, most) for key in chosen}
            since = {key: len(there) - 1 for key, there in known.items()}
            async with engine.connect() as connection:
                lacking = await stock.take_many(connection, wanted)
                for key in lacking:
                    assert min(known[key][since[key] :]) < wanted[key], "refused, although there was enough"
                if lacking or random.random() < 0.1:
                    continue  # rolled back
                back = random.choice(chosen) if most > 1 and random.random() < 0.1 else None
                if back:
                    await stock.put(connection, back, 1)
                for key, n in wanted.items():
                    known[key].append(known[key][-1] - n)
                await connection.commit()
                for key, n in wanted.items():
                    sold[key] += n - (key == back)
                if back:
                    known[back].append(known[back][-1] + 1)

    await asyncio.gather(*[client(seed) for seed in range(16)])
    assert wrong == []
    async with engine.begin() as connection:
        assert sold == dict.fromkeys(keys, 100)
        assert [await stock.total(connection, key) for key in keys] == [0] * len(keys)
        with pytest.raises(DBAPIError, match="check constraint"):
            await connection.execute(update(STOCK).values(amount=-1))


def test_hot_row_refusals() -> None:
    with pytest.raises(MisuseError, match="buckets: expected a whole number"):
        HotRows(STOCK, buckets=0)
    with pytest.raises(MisuseError, match="expected one of hot_rows_table"):
        HotRows(PRICES)
