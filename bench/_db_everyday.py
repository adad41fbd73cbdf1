"""The everyday parts of `tenfold.db` on one real PostgreSQL: hot stock, nested loads, bulk upserts, tags and time-outs.

`hot_stock`: 16 clients buy one article. A purchase is a transaction: take one, insert the order, commit. The peer
takes from a single row by ``UPDATE … WHERE amount >= 1``, the other by the savepoint and the statement of
`tenfold.db.hot_rows` from 16 buckets. The two take turns and the best turn of each counts, since what else the machine
does only ever costs. Three times: with pgbench as client on a server that flushes each commit to disk (the ratio that
counts: a row's lock is held until its commit is on disk), the same without flushing (what is left are round trips), and
with four Python processes through SQLAlchemy, where client and server share the cores and the clients' own work is most
of a purchase.

`dataloader_queries`: statements for 100 orders and the customer of each, counted at the engine.

`upsert`: rows a second by `tenfold.db.bulk.upsert` against SQLAlchemy's ``INSERT … ON CONFLICT`` with a list of rows
(asyncpg's pipelined executemany) and with VALUES of 1000 rows a statement; half of the rows exist.

`begin`: microseconds of a transaction of one statement: bare, with the deadline sent along with BEGIN, and with a
``SET LOCAL`` of its own. `tags`: of a statement untagged, with its route in the text, with a trace in application_name,
and with the trace in the text, as sqlcommenter has it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, bindparam, event, insert, select, text
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tenfold.db.bulk import upsert
from tenfold.db.dataloader import one_by
from tenfold.db.hot_rows import HotRows, hot_rows_table
from tenfold.db.hot_rows_sql import SAVEPOINT, Statements
from tenfold.db.tags import QueryTags, comment, query_tags
from tenfold.db.timeouts import statement_deadline
from tenfold.resilience import Deadline
from tenfold.servers import Postgres

CLIENTS = 16
PROCESSES = 4
META = MetaData()
CUSTOMERS = Table("customers", META, Column("id", Integer, primary_key=True), Column("name", String, nullable=False))
ORDERS = Table("orders", META, Column("id", Integer, primary_key=True), Column("customer", ForeignKey("customers.id")))
SALES = Table("sales", META, Column("id", Integer, primary_key=True), Column("sku", String, nullable=False))
ITEMS = Table("items", META, Column("id", Integer, primary_key=True), Column("name", String), Column("n", Integer))
SINGLE = Table("single", META, Column("key", String, primary_key=True), Column("amount", Integer, nullable=False))
BUCKETS = hot_rows_table("buckets", META)
PLENTY = 10_000_000

# For pgbench, which has no arithmetic on missing rows: a purchase that found nothing is rolled back and not counted.
_PURCHASE = r"""
\set n 1
\set start random(0, 15)
\set got -1
BEGIN;
{take} \aset
\if :got < 0
ROLLBACK;
\else
INSERT INTO sales (sku) VALUES ('a');
COMMIT;
\endif
"""
_ONE_ROW = text("UPDATE single SET amount = amount - :n WHERE key = :key AND amount >= :n RETURNING amount")


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for flushes in (True, False):
        settings = {"fsync": "on"} if flushes else {}
        async with Postgres(settings=settings) as server:
            await _prepare(server)
            numbers = await hot_stock(server, rounds=(1 + flushes) if quick else 5, seconds=2 if quick else 4)
            found |= numbers if flushes else {f"{name}_without_fsync": one for name, one in numbers.items()}
            if not flushes:
                found |= await hot_stock_of_python(server, rounds=1 if quick else 4, seconds=1.5 if quick else 3.0)
                found["dataloader_queries"] = await nested(server)
                found |= await bulk(server, rows=5_000 if quick else 50_000, rounds=2 if quick else 4)
                found |= await small_change(server, rounds=40 if quick else 150)
    return found


def _engine(server_url: str, **options: Any) -> AsyncEngine:
    return create_async_engine(server_url.replace("postgresql://", "postgresql+asyncpg://"), **options)


async def _prepare(server: Postgres) -> None:
    engine = _engine(server.url)
    async with engine.begin() as connection:
        await connection.run_sync(META.create_all)
        await connection.execute(insert(SINGLE).values(key="a", amount=PLENTY))
        await HotRows(BUCKETS).open(connection, "a", PLENTY)
        await connection.execute(insert(CUSTOMERS), [{"id": n, "name": f"c{n}"} for n in range(100)])
        await connection.execute(insert(ORDERS), [{"id": n, "customer": n} for n in range(100)])
    await engine.dispose()


# -- hot stock


async def hot_stock(server: Postgres, *, rounds: int, seconds: int) -> dict[str, float]:
    """Purchases a second of pgbench's clients by either way, and the ratio of the best turns."""
    take = f"{SAVEPOINT};\n{Statements(BUCKETS, None).take}".replace(":key", "'a'")
    one = str(_ONE_ROW).replace(":key", "'a'")
    scripts = {
        "single": _PURCHASE.format(take=f"{one} AS got"),
        "buckets": _PURCHASE.format(take=f"{take} AS got"),
    }
    pgbench = os.path.join(os.path.dirname(os.readlink(f"/proc/{server.pid}/exe")), "pgbench")
    best = dict.fromkeys(scripts, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for way in itertools.islice(itertools.cycle(scripts), 2 * rounds):
            before = await _adds_up(server)
            script = Path(folder) / f"{way}.sql"
            script.write_text(scripts[way])
            options = ["-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds), "-f", str(script)]
            done = await asyncio.to_thread(
                subprocess.run, [pgbench, *options, server.url], capture_output=True, text=True, timeout=60, check=True
            )
            sold = await _adds_up(server) - before
            looked_again = int(re.findall(r"actually processed: (\d+)", done.stdout)[0]) - sold
            assert looked_again < 0.02 * sold, f"{looked_again} of {sold} found no bucket in one look"
            best[way] = max(best[way], sold / seconds)
    return _ratio(best)


async def hot_stock_of_python(server: Postgres, *, rounds: int, seconds: float) -> dict[str, float]:
    """The same through SQLAlchemy, in processes that share the machine with the server."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench._db_everyday", "worker", server.url, str(seconds),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    best = {"single": 0.0, "buckets": 0.0}
    try:
        for way in itertools.islice(itertools.cycle(best), 2 * rounds):
            sold = await asyncio.gather(*[_turn(worker, way) for worker in workers])
            best[way] = max(best[way], sum(sold) / seconds)
    finally:
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.close()
            await worker.wait()
    await _adds_up(server)
    return {f"{name}_python": number for name, number in _ratio(best).items()}


def _ratio(best: dict[str, float]) -> dict[str, float]:
    return {
        "hot_stock_single_row_tps": round(best["single"]),
        "hot_stock_buckets_tps": round(best["buckets"]),
        "hot_stock_vs_single_row": round(best["buckets"] / best["single"], 2),
    }


async def _adds_up(server: Postgres) -> int:
    """Sales so far; what is sold and what is left is what there was."""
    engine = _engine(server.url)
    async with engine.connect() as connection:
        left = (await connection.execute(select(SINGLE.c.amount))).scalar_one()
        left += await HotRows(BUCKETS).total(connection, "a")
        sales = (await connection.execute(text("SELECT count(*) FROM sales"))).scalar_one()
    await engine.dispose()
    assert left + sales == 2 * PLENTY, "stock and sales must add up"
    return int(sales)


async def _turn(worker: asyncio.subprocess.Process, way: str) -> int:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{way}\n".encode())
    await worker.stdin.drain()
    return int(json.loads(await worker.stdout.readline()))


async def _worker(url: str, seconds: float) -> None:
    engine = _engine(url, pool_size=CLIENTS)
    stock = HotRows(BUCKETS)
    connections = [await engine.connect() for _ in range(CLIENTS // PROCESSES)]

    async def single(connection: AsyncConnection) -> bool:
        return (await connection.execute(_ONE_ROW, {"key": "a", "n": 1})).first() is not None

    async def buckets(connection: AsyncConnection) -> bool:
        return await stock.take(connection, "a")

    take: dict[str, Callable[[AsyncConnection], Awaitable[bool]]] = {"single": single, "buckets": buckets}

    async def client(connection: AsyncConnection, way: str, until: float) -> int:
        sold = 0
        while time.monotonic() < until:
            assert await take[way](connection)
            await connection.execute(insert(SALES).values(sku="a"))
            await connection.commit()
            sold += 1
        return sold

    loop = asyncio.get_running_loop()
    while way := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        until = time.monotonic() + seconds
        print(sum(await asyncio.gather(*[client(one, way, until) for one in connections])), flush=True)
    for one in connections:
        await one.close()
    await engine.dispose()


# -- nested loads


async def nested(server: Postgres) -> int:
    """Statements for 100 orders and their customers."""
    engine, seen = _engine(server.url), 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1

    async with engine.connect() as connection, one_by(connection, select(CUSTOMERS), CUSTOMERS.c.id) as customers:
        await connection.execute(select(1))
        event.listen(engine.sync_engine, "before_cursor_execute", count)

        async def resolve(order: Any) -> str:
            return str((await customers(order.customer))[1])

        orders = (await connection.execute(select(ORDERS))).all()
        names = await asyncio.gather(*map(resolve, orders))
    await engine.dispose()
    assert len(set(names)) == 100
    return seen


# -- bulk


async def bulk(server: Postgres, *, rows: int, rounds: int) -> dict[str, float]:
    """Rows a second of three ways to upsert."""
    engine = _engine(server.url)
    data = [{"id": n, "name": f"item {n}", "n": n} for n in range(rows)]
    statement = pg_insert(ITEMS)
    statement = statement.on_conflict_do_update(
        index_elements=["id"], set_={"name": statement.excluded.name, "n": statement.excluded.n}
    )

    async def by_copy(connection: AsyncConnection) -> None:
        await upsert(connection, ITEMS, data)

    async def by_executemany(connection: AsyncConnection) -> None:
        await connection.execute(statement, data)

    async def by_values(connection: AsyncConnection) -> None:
        for at in range(0, rows, 1000):
            many = pg_insert(ITEMS).values(data[at : at + 1000])
            await connection.execute(
                many.on_conflict_do_update(
                    index_elements=["id"], set_={"name": many.excluded.name, "n": many.excluded.n}
                )
            )

    ways = {"copy": by_copy, "executemany": by_executemany, "values": by_values}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            async with engine.begin() as connection:
                await connection.execute(text("TRUNCATE items"))
                await connection.execute(
                    text("INSERT INTO items SELECT n, 'old', 0 FROM generate_series(0, :n - 1, 2) n"), {"n": rows}
                )
            async with engine.begin() as connection:
                began = time.perf_counter()
                await way(connection)
                best[name] = min(best[name], time.perf_counter() - began)
    await engine.dispose()
    found: dict[str, float] = {f"upsert_{name}_rows_per_s": round(rows / seconds) for name, seconds in best.items()}
    found["upsert_copy_vs_executemany"] = round(best["executemany"] / best["copy"], 2)
    found["upsert_copy_vs_values"] = round(best["values"] / best["copy"], 2)
    return found


# -- what time-outs and tags cost


async def small_change(server: Postgres, *, rounds: int, times: int = 20) -> dict[str, float]:
    """Microseconds of one transaction of one primary-key SELECT."""
    bare, bounded, tagged = (_engine(server.url, pool_size=1) for _ in range(3))
    statement_deadline(bounded)
    QueryTags(tagged, in_name=("trace", "route"))
    named = _engine(server.url, pool_size=1)
    QueryTags(named, in_text=("route",), in_name=())
    by_id = select(CUSTOMERS.c.name).where(CUSTOMERS.c.id == bindparam("id"))
    serial = itertools.count()

    async def plain(connection: AsyncConnection) -> None:
        await connection.execute(by_id, {"id": 7})

    async def with_set(connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("SET LOCAL statement_timeout = 5000")
        await connection.execute(by_id, {"id": 7})

    async def deadline(connection: AsyncConnection) -> None:
        with Deadline("5s"):
            await connection.execute(by_id, {"id": 7})

    async def route(connection: AsyncConnection) -> None:
        with query_tags(route="/customers/{id}"):
            await connection.execute(by_id, {"id": 7})

    async def trace(connection: AsyncConnection) -> None:
        with query_tags(route="/customers/{id}", trace=f"{next(serial):032x}"):
            await connection.execute(by_id, {"id": 7})

    async def trace_in_text(connection: AsyncConnection) -> None:
        tags = [("route", "/customers/{id}"), ("trace", f"{next(serial):032x}")]
        await connection.exec_driver_sql(
            f"SELECT customers.name FROM customers WHERE customers.id = $1::INTEGER {comment(tags)}", (7,)
        )

    ways = {
        "begin_bare_us": (bare, plain),
        "begin_with_deadline_us": (bounded, deadline),
        "begin_then_set_us": (bare, with_set),
        "tags_route_in_text_us": (named, route),
        "tags_route_and_trace_in_name_us": (tagged, trace),
        "tags_trace_in_text_us": (bare, trace_in_text),
    }
    best = dict.fromkeys(ways, float("inf"))
    connections = {engine: await engine.connect() for engine in dict.fromkeys(one for one, _ in ways.values())}
    for _ in range(rounds):
        for name, (engine, way) in ways.items():
            connection = connections[engine]
            began = time.perf_counter()
            for _ in range(times):
                await way(connection)
                await connection.rollback()
            best[name] = min(best[name], (time.perf_counter() - began) / times)
    for engine, connection in connections.items():
        await connection.close()
        await engine.dispose()
    return {name: round(seconds * 1e6) for name, seconds in best.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(_worker(sys.argv[2], float(sys.argv[3])))
    else:
        for name, number in measure(quick="--quick" in sys.argv).items():
            print(f"{name}: {number}")
