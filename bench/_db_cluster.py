"""Write-then-read pairs through a cluster's own sessions while replay stops and goes, and the time of a promotion.

A pair is two requests of one client: the first writes and hands out a token, the second brings it and reads. Stale is
a read that shows less than its client's last write; the counts of where reads ran are the router's. The promotion is
timed from the order to promote, which stops the old primary first, until a write has returned.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, select, update
from sqlalchemy.exc import DBAPIError

from bench._db_causality import KEYS, prepare, shaken
from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.db.causality import causality
from tenfold.db.cluster_errors import NoPrimary
from tenfold.servers import Topology

PAIRS = Table("pairs", MetaData(), Column("id", Integer, primary_key=True), Column("version", Integer))


@dataclass(slots=True)
class Found:
    """``failed`` writes raised; their versions are not counted as written."""

    reads: int = 0
    stale: int = 0
    failed: int = 0


async def pairs(
    cluster: AsyncCluster, count: int, *, clients: int = 4, tokens: bool = True, versions: dict[int, int] | None = None
) -> Found:
    """``count`` pairs by ``clients`` side by side; ``versions`` gets the last one that each client knows as written."""
    found, session_of = Found(), cluster.sessionmaker()
    versions = {} if versions is None else versions

    async def write(number: int, version: int) -> str:
        with causality() as scope:
            async with session_of.begin() as session:
                await session.execute(update(PAIRS).where(PAIRS.c.id == number).values(version=version))
            token = await scope.outgoing() if tokens else None
        return "" if token is None else KEYS.sign(token)

    async def read(number: int, token: str) -> int:
        with causality(KEYS.read(token) if token else None):
            async with session_of() as session:
                version = await session.scalar(select(PAIRS.c.version).where(PAIRS.c.id == number))
        return int(version or 0)

    async def client(number: int) -> None:
        version = versions.get(number, 0)
        for _ in range(count // clients):
            version += 1
            try:
                token = await write(number, version)
            except (DBAPIError, OSError):
                found.failed += 1
                continue
            versions[number] = version
            found.stale += await read(number, token) < version
            found.reads += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return found


async def first_write(cluster: AsyncCluster) -> float:
    """The monotonic time when a write has returned that was tried until it did."""
    statement = update(PAIRS).where(PAIRS.c.id == 63).values(version=PAIRS.c.version + 1)
    async with asyncio.timeout(30):
        while True:
            try:
                await cluster.execute(statement)
            except (DBAPIError, OSError, NoPrimary):
                await asyncio.sleep(0.002)
            else:
                return time.monotonic()


def measure(quick: bool) -> dict[str, Any]:
    """The numbers of this module; starts a primary and two replicas."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> dict[str, Any]:
    async with Topology(replicas=2) as topology:
        await prepare(topology)
        urls = [replica.url for replica in topology.replicas]
        async with create_async_cluster(topology.primary.url, urls) as cluster:
            async with shaken(topology.replicas, seed=21):
                found = await pairs(cluster, 2_000 if quick else 100_000)
            router = cluster.router
            share = router.reads_on_replicas / (router.reads_on_replicas + router.reads_on_primary)
            counters = cluster.causal.counters
            at_once = counters.at_once
            async with shaken(topology.replicas, seed=22):
                control = await pairs(cluster, 800 if quick else 10_000, tokens=False)
            for replica in topology.replicas:
                await replica.caught_up()
            chosen = topology.replicas[0]
            began = time.monotonic()
            await topology.promote(chosen)
            promoted = time.monotonic() - began
            took = await first_write(cluster) - began
    return {
        "stale_reads_with_token": found.stale,
        "reads_on_replicas": round(share, 3),
        "pairs": found.reads,
        "reads_at_once": round(at_once / found.reads, 3),
        "control_stale_share": round(control.stale / control.reads, 3),
        "promote_to_first_write_ms": round(took * 1000),
        "promote_itself_ms": round(promoted * 1000),
    }
