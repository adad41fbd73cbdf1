"""What an adversary tried on the everyday tools: keys that types round, sources that break, loaders side by side."""

from __future__ import annotations

import asyncio
import enum
import math
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    REAL,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    func,
    insert,
    null,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, Range
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import create_async_cluster
from tenfold.db.advisory import LockBusy, advisory_lock, lock_in_transaction
from tenfold.db.bulk import Upserted, upsert
from tenfold.db.dataloader import many_by, one_by
from tenfold.db.hot_rows import HotRows, hot_rows_table
from tenfold.db.idempotency import create_table, once
from tenfold.db.keyset import Keyset
from tenfold.db.timeouts import statement_deadline

SECRET = b"0123456789abcdef"


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"
    GREEN = "g"


class Level(TypeDecorator[Any]):
    """Reads what it would not take back."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return f"level {value}"


class Lower(TypeDecorator[Any]):
    """Has the server change what is written."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.lower(bindvalue)


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    boss: Mapped[int]


META: MetaData = Base.metadata
THINGS = Table(
    "things",
    META,
    Column("id", Integer, primary_key=True),
    Column("price", Numeric(10, 2), nullable=False),
    Column("whole", Numeric(asdecimal=False)),
    Column("tenth", Float(asdecimal=True)),
    Column("double", Float),
    Column("single", REAL),
    Column("name", Text, nullable=False),
    Column("short", String(3)),
    Column("colour", Enum(Colour)),
    Column("at", DateTime(timezone=True)),
    Column("raw", LargeBinary),
    Column("on", Boolean),
    Column("key", Uuid),
    Column("day", Date),
    Column("span", Interval),
    Column("fixed", CHAR(4)),
    Column("level", Level),
    Column("data", JSONB),
)
STRANGE = Table(
    "w t%",
    META,
    Column("id", Integer, primary_key=True),
    Column("na%me:x", Text, key="name"),
    Column("colour", Enum(Colour)),
    Column("colours", ARRAY(Enum(Colour))),
    Column("json", JSON),
    Column("jsonb", JSONB),
    Column("raw", LargeBinary),
    Column("texts", ARRAY(Text)),
    Column("interval", Interval),
    Column("uuid", Uuid),
    Column("uuid_text", Uuid(as_uuid=False)),
    Column("range", INT4RANGE),
    Column("small", SmallInteger),
    Column("number", Numeric(12, 3)),
)
PAIRS = Table(
    "pairs",
    META,
    Column("id", Integer, Identity(), primary_key=True),
    Column("a", Text),
    Column("b", Text),
    Column("v", Integer, nullable=False),
    UniqueConstraint("a", "b"),
)
ALIKE = Table(
    "alike",
    META,
    Column("id", Integer, Identity(), primary_key=True),
    Column("c", Text),
    Column("v", Integer, nullable=False),
    Index("one_c", "c", unique=True, postgresql_nulls_not_distinct=True),
)

STOCK = hot_rows_table("stock", META)


@pytest.fixture
async def engine(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(META.drop_all)
        await connection.run_sync(META.create_all)
    return engine


# -- pages


@pytest.fixture
async def things(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    random = Random(3)
    stored = [
        {
            "id": number,
            "price": Decimal(random.randrange(100, 130)) / 100,
            "double": random.choice([None, math.nan, math.inf, -math.inf, 0.1, 1 / 3, 2.5e-300]),
            "single": random.choice([0.1, 0.2, 1 / 3]),
            "name": random.choice(["a", "B", "b", "A", "ä", "z", "Z", "_"]),
            "short": random.choice(["ab", "abc", None]),
            "colour": random.choice([*Colour, None]),
            "at": random.choice([None, datetime(2024, 1, 1, microsecond=number % 5, tzinfo=UTC)]),
            "raw": random.choice([b"", b"\0\xff", None]),
            "on": random.choice([True, False, None]),
            "key": uuid.UUID(int=random.randrange(5)),
            "fixed": random.choice(["a", "a b", "b", None]),
            "level": random.choice([10, 20, 30]),
        }
        for number in range(40)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(THINGS), stored)
        more = (
            "UPDATE things SET whole = 1234567890123456789.000000001 + (id % 9) * 0.000000001,"
            " tenth = 1::float8 / 3 + (id % 7) * 1e-13, at = CASE id % 7 WHEN 0 THEN 'infinity'"
            " WHEN 1 THEN '9999-12-31 23:59:59.999999Z' WHEN 2 THEN '0001-01-01Z' WHEN 3 THEN '-infinity' ELSE at END,"
            " day = ('{9999-12-31,infinity,0001-01-01,-infinity,2024-02-29}'::date[])[id % 6 + 1],"
            " span = ('{1 year,365 days,361 days,30 days,1 mon}'::interval[])[id % 6 + 1]"
        )
        await connection.execute(text(more))
    async with engine.connect() as connection:
        yield connection


async def all_of(keyset: Keyset[Any], connection: Any, most: int = 60) -> list[str]:
    """Every page, forward; the same rows must come backward."""
    forward: list[str] = []
    cursor = None
    for _ in range(most):
        page = await keyset.page(connection, cursor)
        forward += map(str, page.items)
        cursor = page.next
        if cursor is None:
            break
    backward: list[str] = []
    cursor = keyset.last()
    for _ in range(most):
        page = await keyset.page(connection, cursor)
        backward = [*map(str, page.items), *backward]
        cursor = page.previous
        if cursor is None:
            break
    assert backward == forward
    return forward


ORDERS: dict[str, Any] = {
    **{column.name: column for column in THINGS.c if column.name not in ("id", "data")},
    "a factor": THINGS.c.price * 1.111,
    "a decimal factor": THINGS.c.price * Decimal("1.11111"),
    "a quotient": THINGS.c.price / 3,
    "longer than its type": THINGS.c.short + "xxxxxxxx",
    "a label": (THINGS.c.id / 7).label("seventh"),
    "a function": func.lower(THINGS.c.name),
    "a collation": THINGS.c.name.collate("C"),
}


async def test_no_row_is_lost_or_seen_twice_whatever_the_key(things: AsyncConnection) -> None:
    """A type may round what it reads, or be narrower than what is computed: the key is compared as it is."""
    for name, by in ORDERS.items():
        for order in ([by], [by.desc().nulls_last(), THINGS.c.price]):
            keyset: Keyset[int] = Keyset(select(THINGS.c.id), order, secret=SECRET, size=6)
            found = await all_of(keyset, things)
            assert (len(found), len(set(found))) == (40, 40), name


async def test_a_column_of_a_subquery_may_be_null_whatever_it_says(things: AsyncConnection) -> None:
    nameless = select((THINGS.c.id + 100).label("id"), null().label("name"))
    both = union_all(select(THINGS.c.id, THINGS.c.name), nameless).subquery()
    assert both.c.name.nullable is False  # which is not so
    keyset: Keyset[Any] = Keyset(select(both.c.id, both.c.name), [both.c.name], secret=SECRET, unique=[both.c.id])
    assert len(set(await all_of(keyset, things))) == 80


async def test_another_alias_of_the_key_is_another_column(things: AsyncConnection) -> None:
    one, two = THINGS.alias(), THINGS.alias()
    pairs = select(one.c.id, two.c.id.label("other")).join_from(one, two, one.c.colour == two.c.colour)
    expected = len((await things.execute(pairs)).all())
    keyset: Keyset[Any] = Keyset(pairs, [one.c.id], secret=SECRET, unique=[one.c.id, two.c.id], size=50)
    assert len(set(await all_of(keyset, things))) == expected > 100


async def test_entities_and_their_aliases(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add_all([Person(id=number, name=f"n{number % 4}", boss=number % 3) for number in range(30)])
        await session.commit()
        keyset: Keyset[Person] = Keyset(select(Person), [Person.name.desc(), Person.id], secret=SECRET, size=7)
        assert "people.id" in repr(keyset)
        assert repr(keyset).count("people.id") == 1
        first = await keyset.page(session)
        assert [type(one) for one in first.items] == [Person] * 7
        boss = aliased(Person)
        pairs: Any = select(Person, boss).join(boss, Person.boss == boss.id)
        both: Keyset[Any] = Keyset(pairs, [boss.name, Person.id], secret=SECRET, unique=[Person.id], size=7)
        seen: list[int] = []
        cursor = None
        while True:
            page = await both.page(session, cursor)
            seen += [person.id for person, _ in page.items]
            cursor = page.next
            if cursor is None:
                break
        assert sorted(seen) == list(range(30))
        # another size between two pages, and rows that come and go
        wide: Keyset[Person] = Keyset(select(Person), [Person.name.desc(), Person.id], secret=SECRET, size=30)
        await session.delete(first.items[-1])
        session.add(Person(id=99, name="n9", boss=0))  # before the cursor
        await session.flush()
        rest = await wide.page(session, first.next)
        assert len(rest.items) == 23
        assert not {one.id for one in rest.items} & {one.id for one in first.items}


def test_json_has_no_order() -> None:
    with pytest.raises(MisuseError, match=r"expected columns whose values have an order, got JSON in things.data"):
        Keyset(select(THINGS), [THINGS.c.data], secret=SECRET)


# -- bulk

ROW: dict[str, Any] = {
    "id": 1,
    "name": "a\tb\\N\n\r\"'%s:x \u2028",
    "colour": Colour.RED,
    "colours": [Colour.RED, Colour.GREEN],
    "json": {"a": [None, "\u00e9"]},
    "jsonb": {"b": [1, None]},
    "raw": b"\0\xff\n\\",
    "texts": ["a", None, '{,}"'],
    "interval": timedelta(days=-1, microseconds=5),
    "uuid": uuid.UUID(int=7),
    "uuid_text": str(uuid.UUID(int=8)),
    "range": Range(1, 5),
    "small": -3,
    "number": Decimal("1.500"),
}


async def test_copied_values_are_those_of_an_insert(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await upsert(connection, STRANGE, [ROW])
        await connection.execute(insert(STRANGE), [{**ROW, "id": 2}])
        one, two = (await connection.execute(select(STRANGE).order_by(STRANGE.c.id))).mappings().all()
        assert {**one, "id": 2} == dict(two)
        again = await upsert(connection, STRANGE, [ROW], skip_unchanged=True)  # JSON has no equality of its own
        assert again == Upserted(1, 0, 0, 1, 0)
        changed = await upsert(connection, STRANGE, [{**ROW, "json": {"a": 2}}], skip_unchanged=True)
        assert changed == Upserted(1, 0, 1, 0, 0)
        nothing = {name: None for name in ROW if name != "id"}
        await upsert(connection, STRANGE, [{"id": 3, **nothing}])
        assert (await connection.execute(select(STRANGE.c.colours).where(STRANGE.c.id == 3))).scalar_one() is None


async def test_null_keys_are_distinct_as_the_index_has_them(engine: AsyncEngine) -> None:
    rows: list[dict[str, Any]] = [
        {"a": "x", "b": None, "v": 1},
        {"a": "x", "b": None, "v": 2},
        {"a": "x", "b": "y", "v": 3},
    ]
    async with engine.begin() as connection:
        done = await upsert(connection, PAIRS, [*rows, {**rows[2], "v": 4}], on=["a", "b"])
        assert done == Upserted(4, 3, 0, 0, 1)
        found = (await connection.execute(select(PAIRS.c.v).order_by(PAIRS.c.v))).scalars().all()
        assert found == [1, 2, 4]
        alike: list[dict[str, Any]] = [{"c": None, "v": 1}, {"c": None, "v": 2}, {"c": "z", "v": 3}]
        assert await upsert(connection, ALIKE, alike, on=["c"]) == Upserted(3, 2, 0, 0, 1)


async def test_a_source_that_breaks_leaves_nothing(engine: AsyncEngine) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for number in range(17):
            yield {"id": number, "small": 1}
        raise OSError("the source broke")

    async with engine.begin() as connection:
        await upsert(connection, STRANGE, [{"id": 5, "small": 7}])
        with pytest.raises(OSError, match="the source broke"):
            await upsert(connection, STRANGE, rows(), chunk=5)
        await upsert(connection, STRANGE, [{"id": 40, "small": 8}])
    async with engine.connect() as connection:
        found = (await connection.execute(select(STRANGE.c.id, STRANGE.c.small).order_by(STRANGE.c.id))).all()
        assert [tuple(row) for row in found] == [(5, 7), (40, 8)]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"small": "x"}, Exception),
        ({"small": 10**6}, OverflowError),
        ({"name": "\0"}, Exception),
        ({"number": Decimal(10) ** 12}, Exception),
    ],
)
async def test_an_error_names_its_row(engine: AsyncEngine, bad: dict[str, Any], kind: type[Exception]) -> None:
    (name, value), *_ = bad.items()
    good = {"small": 1, "name": "x", "number": 1}[name]
    async with engine.connect() as connection:
        with pytest.raises(kind) as caught:
            await upsert(
                connection, STRANGE, [{"id": n, name: value if n == 27 else good} for n in range(50)], chunk=20
            )
    assert any("upsert: in row 27 (the first is 0)" in note for note in caught.value.__notes__)


async def test_through_a_routed_session(engine: AsyncEngine) -> None:
    async with create_async_cluster(engine.url) as cluster:
        async with cluster.session() as session:
            await session.execute(select(STRANGE.c.id))
            assert (await upsert(session, STRANGE, [{"id": 1}])).inserted == 1
            await session.commit()
        assert (await cluster.run(lambda session: upsert(session, STRANGE, [{"id": 2}]))).inserted == 1
        async with cluster.session(read_only=True) as session:
            with pytest.raises(DBAPIError, match="read-only transaction"):
                await upsert(session, STRANGE, [{"id": 3}])
        assert (await cluster.execute(select(func.count()).select_from(STRANGE))).scalar_one() == 2


async def test_a_tenant_s_rows_go_to_the_tenant_s_schema(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text('DROP SCHEMA IF EXISTS "Tenant 7" CASCADE'))
        await connection.execute(text('CREATE SCHEMA "Tenant 7"'))
    tenant = engine.execution_options(schema_translate_map={None: "Tenant 7"})
    stock = HotRows(STOCK, buckets=2)
    async with tenant.begin() as connection:
        await connection.run_sync(lambda inner: META.create_all(inner, tables=[PAIRS, STOCK]))
        assert (await upsert(connection, PAIRS, [{"id": 1, "v": 1}])).inserted == 1
        await stock.open(connection, "a", 5)
        assert await stock.take(connection, "a", 5)
    async with AsyncSession(tenant) as session, session.begin():
        assert (await upsert(session, PAIRS, [{"id": 1, "v": 2}])).updated == 1
        assert not await stock.take(session, "a", 1)
        await stock.put(session, "a", 1)
    own = {"schema_translate_map": {None: "Tenant 7"}}
    async with AsyncSession(engine, execution_options=own) as session, session.begin():
        assert await stock.total(session, "a") == 1
        await stock.put(session, "a", 1)
    for where, rows, left in ((tenant, 1, 2), (engine, 0, None)):
        async with where.connect() as connection:
            assert len((await connection.execute(select(PAIRS.c.id))).all()) == rows
            assert (await connection.execute(select(func.sum(STOCK.c.amount)))).scalar_one() == left


async def test_values_that_pass_through_sql_are_not_copied(engine: AsyncEngine) -> None:
    table = Table("people", MetaData(), Column("id", Integer, primary_key=True), Column("name", Lower))
    async with engine.begin() as connection:
        with pytest.raises(MisuseError, match=r"people.name passes its values through SQL \(bind_expression\)"):
            await upsert(connection, table, [{"id": 1, "name": "X"}])


# -- loads by key


async def test_a_key_that_only_the_database_takes_for_the_row_s_is_refused(engine: AsyncEngine) -> None:
    """Else its row would count as missing: PostgreSQL takes the text of a UUID, Python does not."""
    key = uuid.uuid4()
    async with engine.begin() as connection:
        await connection.execute(insert(THINGS), {"id": 1, "price": 1, "name": "x", "key": key, "colour": Colour.RED})
        async with one_by(connection, select(THINGS.c.id), THINGS.c.key) as things:
            wrong: Any = str(key)
            with pytest.raises(MisuseError, match="expected keys as the column's type gives them"):
                await things(wrong)
            assert await things(key) == 1
            assert await things(uuid.uuid4()) is None


async def test_two_loaders_of_one_session_take_turns(engine: AsyncEngine) -> None:
    """Before the session has a connection it refuses two tasks at once, and two loaders are two tasks."""
    async with engine.begin() as connection:
        await connection.execute(insert(Person), [{"id": n, "name": f"n{n}", "boss": n % 3} for n in range(30)])
    await engine.dispose()  # so that a connection has to be made
    async with (
        AsyncSession(engine) as session,
        one_by(session, select(Person), Person.id) as people,
        many_by(session, select(Person.id).order_by(Person.id), Person.boss) as teams,
    ):
        loads = [asyncio.gather(people(number), teams(number % 3)) for number in range(30)]
        found = await asyncio.gather(*loads)
    assert [person.name for person, _ in found] == [f"n{number}" for number in range(30)]
    assert found[4][1] == list(range(1, 30, 3))
    assert (people.batches, teams.batches) == (1, 1)


def test_a_limit_would_be_of_all_keys_together() -> None:
    session: Any = None
    for statement in (select(Person).limit(3), select(Person).offset(1), select(Person).fetch(1)):
        for make in (one_by, many_by):
            with pytest.raises(MisuseError, match="would count the rows of all keys together"):
                make(session, statement, Person.boss)


# -- locks and keys


async def test_in_autocommit_nothing_would_be_held(engine: AsyncEngine) -> None:
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with alone.connect() as connection:
        with pytest.raises(MisuseError, match="lock_in_transaction: expected a transaction, got a connection in auto"):
            await lock_in_transaction(connection, "job")
    async with engine.begin() as connection:
        await create_table(connection)
    async with AsyncSession(alone) as session:
        with pytest.raises(MisuseError, match="once: expected a transaction, got a connection in autocommit"):
            await once(session, "a key", lambda: asyncio.sleep(0, "done"))
    async with AsyncSession(engine) as session:
        assert await once(session, "a key", lambda: asyncio.sleep(0, "done")) == "done"


async def test_what_failed_in_a_committed_transaction_is_still_to_be_done(engine: AsyncEngine) -> None:
    calls = 0

    async def fail() -> None:
        raise LookupError

    async def work() -> None:
        nonlocal calls
        calls += 1

    async with AsyncSession(engine) as session:
        await create_table(session)
        with pytest.raises(LookupError):
            await once(session, "wish", fail)
        await session.commit()  # whoever catches the error goes on
    for _ in range(2):
        async with AsyncSession(engine) as session, session.begin():
            assert await once(session, "wish", work) is None
    assert calls == 1


async def test_a_wait_longer_than_the_server_can_count(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await lock_in_transaction(connection, "job", wait="60d")
    bounded = create_async_engine(engine.url)
    statement_deadline(bounded, longest="60d")
    async with bounded.connect() as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "2147483647ms"
    await bounded.dispose()


async def test_a_shorter_time_out_of_statements_ends_the_wait_as_busy(engine: AsyncEngine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    async with (
        create_async_cluster(url, statement_timeout="200ms") as hurried,
        advisory_lock(engine, "job"),
    ):
        with pytest.raises(LockBusy, match="advisory lock 'job': held by another session"):
            async with advisory_lock(hurried, "job", wait="20s"):
                pass
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    async with asyncio.timeout(10), engine.connect() as connection:
        while (await connection.execute(text(locks))).scalar_one():
            await connection.rollback()
