"""How soon a replica counts as fresh is a matter of a few probes, and not of the period between them."""

from __future__ import annotations

import asyncio
import math
import time

from sqlalchemy import text

from tenfold.db import create_async_cluster
from tenfold.servers import Topology

PORT = text("SELECT inet_server_port()")


async def test_a_replica_becomes_fresh_long_before_the_next_period(items: Topology) -> None:
    """What the replica has replayed lies before the primary's first sample, so its lag is unknown at first."""
    late, ready = items.replicas
    await late.pause_replay()
    await items.primary.fetchval("INSERT INTO items VALUES (11, 'after the pause') RETURNING id")
    await ready.caught_up()
    async with create_async_cluster(items.primary.url, [late.url], watch_period="60s") as cluster:
        replica, watch = cluster.nodes()[1], cluster.watch
        try:
            await cluster.writer()
            began, before = time.monotonic(), watch.probes
            async with asyncio.timeout(20):
                while watch.probes < before + 6:
                    assert (await cluster.execute(PORT)).scalar_one() == items.primary.port
            assert (replica.seen.role, replica.seen.lag_state) == ("replica", "unknown")
        finally:
            await late.resume_replay()
        async with asyncio.timeout(30):  # the period less a fifth is 48 s
            while replica.seen.lag_state != "fresh":  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        took = time.monotonic() - began
        assert (await cluster.execute(PORT)).scalar_one() == late.port
        # Both were asked after 20 ms, 40 ms, 80 ms …, less a fifth, beside the first time and the primary's second.
        assert watch.probes - before <= 2 * (3 + math.log2(1 + took / 0.016))
        # And once it is known, no more: the primary may have one short pause to end.
        before, until = watch.probes, time.monotonic() + 0.3
        while time.monotonic() < until:
            assert (await cluster.execute(PORT)).scalar_one() == late.port
        assert watch.probes <= before + 1


async def test_a_lag_that_stays_unknown_costs_no_more_in_the_end(items: Topology) -> None:
    """Pauses double up to the period: there is no more of them than that, however long nobody knows."""
    late, ready = items.replicas
    await late.pause_replay()
    try:
        await items.primary.fetchval("INSERT INTO items VALUES (11, 'after the pause') RETURNING id")
        await ready.caught_up()
        async with create_async_cluster(items.primary.url, [late.url], watch_period="100ms") as cluster:
            replica, watch = cluster.nodes()[1], cluster.watch
            await watch.settle()
            began, before = time.monotonic(), watch.probes
            async with asyncio.timeout(30):
                while watch.probes < before + 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            # Of each node 15 at least; three or four of them after shorter pauses, the others after 80 ms at least.
            assert time.monotonic() - began >= 0.5
            assert replica.seen.lag_state == "unknown"
    finally:
        await late.resume_replay()
