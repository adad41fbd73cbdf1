"""A replica of another system: a URL of the wrong cluster in the configuration. It never serves."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from tenfold.db import causality, create_async_cluster
from tenfold.servers import Postgres, Topology

PORT = text("SELECT inet_server_port()")


async def test_a_replica_of_another_system_never_serves(server: Postgres, topology: Topology) -> None:
    mine, theirs = server, topology
    urls = [theirs.replicas[0].url, theirs.primary.url]
    async with create_async_cluster(mine.url, urls, watch_period="20ms") as cluster:
        await cluster.writer()
        async with asyncio.timeout(20):
            while not all(node.stranger for node in cluster.nodes()[1:]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _ in range(20):
            assert (await cluster.execute(PORT)).scalar_one() == mine.port
        with causality():
            await cluster.execute(text("CREATE TABLE t (i int)"))
            assert (await cluster.execute(text("SELECT count(*) FROM t"))).scalar_one() == 0
        told = cluster.explain_route(PORT)
        assert [f"{name} (it belongs to another system)" for name in ("replica 0", "replica 1")] == sorted(told.out)
        await mine.kill()
        async with asyncio.timeout(20):
            while cluster.watch.winner is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert cluster.nodes()[2].refused  # a primary, and none of ours
        await mine.start()
        assert (await cluster.writer(20.0)).name == "primary"
