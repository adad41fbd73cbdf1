"""One primary and two streaming replicas for the tests of each module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from tenfold.servers import Topology


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with asyncio.Runner() as runner:
        topology = Topology(replicas=2, shards=0, valkey=False)
        runner.run(topology.start())
        try:
            yield topology
        finally:
            runner.run(topology.close())


@pytest.fixture
async def items(topology: Topology) -> Topology:
    """All servers up, and a table of ten items that all of them have."""
    await topology.revive()
    connection = await asyncpg.connect(topology.primary.url)
    await connection.execute("DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)")
    await connection.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 10) n")
    await connection.close()
    for replica in topology.replicas:
        await replica.caught_up()
    return topology
