"""Scattered reads that say which state they need, over a shard with paused replicas and a plain one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, AtLeast, Stale, Token, causality, create_async_cluster
from tenfold.db.shards import ShardedCluster
from tenfold.servers import Topology


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "visits"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    total: Mapped[int]


ALL = select(Visit.customer, Visit.total).order_by(Visit.id)
COUNT = 20
WAYS = ("execute", "stream", "single")


Pair = tuple[ShardedCluster, ShardedCluster]
"""The same shards as two processes see them."""


@pytest.fixture
async def pair(topology: Topology) -> AsyncIterator[Pair]:
    await topology.revive()
    for name in ("many", "plain"):
        await topology.primary.fetchval(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await topology.primary.fetchval(f"CREATE DATABASE {name}")
    for replica in topology.replicas:
        await replica.caught_up()

    def url(server: Any, name: str) -> str:
        return str(server.url.rpartition("/")[0]) + f"/{name}"

    async with AsyncExitStack() as stack:
        clusters: list[AsyncCluster] = []
        sharded: list[ShardedCluster] = []
        for _ in range(2):
            replicas = [url(replica, "many") for replica in topology.replicas]
            cluster = create_async_cluster(
                url(topology.primary, "many"), replicas, max_lag="30s", watch_period="20ms", spill=5
            )
            clusters.append(cluster)
            shards: dict[str, Any] = {"many": cluster, "plain": url(topology.primary, "plain")}
            sharded.append(await stack.enter_async_context(ShardedCluster(shards, models=[Base])))
        for name in sharded[0].shards:
            async with sharded[0].async_engine(name).begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        await sharded[0].insert(Visit, [{"id": n, "customer": n, "total": 0} for n in range(COUNT)])
        for replica in topology.replicas:
            await replica.caught_up()
        for cluster in clusters:
            await cluster.watch.settle()
            await cluster.router.refresh()
        for replica in topology.replicas:
            await replica.pause_replay()
        try:
            yield sharded[0], sharded[1]
        finally:
            for replica in topology.replicas:
                await replica.resume_replay()


def keys(cluster: ShardedCluster, name: str) -> set[int]:
    return {key for key in range(COUNT) if cluster.map.shard_of(key) == name}


async def raise_all(cluster: ShardedCluster) -> None:
    for key in range(COUNT):
        await cluster.execute(update(Visit).where(Visit.customer == key).values(total=Visit.total + 1))


async def seen(cluster: ShardedCluster, route: Any, way: str) -> set[int]:
    """The customers whose raised total it shows."""
    statement = ALL.execution_options(route=route)
    if way == "stream":
        async with cluster.stream(statement) as rows:
            return {row.customer async for row in rows if row.total}
    if way == "execute":
        return {row.customer for row in await cluster.execute(statement) if row.total}
    found = set()
    for key in range(COUNT):
        one = select(Visit.total).where(Visit.customer == key).execution_options(route=route)
        if (await cluster.execute(one)).scalar_one():
            found.add(key)
    return found


async def test_a_shard_with_replicas_takes_the_route_and_a_plain_one_has_one_state(pair: Pair) -> None:
    one, other = pair
    plain = keys(one, "plain")
    assert plain
    assert keys(one, "many")
    for way in WAYS:
        with causality():
            await raise_all(one)
            assert await seen(one, None, way) == set(range(COUNT))
            assert await seen(one, Stale("25s"), way) == plain  # although it has written
        assert await seen(other, None, way) == plain
        token = await one.token()
        assert await seen(other, AtLeast(token), way) == set(range(COUNT))
        assert await seen(other, AtLeast(Token()), way) == plain
        assert await seen(other, "primary", way) == set(range(COUNT))


async def test_misuse_is_told_by_plain_shards_too(pair: Pair) -> None:
    for way in WAYS:
        with pytest.raises(MisuseError, match="route: expected"):
            await seen(pair[0], "nearest", way)


async def test_the_token_tells_of_the_map_as_it_is_stored(pair: Pair) -> None:
    one, other = pair
    old = one.map.epoch
    await other.install(other.map.moved([], "many"))
    assert one.map.epoch == old
    token = await one.token()  # of what anybody has committed, under a map that this process had not heard of
    assert one.map.epoch == other.map.epoch > old
    assert len(token.positions) == 2
    assert not token.unknown
    assert not token.others_unknown
    newer = other.map.moved([], "many")
    await other.install(newer)
    token = await other.token()
    await seen(one, AtLeast(token), "execute")
    assert (one.map.epoch, one.stale) == (newer.epoch, 0)  # read anew before anything was sent under the old one
    with causality(token):
        assert await one.token() == (await one.token()).merge(token)
