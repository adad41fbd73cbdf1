"""What was found by attacking the planner with one database beside two shards, kept as cases.

Each statement of `REFUSED` was once sent, and answered wrongly or stored wrongly without a sign. Those of `ANSWERED`
lie next to them, or were answered wrongly; they must be answered as by one database.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import and_, delete, exists, func, insert, literal, literal_column, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    aliased,
    column_property,
    joinedload,
    mapped_column,
    query_expression,
    relationship,
    undefer,
    undefer_group,
    with_expression,
    with_loader_criteria,
)
from sqlalchemy.types import TypeDecorator

from tenfold._core.errors import MisuseError
from tenfold.db.shards import CannotAnswer, CrossShard, ShardedCluster
from tenfold.db.shards.key import insert_keys
from tenfold.servers import Topology

META = sa.MetaData()
ORDER = sa.Table(
    "a_order",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("qty", sa.Integer),
    sa.Column("price", sa.Numeric),
    sa.Column("ratio", sa.Double),
    sa.Column("day", sa.Date),
    sa.Column("code", sa.CHAR(3)),
    info={"shard_key": "customer"},
)
ITEM = sa.Table(
    "a_item",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("order_id", sa.Integer),
    info={"shard_key": "customer"},
)
COLOUR = sa.Table("a_colour", META, sa.Column("qty", sa.Integer, primary_key=True), info={"shard_everywhere": True})
O, I = ORDER.c, ITEM.c  # noqa: E741


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "a_note"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column("customer")
    n: Mapped[int]


class Mark(Base):
    __tablename__ = "a_mark"
    __shard_key__ = "book_id"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int]


class Book(Base):
    __tablename__ = "a_book"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(deferred=True)
    n: Mapped[int]
    marks: Mapped[list[Mark]] = relationship(primaryjoin=lambda: sa.orm.foreign(Mark.book_id) == Book.id)
    found: Mapped[int] = query_expression()


class Animal(Base):
    __tablename__ = "a_animal"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    n: Mapped[int]
    __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


class Dog(Animal):
    __tablename__ = "a_dog"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(sa.ForeignKey("a_animal.id"), primary_key=True)
    bark: Mapped[int]
    __mapper_args__: ClassVar = {"polymorphic_identity": "dog"}


class Stray(Animal):
    __tablename__ = "a_stray"
    __shard_key__ = "place"
    id: Mapped[int] = mapped_column(sa.ForeignKey("a_animal.id"), primary_key=True)
    place: Mapped[int]
    __mapper_args__: ClassVar = {"polymorphic_identity": "stray"}


Book.marked = column_property(select(func.count(Mark.id)).where(Mark.book_id == Book.id).scalar_subquery())
Book.noted = column_property(
    select(func.count(Note.id)).where(Note.n == Book.n).scalar_subquery(), deferred=True, group="far"
)
Mark.notes = column_property(select(func.count(Note.id)).where(Note.n == Mark.id).scalar_subquery(), deferred=True)
Note.book = relationship(Book, primaryjoin=sa.orm.foreign(Note.n) == Book.id, viewonly=True)


class Odd(Base):
    __tablename__ = "a_odd"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
    notes = column_property(select(func.count(Note.id)).where(Note.n == sa.column("id")).scalar_subquery())


class OneMore(TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value + 1


COINS = sa.Enum("c", "a", "b", name="a_coin")
WORDS = sa.Enum("c", "a", "b", native_enum=False)
ITEMS = select(func.count()).select_from(ITEM).scalar_subquery()
NEW = upsert(ORDER).values(id=900, customer=2)

NOTE: Any = Note.__table__
ITEMS_OF_ORDERS = ORDER.join(ITEM, I.order_id == O.id)
NOTES = select(func.count(Note.id)).where(Note.n == Book.n).scalar_subquery()

REFUSED = {
    # An outer join keeps the rows of its left side, however they were put together.
    "an outer join that names the keys of both left tables": (
        select(O.id).select_from(
            ITEMS_OF_ORDERS.outerjoin(NOTE, and_(NOTE.c.customer == O.customer, NOTE.c.customer == I.customer))
        ),
        "not joined on their shard keys",
    ),
    "a full join that names the keys of both right tables": (
        select(O.id).select_from(
            NOTE.join(ITEMS_OF_ORDERS, and_(NOTE.c.customer == O.customer, NOTE.c.customer == I.customer), full=True)
        ),
        "not joined on their shard keys",
    ),
    # Tables of a write beside its own.
    "a table in SET": (update(ORDER).where(O.customer == 2).values(qty=I.order_id), "not joined on their shard keys"),
    "a common table expression in SET": (
        update(ORDER).where(O.customer == 2).values(qty=select(I.order_id).cte().c.order_id),
        "one shard only",
    ),
    "a table in USING": (delete(ORDER).using(ITEM).where(O.customer == 2), "not joined on their shard keys"),
    "a table in WHERE and in a subquery": (
        update(ORDER)
        .where(O.customer == 2, O.id == I.order_id, exists(select(I.id).where(I.customer == 2).correlate(None)))
        .values(qty=1),
        "not joined on their shard keys",
    ),
    # What the ORM adds.
    "a subquery as a column property": (select(Odd).where(Odd.id == 1), "one shard only|not joined"),
    "a subquery as a deferred column property": (
        select(Book).where(Book.id == 1).options(undefer(Book.noted)),
        "one shard only|not joined",
    ),
    "a subquery of what a join loads": (
        select(Book).where(Book.id == 1).options(joinedload(Book.marks).undefer(Mark.notes)),
        "one shard only|not joined",
    ),
    "a subquery in a deferred group": (
        select(Book).where(Book.id == 1).options(undefer_group("far")),
        "one shard only|not joined",
    ),
    "a subquery in with_expression": (
        select(Book).where(Book.id == 1).options(with_expression(Book.found, NOTES)),
        "one shard only|not joined",
    ),
    "a subquery in with_loader_criteria": (
        select(Book).where(Book.id == 1).options(with_loader_criteria(Book, Book.n.in_(select(Note.n)))),
        "one shard only",
    ),
    "a bundle": (select(Bundle("b", Note.id, Note.n)), "Bundle"),
    # Names and values that are not what they seem.
    "a name of two tables": (
        select(O.id, I.id).join_from(ORDER, ITEM, I.customer == O.customer).order_by("id"),
        "a column of several tables",
    ),
    "a sum as a float": (select(func.sum(O.price, type_=sa.Float)), "rounds on each shard"),
    "a value in HAVING that is changed on its way": (
        select(O.qty).group_by(O.qty).having(func.count() > literal(3, OneMore)),
        "OneMore",
    ),
    "a value in HAVING that is rounded on its way": (
        select(O.qty).group_by(O.qty).having(func.sum(sa.cast(O.price, sa.Numeric(10, 2))) > Decimal("1.005")),
        "rounds to",
    ),
    "a subquery in VALUES": (
        select(sa.values(sa.column("n", sa.Integer), name="v").data([(ITEMS,)])),
        "one shard only",
    ),
    "parameters of a part": (
        select(O.id).where(
            O.customer == 1, O.id.in_(select(I.order_id).where(I.customer == sa.bindparam("k", 1)).params(k=2))
        ),
        "params",
    ),
    # A name, or text, in the place of a table.
    "text in FROM": (select(text("*")).select_from(text("a_order")), "in FROM says nothing"),
    "a table by name": (select(func.count()).select_from(sa.table("a_order")), "in FROM says nothing"),
    "text beside a table": (select(O.id).select_from(ORDER, text("a_item")).where(O.customer == 1), "says nothing"),
    "a sample": (select(func.count()).select_from(sa.tablesample(ORDER, 100)), "TableSample in FROM"),
    "text as a select": (text("select id from a_order").columns(sa.column("id")), "may read rows"),
    "text as a subquery": (
        select(text("select id from a_order").columns(sa.column("id")).subquery().c.id),
        "may read rows",
    ),
    # Text beside the shard key.
    "OR in text": (select(O.id).where(O.customer == 1, text("qty = 1 OR qty = 2")), "takes the statement apart"),
    "OR in a literal": (select(O.id).where(O.customer == 1, literal_column("qty = 1 OR qty = 2")), "apart"),
    "a subquery in text": (select(O.id).where(O.customer == 1, text("id IN (SELECT order_id FROM a_item)")), "SELECT"),
    "a subquery in a literal": (select(literal_column("(SELECT count(*) FROM a_item)")), "SELECT"),
    "a comment": (select(O.id).where(text("1 = 1 --"), O.customer == 1), "comment"),
    "a parenthesis": (select(O.id).where(O.customer == 1, text("1 = 1) OR (1 = 1")), "apart|parentheses"),
    "a suffix": (select(O.id).where(O.customer == 1).suffix_with("UNION SELECT id FROM a_order"), "UNION|SELECT"),
    "a prefix": (select(O.id).where(O.customer == 1).prefix_with("(SELECT max(id) FROM a_item),"), "SELECT"),
    "a delete with OR in text": (delete(ORDER).where(O.customer == 2, text("qty = 1 OR qty = 2")), "apart"),
    # Selects inside writes.
    "a subquery as a value": (insert(ORDER).values(id=900, customer=2, qty=ITEMS), "one shard only"),
    "a subquery in one of many rows": (insert(ORDER).values([{"id": 900, "customer": 2, "qty": ITEMS}]), "one shard"),
    "a subquery in text as a value": (
        insert(ORDER).values(id=900, customer=2, qty=text("(SELECT count(*) FROM a_item)")),
        "SELECT",
    ),
    "a subquery in RETURNING": (insert(ORDER).values(id=900, customer=2).returning(ITEMS), "one shard only"),
    "a subquery in ON CONFLICT": (
        NEW.on_conflict_do_update(index_elements=["id"], set_={"qty": ITEMS}),
        "one shard only",
    ),
    "a condition in ON CONFLICT": (
        NEW.on_conflict_do_update(index_elements=["id"], set_={"qty": 1}, where=exists(select(I.id))),
        "one shard only",
    ),
    "a subquery in SET": (update(ORDER).where(O.customer == 2).values(qty=ITEMS), "one shard only"),
    "a subquery in WHERE of an update": (
        update(ORDER).where(O.customer == 2, O.id.in_(select(I.order_id))).values(qty=1),
        "one shard only",
    ),
    "a subquery in WHERE of a delete": (
        delete(ORDER).where(O.customer == 2, O.id.in_(select(I.order_id))),
        "one shard only",
    ),
    # Rows that would lie on another shard than their key's.
    "ON CONFLICT moves the key": (
        NEW.on_conflict_do_update(index_elements=["id"], set_={"customer": 5}),
        "ON CONFLICT DO UPDATE of the shard key",
    ),
    "an update in the order of its values": (
        update(ORDER).where(O.customer == 2).ordered_values((O.customer, 3)),
        "UPDATE of the shard key",
    ),
    "an update by the attribute's name": (update(Note).where(Note.owner == 2).values(owner=3), "UPDATE of the shard"),
    "an update on a shard that was named": (
        update(ORDER).where(O.customer == 2).values(customer=3).execution_options(shard_key=2),
        "UPDATE of the shard key",
    ),
    # Values that are not what they seem.
    "an outer join in parentheses": (
        select(O.id).select_from(COLOUR.outerjoin(ORDER.join(ITEM, I.customer == O.customer), COLOUR.c.qty == O.qty)),
        "outer join from a table that stands on every shard",
    ),
    "an average of integers and floats": (select(func.avg(sa.case((O.qty > 2, 1), else_=2.5))), "floats or not"),
    "an average of numerics times floats": (select(func.avg(O.price * O.ratio)), "floats or not"),
    "an average of a function's results": (select(func.avg(func.coalesce(O.qty, func.sqrt(2)))), "floats or not"),
    "a blank-padded text in HAVING": (select(O.code).group_by(O.code).having(O.code == "a"), "CHAR"),
    "citext in GROUP BY": (select(sa.cast(O.code, CITEXT)).group_by(sa.cast(O.code, CITEXT)), "citext"),
    "an enum in ORDER BY": (select(O.id).order_by(sa.cast(O.code, COINS)), r"as it was declared.*case\("),
    "the least of an enum": (select(func.min(sa.cast(O.code, COINS))), "group by the shard key"),
    "an enum that is text in ORDER BY": (select(O.id).order_by(sa.cast(O.code, WORDS)), r'Text\)\.collate\("C"\)'),
    "text in ORDER BY": (select(O.id).order_by(text("1")), "text in ORDER BY"),
}

ANONYMOUS, OTHER = ORDER.alias(), ORDER.alias()
PAIRS = ANONYMOUS.join(OTHER, ANONYMOUS.c.customer == OTHER.c.customer)
ONE_NOTE, OTHER_NOTE = aliased(Note), aliased(Note)

ANSWERED = {
    "an outer join to tables that are joined": select(O.id, I.id.label("i"), NOTE.c.id.label("n"))
    .select_from(
        ORDER.join(ITEM, and_(I.customer == O.customer, I.order_id == O.id)).outerjoin(
            NOTE, and_(NOTE.c.customer == O.customer, NOTE.c.customer == I.customer, NOTE.c.n == O.qty)
        )
    )
    .order_by(O.id, I.id, NOTE.c.id),
    "a name of one table": select(O.qty, O.id).order_by("qty", O.id),
    "the statement's own parameters": select(O.id).where(O.customer == sa.bindparam("k", 3)).params(k=4),
    "an entity with a deferred column": select(Book).where(Book.id == 1),
    "an entity with all columns": select(Book).options(undefer(Book.title)).where(Book.id == 1),
    "an entity with an expression": select(Book).options(with_expression(Book.found, Book.n + 1)).where(Book.id == 1),
    "an entity with what a join loads": select(Book).options(joinedload(Book.marks)).where(Book.id == 1),
    "an entity with what a join loads, cut": select(Book).options(joinedload(Book.marks)).where(Book.id == 1).limit(1),
    "entities without doubles with what a join loads": (
        select(Book).distinct().options(joinedload(Book.marks)).where(Book.id == 1).order_by(Book.id).limit(1)
    ),
    "an entity with a deferred subquery": select(Book).options(undefer(Book.title)).where(Book.id == 2),
    "an aggregate of a class that inherits": select(func.count(Dog.n)),
    "aggregates of a class that inherits": select(func.sum(Dog.n), func.avg(Dog.n), func.max(Dog.bark)),
    "groups of a class that inherits": select(Dog.bark, func.sum(Dog.n)).group_by(Dog.bark).order_by(Dog.bark),
    "an enum in its order": select(O.id).order_by(sa.case({"c": 1, "a": 2, "b": 3}, value=O.code), O.id),
    "text without OR": select(O.id).where(O.customer == 1, text("qty > 0")),
    "OR in parentheses": select(O.id).where(O.customer == 1, text("(qty = 1 OR qty = 2)")),
    "functions with FROM inside": select(literal_column("extract(year FROM day)")).where(O.customer == 1),
    "a subquery of the same key": select(O.id).where(
        O.customer == 1, O.id.in_(select(I.order_id).where(I.customer == 1))
    ),
    "a value that is changed on its way": select(O.id).where(O.customer == literal(3, OneMore)),
    "a list of pairs": select(O.id).where(tuple_(O.customer, O.qty).in_([(3, 1), (4, 2)])),
    "two aliases without names, in order": select(ANONYMOUS.c.id.label("a"), OTHER.c.id.label("b"))
    .select_from(PAIRS)
    .order_by(OTHER.c.id, ANONYMOUS.c.id)
    .limit(9),
    "two aliases without names, in groups": select(ANONYMOUS.c.qty, OTHER.c.qty, func.sum(OTHER.c.id))
    .select_from(PAIRS)
    .group_by(ANONYMOUS.c.qty, OTHER.c.qty),
    "aggregates of two aliases": select(func.sum(ONE_NOTE.n), func.sum(OTHER_NOTE.id), func.max(OTHER_NOTE.n)).join(
        OTHER_NOTE, ONE_NOTE.owner == OTHER_NOTE.owner
    ),
    "an average of floats": select(func.avg(O.ratio + O.qty)),
    "a value of the same kind in HAVING": select(O.day).group_by(O.day).having(O.day > dt.date(2026, 1, 2)),
}


@dataclass
class World:
    runner: asyncio.Runner
    cluster: ShardedCluster
    one: AsyncEngine


@pytest.fixture(scope="module")
def world(plain: Callable[[int], Topology]) -> Iterator[World]:
    orders = [
        {
            "id": n,
            "customer": n % 9,
            "qty": n % 5,
            "price": n,
            "ratio": n / 4,
            "day": dt.date(2026, 1, 1 + n % 4),
            "code": "abc"[n % 3],
        }
        for n in range(60)
    ]
    items = [{"id": n, "customer": n % 60 % 9, "order_id": n % 60} for n in range(90)]
    notes = [{"id": n, "customer": n % 9, "n": n % 4} for n in range(30)]

    async def make(topology: Topology) -> World:
        *shards, single = topology.shards
        cluster = ShardedCluster([shard.url for shard in shards], models=[META, Base])
        await cluster.__aenter__()
        one = create_async_engine(single.url.replace("postgresql:", "postgresql+asyncpg:"))
        for engine in (one, *(cluster.async_engine(name) for name in cluster.map.names)):
            async with engine.begin() as connection:
                await connection.execute(text("CREATE EXTENSION IF NOT EXISTS citext"))
                for metadata in (META, Base.metadata):
                    await connection.run_sync(metadata.create_all)
                await connection.execute(insert(COLOUR), [{"qty": n} for n in range(4)])
        all_rows: Any = (
            (ORDER, orders),
            (ITEM, items),
            (NOTE, notes),
            (Book.__table__, [{"id": n, "title": f"t{n}", "n": n % 3} for n in range(9)]),
            (Animal.__table__, [{"id": n, "kind": ("dog", "animal")[n % 2], "n": n} for n in range(12)]),
            (Dog.__table__, [{"id": n, "bark": n % 4} for n in range(0, 12, 2)]),
            (Mark.__table__, [{"id": n, "book_id": n % 9} for n in range(20)]),
        )
        for table, rows in all_rows:
            await cluster.insert(insert(table), rows)
            async with one.begin() as connection:
                await connection.execute(insert(table), rows)
        return World(runner, cluster, one)

    servers = plain(3)
    with asyncio.Runner() as runner:
        made = runner.run(make(servers))
        yield made
        runner.run(made.cluster.aclose())
        runner.run(made.one.dispose())


PLANS = ShardedCluster(["postgresql://a/a", "postgresql://b/b"], models=[META, Base])  # is never connected
OTHER_SHARDS = next(key for key in range(99) if PLANS.map.shard_of(key) != PLANS.map.shard_of(2))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    statement, reason = REFUSED[name]
    with pytest.raises(CannotAnswer, match=reason) as caught:
        PLANS.plan(statement)
    assert caught.value.instead


@pytest.mark.parametrize("name", ANSWERED)
def test_answered_as_by_one_database(world: World, name: str) -> None:
    statement: Any = ANSWERED[name]

    async def both() -> tuple[Any, Any]:
        async with world.one.connect() as connection:
            expected = await connection.execute(statement)
        return await world.cluster.execute(statement), expected

    got, expected = world.runner.run(both())
    assert list(got.keys()) == list(expected.keys())
    one, other = list(map(tuple, got)), list(map(tuple, expected))
    assert other
    if statement._order_by_clauses:
        assert one == other
    else:
        assert Counter(one) == Counter(other)


@pytest.mark.parametrize(
    "having",
    [
        O.day == dt.datetime(2026, 1, 2),  # a date is no datetime to Python, and is one to PostgreSQL
        func.max(O.day) > dt.datetime(2026, 1, 2),
        func.sum(O.qty) > "3",
    ],
)
def test_values_of_two_kinds_in_having_are_refused(world: World, having: Any) -> None:
    with pytest.raises(CannotAnswer, match=r"HAVING compares .* which only the database can"):
        world.runner.run(world.cluster.execute(select(O.day, func.count()).group_by(O.day).having(having)))


def test_an_upsert_may_set_the_key_that_the_row_has(world: World) -> None:
    async def run() -> Any:
        new = upsert(ORDER).values(id=901, customer=2, qty=7)
        change = new.on_conflict_do_update(index_elements=["id"], set_={c.name: c for c in new.excluded})
        for _ in range(2):
            await world.cluster.execute(change)
        found = (await world.cluster.execute(select(O.customer, O.qty).where(O.customer == 2, O.id == 901))).all()
        await world.cluster.execute(delete(ORDER).where(O.customer == 2, O.id == 901))
        return found

    assert world.runner.run(run()) == [(2, 7)]


def test_sessions_check_what_passes_by_their_flush(world: World) -> None:
    def legacy(session: Any) -> None:
        session.bulk_insert_mappings(Note, [{"id": 900, "owner": 3, "n": 1}])

    async def run() -> None:
        bound: list[dict[str, Any]] = [{}, {"shard_key": 2}]
        for options in bound:
            async with world.cluster.session(**options) as session:
                with pytest.raises(CannotAnswer, match="bulk_save_objects"):
                    await session.run_sync(legacy)
        async with world.cluster.session(shard_key=2) as session:
            for name in ("customer", "owner"):
                with pytest.raises(CannotAnswer, match="UPDATE of the shard key"):
                    await session.execute(update(Note), [{"id": 2, name: 3}])
            await session.execute(insert(Note), [{"id": 900, "owner": 2, "n": 1}])
            with pytest.raises(CrossShard):
                await session.execute(insert(Note), [{"id": 901, "owner": OTHER_SHARDS, "n": 1}])

    world.runner.run(run())


def test_a_scattered_read_sees_what_the_session_has_pending_or_is_refused(world: World) -> None:
    async def run() -> None:
        async with world.cluster.session() as session:
            stored = await session.scalar(select(func.count(Note.id)))
            session.add(Note(id=900, owner=2, n=1))
            with session.no_autoflush:
                assert await session.scalar(select(func.count(Note.id))) == stored
            with pytest.raises(CannotAnswer, match="bound to shard"):
                await session.scalar(select(func.count(Note.id)))

    world.runner.run(run())


def test_a_statement_is_routed_as_listeners_leave_it(world: World) -> None:
    def narrow(state: sa.orm.ORMExecuteState) -> None:
        state.statement = state.statement.where(Note.owner == 2)  # type: ignore[attr-defined]

    async def run() -> tuple[Any, Any]:
        async with world.cluster.session() as session, world.cluster.session() as other:
            sa.event.listen(session.sync_session, "do_orm_execute", narrow)
            counted = await session.scalar(select(func.count(Note.id)))
            return counted, await other.scalar(select(func.count(Note.id)).where(Note.owner == 2))

    got, expected = world.runner.run(run())
    assert got == expected


def test_a_relationship_to_another_key_is_not_looked_for_at_home(world: World) -> None:
    async def run() -> Counter[str]:
        tally: Counter[str] = Counter()
        for key in range(9):
            async with world.cluster.session() as session:
                for note in (await session.scalars(select(Note).where(Note.owner == key))).all():
                    try:
                        book = await session.run_sync(lambda _, note=note: note.book)
                    except CrossShard:
                        tally["refused"] += 1
                    else:
                        assert book.id == note.n
                        tally["found"] += 1
        return tally

    tally = world.runner.run(run())
    assert tally["refused"]
    assert tally["found"]


def test_a_subquery_that_is_loaded_later_is_not_asked_of_one_shard(world: World) -> None:
    async def run() -> int:
        async with world.cluster.session() as session:
            book = (await session.scalars(select(Book).where(Book.id == 1))).one()
            with pytest.raises(CannotAnswer, match="loaded for an object is a subquery"):
                await session.run_sync(lambda _: book.noted)
            with pytest.raises(CannotAnswer, match="loaded for an object is a subquery"):
                await session.refresh(book, ["noted"])
            await session.refresh(book, ["marked"])  # of rows that lie where the book does
            marked: int = book.marked
            return marked

    assert world.runner.run(run()) == 3


def test_rows_of_several_shards_are_found_as_a_session_s_are(world: World) -> None:
    """Under the names of attributes and by them, as `AsyncSession` has it; a connection has the columns' names."""
    other = aliased(Note)
    pairs = select(Note.id, Note.owner, other.id).join(other, Note.owner == other.owner).order_by(Note.id, other.id)

    async def run() -> None:
        statements: list[Any] = [
            pairs,
            select(Note.id, Note.id).order_by(Note.id),
            select(Note.owner.label("o"), func.count(), func.max(Note.n)).group_by(Note.owner).order_by(Note.owner),
            select(NOTE.c.customer, NOTE.c.customer).order_by(NOTE.c.customer),
        ]
        for statement in statements:
            async with world.cluster.session() as session, AsyncSession(world.one) as plain:
                got, expected = await session.execute(statement), await plain.execute(statement)
                assert list(got.keys()) == list(expected.keys())
                assert list(map(tuple, got)) == list(map(tuple, expected))
        async with world.cluster.session() as session:
            for row in ((await session.execute(pairs)).first(), (await world.cluster.execute(pairs)).first()):
                assert row is not None
                found = [row._mapping[one] for one in (Note.id, Note.owner, other.id, NOTE.c.customer)]  # type: ignore[index]
                assert found == [row[0], row[1], row[2], row[1]]

    world.runner.run(run())


def test_rows_of_several_shards_come_in_batches_where_that_is_asked(world: World) -> None:
    notes = select(Note.id).order_by(Note.id)
    in_batches = notes.execution_options(yield_per=7)

    async def run() -> list[list[list[int]]]:
        async with world.cluster.session() as session:
            results = [
                await session.stream(notes, execution_options={"yield_per": 7}),
                await session.stream(in_batches),
            ]
            batches = [[list(part) async for part in result.scalars().partitions()] for result in results]
            batches.append([list(part) for part in (await session.scalars(in_batches)).partitions()])
        assert (await world.cluster.execute(in_batches)).scalars().all() == list(range(30))
        assert (await world.cluster.execute(in_batches.where(Note.owner == 2))).scalars().all() == [2, 11, 20, 29]
        async with world.cluster.stream(in_batches) as rows:
            assert [row.id async for row in rows] == list(range(30))
        return batches

    for batches in world.runner.run(run()):
        assert [len(part) for part in batches] == [7, 7, 7, 7, 2]
        assert [one for part in batches for one in part] == list(range(30))


def test_an_object_whose_rows_would_lie_on_two_shards_is_not_stored(world: World) -> None:
    async def run() -> None:
        async with world.cluster.session() as session:
            session.add(Stray(id=900, n=1, place=901))
            with pytest.raises(CannotAnswer, match="rows of a Stray in a_stray and a_animal have not one key"):
                await session.flush()
        async with world.cluster.session() as session:
            session.add(dog := Dog(id=900, n=1, bark=2))
            await session.flush()
            await session.delete(dog)
            await session.commit()

    world.runner.run(run())


def test_a_key_of_a_type_that_no_table_has_is_refused(world: World) -> None:
    for call in (
        lambda: world.cluster.session(shard_key="2"),
        lambda: world.cluster.plan(select(O.id).execution_options(shard_key="2")),
    ):
        with pytest.raises(MisuseError, match="shard key: expected int, by which tables are cut, got str"):
            call()


def test_statements_with_parameters_of_their_own_go_by_them() -> None:
    statement = insert(ORDER).values(customer=sa.bindparam("c", 1), id=sa.bindparam("i"))
    rows = [{"c": key, "i": key} for key in (1, OTHER_SHARDS)]
    assert insert_keys(statement, rows, PLANS.scheme) == [1, OTHER_SHARDS]
    assert [PLANS.plan(statement, row).shards for row in rows] == [(PLANS.map.shard_of(row["c"]),) for row in rows]
    own = select(O.id).where(O.customer == sa.bindparam("k", 2)).params(k=OTHER_SHARDS)
    assert PLANS.plan(own).shards == (PLANS.map.shard_of(OTHER_SHARDS),)


@pytest.mark.parametrize(
    ("target", "rows", "told"),
    [
        (ORDER, {"id": 1, "customer": 2}, "rows: expected a list of mappings"),
        (ORDER, iter([{"id": 1, "customer": 2}]), "rows: expected a list of mappings"),
        (insert(ORDER).values([{"id": 1, "customer": 2}]), [{}], "expected an INSERT without VALUES"),
        (insert(ORDER).values(qty=ITEMS), [{"id": 1, "customer": 2}], "one shard only"),
    ],
)
def test_what_a_batch_refuses(world: World, target: Any, rows: Any, told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        world.runner.run(world.cluster.insert(target, rows))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("select 1",), "statement: expected one of SQLAlchemy's"),
        ((ORDER,), "statement: expected one of SQLAlchemy's"),
        ((exists(select(I.id)),), "statement: expected one of SQLAlchemy's"),
        ((insert(ORDER), "x"), "parameters: expected a mapping"),
        ((insert(ORDER), ["x"]), "parameters: expected a mapping"),
    ],
)
def test_what_is_no_statement_is_refused(given: Any, told: str) -> None:
    with pytest.raises(MisuseError, match=told):
        PLANS.plan(*given)


def test_citext_is_no_shard_key() -> None:
    table = sa.Table("a_name", sa.MetaData(), sa.Column("name", CITEXT), info={"shard_key": "name"})
    with pytest.raises(MisuseError, match="equal values must have equal bytes"):
        ShardedCluster(["postgresql://a/a"], models=[table])
