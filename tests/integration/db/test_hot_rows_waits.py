"""Who waits for whom at hot rows: what PostgreSQL leaves locked, that it is given up, and how a circle ends."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.hot_rows import HotRowBusy, HotRows, hot_rows_table


class Base(DeclarativeBase):
    pass


class Sale(Base):
    __tablename__ = "sales"
    id: Mapped[int] = mapped_column(primary_key=True)


META: MetaData = Base.metadata
STOCK = hot_rows_table("stock", META)
FREE = text("SELECT bucket FROM stock ORDER BY bucket FOR UPDATE SKIP LOCKED")

# Row security asks for each row that is read and has enough, before any is locked: the snapshot is taken by then.
PAUSED = """
CREATE FUNCTION pause() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_advisory_lock(7); PERFORM pg_advisory_unlock(7); RETURN true;
END $$;
CREATE POLICY paused ON stock USING (pause());
ALTER TABLE stock ENABLE ROW LEVEL SECURITY;
CREATE ROLE buyer;
GRANT ALL ON stock TO buyer;
"""
NOT_PAUSED = "DROP TABLE IF EXISTS stock; DROP FUNCTION IF EXISTS pause; DROP ROLE IF EXISTS buyer"


@pytest.fixture
async def engine(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        for statement in NOT_PAUSED.split(";"):
            await connection.execute(text(statement))
        await connection.run_sync(META.drop_all)
        await connection.run_sync(META.create_all)
    return engine


class First(Random):
    """Begins with bucket 0."""

    def randrange(self, *_: Any, **__: Any) -> int:
        return 0


async def waiting(connection: AsyncConnection, count: int) -> None:
    """Returns once that many backends wait for a lock."""
    async with asyncio.timeout(30):
        while True:
            found = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            if found.scalar_one() >= count:
                return


async def pausable(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.execute(PAUSED)


@pytest.mark.parametrize(
    ("change", "taken", "free"),
    [
        # PostgreSQL's way: 0 and 1 were locked, found too empty and kept, and 2 was taken.
        ("UPDATE stock SET amount = 0 WHERE bucket < 2", True, list(range(3, 16))),
        # All were locked and found too empty; nothing of that is left.
        ("UPDATE stock SET amount = 0", False, list(range(16))),
        ("UPDATE stock SET amount = 1 WHERE bucket = 0", True, list(range(2, 16))),
    ],
)
async def test_a_look_that_found_nothing_leaves_no_lock(
    engine: AsyncEngine, change: str, taken: bool, free: list[int]
) -> None:
    stock = HotRows(STOCK, random=First())
    async with engine.begin() as connection:
        await stock.open(connection, "a", 32)
    await pausable(engine)
    async with engine.connect() as buyer, engine.connect() as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        await other.execute(text("SELECT pg_advisory_lock(7)"))
        await buyer.execute(text("SET LOCAL ROLE buyer"))
        taking = asyncio.create_task(stock.take(buyer, "a", 2))
        await waiting(other, 1)
        await other.execute(text(change))
        await other.execute(text("SELECT pg_advisory_unlock(7)"))
        assert await taking is taken
        assert list((await other.execute(FREE)).scalars()) == free


class Halting:
    """A connection whose user goes on after the first look only when the other one has looked, too."""

    def __init__(self, connection: AsyncConnection, stock: HotRows, both: asyncio.Barrier) -> None:
        self.connection, self.stock, self.both = connection, stock, both
        self.sync_connection = connection.sync_connection

    async def execute(self, statement: Any, values: Any = None) -> Any:
        found = await self.connection.execute(statement, values)
        if statement is self.stock._sql(self.connection).take:
            await self.both.wait()
        return found


async def test_two_whose_looks_found_nothing_do_not_wait_for_each_other(engine: AsyncEngine) -> None:
    """One's snapshot says that bucket 0 has 2, the other's says it of bucket 1; each has 1 when it is locked."""
    stock, both = HotRows(STOCK, buckets=2, wait="60s"), asyncio.Barrier(2)
    async with engine.begin() as connection:
        await stock.open(connection, "a", 3)
    await pausable(engine)
    async with engine.connect() as one, engine.connect() as two, engine.connect() as other:
        await other.execution_options(isolation_level="AUTOCOMMIT")
        await other.execute(text("SELECT pg_advisory_lock(7)"))

        async def purchase(connection: AsyncConnection) -> bool:
            await connection.execute(text("SET LOCAL ROLE buyer"))
            halting: Any = Halting(connection, stock, both)
            taken = await stock.take(halting, "a", 2)
            await connection.commit()
            return taken

        first = asyncio.create_task(purchase(one))
        await waiting(other, 1)
        await other.execute(text("UPDATE stock SET amount = bucket + 1"))
        second = asyncio.create_task(purchase(two))
        await waiting(other, 2)
        await other.execute(text("UPDATE stock SET amount = 1"))
        await other.execute(text("SELECT pg_advisory_unlock(7)"))
        assert sorted(await asyncio.gather(first, second)) == [False, True]
        assert await stock.total(other, "a") == 0


async def test_of_two_who_want_what_the_other_has_taken_one_goes_on(engine: AsyncEngine) -> None:
    stock = HotRows(STOCK, buckets=2, wait="60s")
    async with engine.begin() as connection:
        await stock.open(connection, "a", 2)

    async def wants_the_other_one(connection: AsyncConnection) -> Any:
        try:
            return await stock.take(connection, "a")
        except HotRowBusy as busy:
            assert (await connection.execute(text("SELECT 1"))).scalar_one()  # the transaction is not broken
            await connection.rollback()
            return str(busy)

    async with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            await connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            assert await stock.take(connection, "a")
        said = await asyncio.gather(wants_the_other_one(one), wants_the_other_one(two))
        refused = next(answer for answer in said if answer is not True)
        assert [answer for answer in said if answer is True] == [True]
        assert refused == (
            "stock: the buckets of 'a' were in use by a transaction that waited for this one; roll back and try again"
        )


async def test_a_first_look_that_ends_a_deadlock_is_a_look_that_found_nothing(engine: AsyncEngine) -> None:
    """A trigger makes the statement wait while it holds a bucket, for one who then waits for that bucket."""
    stock = HotRows(STOCK, buckets=1, wait="60s")
    async with engine.begin() as connection:
        await stock.open(connection, "a", 3)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.execute("""
            CREATE OR REPLACE FUNCTION two_locks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_advisory_xact_lock(8); PERFORM pg_advisory_xact_lock(9); RETURN new;
            END $$;
            CREATE TRIGGER two_locks BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION two_locks()""")
    async with engine.connect() as buyer, engine.connect() as other, engine.connect() as third:
        await third.execute(text("SELECT pg_advisory_xact_lock(8)"))
        await other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        await other.execute(text("SELECT pg_advisory_xact_lock(9)"))
        await buyer.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
        errors: list[Any] = []
        event.listen(engine.sync_engine, "handle_error", lambda context: errors.append(context.original_exception))
        taking = asyncio.create_task(stock.take(buyer, "a", 2))
        await waiting(third, 1)
        locking = asyncio.create_task(other.execute(text("SELECT FROM stock FOR UPDATE")))
        await waiting(third, 2)
        await third.rollback()
        await locking
        await other.rollback()
        assert await taking
        assert [error.orig.sqlstate for error in errors if error.orig] == ["40P01"]
        assert await stock.total(buyer, "a") == 1


async def test_a_session_s_own_work_survives_a_look_that_found_nothing(engine: AsyncEngine) -> None:
    stock = HotRows(STOCK, buckets=4)
    cluster = create_async_cluster(engine.url)
    async with engine.begin() as connection:
        await stock.open(connection, "a", 8)
    async with cluster, cluster.session() as session:
        session.add(Sale(id=1))
        assert await stock.take(session, "a", 3)  # gathered from two buckets
        async with session.begin_nested() as nested:
            assert await stock.take(session, "a", 2)
            session.add(Sale(id=2))
            await nested.rollback()
        session.add(Sale(id=3))
        assert not await stock.take(session, "a", 6)
        await stock.put(session, "a", 1)
        await session.commit()
    async with AsyncSession(engine) as session:
        assert list((await session.execute(text("SELECT id FROM sales ORDER BY id"))).scalars()) == [1, 3]
        assert await stock.total(session, "a") == 6
    async with cluster, cluster.connect() as connection:
        assert await stock.take(connection, "a", 6)
        await connection.rollback()


async def test_a_connection_in_autocommit_is_refused(engine: AsyncEngine) -> None:
    stock = HotRows(STOCK)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await stock.open(connection, "a", 1)
        with pytest.raises(MisuseError, match="expected a transaction"):
            await stock.take(connection, "a")


@pytest.mark.parametrize("seed", range(4))
async def test_transactions_in_any_order_against_a_model(engine: AsyncEngine, seed: int) -> None:
    """Three transactions take, put, commit and roll back in turn. What is committed is what the model says, False is
    said when too little is committed or one's own, and `HotRowBusy` only while another one holds a bucket.
    """
    random = Random(seed)
    stock = HotRows(STOCK, buckets=4, wait="1ms", random=random)
    committed, answers = 12, {True: 0, False: 0, HotRowBusy: 0}
    async with engine.begin() as connection:
        await stock.open(connection, "a", committed)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(engine.connect()) for _ in range(3)]
        own: list[int | None] = [None, None, None]  # what this transaction has changed; None: holds nothing
        for _ in range(120):
            at = random.randrange(3)
            connection, changed = connections[at], own[at] or 0
            others_hold = any(held is not None for other, held in enumerate(own) if other != at)
            n = random.choice([1, 1, 2, 3, 5, 9])
            match random.choice(["take", "take", "take", "put", "commit", "rollback"]):
                case "take":
                    try:
                        taken = await stock.take(connection, "a", n)
                    except HotRowBusy:
                        assert others_hold
                        assert committed + changed >= n
                        answers[HotRowBusy] += 1
                    else:
                        assert taken or committed + changed < n
                        assert not taken or committed + changed >= n
                        answers[taken] += 1
                        if taken:
                            own[at] = changed - n
                case "put":
                    try:
                        await stock.put(connection, "a", n)
                    except HotRowBusy:
                        assert others_hold
                    else:
                        own[at] = changed + n
                case "commit":
                    await connection.commit()
                    committed, own[at] = committed + changed, None
                case "rollback":
                    await connection.rollback()
                    own[at] = None
            assert await stock.total(connection, "a") == committed + (own[at] or 0)
    assert min(answers.values()) > 0, answers


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "keys", "most"), [(16, "a", 1), (16, "a", 5), (16, "abc", 3), (40, "ab", 2)])
async def test_many_sales_with_a_busy_neighbour(engine: AsyncEngine, clients: int, keys: str, most: int) -> None:
    """Every sale ends with an empty stock, and no statement of it fails."""
    stock, wrong = HotRows(STOCK, wait="60s"), []
    event.listen(engine.sync_engine, "handle_error", lambda context: wrong.append(context.original_exception))
    neighbour = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    try:
        for sale in range(3):
            left = dict.fromkeys(keys, 40)
            async with engine.begin() as connection:
                await connection.execute(text("DELETE FROM stock"))
                for key in keys:
                    await stock.open(connection, key, 40)

            async def client(random: Random, left: dict[str, int] = left) -> None:
                while any(left.values()):
                    chosen = random.sample(keys, random.randint(1, len(keys)))
                    wanted = {key: random.randint(1, most) for key in chosen}
                    async with engine.connect() as connection:
                        if await stock.take_many(connection, wanted) or random.random() < 0.2:
                            continue  # rolled back
                        if back := random.random() < 0.2:
                            await stock.put(connection, chosen[0])
                        await connection.commit()
                        for key, n in wanted.items():
                            left[key] -= n - (back and key == chosen[0])

            await asyncio.gather(*[client(Random(100 * sale + number)) for number in range(clients)])
            async with engine.connect() as connection:
                assert [await stock.total(connection, key) for key in keys] == [0] * len(keys)
            assert set(left.values()) == {0}
    finally:
        neighbour.kill()
        await neighbour.wait()
    assert wrong == []
