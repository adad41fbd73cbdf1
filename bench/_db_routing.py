"""What routing costs: the decision for a cached statement, and a single-statement read against SQLAlchemy's own way.

``read_vs_sqlalchemy_begin`` compares CPU time of this process (`time.process_time`) for a SELECT by primary key that is
built per call: `Router.execute` against ``async with engine.begin()`` on the same replica, interleaved in rounds; the
ratio is between the minima. ``route_overhead_us`` is the time that the router adds in front of a statement whose
verdict is remembered: asking for the verdict, deciding, choosing a replica.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import asyncpg
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, select
from sqlalchemy.ext.asyncio import async_sessionmaker as sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine

from tenfold.db import create_async_cluster
from tenfold.db.route import decide
from tenfold.db.router import Router
from tenfold.db.session import routed_sessionmaker
from tenfold.servers import Topology

ITEMS = Table("bench_items", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
PREBUILT = select(ITEMS.c.name).where(ITEMS.c.id == bindparam("id"))


def built(number: int) -> Any:
    return select(ITEMS.c.name).where(ITEMS.c.id == number)


def measure(quick: bool) -> dict[str, Any]:
    """The numbers of this module; starts a primary and a replica."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    async with Topology(replicas=1) as topology:
        connection = await asyncpg.connect(topology.primary.url)
        await connection.execute("CREATE TABLE bench_items (id int PRIMARY KEY, name text)")
        await connection.execute("INSERT INTO bench_items SELECT n, 'item ' || n FROM generate_series(1, 1000) n")
        await connection.close()
        replica = topology.replicas[0]
        await replica.caught_up()
        plain = create_async_engine(replica.url.replace("postgresql://", "postgresql+asyncpg://"))
        try:
            async with create_async_cluster(topology.primary.url, [replica.url]) as cluster:
                router = cluster.router
                await router.refresh()
                return _overhead(router, quick) | await _reads(router, plain, quick)
        finally:
            await plain.dispose()


def _overhead(router: Router, quick: bool) -> dict[str, Any]:
    """Fresh statements of one shape, as code that builds them per call gives; SQLAlchemy's key is asked for before, as
    SQLAlchemy itself would, and it keeps it."""
    count, found = 200 if quick else 1000, []
    prebuilt: list[float] = []
    for _ in range(10 if quick else 30):
        statements = [built(number) for number in range(count)]
        for statement in statements:
            statement._generate_cache_key()
        began = time.perf_counter()
        for statement in statements:
            decide(router.classifier(statement))
            next(router.readers(router.wanted(), been_there=False, pinned=None))
        found.append((time.perf_counter() - began) / count * 1e6)
        began = time.perf_counter()
        for _ in range(count):
            decide(router.classifier(PREBUILT))
            next(router.readers(router.wanted(), been_there=False, pinned=None))
        prebuilt.append((time.perf_counter() - began) / count * 1e6)
    return {
        "route_overhead_us": round(min(found), 2),
        "route_overhead_median_us": round(statistics.median(found), 2),
        "route_overhead_prebuilt_us": round(min(prebuilt), 2),
    }


async def _reads(router: Router, plain: Any, quick: bool) -> dict[str, Any]:
    random = Random(7)
    sessions, plain_sessions = routed_sessionmaker(router), sessionmaker(plain)

    async def begin(number: int) -> None:
        async with plain.begin() as connection:
            (await connection.execute(built(number))).all()

    async def execute(number: int) -> None:
        (await router.execute(built(number))).all()

    async def session(number: int) -> None:
        async with sessions() as one:
            (await one.execute(built(number))).all()

    async def plain_session(number: int) -> None:
        async with plain_sessions() as one:
            (await one.execute(built(number))).all()

    ways = {"begin": begin, "execute": execute, "session": session, "plain_session": plain_session}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        await _round(way, 50, random)
    before = router.reads_on_replicas
    for _ in range(6 if quick else 25):
        for name, way in ways.items():
            used, elapsed = await _round(way, 150 if quick else 300, random)
            cpu[name].append(used)
            wall[name].append(elapsed)
    if router.reads_on_replicas == before or router.reads_on_primary or router.sent_to_primary:
        raise RuntimeError(f"expected all reads on the replica, got {router!r}")
    found: dict[str, Any] = {f"{name}_cpu_us": round(min(times), 1) for name, times in cpu.items()}
    found |= {f"{name}_wall_us": round(min(times), 1) for name, times in wall.items()}
    found["read_vs_sqlalchemy_begin"] = round(min(cpu["execute"]) / min(cpu["begin"]), 3)
    found["session_vs_sqlalchemy_session"] = round(min(cpu["session"]) / min(cpu["plain_session"]), 3)
    found["session_vs_sqlalchemy_begin"] = round(min(cpu["session"]) / min(cpu["begin"]), 3)
    return found


async def _round(way: Callable[[int], Awaitable[None]], count: int, random: Random) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        await way(random.randint(1, 1000))
    return (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6
