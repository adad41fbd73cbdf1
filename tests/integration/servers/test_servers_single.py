"""Postgres and Valkey alone: start, answer, pause, kill, restart, and no trace afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from tenfold._core.errors import MisuseError
from tenfold.servers import NotRunningError, Postgres, ServersTimeoutError, Valkey
from tenfold.servers.process import identify


async def test_valkey_answers_pauses_dies_and_comes_back_on_its_port() -> None:
    async with Valkey(settings={"maxmemory": "32mb"}) as v:
        folder, pid, port = v.run.folder, v.pid, v.port
        client = redis.asyncio.Redis.from_url(v.url, socket_timeout=0.2, retry=None)
        async with client:
            assert await client.set("a", "1")
            assert (await client.config_get("maxmemory"))["maxmemory"] == str(32 * 1024 * 1024)
            await v.pause()
            with pytest.raises(redis.exceptions.TimeoutError):
                await client.ping()
            assert v.running
            await v.resume()
        await v.kill()
        assert not v.running
        assert identify(pid) is None
        with pytest.raises(NotRunningError, match="valkey was expected to run"):
            _ = v.pid
        await v.restart()
        assert v.port == port
        async with redis.asyncio.Redis.from_url(v.url) as client:
            assert await client.get("a") is None
        last = v.pid
    assert identify(last) is None
    assert not folder.exists()


async def test_a_paused_server_is_ended_like_any_other() -> None:
    async with Valkey() as v, Postgres() as p:
        pids = (v.pid, p.pid)
        await v.pause()
        await p.pause()
        with pytest.raises(ServersTimeoutError, match="postgres was expected to answer within"):
            await p.fetchval("SELECT 1", within="200ms")
    assert [identify(pid) for pid in pids] == [None, None]


async def test_postgres_takes_settings_and_has_statement_statistics() -> None:
    async with Postgres(settings={"work_mem": "9MB"}, max_connections=50) as p:
        assert p.url == f"postgresql://tenfold@127.0.0.1:{p.port}/postgres"
        connection = await asyncpg.connect(p.url)
        try:
            assert await connection.fetchval("SHOW work_mem") == "9MB"
            assert await connection.fetchval("SHOW max_connections") == "50"
            assert await connection.fetchval("SHOW fsync") == "off"
            assert await connection.fetchval("SELECT count(*) FROM pg_stat_statements") >= 1
            await connection.execute("CREATE DATABASE other")
        finally:
            await connection.close()
        other = await asyncpg.connect(p.url.replace("/postgres", "/other"))
        try:
            assert await other.fetchval("SELECT count(*) FROM pg_stat_statements") >= 1
        finally:
            await other.close()


async def test_postgres_keeps_its_data_through_a_kill() -> None:
    async with Postgres() as p:
        await p.fetchval("CREATE TABLE t AS SELECT 7 AS i")
        await p.kill()
        await p.start()
        assert await p.fetchval("SELECT i FROM t") == 7
        with pytest.raises(MisuseError, match="it already runs"):
            await p.start()


async def test_a_lock_file_that_names_a_stranger_is_replaced() -> None:
    """A killed server's pid belongs to somebody else of the same account: PostgreSQL alone would refuse."""
    async with Postgres() as p:
        await p.kill()
        lock = p.folder / "postmaster.pid"
        account = p.home.account
        uid = None if account is None else account.uid
        stranger = subprocess.Popen(["sleep", "60"], user=uid)  # noqa: ASYNC220  (milliseconds)
        try:
            lines = lock.read_text().splitlines()
            lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            await p.start()
            assert await p.fetchval("SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


async def test_somebody_who_reads_the_log_is_left_alone() -> None:
    async with Valkey() as v:
        reader = subprocess.Popen(  # noqa: ASYNC220  (milliseconds)
            ["tail", "-f", str(v.log)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


async def test_the_loop_is_not_held_up_while_a_server_starts() -> None:
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    async with Postgres(), Valkey():
        done.set()
    await watcher
    assert longest < 0.25  # two shared cores; initdb alone would be 1.5 s


def plain_python(environment: dict[str, str]) -> str:
    """A Python that an account without rights can run; root's own may be out of its reach."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/{minor}", f"/usr/local/bin/{minor}"):
        try:
            probe = subprocess.run(
                [program, "-B", "-c", "import asyncpg, tenfold.servers.topology"], env=environment,
                user=65534, group=65534, extra_groups=[], cwd="/",
                capture_output=True, timeout=30, check=False,
            )  # fmt: skip
        except OSError:
            continue
        if probe.returncode == 0:
            return program
    pytest.skip(f"NOT TESTED: no {minor} and copy of this project that the account nobody can reach")


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without root already")
async def test_it_works_without_root() -> None:
    home = Path("/tmp") / f"tenfold-plain-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    code = (
        "import asyncio, os\n"
        "from tenfold.servers import Topology\n"
        "async def main():\n"
        "    async with Topology(replicas=1, valkey=True) as t:\n"
        "        await t.replicas[0].caught_up()\n"
        "        one = await t.primary.fetchval('SELECT 1')\n"
        "        print(os.geteuid(), t.home.account, t.home.path, one)\n"
        "asyncio.run(main())\n"
    )
    try:
        environment = {**os.environ, "HOME": str(home)}
        del environment["TENFOLD_STATE"]
        environment.pop("XDG_STATE_HOME", None)
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        child = await asyncio.to_thread(
            subprocess.run, [plain_python(environment), "-B", "-c", code], env=environment,
            user=65534, group=65534, extra_groups=[], cwd="/",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert child.stderr == ""
        assert child.stdout.split() == ["65534", "None", str(home / ".local/state/tenfold"), "1"]
        assert list((home / ".local/state/tenfold/runs").iterdir()) == []
    finally:
        shutil.rmtree(home)
