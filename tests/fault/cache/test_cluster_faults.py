"""A node of the cluster fails: it costs its partitions, the others go on, no call fails, and it is used again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.servers import ValkeyCluster
from tenfold.servers.talk import tell

KEYS = range(60)


@pytest.fixture
async def cluster() -> AsyncIterator[ValkeyCluster]:
    async with ValkeyCluster() as cluster:
        yield cluster


@pytest.fixture
async def replicated() -> AsyncIterator[ValkeyCluster]:
    async with ValkeyCluster(replicas=1, node_timeout=0.5) as cluster:
        yield cluster


def declare(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    loads: list[int] = []

    @cache("1m", name="f", tags=["t"], **options)
    async def f(a: int) -> int:
        loads.append(a)
        return a

    return f, loads


def state(cache: Cache) -> str:
    return repr(cache.engine().level2)


async def on_node(cluster: ValkeyCluster, at: int, f: Any) -> set[int]:
    names = await tell(cluster.masters[at].port, "KEYS", "tenfold:1:*:e:*")
    return {a for a in KEYS if any(name.endswith(":e:" + f.key(a)) for name in names)}


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_dead_node_costs_its_partitions_only(cluster: ValkeyCluster, how: str, until: Any) -> None:
    async with Cache("shop", redis=cluster.url, timeout="100ms") as cache:
        f, loads = declare(cache, memory=False)
        assert [await f(a) for a in KEYS] == list(KEYS)
        assert await cache.invalidate_tags("nothing")
        lost = await on_node(cluster, 1, f)
        assert 0 < len(lost) < len(KEYS)
        node = cluster.masters[1]
        await getattr(node, how)()
        try:
            loads.clear()
            began = time.monotonic()
            assert await asyncio.gather(*[f(a) for a in KEYS]) == list(KEYS)
            assert time.monotonic() - began < 1
            assert set(loads) == lost  # all others were hits
            down = state(cache)
            assert ", 0 down" not in down
            loads.clear()
            began = time.monotonic()
            for _ in range(3):
                assert [await f(a) for a in KEYS] == list(KEYS)
            assert time.monotonic() - began < 0.5  # what is down costs nothing any more
            assert set(loads) == lost
            one, other = min(lost), min(set(KEYS) - lost)
            assert await f.invalidate(other)
            assert not await f.invalidate(one)
            assert not await cache.invalidate_tags("t")
            assert cache.stats().pending_invalidations
        finally:
            await (node.restart() if how == "kill" else node.resume())
        await until(lambda: not cache.stats().pending_invalidations and "(16, 0 down" in state(cache), 20)
        assert [await f(a) for a in KEYS] == list(KEYS)
        loads.clear()
        assert [await f(a) for a in KEYS] == list(KEYS)
        assert loads == []


async def test_all_nodes_down_and_up_again(cluster: ValkeyCluster, until: Any) -> None:
    async with Cache("shop", redis=cluster.url, timeout="100ms") as cache:
        f, loads = declare(cache)
        assert [await f(a) for a in KEYS] == list(KEYS)
        for node in cluster.masters:
            await node.kill()
        assert await f(1000) == 1000
        assert not await cache.invalidate_tags("t")
        assert not cache.stats().l2_up
        loads.clear()
        assert [await f(a) for a in KEYS] == list(KEYS)
        assert [await f(a) for a in KEYS] == list(KEYS)
        assert loads == list(KEYS)  # memory serves
        for node in cluster.masters:
            await node.restart()
        await until(lambda: "(16, 0 down, 0 pending)" in state(cache), 30)


async def test_a_slot_under_migration_counts_as_down(cluster: ValkeyCluster, until: Any) -> None:
    """The source answers ASK for what it does not have any more; nobody follows, and nobody fails."""
    version = 0
    async with Cache("shop", redis=cluster.url, timeout="500ms") as cache:

        @cache("1m", name="f", memory=False)
        async def f(a: int) -> int:
            return version

        await asyncio.gather(*[f(a) for a in KEYS])
        source, target = cluster.masters[0], cluster.masters[1]
        name = (await tell(source.port, "KEYS", "tenfold:1:*:e:*"))[0]
        number = next(a for a in KEYS if name.endswith(":e:" + f.key(a)))
        slot = await tell(source.port, "CLUSTER", "KEYSLOT", name)
        here, there = [await tell(one.port, "CLUSTER", "MYID") for one in (source, target)]
        await tell(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        await tell(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        await tell(source.port, "MIGRATE", "127.0.0.1", target.port, name, 0, 2000)
        version = 1
        assert not await f.invalidate(number)
        assert await f(number) == 1
        await cluster.move(slot, target)
        await until(lambda: "(16, 0 down, 0 pending)" in state(cache), 20)
        assert await f(number) == 1  # the record that moved was invalidated after all
        assert await tell(target.port, "EXISTS", name) == 1


async def test_a_replica_takes_over(replicated: ValkeyCluster, until: Any) -> None:
    """A writer and readers in three caches while a master is killed. At each look-up: no call fails, and no version
    older than the last acknowledged invalidation is served.
    """
    cluster = replicated
    versions = dict.fromkeys(KEYS, 0)
    acknowledged = dict.fromkeys(KEYS, 0)
    postponed = 0
    ended = asyncio.Event()

    def define(cache: Cache) -> Any:
        @cache("1m", name="f", tags=["k:{a}"], memory=False)
        async def f(a: int) -> int:
            loaded = versions[a]
            await asyncio.sleep(0.002)
            return loaded

        return f

    async def write(cache: Cache) -> None:
        nonlocal postponed
        f, turn = define(cache), 0
        while not ended.is_set():
            turn += 1
            a = turn % len(KEYS)
            versions[a] += 1
            now = versions[a]
            if await (f.invalidate(a) if turn % 3 else cache.invalidate_tags(f"k:{a}")):
                acknowledged[a] = max(acknowledged[a], now)
            else:
                postponed += 1
            await asyncio.sleep(0.003)

    async def read(cache: Cache, start: int) -> None:
        f, turn = define(cache), start
        while not ended.is_set():
            turn += 1
            a = turn % len(KEYS)
            least, began = acknowledged[a], time.monotonic()
            assert await f(a) >= least
            assert time.monotonic() - began < 3
            await asyncio.sleep(0.0005)

    caches = [Cache("shop", redis=cluster.url, timeout="200ms") for _ in range(3)]
    for cache in caches:
        await cache.__aenter__()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write(caches[0]))
            for at, cache in enumerate(caches[1:]):
                tasks.create_task(read(cache, 30 * at))
            await until(lambda: sum(acknowledged.values()) > 100)
            slot = await tell(cluster.masters[0].port, "CLUSTER", "KEYSLOT", "{shop:0/16}")
            old = await cluster.owner(slot)
            await old.kill()
            await until(lambda: postponed > 0)
            async with asyncio.timeout(20):
                while await cluster.owner(slot) is old:  # noqa: ASYNC110 - it happens in the cluster
                    await asyncio.sleep(0.05)
            await until(lambda: all("(16, 0 down, 0 pending)" in state(cache) for cache in caches), 20)
            hits = caches[1].stats().l2_hits
            await until(lambda: caches[1].stats().l2_hits > hits + 50)
            ended.set()
        assert await cluster.owner(slot) in cluster.replicas
    finally:
        for cache in caches:
            await cache.aclose()
