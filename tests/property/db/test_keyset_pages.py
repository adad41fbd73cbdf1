"""Pages of real PostgreSQL against a sorted list: any order, NULLs at either end, both ways, ties everywhere."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, Text, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from tenfold.db.keyset import Keyset
from tenfold.servers import Postgres

THINGS = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("a", Integer),
    Column("b", Text(collation="C")),
    Column("c", Integer, nullable=False),
    Column("d", Integer, nullable=False),
)
SECRET = b"0123456789abcdef"


class Bench:
    """One connection, one event loop for all examples."""

    def __init__(self, server: Postgres) -> None:
        self.runner = asyncio.Runner()
        self.server = server
        self.connection: AsyncConnection

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def undone(self, work: Any) -> None:
        """In a transaction that is rolled back, whatever comes of it."""
        try:
            await work
        finally:
            await self.connection.rollback()

    async def open(self) -> None:
        self.engine = create_async_engine(self.server.url.replace("://", "+asyncpg://"))
        self.connection = await self.engine.connect()
        await self.connection.run_sync(THINGS.metadata.create_all)
        await self.connection.commit()

    async def close(self) -> None:
        await self.connection.close()
        await self.engine.dispose()


@pytest.fixture(scope="module")
def bench(server: Postgres) -> Iterator[Bench]:
    bench = Bench(server)
    bench.run(bench.open())
    try:
        yield bench
    finally:
        bench.run(bench.close())
        bench.runner.close()


rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 2)),
        st.one_of(st.none(), st.sampled_from(["", "B", "a", "ä"])),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=14,
)
orders = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from([None, True, False])),
    unique_by=lambda part: part[0],
    max_size=4,
)


def model(found: list[dict[str, Any]], order: list[tuple[str, bool, bool | None]]) -> list[int]:
    """The ids as sorted by Python, part by part, with NULLs where the order says."""
    ways = [*order, ("id", order[-1][1] if order else False, None)]

    def compare(one: dict[str, Any], other: dict[str, Any]) -> int:
        for name, descending, nulls_first in ways:
            x, y = one[name], other[name]
            if x == y:
                continue
            if x is None or y is None:
                first = descending if nulls_first is None else nulls_first
                return (-1 if first else 1) * (1 if x is None else -1)
            x, y = (x.encode(), y.encode()) if isinstance(x, str) else (x, y)
            return (-1 if x < y else 1) * (-1 if descending else 1)
        return 0

    return [one["id"] for one in sorted(found, key=functools.cmp_to_key(compare))]


def ordering(order: list[tuple[str, bool, bool | None]]) -> list[Any]:
    made = []
    for name, descending, nulls_first in order:
        one: Any = THINGS.c[name].desc() if descending else THINGS.c[name].asc()
        if nulls_first is not None:
            one = one.nulls_first() if nulls_first else one.nulls_last()
        made.append(one)
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, order=orders, size=st.integers(1, 5))
def test_pages_are_the_sorted_list_cut(bench: Bench, rows: Any, order: Any, size: int) -> None:
    stored = [dict(zip("abcd", row, strict=True), id=number) for number, row in enumerate(rows)]

    async def read() -> None:
        connection = bench.connection
        await connection.execute(delete(THINGS))
        if stored:
            await connection.execute(insert(THINGS), stored)
        keyset: Keyset[int] = Keyset(
            select(THINGS.c.id).where(THINGS.c.id >= 0), ordering(order), secret=SECRET, size=size
        )
        expected = model(stored, order)
        cut = [expected[at : at + size] for at in range(0, len(expected), size)] or [[]]
        page = await keyset.page(connection)
        assert page.previous is None
        pages, backward = [page.items], []
        while page.next is not None:
            page = await keyset.page(connection, page.next)
            pages.append(page.items)
        assert pages == cut
        while page.previous is not None:
            page = await keyset.page(connection, page.previous)
            backward.insert(0, page.items)
        assert [one for one in backward if one] == cut[:-1]  # one empty page at most, where nothing was known
        page = await keyset.page(connection, keyset.last())
        whole = list(page.items)
        assert page.next is None
        while page.previous is not None:
            page = await keyset.page(connection, page.previous)
            whole[:0] = page.items
        assert whole == expected

    bench.run(bench.undone(read()))


@pytest.mark.parametrize(
    ("order", "written"),
    [
        ([THINGS.c.c, THINGS.c.d], "(things.c, things.d, things.id) >"),
        ([THINGS.c.c.desc()], "(things.c, things.id) <"),
        ([THINGS.c.c.desc(), THINGS.c.d], "things.c <= $1"),
    ],
)
def test_an_index_answers_a_page_deep_in_the_list(bench: Bench, order: Any, written: str) -> None:
    """Seen in the plan: no sort, and only the page's rows (and ties) are read."""

    async def read() -> None:
        connection = bench.connection
        await connection.execute(delete(THINGS))
        await connection.exec_driver_sql(
            "INSERT INTO things SELECT n, NULL, NULL, n % 100, n % 7 FROM generate_series(1, 20000) n"
        )
        await connection.exec_driver_sql("CREATE INDEX i1 ON things (c, d, id)")
        await connection.exec_driver_sql("CREATE INDEX i2 ON things (c, id)")
        await connection.exec_driver_sql("CREATE INDEX i3 ON things (c DESC, d, id)")
        await connection.exec_driver_sql("ANALYZE things")
        keyset: Keyset[int] = Keyset(select(THINGS.c.id), order, secret=SECRET, size=10)
        middle = [50, 3, 10150] if len(order) == 2 else [50, 10150]
        from tenfold.db.cursors import Place

        cursor = keyset._cursor(Place("after", tuple(middle)))
        statement = keyset.statement(cursor)
        text = str(statement.compile(dialect=connection.dialect))
        assert written in " ".join(text.split()).replace("%s", "$1").replace("$1::INTEGER", "$1"), text
        literal = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        plan = (await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {literal}")).scalar_one()[0]["Plan"]
        node, kinds, removed = plan, [], 0
        while True:
            kinds.append(node["Node Type"])
            removed += node.get("Rows Removed by Filter", 0)
            if "Plans" not in node:
                break
            node = node["Plans"][0]
        assert "Sort" not in kinds, kinds
        assert "Index" in kinds[-1], kinds
        assert removed <= 200, plan  # those of one value of the first column

    bench.run(bench.undone(read()))
