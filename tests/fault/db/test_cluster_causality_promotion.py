"""Pairs through a cluster's sessions go on through a planned promotion: no read is stale, no write is lost."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from bench._db_causality import prepare
from bench._db_cluster import Found, pairs
from tenfold.db import create_async_cluster
from tenfold.servers import Topology


@pytest.mark.timeout(90)
async def test_pairs_through_a_promotion(topology: Topology) -> None:
    await topology.revive()
    await prepare(topology)
    urls = [replica.url for replica in topology.replicas]
    versions: dict[int, int] = {}
    async with create_async_cluster(topology.primary.url, urls, failover_wait="20s") as cluster:
        found = Found()

        async def go_on(until: asyncio.Event) -> None:
            while not until.is_set():
                more = await pairs(cluster, 40, versions=versions)
                found.reads += more.reads
                found.stale += more.stale
                found.failed += more.failed

        over = asyncio.Event()
        running = asyncio.create_task(go_on(over))
        try:
            while found.reads < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await topology.promote(topology.replicas[0])
            before = found.reads
            while found.reads < before + 400:
                assert not running.done()
                await asyncio.sleep(0.01)
        finally:
            over.set()
            await running
        assert found.stale == 0, found
        assert found.failed <= 4, found  # at most what each client had under way when its primary was stopped
        assert cluster.router.reads_on_replicas > 0
        connection = await asyncpg.connect(topology.primary.url)
        try:
            records = await connection.fetch("SELECT id, version FROM pairs WHERE id < 4")
        finally:
            await connection.close()
        rows: dict[int, int] = {record["id"]: record["version"] for record in records}
        assert all(rows[number] >= version for number, version in versions.items()), (rows, versions)
