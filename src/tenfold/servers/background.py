"""Servers that outlive the command which started them: what ``tenfold up``, ``down`` and ``status`` do.

``up.json`` in the state folder names the one run that is up. A lock beside it makes two commands wait for
each other.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.servers.errors import ServersError
from tenfold.servers.home import Home, open_home
from tenfold.servers.launch import finish
from tenfold.servers.postgres import Postgres
from tenfold.servers.run import Run, same_boot, sweep
from tenfold.servers.server import Server
from tenfold.servers.template import file_lock
from tenfold.servers.topology import Topology

_POINTER: Final = "up.json"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as `status` sees it.

    ``lag_bytes`` is what a replica has yet to apply; None for all others.
    """

    name: str
    role: str
    url: str
    pid: int | None
    lag_bytes: int | None
    log: str

    @property
    def up(self) -> bool:
        return self.pid is not None


@dataclass(frozen=True, slots=True)
class Started:
    """What `up` has done:

    ``outcome`` is ``"started"``, ``"already up"``, or ``"resumed"`` (kept data, or servers that had died).
    """

    outcome: str
    servers: list[ServerStatus]


async def up(*, replicas: int = 2, shards: int = 2, valkey: bool = True, state: Path | str | None = None) -> Started:
    """Start the servers and let them go on, or say that they are up, or start those anew that are down.

    Raises `MisuseError` when a run with other numbers of servers is up, `ServersError` when one cannot be
    started.
    """
    home = await asyncio.to_thread(open_home, state)
    async with file_lock(home.path / "up.lock"):
        found = await asyncio.to_thread(_find, home)
        if found is not None and not same_boot(found.manifest):
            # Without fsync, files that a reboot has interrupted cannot be trusted.
            await _remove(home, found)
            found = None
        if found is None:
            return Started("started", await _start(home, replicas, shards, valkey, state))
        topology = await _attach(home, found)
        had = (
            sum(s.role in ("replica", "lost") for s in topology.servers),
            len(topology.shards),
            topology.has_valkey,
        )
        if had != (replicas, shards, valkey):
            raise MisuseError(
                f"expected the same servers as those of the run that exists "
                f"({had[0]} replicas, {had[1]} shards, "
                f"{'with' if had[2] else 'no'} Valkey): ask for these, or `tenfold down` first"
            )
        if all(server.running for server in topology.servers):
            return Started("already up", await _look(topology))
        found.own()
        try:
            await topology.revive()
            result = await _look(topology)
        finally:
            _let_go(topology)
        return Started("resumed", result)


async def down(*, keep: bool = False, state: Path | str | None = None) -> bool:
    """Stop the servers and remove their data, unless ``keep``. False when nothing was up."""
    home = await asyncio.to_thread(open_home, state)
    async with file_lock(home.path / "up.lock"):
        if home.runs.is_dir():
            await asyncio.to_thread(sweep, home.runs)
        found = await asyncio.to_thread(_find, home)
        if found is None:
            return False
        if not keep:
            await _remove(home, found)
            return True
        topology = await _attach(home, found)
        was_up = any(server.running for server in topology.servers)
        for server in topology.servers:  # the primary first: it hands its last work to the replicas
            await server.stop()
        return was_up


async def status(*, state: Path | str | None = None) -> list[ServerStatus]:
    """Every server of the run that is up; empty when there is none."""
    home = await asyncio.to_thread(open_home, state)
    found = await asyncio.to_thread(_find, home)
    return [] if found is None else await _look(await _attach(home, found))


async def _start(home: Home, replicas: int, shards: int, valkey: bool, state: Path | str | None) -> list[ServerStatus]:
    topology = Topology(replicas=replicas, shards=shards, valkey=valkey, state=state)
    await topology.start()
    try:
        result = await _look(topology)
        pointer = home.path / _POINTER
        temporary = pointer.with_suffix(".new")
        temporary.write_text(json.dumps({"run": topology.run.token}))
        temporary.replace(pointer)
    except BaseException:
        await topology.close()
        raise
    _let_go(topology)
    return result


def _let_go(topology: Topology) -> None:
    topology.run.release()
    for server in topology.servers:
        server.detach()


async def _remove(home: Home, run: Run) -> None:
    (home.path / _POINTER).unlink(missing_ok=True)
    await finish(asyncio.to_thread(run.close))


def _find(home: Home) -> Run | None:
    try:
        token = json.loads((home.path / _POINTER).read_text())["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Run.load(home.runs / str(token))


async def _attach(home: Home, run: Run) -> Topology:
    topology = Topology()
    await asyncio.to_thread(topology.attach, home, run)
    return topology


async def _look(topology: Topology) -> list[ServerStatus]:
    async def one(server: Server) -> ServerStatus:
        lag = None
        if isinstance(server, Postgres) and server.running and server.role == "replica":
            try:
                lag = await server.lag_bytes()
            except (ServersError, OSError):
                lag = None  # it is starting, or its primary is down: only the lag is unknown
        pid = server.pid if server.running else None
        return ServerStatus(server.name, server.role, server.url, pid, lag, str(server.log))

    return list(await asyncio.gather(*(one(server) for server in topology.servers)))
