"""Every generated query is answered by four shards as by one database that holds all rows, or is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tenfold.db.shards import CannotAnswer, ShardedCluster
from tenfold.db.shards.order import identity
from tenfold.servers import Topology

META = sa.MetaData()
ORDER = sa.Table(
    "d_order",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("qty", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("price", sa.Numeric),
    sa.Column("ratio", sa.Double),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("name", sa.Text),
    info={"shard_key": "customer"},
)
ITEM = sa.Table(
    "d_item",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer", sa.Integer, nullable=False),
    sa.Column("order_id", sa.Integer, nullable=False),
    sa.Column("n", sa.Integer),
    info={"shard_key": "customer"},
)
COLOUR = sa.Table(
    "d_colour",
    META,
    sa.Column("qty", sa.Integer, primary_key=True),
    sa.Column("colour", sa.Text, nullable=False),
    info={"shard_everywhere": True},
)
O = ORDER.c  # noqa: E741


@dataclass
class World:
    runner: asyncio.Runner
    cluster: ShardedCluster
    one: AsyncEngine

    def both(self, statement: Any) -> tuple[Any, Any]:
        async def run() -> tuple[Any, Any]:
            got = await self.cluster.execute(statement)
            async with self.one.connect() as connection:
                return got, await connection.execute(statement)

        return self.runner.run(run())


def rows(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    random = Random(seed)

    def maybe(value: Any) -> Any:
        return None if random.random() < 0.15 else value

    prices = [Decimal(x) for x in ("1.0", "1.00", "-3.333", "99999999999999999999.5", "0", "0.0001", "NaN", "7")]
    orders = [
        {
            "id": n,
            "customer": random.randrange(25),
            "qty": maybe(random.randrange(6)),
            "big": maybe(random.randrange(-(2**62), 2**62)),
            "price": maybe(random.choice(prices)),
            "ratio": maybe(random.choice([0.25, -0.5, 8.0, -0.0, 0.0, float("nan"), float("inf")])),
            "flag": maybe(random.random() < 0.5),
            "day": maybe(dt.date(2026, 1, 1) + dt.timedelta(random.randrange(4))),
            "name": maybe(random.choice(["a", "B", "b", "é", "E", "zz", "Z", "", "\U0001f600", "\ufffd"])),
        }
        for n in range(400)
    ]
    items = [
        {"id": n, "customer": order["customer"], "order_id": order["id"], "n": maybe(random.randrange(4))}
        for n, order in enumerate(random.choices(orders[:200], k=300))
    ]
    return orders, items


@pytest.fixture(scope="module")
def world(plain: Callable[[int], Topology]) -> Iterator[World]:
    async def make(topology: Topology) -> World:
        *shards, single = topology.shards
        cluster = ShardedCluster([shard.url for shard in shards], models=[META])
        await cluster.__aenter__()
        one = create_async_engine(single.url.replace("postgresql:", "postgresql+asyncpg:"))
        orders, items = rows(7)
        colours = [{"qty": n, "colour": f"c{n % 3}"} for n in range(5)]
        for name in cluster.map.names:
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(META.create_all)
                await connection.execute(sa.insert(COLOUR), colours)
        async with one.begin() as connection:
            await connection.run_sync(META.create_all)
            for table, data in ((ORDER, orders), (ITEM, items), (COLOUR, colours)):
                await connection.execute(sa.insert(table), data)
        assert await cluster.insert(ORDER, orders) == 400
        assert await cluster.insert(ITEM, items) == 300
        return World(runner, cluster, one)

    servers = plain(5)
    with asyncio.Runner() as runner:
        made = runner.run(make(servers))
        yield made
        runner.run(made.cluster.aclose())
        runner.run(made.one.dispose())


def same(got: Any, expected: Any, *, ordered: bool) -> None:
    assert list(got.keys()) == list(expected.keys())
    one, other = got.all(), expected.all()
    assert all(type(row) is sa.Row for row in one)
    a, b = [identity(row) for row in one], [identity(row) for row in other]
    if ordered:
        assert a == b
    else:
        assert Counter(a) == Counter(b)
    for x, y in zip(one, other, strict=True) if ordered else ():
        assert [type(value) for value in x] == [type(value) for value in y]


plain = st.sampled_from([O.qty, O.big, O.price, O.ratio, O.flag, O.day, O.id, O.customer])
columns = st.one_of(
    plain, st.just(O.name), st.sampled_from([O.qty + 1, sa.func.coalesce(O.qty, -1), sa.func.abs(O.qty)])
)


@st.composite
def conditions(draw: Any) -> Any:
    choices = [
        sa.true(),
        O.customer == draw(st.integers(0, 30)),
        O.customer.in_(draw(st.lists(st.integers(0, 30), max_size=4))),
        sa.or_(O.customer == draw(st.integers(0, 30)), O.customer == draw(st.integers(0, 30))),
        sa.or_(O.customer == draw(st.integers(0, 30)), O.qty == 3),
        O.qty > draw(st.integers(0, 5)),
        O.name.is_(None),
        sa.not_(O.customer == draw(st.integers(0, 30))),
        sa.and_(O.customer.in_([1, 2, 3]), O.customer.in_([3, 4])),
        O.flag,
        O.qty.in_(sa.select(COLOUR.c.qty)),
        O.id.in_(sa.select(ITEM.c.order_id)),
    ]
    return draw(st.sampled_from(choices))


def direction(draw: Any, column: Any) -> Any:
    if isinstance(column.type, sa.Text) and draw(st.integers(0, 3)):
        column = column.collate("C")
    made = draw(st.sampled_from([sa.asc, sa.desc]))(column)
    return draw(st.sampled_from([lambda x: x, sa.nulls_first, sa.nulls_last]))(made)


@st.composite
def row_queries(draw: Any) -> tuple[Any, bool]:
    chosen = draw(st.lists(columns, min_size=1, max_size=4))
    statement = sa.select(*chosen).where(draw(conditions()))
    distinct = draw(st.booleans())
    ordered = draw(st.booleans())
    if distinct:
        statement = statement.distinct()
    if ordered:
        terms = chosen if distinct else [*draw(st.lists(columns, max_size=2)), O.id]
        statement = statement.order_by(*(direction(draw, term) for term in terms))
        if draw(st.booleans()):
            statement = statement.limit(draw(st.integers(0, 60)))
        if draw(st.booleans()):
            statement = statement.offset(draw(st.integers(0, 60)))
    return statement, ordered


aggregates = st.sampled_from(
    [
        sa.func.count(),
        sa.func.count(O.name),
        sa.func.sum(O.qty),
        sa.func.sum(O.big),
        sa.func.sum(O.price),
        sa.func.avg(O.qty),
        sa.func.avg(O.big),
        sa.func.avg(O.price),
        sa.func.min(O.day),
        sa.func.max(O.price),
        sa.func.max(O.ratio),
        sa.func.min(O.name.collate("C")),
        sa.func.bool_and(O.flag),
        sa.func.bool_or(O.flag),
        sa.func.count().filter(O.qty > 2),
        sa.func.avg(O.qty).filter(O.flag),
        sa.func.sum(O.ratio).filter(O.ratio < 100),
        sa.func.count(O.qty.distinct()),
        sa.func.string_agg(O.name, ","),
        sa.func.min(O.name),
    ]
)


@st.composite
def group_queries(draw: Any) -> tuple[Any, bool]:
    groups = draw(
        st.lists(st.sampled_from([O.qty, O.flag, O.day, O.name, O.ratio, O.customer]), max_size=2, unique=True)
    )
    found = draw(st.lists(aggregates, min_size=1, max_size=3))
    named = [one.label(f"a{n}") for n, one in enumerate(found)]
    statement = sa.select(*groups, *named).select_from(ORDER).where(draw(conditions()))
    if groups:
        statement = statement.group_by(*groups)
    if draw(st.booleans()):
        statement = statement.having(
            draw(st.sampled_from([sa.func.count() > 8, sa.func.avg(O.qty) >= 2, sa.not_(sa.func.sum(O.qty) < 40)]))
        )
    ordered = draw(st.booleans())
    if ordered:
        terms = [direction(draw, term) for term in groups]
        statement = statement.order_by(*draw(st.permutations([*terms, *draw(st.sampled_from([[], [named[0]]]))])))
        if terms and draw(st.booleans()):
            statement = statement.limit(draw(st.integers(0, 9))).offset(draw(st.integers(0, 4)))
    return statement, ordered and not any(one.name == "string_agg" for one in found if hasattr(one, "name"))


@st.composite
def join_queries(draw: Any) -> tuple[Any, bool]:
    together = ITEM.c.customer == O.customer
    by_id = ITEM.c.order_id == O.id
    how = draw(st.sampled_from([sa.and_(together, by_id), together, by_id, sa.and_(together, ITEM.c.n == O.qty)]))
    outer, full = draw(st.booleans()), draw(st.integers(0, 5)) == 0
    source = sa.join(ORDER, ITEM, how, isouter=outer, full=full)
    if draw(st.booleans()):
        source = source.join(COLOUR, COLOUR.c.qty == O.qty, isouter=draw(st.booleans()))
    elif draw(st.booleans()):
        source = sa.join(COLOUR, ORDER, COLOUR.c.qty == O.qty, isouter=draw(st.booleans()))
    where = draw(conditions())
    chosen = [O.id, ITEM.c.n] if ITEM in source._from_objects else [O.id, COLOUR.c.colour]
    if draw(st.booleans()):
        return sa.select(sa.func.count(), sa.func.sum(O.qty)).select_from(source).where(where), False
    if draw(st.booleans()):
        return sa.select(O.customer, sa.func.count()).select_from(source).where(where).group_by(O.customer), False
    return sa.select(*chosen).select_from(source).where(where), False


def judge(world: World, query: tuple[Any, bool], tally: Counter[str]) -> None:
    statement, ordered = query
    try:
        made = world.cluster.plan(statement)
    except CannotAnswer as refused:
        assert refused.reason and refused.instead  # noqa: PT017, PT018
        tally["refused"] += 1
        return
    tally[made.kind] += 1
    same(*world.both(statement), ordered=ordered)


QUERIES = st.one_of(row_queries(), group_queries(), join_queries())


def judge_many(world: World, examples: int) -> None:
    tally: Counter[str] = Counter()

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(query=QUERIES)
    def each(query: tuple[Any, bool]) -> None:
        judge(world, query, tally)

    each()
    assert tally["scatter"] >= examples * 0.3, tally
    assert tally["single"] >= examples * 0.05, tally
    assert tally["refused"] >= examples * 0.05, tally


def test_the_answer_is_that_of_one_database_or_is_refused(world: World) -> None:
    judge_many(world, 60)


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(O.id).order_by(O.id).limit(7).offset(120),
        sa.select(O.qty, O.id).order_by(O.qty.desc(), O.id).limit(9).offset(300),
        sa.select(O.qty, O.day).distinct().order_by(O.qty, O.day).limit(5).offset(8),
        sa.select(O.day, sa.func.count().label("n")).group_by(O.day).order_by(sa.desc("n"), O.day).limit(2).offset(1),
        sa.select(O.customer, sa.func.string_agg(O.name, ",").label("x"))
        .group_by(O.customer)
        .having(sa.func.count() < 0),
        sa.select(O.id, O.name.collate("C")).order_by(O.name.collate("C").desc().nulls_last(), O.id),
    ],
)
def test_chosen_queries_are_answered_in_order(world: World, statement: Any) -> None:
    assert world.cluster.plan(statement).kind == "scatter"
    same(*world.both(statement), ordered=True)


@pytest.mark.slow
def test_the_answer_is_that_of_one_database_or_is_refused_at_length(world: World) -> None:
    judge_many(world, 300)


@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
@given(query=row_queries())
def test_a_stream_gives_the_same_rows(world: World, query: tuple[Any, bool]) -> None:
    statement, ordered = query

    async def streamed() -> list[Any]:
        async with world.cluster.stream(statement) as rows:
            return [identity(row) async for row in rows]

    try:
        got = world.runner.run(streamed())
    except CannotAnswer:
        return
    expected = [identity(row) for row in world.both(statement)[1].all()]
    assert got == expected if ordered else Counter(got) == Counter(expected)


@pytest.mark.parametrize("column", [O.qty, O.big, O.price])
def test_averages_agree_to_the_last_digit(world: World, column: Any) -> None:
    for least in range(0, 390, 39):
        statement = sa.select(sa.func.avg(column), sa.func.sum(column)).where(O.id >= least, O.price < 1000)
        got, expected = world.both(statement)
        assert str(got.one()) == str(expected.one())


def test_rows_are_found_by_name_position_and_column(world: World) -> None:
    row = world.both(sa.select(O.id, O.qty.label("q")).order_by(O.id).limit(1))[0].one()
    assert (row.id, row[0], row._mapping[O.id], row._mapping["q"]) == (0, 0, 0, row.q)
