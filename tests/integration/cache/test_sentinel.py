"""Level 2 on the master behind Sentinels: found, followed, and refused when it is no master."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenfold.cache import Cache
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.link import Link
from tenfold.cache.places import parsed
from tenfold.cache.sentinel import Behind, ToMaster
from tenfold.servers import ValkeySentinel
from tenfold.servers.talk import tell

CHILD = """
import asyncio, sys
from tenfold.cache import Cache

async def main() -> None:
    async with Cache("shop", redis=sys.argv[1], timeout="2s") as cache:
        @cache("1m", name="f", tags=["t"], memory=False)
        async def f(a: int) -> int:
            raise AssertionError("it is in level 2")

        print([await f(a) for a in range(20)], flush=True)
        print(await cache.invalidate_tags("t"), flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def group() -> AsyncIterator[ValkeySentinel]:
    async with ValkeySentinel(sentinels=1) as group:
        yield group


def declare(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    loads: list[int] = []

    @cache("1m", name="f", tags=["t"], **options)
    async def f(a: int) -> int:
        loads.append(a)
        return a

    return f, loads


async def test_processes_share_values_and_invalidations(group: ValkeySentinel) -> None:
    async with Cache("shop", redis=group.url, timeout="2s") as cache:
        f, loads = declare(cache, memory=False)
        assert [await f(a) for a in range(20)] == list(range(20))
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, group.url, stdout=subprocess.PIPE)
        out, _ = await asyncio.wait_for(child.communicate(), 30)
        assert out.decode().splitlines() == [str(list(range(20))), "True"]
        assert len(loads) == 20
        await f(3)
        assert len(loads) == 21
        assert cache.stats().l2_failures == 0


async def test_an_ordered_failover_is_followed(group: ValkeySentinel, until: Any) -> None:
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        assert await f(1) == 1
        old, gaps = await group.master(), cache.stats().backplane_gaps
        await tell(group.sentinels[0].port, "SENTINEL", "FAILOVER", "mymaster")
        async with asyncio.timeout(20):
            while await group.master() is old:
                assert await f(1) == 1
                await asyncio.sleep(0.02)
        new = await group.master()

        async def there() -> bool:
            assert await f(2) == 2
            return bool(await tell(new.port, "EXISTS", f"tenfold:1:shop:e:{f.key(2)}"))

        async with asyncio.timeout(5):  # long before the old master is told and closes its connections
            while not await there():  # noqa: ASYNC110 - it happens in the Sentinels
                await asyncio.sleep(0.02)
        await until(lambda: cache.stats().backplane_gaps > gaps)  # the subscription has moved as well
        before = len(loads)
        assert await f(2) == 2
        assert len(loads) == before
        assert await f.invalidate(2)
        assert not await tell(new.port, "EXISTS", f"tenfold:1:shop:e:{f.key(2)}")


async def test_a_master_that_was_demoted_under_an_open_connection_is_left(group: ValkeySentinel, until: Any) -> None:
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        assert [await f(1), await f(1)] == [1, 1]
        assert await f.invalidate(9)  # its lane is open
        master = await group.master()
        await tell(master.port, "REPLICAOF", "127.0.0.1", 1)
        assert not await f.invalidate(1)  # READONLY
        assert (cache.stats().pending_invalidations, cache.stats().l2_up) == (1, False)
        assert await f(1) == 1
        await tell(master.port, "REPLICAOF", "NO", "ONE")
        await until(lambda: cache.stats().l2_up and not cache.stats().pending_invalidations)
        assert [await f(1), await f(1)] == [1, 1]
        assert len(loads) == 3  # the first, one without level 2, one after the repeated invalidation


async def test_a_store_that_meets_a_demoted_master_switches_off(group: ValkeySentinel) -> None:
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, _ = declare(cache, memory=False)
        assert await f(1) == 1
        await tell((await group.master()).port, "REPLICAOF", "127.0.0.1", 1)
        assert await f(2) == 2
        assert not cache.stats().l2_up


async def test_a_replica_is_refused(group: ValkeySentinel) -> None:
    replica = next(one for one in group.data if one.role == "replica")
    link = Link(replica.url)
    way = ToMaster(link, "tenfold:1:shop:")
    with pytest.raises(LevelTwoDown, match="no master: b'slave'"):
        await way.opened(2)
    assert link.connections == 0
    await way.aclose()


async def test_what_another_history_has_stored_counts_no_more(group: ValkeySentinel) -> None:
    """A new replication ID, as after a promotion or a restart, and the first one to connect drops everything, once."""
    master = await group.master()
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, _ = declare(cache, memory=False)
        await f(1)
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, loads = declare(cache, memory=False)
        await f(1)
        assert loads == []  # the same history: nothing is lost by connecting
    await tell(master.port, "REPLICAOF", "127.0.0.1", 1)
    await tell(master.port, "REPLICAOF", "NO", "ONE")
    async with Cache("shop", redis=group.url, timeout="1s") as cache, Cache("shop", redis=group.url) as second:
        f, loads = declare(cache, memory=False)
        g, others = declare(second, memory=False)
        assert [await f(1), await g(1)] == [1, 1]
        assert (loads, others) == ([1], [])


async def test_no_sentinel_is_a_level_two_that_is_down(group: ValkeySentinel, until: Any) -> None:
    await group.sentinels[0].stop()
    async with Cache("shop", redis=group.url, timeout="1s") as cache:
        f, _ = declare(cache, memory=False)
        assert await f(1) == 1
        assert not cache.stats().l2_up
        await group.sentinels[0].start()
        await until(lambda: cache.stats().l2_up, 20)
        assert await f(1) == 1


async def test_many_who_ask_at_the_same_time_lose_no_sentinel() -> None:
    """The first Sentinel is dead, so all of them move on to the second one and remember it."""
    async with ValkeySentinel() as group:
        behind = Behind(parsed(group.url))
        try:
            await group.sentinels[0].kill()
            master = ("127.0.0.1", (await group.master()).port)
            assert set(await asyncio.gather(*[behind.master() for _ in range(20)])) == {master}
            await group.sentinels[1].kill()
            assert set(await asyncio.gather(*[behind.master() for _ in range(20)])) == {master}
            await group.sentinels[2].kill()
            with pytest.raises(behind.failures, match="no Sentinel tells the master 'mymaster'") as refused:
                await behind.master()
            for one in group.sentinels:
                assert f"127.0.0.1:{one.port}: " in str(refused.value)
        finally:
            await behind.aclose()
