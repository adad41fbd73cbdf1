"""Level 2 on a cluster: every partition stores, hears and forgets, over all nodes and processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.cache.partitions import Partitions
from tenfold.servers import Valkey, ValkeyCluster
from tenfold.servers.talk import tell

KEYS = range(100)

CHILD = """
import asyncio, sys
from tenfold.cache import Cache

async def main() -> None:
    async with Cache("shop", redis=sys.argv[1], timeout="2s") as cache:
        loads = 0

        @cache("1m", name="f", tags=["t:{a}", "all"], memory=False)
        async def f(a: int) -> int:
            nonlocal loads
            loads += 1
            await asyncio.sleep(0.05)
            return a

        loop = asyncio.get_running_loop()
        print("ready", flush=True)
        while command := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            before = loads
            match command:
                case "read":
                    values = await asyncio.gather(*[f(a) for a in range(100)])
                    assert values == list(range(100))
                case "tag":
                    assert await cache.invalidate_tags("all")
                case "clear":
                    assert await cache.clear()
            print(loads - before, cache.stats().l2_failures, flush=True)

asyncio.run(main())
"""


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().strip()

    async def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        return await self.line()


@pytest.fixture
async def cluster() -> AsyncIterator[ValkeyCluster]:
    async with ValkeyCluster() as cluster:
        yield cluster


@pytest.fixture
async def child(cluster: ValkeyCluster) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, cluster.url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    one = Child(process)
    try:
        assert await one.line() == "ready"
        yield one
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def declare(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    loads: list[int] = []

    @cache("1m", name="f", tags=["t:{a}", "all"], **options)
    async def f(a: int) -> int:
        loads.append(a)
        await asyncio.sleep(0.05)
        return a

    return f, loads


async def values(f: Any) -> None:
    assert await asyncio.gather(*[f(a) for a in KEYS]) == list(KEYS)


async def names_on(node: Valkey) -> Sequence[str]:
    found: Sequence[str] = await tell(node.port, "KEYS", "tenfold:1:*:e:*")
    return found


async def test_every_partition_stores_in_a_slot_of_its_own_and_every_node_has_some(cluster: ValkeyCluster) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, _ = declare(cache, memory=False)
        await values(f)
        names = [name for node in cluster.masters for name in await names_on(node)]
        assert len(names) == len(KEYS)
        assert {name.partition(":e:")[0] for name in names} == {f"tenfold:1:{{shop:{part}/16}}" for part in range(16)}
        assert all([await names_on(node) for node in cluster.masters])
        assert cache.stats().l2_failures == 0


async def test_processes_share_values_tags_and_clear_over_all_partitions(cluster: ValkeyCluster, child: Child) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, loads = declare(cache, memory=False)
        await values(f)
        assert await child.ask("read") == "0 0"  # all of it from level 2
        assert await cache.invalidate_tags("all")
        assert await child.ask("read") == "100 0"  # none of it
        assert await cache.invalidate_tags("t:3", "t:5")
        assert await child.ask("read") == "2 0"
        assert await f.invalidate(7)
        assert await child.ask("read") == "1 0"
        assert await cache.clear()
        assert await child.ask("read") == "100 0"
        before = len(loads)
        await values(f)
        assert len(loads) == before
        assert (await child.ask("tag")).startswith("0")
        await values(f)
        assert len(loads) == before + 100
        assert (await child.ask("clear")).startswith("0")
        await values(f)
        assert len(loads) == before + 200


async def test_one_load_over_processes(cluster: ValkeyCluster, child: Child) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, loads = declare(cache, memory=False)
        answer, _ = await asyncio.gather(child.ask("read"), values(f))
        elsewhere, failures = map(int, answer.split())
        assert (len(loads) + elsewhere, failures) == (100, 0)


async def test_copies_in_memory_are_dropped_when_another_process_invalidates(
    cluster: ValkeyCluster, child: Child, until: Any
) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, loads = declare(cache)
        await values(f)
        await values(f)
        assert len(loads) == 100
        await child.ask("tag")
        await until(lambda: cache.stats().remote_invalidations >= 16)  # one for each partition
        await values(f)
        assert len(loads) == 200


async def test_many_at_once_come_from_all_partitions_in_their_order(cluster: ValkeyCluster) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache, Cache("shop", redis=cluster.url) as second:
        asked: list[list[int]] = []

        def declare_many(on: Cache) -> Any:
            @on.many("1m", name="many", memory=False)
            async def many(ids: list[int]) -> dict[int, str]:
                asked.append(ids)
                return {one: f"value {one}" for one in ids}

            return many

        wanted = list(KEYS)
        expected = {one: f"value {one}" for one in wanted}
        assert await declare_many(cache)(wanted) == expected
        assert await declare_many(second)(wanted) == expected
        assert len(asked) == 1


async def test_how_many_partitions_is_said_by_the_url(cluster: ValkeyCluster) -> None:
    async with Cache("shop", redis=f"{cluster.url}?partitions=3", timeout="2s") as cache:
        f, _ = declare(cache, memory=False)
        await values(f)
        parts = {name.partition(":e:")[0] for node in cluster.masters for name in await names_on(node)}
        assert parts == {f"tenfold:1:{{shop:{part}/3}}" for part in range(3)}


async def test_one_node_of_the_url_is_enough(cluster: ValkeyCluster) -> None:
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.masters[1].port}"
    async with Cache("shop", redis=url, timeout="2s") as cache:
        f, loads = declare(cache, memory=False)
        await values(f)
        await values(f)
        assert len(loads) == 100
        assert repr(cache.engine().level2) == "Partitions(16, 0 down, 0 pending)"


async def test_connections_are_shared_by_the_partitions_of_a_node(cluster: ValkeyCluster) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, _ = declare(cache, memory=False)
        await values(f)
        await cache.clear()
        clients = [await tell(node.port, "INFO", "clients") for node in cluster.masters]
        counts = [int(text.split("connected_clients:")[1].split()[0]) - 1 for text in clients]
        assert sum(counts) == 2 * 3 + 1  # two lanes to each node and one subscription


async def test_a_slot_that_moves_is_followed(cluster: ValkeyCluster, until: Any) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, loads = declare(cache, memory=False)
        await values(f)
        assert await cache.invalidate_tags("nothing")  # the lane of invalidations is open as well
        (name,) = [n for node in cluster.masters for n in await names_on(node) if n.endswith(f.key(1))]
        slot = await tell(cluster.masters[0].port, "CLUSTER", "KEYSLOT", name)
        old = await cluster.owner(slot)
        new = next(node for node in cluster.masters if node is not old)
        await cluster.move(slot, new)
        assert await tell(new.port, "EXISTS", name) == 1
        await values(f)
        assert cache.stats().l2_failures
        await until(lambda: "(16, 0 down," in repr(cache.engine().level2))
        await values(f)
        before = len(loads)
        await values(f)
        assert len(loads) == before  # again all hits
        assert await f.invalidate(1)
        assert await tell(new.port, "EXISTS", name) == 0
        assert await f(1) == 1
        assert await tell(new.port, "EXISTS", name) == 1


async def test_an_invalidation_finds_the_slot_where_it_has_moved(cluster: ValkeyCluster, until: Any) -> None:
    """By a cache that has not looked anything up since: the old node answers with an error, and it is repeated."""
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache, Cache("shop", redis=cluster.url) as second:
        f, _ = declare(cache, memory=False)
        g, loads = declare(second, memory=False)
        await values(f)
        assert await f.invalidate(2)
        (name,) = [n for node in cluster.masters for n in await names_on(node) if n.endswith(f.key(1))]
        slot = await tell(cluster.masters[0].port, "CLUSTER", "KEYSLOT", name)
        old = await cluster.owner(slot)
        await cluster.move(slot, next(node for node in cluster.masters if node is not old))
        assert not await f.invalidate(1)
        assert cache.stats().pending_invalidations == 1
        await until(lambda: not cache.stats().pending_invalidations)
        assert await g(1) == 1
        assert loads == [1]


async def test_explain_says_where_it_is(cluster: ValkeyCluster) -> None:
    async with Cache("shop", redis=cluster.url, timeout="2s") as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
        assert isinstance(cache.engine().level2, Partitions)
        assert (await cache.explain(f.key(1))).outcome == "level2"
        assert (await cache.explain(f.key(2))).outcome == "miss"
