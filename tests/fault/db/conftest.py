"""Servers of their own for each module: these tests promote and kill them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

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
