"""An ordered LIMIT over four shards: tenfold's scatter beside SQLAlchemy's horizontal sharding extension.

Both ask the same four servers for the same three columns through the same driver, the newest 100 of all orders by an
index. The extension has no merge for ORDER BY and LIMIT, so its caller sorts the four answers and cuts; both are
compared with the one that is known. Turns alternate and the least time of each counts. Beside the servers on this
machine (``scatter_vs_sequential_local``) each shard is put behind a proxy that makes a round trip a millisecond longer,
as between two zones of a data centre: that is the case sharding is for, and the one that counts
(``scatter_vs_sequential``).

Without a network both are what the client computes, ``scatter_cpu_us`` of the process's time. What could be had at all
is ``floor_vs_sequential_local``: the same four statements prepared on four bare asyncpg connections that are held, sent
at once, their records sorted and cut, and nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold.db.dialect import DIALECT
from tenfold.db.shards import ShardedCluster
from tenfold.servers import Topology
from tenfold.testing import FaultProxy

SHARDS = 4
LIMIT = 100
DELAY = 0.001


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]
    __table_args__ = (sa.Index("bench_orders_newest", sa.text("total DESC"), "id"),)


STATEMENT = sa.select(Order.id, Order.customer, Order.total).order_by(Order.total.desc(), Order.id).limit(LIMIT)
Read = Callable[[], Awaitable[list[tuple[int, ...]]]]


def measure(*, quick: bool) -> dict[str, Any]:
    """Ratios of minima, and the milliseconds behind them."""
    return asyncio.run(_measure(2_000 if quick else 20_000, 60 if quick else 300))


async def _measure(count: int, rounds: int) -> dict[str, Any]:
    rows = [{"id": n, "customer": n * 7919 % 997, "total": n * 104_729 % 10_007} for n in range(count)]
    expected = sorted(((r["id"], r["customer"], r["total"]) for r in rows), key=lambda row: (-row[2], row[0]))[:LIMIT]
    async with Topology(shards=SHARDS) as topology, AsyncExitStack() as stack:
        urls = [shard.url for shard in topology.shards]
        cluster = await stack.enter_async_context(ShardedCluster(urls, models=[Base]))
        for name in cluster.map.names:
            async with cluster.async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        await cluster.insert(Order, rows)
        for name in cluster.map.names:
            async with cluster.async_engine(name).begin() as connection:
                await connection.execute(sa.text("ANALYZE bench_orders"))
        local = await _race(
            {
                "tenfold": _tenfold(cluster),
                "extension": await _extension(urls, cluster, stack),
                "floor": await _floor(urls, cluster, stack),
            },
            rounds,
            expected,
        )
        far = []
        for shard in topology.shards:
            proxy = await stack.enter_async_context(FaultProxy(f"127.0.0.1:{shard.port}"))
            proxy.delay(DELAY / 2)
            far.append(shard.url.replace(f":{shard.port}/", f":{proxy.port}/"))
        distant = await stack.enter_async_context(ShardedCluster(far, models=[Base]))
        remote = await _race(
            {"tenfold": _tenfold(distant), "extension": await _extension(far, distant, stack)}, rounds // 3, expected
        )
    return {
        "scatter_vs_sequential": round(remote["extension"].wall / remote["tenfold"].wall, 2),
        "scatter_vs_sequential_local": round(local["extension"].wall / local["tenfold"].wall, 2),
        "floor_vs_sequential_local": round(local["extension"].wall / local["floor"].wall, 2),
        "scatter_ms": {"local": _ms(local), "one_millisecond_away": _ms(remote)},
        "scatter_cpu_us": {name: round(least.cpu * 1e6) for name, least in local.items()},
        "rows": count,
    }


@dataclass
class Least:
    """Seconds of the fastest read, and of the process in the one that took least of it."""

    wall: float = float("inf")
    cpu: float = float("inf")


def _tenfold(cluster: ShardedCluster) -> Read:
    async def read() -> list[tuple[int, ...]]:
        return [tuple(row) for row in (await cluster.execute(STATEMENT)).all()]

    return read


async def _extension(urls: list[str], cluster: ShardedCluster, stack: AsyncExitStack) -> Read:
    """As SQLAlchemy's documentation shows it, on its asyncio session."""
    engines = {}
    for name, url in zip(cluster.map.names, urls, strict=True):
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=10)
        stack.push_async_callback(engine.dispose)
        engines[name] = engine.sync_engine
    names = list(engines)

    async def read() -> list[tuple[int, ...]]:
        async with AsyncSession(
            sync_session_class=ShardedSession,
            shards=engines,
            shard_chooser=lambda mapper, instance, clause=None: cluster.map.shard_of(instance.customer),
            identity_chooser=lambda mapper, key, **options: names,
            execute_chooser=lambda context: names,
        ) as session:
            rows = [tuple(row) for row in (await session.execute(STATEMENT)).all()]
        rows.sort(key=lambda row: (-row[2], row[0]))
        return rows[:LIMIT]

    return read


async def _floor(urls: list[str], cluster: ShardedCluster, stack: AsyncExitStack) -> Read:
    sent = cluster.plan(STATEMENT).statement.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})
    prepared = []
    for url in urls:
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        prepared.append(await connection.prepare(str(sent)))

    async def read() -> list[tuple[int, ...]]:
        parts = await asyncio.gather(*(one.fetch() for one in prepared))
        rows = [record for part in parts for record in part]
        rows.sort(key=lambda record: (-record[2], record[0]))
        return [(record[0], record[1], record[2]) for record in rows[:LIMIT]]

    return read


async def _race(reads: dict[str, Read], rounds: int, expected: list[Any]) -> dict[str, Least]:
    best = {name: Least() for name in reads}
    gc.collect()
    for _ in range(rounds):
        for name, read in reads.items():
            used, started = time.process_time(), time.perf_counter()
            rows = await read()
            wall, cpu = time.perf_counter() - started, time.process_time() - used
            best[name] = Least(min(best[name].wall, wall), min(best[name].cpu, cpu))
            if rows != expected:
                raise AssertionError(f"{name} gave another answer than the known one")
    return best


def _ms(times: dict[str, Least]) -> dict[str, float]:
    return {name: round(least.wall * 1000, 3) for name, least in times.items()}
