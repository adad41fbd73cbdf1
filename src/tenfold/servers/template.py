"""One initdb for all servers: its result is kept for each PostgreSQL build and copied for each server.

initdb takes 1.4 to 2.2 s and a copy 0.1 s. The template is built in a scratch folder and renamed into place,
so that nobody ever sees half of one; a lock keeps two processes from doing the work twice, and if both do it
all the same, the second rename loses and nothing is harmed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tenfold._core.units import format_duration
from tenfold.servers.errors import ServerDiedError, ServersTimeoutError
from tenfold.servers.home import Home
from tenfold.servers.identity import set_system_identifier
from tenfold.servers.launch import POLL, run_tool
from tenfold.servers.locate import Binaries

USER: Final = "tenfold"
CONF: Final = "tenfold.conf"
PRELOAD: Final = "pg_stat_statements,auto_explain"
# Raise it whenever `_build` makes something else than before, so that old templates are not used.
_REVISION: Final = 1
_WITHIN: Final = 90.0


async def new_data_folder(home: Home, binaries: Binaries, target: Path) -> None:
    """Make ``target`` the data folder of a server that was never started, owned by the servers' account.

    It is a system of its own, as if it had an initdb of its own.
    """
    template = await _template(home, binaries)
    # cp keeps owner and mode, and makes a copy-on-write clone where the file system can.
    clone = ["-Rp"] if sys.platform == "darwin" else ["-a", "--reflink=auto"]
    await run_tool(["cp", *clone, template, target], folder=home.path, account=None, within=_WITHIN)
    await asyncio.to_thread(set_system_identifier, target, secrets.randbelow(2**63))


async def _template(home: Home, binaries: Binaries) -> Path:
    build = f"{binaries.program.resolve()}:{binaries.program.stat().st_mtime_ns}:{os.geteuid()}"
    mark = hashlib.blake2b(build.encode(), digest_size=6).hexdigest()
    known = sorted(home.templates.glob(f"*-{mark}-{_REVISION}")) if home.templates.is_dir() else []
    if known:
        return known[0]
    home.templates.mkdir(mode=0o755, exist_ok=True)
    home.templates.chmod(0o755)
    shown = await run_tool([binaries.program, "--version"], folder=home.path, account=home.account, within=_WITHIN)
    version = re.search(r"\d+(?:\.\d+)?", shown)
    place = home.templates / f"pg-{version[0] if version else 'unknown'}-{mark}-{_REVISION}"
    async with file_lock(home.templates / f"{mark}.lock"):
        if not place.exists():
            await _build(home, binaries, place)
    return place


async def _build(home: Home, binaries: Binaries, place: Path) -> None:
    with home.scratch() as scratch:
        home.give(scratch)
        data = scratch / "data"
        await run_tool(
            [
                binaries.tool("initdb"),
                "-D",
                data,
                "-U",
                USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            folder=scratch,
            account=home.account,
            within=_WITHIN,
        )
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(f"\ninclude_if_exists = '{CONF}'\n")
        # Single-user mode installs the extension for all servers at once and needs neither port nor wait.
        for database in ("template1", "postgres"):
            output = await run_tool(
                [
                    binaries.program,
                    "--single",
                    "-D",
                    data,
                    "-c",
                    "fsync=off",
                    "-c",
                    f"shared_preload_libraries={PRELOAD}",
                    database,
                ],
                folder=scratch,
                account=home.account,
                within=_WITHIN,
                feed="CREATE EXTENSION IF NOT EXISTS pg_stat_statements;\n",
            )
            if "ERROR:" in output or "FATAL:" in output:
                raise ServerDiedError("PostgreSQL in single-user mode", 0, output.strip()[-500:])
        try:
            data.rename(place)
        except OSError:
            if not place.is_dir():  # noqa: ASYNC240  (microseconds)
                raise


@asynccontextmanager
async def file_lock(path: Path) -> AsyncIterator[None]:
    """A file lock that the kernel frees when its holder dies, however it dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + _WITHIN
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServersTimeoutError(
                        f"another process was expected to free {path} within "
                        f"{format_duration(_WITHIN)} and did not: end the one that holds it"
                    ) from None
            await asyncio.sleep(POLL)
        yield
    finally:
        os.close(descriptor)
