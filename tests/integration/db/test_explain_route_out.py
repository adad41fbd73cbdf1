"""`explain_route` of a read says which servers would not get it, and why; of a write there is nothing to say."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from tenfold.db import create_async_cluster


async def test_a_late_replica_is_named_with_its_lag(items: Any) -> None:
    late = items.replicas[0]
    urls = [replica.url for replica in items.replicas]
    async with create_async_cluster(items.primary.url, urls, max_lag="200ms", watch_period="50ms") as cluster:
        await late.pause_replay()
        try:
            await cluster.execute(text("INSERT INTO items VALUES (11, 'tea')"))
            async with asyncio.timeout(30):
                while [one.seen.lag_state for one in cluster.nodes()[1:]] != ["stale", "fresh"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            told = cluster.explain_route("SELECT 1")
            assert told.to == "replica"
            assert told.places[0] == "replica 1 (a replica that may serve)"
            (out,) = told.out
            assert out.startswith("replica 0 (it is ")
            assert out.endswith("behind, which is too much)")
            assert str(told).endswith(f"primary (the primary); not {out}")
            assert cluster.explain_route("DELETE FROM items").out == ()
        finally:
            await late.resume_replay()


async def test_a_server_that_does_not_answer_is_no_replica_that_may_serve() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with create_async_cluster(nowhere, [nowhere]) as cluster:
        await cluster.watch.settle()
        told = cluster.explain_route("SELECT 1")
        assert sorted(told.places) == [
            "primary (its role is not known, and no primary is seen)",
            "replica 0 (its role is not known, and no primary is seen)",
        ]
        assert told.out == ()


async def test_a_url_to_another_database_of_the_same_servers_gets_nothing(items: Any) -> None:
    """A replica has them all, so it is told apart by its name only; and it would be wrong as a primary, too."""
    await items.primary.fetchval("DROP DATABASE IF EXISTS other")
    await items.primary.fetchval("CREATE DATABASE other")
    for replica in items.replicas:
        await replica.caught_up()
    other = [one.url.rpartition("/")[0] + "/other" for one in (items.replicas[0], items.primary)]
    urls = [*other, items.replicas[1].url]
    async with create_async_cluster(items.primary.url, urls, watch_period="20ms") as cluster:
        async with asyncio.timeout(30):
            while not all(one.stranger for one in cluster.nodes()[1:3]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _ in range(10):
            assert (await cluster.execute(text("SELECT count(*) FROM items"))).scalar_one() == 10
        reason = "its URL leads to database 'other', the primary's to 'postgres'"
        assert sorted(cluster.explain_route("SELECT 1").out) == [f"replica {n} ({reason})" for n in (0, 1)]
        assert cluster.nodes()[2].refused == reason
        assert not cluster.nodes()[3].stranger
