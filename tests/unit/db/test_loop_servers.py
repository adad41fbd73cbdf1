"""What is installed on a cluster reaches each engine of each loop once, and says so without a loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from sqlalchemy.engine import Engine

from tenfold.db import create_async_cluster

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def test_each_engine_is_given_once_in_every_loop() -> None:
    cluster = create_async_cluster(NOWHERE, [NOWHERE])
    found: list[Engine] = []
    again: list[Engine] = []

    async def use(*, close: bool) -> set[Engine]:
        mine = {engine.sync_engine for node in cluster.nodes() for engine in (node.engine, node.reads)}
        if close:
            await cluster.aclose()
        return mine

    async def two_at_once() -> None:
        here = await use(close=False)
        there = await asyncio.to_thread(lambda: asyncio.run(use(close=False)))  # ended, and nothing of it is closed
        before = len(found)
        cluster.each_engine(found.append, key="some")
        assert len(found) == before
        cluster.each_engine(again.append, key="some")
        assert set(again) == here
        assert not here & there
        await cluster.aclose()

    cluster.each_engine(found.append, key="some")
    cluster.each_engine(found.append, key="some")
    assert found == []
    first = asyncio.run(use(close=True))
    assert set(found) == first
    assert len(found) == 4
    asyncio.run(two_at_once())
    assert len(found) == len(set(found)) == 12
    assert len(again) == len(set(again)) == 4
    last = asyncio.run(use(close=True))
    assert last == set(again[4:])
    assert len(found) == 12


async def test_nothing_is_kept_of_a_loop_that_ended_without_a_word() -> None:
    cluster = create_async_cluster(NOWHERE)

    async def leave() -> weakref.ref[Any]:
        place = cluster.router.places._reader(cluster.nodes()[0], False)  # type: ignore[attr-defined]
        return weakref.ref(place.engine.pool)

    first, second = [await asyncio.to_thread(lambda: asyncio.run(leave())) for _ in range(2)]
    gc.collect()
    assert first() is None  # and with the pool its connections
    assert second() is not None  # of the last loop, until there is another
