"""A throwaway PostgreSQL: copied from a template, loopback only, no password, nothing forced to disk."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.servers import locate, process
from tenfold.servers.errors import ServersError, ServersTimeoutError
from tenfold.servers.home import Home
from tenfold.servers.locate import Binaries
from tenfold.servers.ports import HOST
from tenfold.servers.run import Run
from tenfold.servers.server import Server
from tenfold.servers.template import CONF, PRELOAD, USER, new_data_folder

_PROBE: Final = 5.0
_CHILDREN_WITHIN: Final = 10.0
_CATCH_UP_POLL: Final = 0.002
_THROWAWAY: Final[Mapping[str, str]] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a socket's path may have 107 bytes, and a state folder more
    "fsync": "off",
    # pg_rewind refuses without these two.
    "full_page_writes": "on",
    "wal_log_hints": "on",
    "wal_level": "replica",
    "hot_standby": "on",
    # With the default of 5 s a replica that has lost its primary sleeps through a promotion.
    "wal_retrieve_retry_interval": "200ms",
    "max_wal_senders": "16",
    "max_replication_slots": "16",
    # pg_rewind reads back to the last checkpoint before the two servers parted.
    "wal_keep_size": "256MB",
    # A slot whose replica never returns must not fill the disk.
    "max_slot_wal_keep_size": "2GB",
    "shared_buffers": "32MB",
    "shared_preload_libraries": PRELOAD,
    # POSIX segments outlive a killed server in /dev/shm; files in the data folder go with the folder.
    "dynamic_shared_memory_type": "mmap",
    "min_dynamic_shared_memory": "8MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Server):
    """A PostgreSQL server: ``async with Postgres() as p: p.url``.

    Superuser ``tenfold``, no password, pg_stat_statements installed in every database.

    ``settings`` are those of postgresql.conf (``{"work_mem": "8MB"}``) and win over the throwaway ones.
    Raises `ServersError` and its kind. Role and replication are steered by `tenfold.servers.Topology`.
    """

    kind: ClassVar[str] = "postgres"

    def __init__(
        self,
        *,
        settings: Mapping[str, str | int] | None = None,
        max_connections: int = 200,
        name: str = "postgres",
        within: Duration = "30s",
        state: Path | str | None = None,
        run: Run | None = None,
        home: Home | None = None,
    ) -> None:
        if not 5 <= max_connections <= 10_000:
            raise MisuseError(f"max_connections: expected 5 to 10000, got {max_connections}")
        super().__init__(name=name, within=within, state=state, run=run, home=home)
        own = {"max_connections": str(max_connections)}
        self.settings = {**_THROWAWAY, **own, **{key: str(value) for key, value in (settings or {}).items()}}
        self.upstream: Postgres | None = None

    @property
    def url(self) -> str:
        """``postgresql://tenfold@127.0.0.1:PORT/postgres``"""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    async def fetchval(self, statement: str, *arguments: Any, within: Duration = "10s") -> Any:
        """The first value that a statement returns, over a connection of its own.

        For set-up and steering, not for load.
        """
        import asyncpg  # loads in 60 ms, so only for those who need it

        self._identity()
        limit = duration(within, "within")
        try:
            async with asyncio.timeout(limit):
                connection = await asyncpg.connect(self.url, ssl=False, timeout=limit)
                try:
                    return await connection.fetchval(statement, *arguments)
                finally:
                    connection.terminate()
        except TimeoutError as error:
            raise ServersTimeoutError(
                f"{self.name} was expected to answer within {format_duration(limit)} and did not"
            ) from error

    def configure(self) -> None:
        """Write the settings of a running server anew; `reload` makes them count."""
        self._configure(self.port)

    def reload(self) -> None:
        """Let a running server read its settings again (SIGHUP)."""
        process.send(self._identity(), signal.SIGHUP)

    async def pause_replay(self) -> None:
        """Let a replica go on receiving but stop applying: lag on demand. Returns when it has stopped."""
        await self._on_replica("pause_replay")
        await self.fetchval("SELECT pg_wal_replay_pause()")
        await self._until("SELECT pg_get_wal_replay_pause_state() = 'paused'", (), 5.0, "stop replaying")

    async def resume_replay(self) -> None:
        """Let a replica apply what it has received."""
        await self._on_replica("resume_replay")
        await self.fetchval("SELECT pg_wal_replay_resume()")

    async def position(self) -> str:
        """The write-ahead log's position: what a primary has written, or what a replica has applied."""
        return str(
            await self.fetchval(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
            )
        )

    async def lag_bytes(self) -> int | None:
        """How much of its primary's log this replica has yet to apply; None when its primary is down."""
        await self._on_replica("lag_bytes")
        if self.upstream is None or not self.upstream.running:
            return None
        written = await self.upstream.position()
        behind = await self.fetchval(
            "SELECT greatest(0, pg_wal_lsn_diff($1::text::pg_lsn, pg_last_wal_replay_lsn()))::bigint", written
        )
        return int(behind)

    async def caught_up(self, lsn: str | None = None, within: Duration = "5s") -> None:
        """Wait until this replica shows all up to ``lsn``; None is what its primary has written by now.

        Raises `ServersTimeoutError` after ``within``.
        """
        await self._on_replica("caught_up")
        if lsn is None:
            if self.upstream is None:
                raise MisuseError(f"{self.name}: expected an lsn, because it follows no server of this topology")
            lsn = await self.upstream.position()
        limit = duration(within, "within")
        await self._until("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", (lsn,), limit, f"reach {lsn}")

    async def _on_replica(self, operation: str) -> None:
        if not await self.fetchval("SELECT pg_is_in_recovery()"):
            raise MisuseError(f"{operation}: expected a replica, {self.name} is a primary")

    async def _until(self, condition: str, arguments: tuple[Any, ...], within: float, what: str) -> None:
        import asyncpg

        self._identity()
        try:
            async with asyncio.timeout(within):
                connection = await asyncpg.connect(self.url, ssl=False, timeout=within)
                try:
                    while not await connection.fetchval(condition, *arguments):  # noqa: ASYNC110
                        await asyncio.sleep(_CATCH_UP_POLL)
                finally:
                    connection.terminate()
        except TimeoutError as error:
            raise ServersTimeoutError(
                f"{self.name} was expected to {what} within {format_duration(within)} and did not"
            ) from error

    def _binaries(self) -> Binaries:
        return self.home.staged(locate.postgres())

    async def _prepare(self, binaries: Binaries) -> None:
        await asyncio.to_thread(importlib.import_module, "asyncpg")  # 60 ms that the loop need not wait for
        if not self.folder.exists():
            await new_data_folder(self.home, binaries, self.folder)
        await asyncio.to_thread(self._drop_stale_lock)

    def _drop_stale_lock(self) -> None:
        """Remove the lock file of a killed server when PostgreSQL would take its pid for a living server.

        With a free pid PostgreSQL removes the file itself. It cannot when the pid belongs to somebody else by
        now, or to a zombie that nobody collects (usual in containers). Before the file goes, the killed
        server's children must be gone: it is by this file that PostgreSQL knows that they still write. All of
        them work in the data folder.
        """
        lock = self.folder / "postmaster.pid"
        try:
            pid = int(lock.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        left = process.wait_gone(process.working_in(self.folder), _CHILDREN_WITHIN)
        if left:
            raise ServersError(
                f"{self.name}: expected nobody to work in {self.folder}, processes "
                f"{', '.join(str(member.pid) for member in left)} do: end them first"
            )
        if process.identify(pid) is None:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            except PermissionError:
                pass  # it exists, which is all that was asked
        lock.unlink(missing_ok=True)

    def _configure(self, port: int) -> None:
        """Write every setting anew: copies and pg_rewind bring the other server's."""
        settings = {**self.settings, "port": str(port), "cluster_name": f"tenfold_{self.name}"}
        signal_file = self.folder / "standby.signal"
        if self.upstream is not None:
            settings["primary_conninfo"] = (
                f"host={HOST} port={self.upstream.port} user={USER} sslmode=disable application_name={self.name}"
            )
            settings["primary_slot_name"] = self.name
            signal_file.touch(mode=0o600)
            self.home.give(signal_file)
        else:
            signal_file.unlink(missing_ok=True)
        lines = [f"{key} = '{value.replace(chr(39), 2 * chr(39))}'\n" for key, value in settings.items()]
        conf = self.folder / CONF
        conf.write_text("".join(lines))
        self.home.give(conf)

    def _command(self, binaries: Binaries, port: int) -> list[str | Path]:
        return [binaries.program, "-D", self.folder]

    async def _answers(self, port: int, pid: int) -> bool:
        """PostgreSQL says in the last line of its lock file how far it is; then a connection proves it."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        if len(lines) < 8 or lines[0].strip() != str(pid) or lines[7].strip() != "ready":
            return False
        import asyncpg

        try:
            connection = await asyncpg.connect(
                host=HOST, port=port, user=USER, database="postgres", ssl=False, timeout=_PROBE
            )
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            return bool(await connection.fetchval("SHOW cluster_name") == f"tenfold_{self.name}")
        finally:
            connection.terminate()

    def _stop_signal(self) -> int:
        return signal.SIGINT  # fast shutdown: clients are cut, work is written, replicas get all of it
