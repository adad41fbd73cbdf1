"""Write-then-read pairs on a primary and two replicas whose replay is paused and resumed at random; what a token costs.

A pair is two requests: the first raises a row's version in a transaction and hands out a signed token; the second takes
that token in and reads the row. The read is *stale* if it shows an older version. Clients run side by side, a row each.
Pauses and runs of each replica's replay are drawn from exponential distributions (means 30 and 70 ms), independently.
``control_stale_share`` is the same without a token: the share of stale reads that the token has to prevent.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tenfold._core.rng import derive
from tenfold.db.causal_read import CausalOptions, CausalReads
from tenfold.db.causality import causality
from tenfold.db.token import Token, TokenKeys
from tenfold.db.wal import driver_of, insert_position
from tenfold.servers import Postgres, Topology

KEYS = TokenKeys([b"only for this bench"])
PAUSE = 0.030
RUN = 0.070

_WRITE = text("UPDATE pairs SET version = :version WHERE id = :id")
_READ = text("SELECT version FROM pairs WHERE id = :id")
_LATER = text("SET LOCAL synchronous_commit = off")


@dataclass(slots=True)
class Pairs:
    """What happened to them."""

    reads: int = 0
    stale: int = 0
    seconds: float = 0.0
    captures: int = 0

    @property
    def stale_share(self) -> float:
        return self.stale / self.reads


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers of causality."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    count = 10_000 if quick else 100_000
    async with Topology(replicas=2) as topology:
        await prepare(topology)
        async with causal_reads(topology.primary, topology.replicas, seed=1) as reads:
            cost = await capture_cost(reads, rounds=300 if quick else 3000)
            async with shaken(topology.replicas, seed=2):
                found = await pairs(reads, count)
        async with (
            causal_reads(topology.primary, topology.replicas, seed=3) as unguarded,
            shaken(topology.replicas, seed=4),
        ):
            control = await pairs(unguarded, count // 10, tokens=False)
    counters = reads.counters
    return {
        "stale_reads_with_token": found.stale,
        "reads_on_replicas": (counters.at_once + counters.there) / found.reads,
        "pairs": found.reads,
        "pairs_per_second": found.reads / found.seconds,
        "reads_at_once": counters.at_once / found.reads,
        "reads_after_asking": counters.there / found.reads,
        "control_stale_share": control.stale_share,
        **cost,
    }


async def prepare(topology: Topology, rows: int = 64) -> None:
    """The table, on all servers."""
    connection = await asyncpg.connect(topology.primary.url)
    try:
        await connection.execute(
            "DROP TABLE IF EXISTS pairs; CREATE TABLE pairs (id int PRIMARY KEY, version bigint NOT NULL)"
            " WITH (fillfactor = 50)"
        )
        await connection.execute(f"INSERT INTO pairs SELECT n, 0 FROM generate_series(0, {rows - 1}) n")
    finally:
        await connection.close()
    for replica in topology.replicas:
        await replica.caught_up()


@dataclass(frozen=True, slots=True)
class Pool:
    """A server by name, and connections to it."""

    name: str
    engine: AsyncEngine


@asynccontextmanager
async def causal_reads(
    primary: Postgres, replicas: Sequence[Postgres], *, seed: int, options: CausalOptions | None = None
) -> AsyncIterator[CausalReads]:
    """Causal reads over pools of their own; replicas in random order."""
    random, pools = derive(seed, "order"), []

    def pool(name: str, url: str, **settings: Any) -> Pool:
        made = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=20, **settings)
        pools.append(Pool(name, made))
        return pools[-1]

    for_reads: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    try:
        yield CausalReads(
            pool("primary", primary.url),
            pool("primary for reads", primary.url, **for_reads),
            [pool(replica.name, replica.url, **for_reads) for replica in replicas],
            options,
            order=lambda nodes: random.sample(nodes, len(nodes)),
        )
    finally:
        for one in pools:
            await one.engine.dispose()


@asynccontextmanager
async def shaken(replicas: list[Postgres], *, seed: int) -> AsyncIterator[None]:
    """Pause and resume every replica's replay at random meanwhile; all replay at the end."""

    async def shake(replica: Postgres, random: Random) -> None:
        connection = await asyncpg.connect(replica.url)
        try:
            while True:
                await asyncio.sleep(random.expovariate(1 / RUN))
                await connection.execute("SELECT pg_wal_replay_pause()")
                await asyncio.sleep(random.expovariate(1 / PAUSE))
                await connection.execute("SELECT pg_wal_replay_resume()")
        finally:
            connection.terminate()
            await replica.resume_replay()

    tasks = [asyncio.create_task(shake(one, derive(seed, one.name))) for one in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def pairs(
    reads: CausalReads, count: int, *, clients: int = 8, tokens: bool = True, asynchronous: bool = False
) -> Pairs:
    """``count`` pairs by ``clients`` side by side; without ``tokens`` the second request has none."""
    found = Pairs()

    async def write(number: int, version: int) -> str:
        with causality() as scope:
            async with reads.begin() as connection:
                if asynchronous:
                    await connection.execute(_LATER)
                await connection.execute(_WRITE, {"id": number, "version": version})
            token = await scope.outgoing() if tokens else None
            found.captures += scope.captures
        return KEYS.sign(token) if token is not None else ""

    async def read(number: int, token: str) -> int:
        taken: Token | None = KEYS.read(token) if token else None
        with causality(taken):
            async with reads.connect() as connection:
                version: int = (await connection.execute(_READ, {"id": number})).scalar_one()
        return version

    async def client(number: int) -> None:
        version = await read(number, "")
        for _ in range(count // clients):
            version += 1
            token = await write(number, version)
            found.stale += await read(number, token) < version
            found.reads += 1

    began = time.perf_counter()
    free = reads.counters.free
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    if tokens and reads.counters.free - free > clients:
        raise AssertionError("a read had a token and was served as if it had none")
    found.seconds = time.perf_counter() - began
    return found


async def capture_cost(reads: CausalReads, *, rounds: int) -> dict[str, float]:
    """µs, medians: reading a position on a connection at hand, a bare round trip on the same one, and a whole capture
    over the pool. They take turns, and each comes first as often as the others.
    """
    async with reads.writer.engine.connect() as connection:
        driver, info = driver_of(connection)
        await insert_position(driver, info)
        ways: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("capture_us", lambda: insert_position(driver, info)),
            ("round_trip_us", lambda: driver.fetchval("SELECT 1")),
            ("capture_with_checkout_us", reads.capture),
        ]
        spent: dict[str, list[float]] = {name: [] for name, _ in ways}
        for number in range(3 * rounds):
            first = derive(number, "first").randrange(3)
            for name, way in ways[first:] + ways[:first]:
                began = time.perf_counter()
                await way()
                spent[name].append((time.perf_counter() - began) * 1e6)
    return {name: statistics.median(times) for name, times in spent.items()}


if __name__ == "__main__":
    for name, number in measure(quick="--quick" in sys.argv).items():
        print(f"{name}: {number}")
