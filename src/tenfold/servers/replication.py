"""Streaming replication within a topology: make a replica, promote it, bring a lost primary back.

Every server's settings, whom it follows among them, stand in one file that is written anew at each start and
each change (`Postgres._configure`). So nothing that pg_basebackup or pg_rewind copies from the other server
can leak in: not its port, and not its slot's name, which would keep a rejoined server from ever becoming
connectable.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Final

from tenfold._core.units import Duration, duration, format_duration
from tenfold.servers.errors import ServerDiedError, ServersTimeoutError
from tenfold.servers.launch import run_tool
from tenfold.servers.locate import Binaries
from tenfold.servers.ports import HOST
from tenfold.servers.postgres import Postgres
from tenfold.servers.template import USER

_COPY_WITHIN: Final = 120.0


async def ensure_slot(primary: Postgres, replica: str) -> None:
    """A physical slot keeps the primary from dropping log that the replica still needs."""
    await primary.fetchval(
        "SELECT pg_create_physical_replication_slot($1) WHERE NOT EXISTS"
        " (SELECT FROM pg_replication_slots WHERE slot_name = $1)",
        replica,
    )


async def drop_slots(primary: Postgres) -> None:
    """Drop the slots that nobody reads; a promoted replica and a rejoined primary may carry some."""
    await primary.fetchval(
        "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active"
    )


async def make_replica(primary: Postgres, replica: Postgres, binaries: Binaries) -> None:
    """Copy the primary into the replica's folder and start it there."""
    replica.upstream, replica.role = primary, "replica"
    await ensure_slot(primary, replica.name)
    replica.folder.mkdir(mode=0o700)
    replica.home.give(replica.folder)
    conninfo = f"host={HOST} port={primary.port} user={USER} application_name={replica.name} sslmode=disable"
    await run_tool(
        [
            binaries.tool("pg_basebackup"), "-D", replica.folder, "-d", conninfo,
            "-S", replica.name, "-X", "stream", "-c", "fast", "--no-sync",
        ],
        folder=replica.run.folder,
        account=replica.home.account,
        within=_COPY_WITHIN,
    )  # fmt: skip
    await replica.start()


async def promote(replica: Postgres, within: Duration = "10s") -> None:
    """Make a replica writable. Returns when it accepts writes."""
    limit = duration(within, "within")
    if not await replica.fetchval("SELECT pg_promote(true, $1)", max(1, int(limit)), within=limit + 5.0):
        raise ServersTimeoutError(
            f"{replica.name} was expected to be promoted within {format_duration(limit)} and was not"
        )
    replica.upstream, replica.role = None, "primary"
    replica.configure()
    replica.record()


async def follow(replica: Postgres, primary: Postgres) -> None:
    """Point a running replica at another primary, without a restart."""
    await ensure_slot(primary, replica.name)
    replica.upstream, replica.role = primary, "replica"
    replica.configure()
    replica.reload()
    replica.record()


async def rejoin(lost: Postgres, primary: Postgres, binaries: Binaries) -> None:
    """Turn a former primary into a replica of its successor:

    rewind it to where they parted, then let it stream.
    """
    await lost.stop()
    # Without a checkpoint the successor's control file may still name the old timeline, and there is "nothing
    # to rewind".
    await primary.fetchval("CHECKPOINT")
    await ensure_slot(primary, lost.name)
    conninfo = f"host={HOST} port={primary.port} user={USER} dbname=postgres sslmode=disable"
    try:
        await run_tool(
            [binaries.tool("pg_rewind"), "-D", lost.folder, "--source-server", conninfo, "--no-sync"],
            folder=lost.run.folder,
            account=lost.home.account,
            within=_COPY_WITHIN,
        )
    except ServerDiedError:
        # The log back to the last common checkpoint is gone (the two parted long ago), or the folder is half
        # rewound. A rewind is only the faster way: a new copy of the primary always works, or fails for a
        # reason of its own.
        await asyncio.to_thread(shutil.rmtree, lost.folder)
        await make_replica(primary, lost, binaries)
        return
    lost.upstream, lost.role = primary, "replica"
    await lost.start()
    await drop_slots(lost)
