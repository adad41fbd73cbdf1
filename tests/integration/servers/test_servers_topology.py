"""The topology: replicate, lag on demand, kill, promote, rejoin; twice at once; and the commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest

from tenfold._core.errors import MisuseError
from tenfold.servers import Postgres, ServersTimeoutError, Topology, replication
from tenfold.servers.locate import Binaries


def tenfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenfold", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


async def test_it_starts_replicates_and_lags_on_demand() -> None:
    began = time.monotonic()
    async with Topology(replicas=2, shards=2, valkey=True) as t:
        assert time.monotonic() - began < 10 + 5  # the promise is 10 s warm; this may be the start that runs initdb
        urls = {server.url for server in t.servers}
        assert len(urls) == 6
        await t.primary.fetchval("CREATE TABLE t (i int)")
        await asyncio.gather(*(replica.caught_up() for replica in t.replicas))
        first, second = t.replicas
        await first.pause_replay()
        await t.primary.fetchval("INSERT INTO t VALUES (1)")
        await second.caught_up()
        assert await second.fetchval("SELECT count(*) FROM t") == 1
        assert await first.fetchval("SELECT count(*) FROM t") == 0
        assert (await first.lag_bytes() or 0) > 0
        with pytest.raises(ServersTimeoutError, match="replica1 was expected to reach"):
            await first.caught_up(within="100ms")
        await first.resume_replay()
        await first.caught_up()
        assert await first.fetchval("SELECT count(*) FROM t") == 1
        # The shards are servers of their own, not replicas: systems of their own, as far as PostgreSQL is concerned.
        asked = "SELECT system_identifier FROM pg_control_system()"
        systems = await asyncio.gather(*(server.fetchval(asked) for server in (t.primary, *t.replicas, *t.shards)))
        assert systems[0] == systems[1] == systems[2]
        assert len(set(systems)) == 3
        assert await t.shards[0].fetchval("SELECT to_regclass('t') IS NULL AND NOT pg_is_in_recovery()")
        with pytest.raises(MisuseError, match="expected a replica, primary is a primary"):
            await t.primary.caught_up()


async def test_failover_and_return_lose_nothing_twice_in_a_row() -> None:
    async with Topology(replicas=2) as t:
        await t.primary.fetchval("CREATE TABLE t (i int)")
        for rows in (1, 2):
            await asyncio.gather(*(replica.caught_up() for replica in t.replicas))
            old, heir = t.primary, t.replicas[0]
            await old.kill()
            assert not old.running
            await t.promote(heir)
            assert t.primary is heir
            assert t.lost == [old]
            await t.primary.fetchval("INSERT INTO t VALUES (1)")
            await t.rejoin(old)
            assert t.lost == []
            for replica in t.replicas:
                await replica.caught_up()
                assert await replica.fetchval("SELECT count(*) FROM t") == rows
        assert {server.role for server in t.replicas} == {"replica"}
        with pytest.raises(MisuseError, match="expected a replica of this topology"):
            await t.promote(t.primary)


async def test_promotion_over_a_living_primary_stops_it_first() -> None:
    async with Topology(replicas=1) as t:
        await t.primary.fetchval("CREATE TABLE t AS SELECT 1 AS i")
        old = t.primary
        await t.promote(t.replicas[0])
        assert not old.running
        assert await t.primary.fetchval("SELECT i FROM t") == 1  # handed over, though nobody waited for it
        await t.rejoin(old)
        await t.primary.fetchval("UPDATE t SET i = 2")
        await old.caught_up()
        assert await old.fetchval("SELECT i FROM t") == 2


async def test_a_killed_replica_comes_back_and_catches_up() -> None:
    async with Topology(replicas=1) as t:
        replica = t.replicas[0]
        await replica.kill()
        await t.primary.fetchval("CREATE TABLE t AS SELECT 1 AS i")
        await t.rejoin(replica)
        await replica.caught_up()
        assert await replica.fetchval("SELECT i FROM t") == 1


async def test_two_topologies_at_once_do_not_meet() -> None:
    async with Topology(valkey=True) as a, Topology(valkey=True) as b:
        assert a.run.folder != b.run.folder
        assert {a.primary.port, a.valkey.port}.isdisjoint({b.primary.port, b.valkey.port})
        await a.close()
        assert await b.primary.fetchval("SELECT 1") == 1
        assert b.valkey.running


def test_up_status_down() -> None:
    try:
        assert tenfold("status").returncode == 1
        started = tenfold("up", "--replicas", "1", "--shards", "1", "--format", "json")
        assert started.returncode == 0, started.stderr
        servers = json.loads(started.stdout)
        assert [server["role"] for server in servers] == ["primary", "replica", "shard", "cache"]
        again = tenfold("up", "--replicas", "1", "--shards", "1", "--format", "env")
        assert again.returncode == 0
        assert "already up" in again.stderr
        assert f"export TENFOLD_PRIMARY_URL={servers[0]['url']}" in again.stdout.splitlines()
        other = tenfold("up", "--replicas", "2")
        assert other.returncode == 2
        assert "(1 replicas, 1 shards, with Valkey)" in other.stderr
        shown = tenfold("status")
        assert shown.returncode == 0
        assert str(servers[1]["pid"]) in shown.stdout

        os.kill(servers[0]["pid"], 9)  # by hand, as somebody does who wants to see what happens
        assert tenfold("status").returncode == 1
        revived = tenfold("up", "--replicas", "1", "--shards", "1", "--format", "json")
        assert revived.returncode == 0, revived.stderr
        assert json.loads(revived.stdout)[0]["url"] == servers[0]["url"]

        assert tenfold("down", "--keep").returncode == 0
        assert tenfold("status").returncode == 1
        resumed = tenfold("up", "--replicas", "1", "--shards", "1")
        assert resumed.returncode == 0, resumed.stderr
        assert "resumed" in resumed.stderr
    finally:
        down = tenfold("down")
    assert down.returncode == 0
    assert tenfold("down").stdout == "tenfold: nothing was up\n"


async def test_a_data_folder_that_parted_too_long_ago_is_copied_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Postgres] = []
    make_replica = replication.make_replica

    async def watched(primary: Postgres, replica: Postgres, binaries: Binaries) -> None:
        copied.append(replica)
        await make_replica(primary, replica, binaries)

    async with Topology(replicas=1, settings={"wal_keep_size": "0", "min_wal_size": "32MB"}) as t:
        old: Postgres = t.primary
        await old.fetchval("CREATE TABLE t AS SELECT 1 AS i")
        await t.replicas[0].caught_up()
        await old.kill()
        await t.promote(t.replicas[0])
        monkeypatch.setattr(replication, "make_replica", watched)
        await t.rejoin(old)
        assert copied == [old]  # the rewind was not possible
        await old.caught_up()
        assert await old.fetchval("SELECT i FROM t") == 1
