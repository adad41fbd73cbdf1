"""Clusters and Sentinels of Valkey: up, steered through a failure, and gone without a trace."""

from __future__ import annotations

import asyncio

import pytest

from tenfold._core.errors import MisuseError
from tenfold.servers import NotRunningError, ServersError, ValkeyCluster, ValkeySentinel
from tenfold.servers.talk import tell


async def test_a_cluster_shares_the_slots_and_moves_them() -> None:
    async with ValkeyCluster() as cluster:
        folder, servers = cluster.run.folder, cluster.servers
        assert [server.role for server in servers] == ["master"] * 3
        assert cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in servers)
        owners = [await cluster.owner(slot) for slot in (0, 5460, 5461, 10921, 10922, 16383)]
        assert owners == [servers[at] for at in (0, 0, 1, 1, 2, 2)]
        slot = await tell(servers[0].port, "CLUSTER", "KEYSLOT", "{a}1")
        source = await cluster.owner(slot)
        target = next(one for one in servers if one is not source)
        for n in range(250):
            await tell(source.port, "SET", f"{{a}}{n}", n)
        await cluster.move(slot, target)
        assert await cluster.owner(slot) is target
        assert await tell(target.port, "GET", "{a}249") == "249"
        with pytest.raises(ServersError, match=r"GET .a.1 was expected to be done and was refused: MOVED"):
            await tell(source.port, "GET", "{a}1")
        with pytest.raises(MisuseError, match="started already"):
            await cluster.start()
    assert not folder.exists()
    assert not any(server.running for server in servers)
    with pytest.raises(NotRunningError, match="was expected to be started"):
        _ = cluster.run


async def test_a_replica_is_promoted_when_its_master_dies() -> None:
    async with ValkeyCluster(replicas=1, node_timeout=0.5) as cluster:
        old = cluster.masters[0]
        await old.kill()
        async with asyncio.timeout(20):
            while await cluster.owner(0) is old:  # noqa: ASYNC110 - it happens in the cluster
                await asyncio.sleep(0.05)
        assert await cluster.owner(0) in cluster.replicas


@pytest.mark.slow  # twenty seconds of waiting for Sentinels
async def test_sentinels_promote_a_replica_and_demote_who_comes_back() -> None:
    async with ValkeySentinel(replicas=2) as group:
        folder, servers = group.run.folder, group.servers
        assert [server.role for server in servers] == ["master", "replica", "replica", *["sentinel"] * 3]
        assert group.url.endswith("/mymaster")
        old = await group.master()
        assert old is group.data[0]
        await old.kill()
        async with asyncio.timeout(30):
            while await group.master() is old:  # noqa: ASYNC110 - it happens in the Sentinels
                await asyncio.sleep(0.05)
        new = await group.master()
        await tell(new.port, "SET", "a", 1)
        await old.start()
        async with asyncio.timeout(30):
            while (await tell(old.port, "ROLE"))[0] != "slave":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert not folder.exists()
    assert not any(server.running for server in servers)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ValkeyCluster(masters=2),
        lambda: ValkeyCluster(masters=3, replicas=5),
        lambda: ValkeySentinel(replicas=0),
        lambda: ValkeySentinel(sentinels=8),
    ],
)
def test_counts_that_make_no_sense_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(MisuseError, match="expected"):
        wrong()
