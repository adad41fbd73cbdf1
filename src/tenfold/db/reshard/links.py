"""The tool's connections: one to each shard and one to the map, each holding a lock that only one tool can hold.

A shard may be given by the URLs of all its servers. The one that is no replica counts; of two that both think they are
primary, the one on the later timeline, as the former one has not heard of its successor.

Whatever the tool does to a database goes through the connection that holds that database's advisory lock. So a tool
that was cut off and does not know it yet can do no harm to the one that came after: the later one begins when it has
*all* locks, and then none of the earlier one's connections lives.

The sessions have ``session_replication_role = replica``, as PostgreSQL's own logical replication has: no trigger fires
and no foreign key is checked for rows that are carried over, so parents may come after children, nothing cascades, and
what is written here does not get into the logs. Settings that shape a value's text are pinned, as pg_dump pins them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
from sqlalchemy.engine import URL

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import shielded
from tenfold.db.pool_policy import driver_arguments, must_be_direct
from tenfold.db.reshard.errors import CannotMove, Interrupted, ReshardError
from tenfold.db.reshard.steps import Server

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[Any]
else:
    Connection = asyncpg.Connection

_LOCK: Final = 7_233_174
_HOME_LOCK: Final = 7_233_175
_POLL: Final = 0.05
_WHO: Final = (
    "SELECT pg_is_in_recovery(), system_identifier::text, CASE WHEN NOT pg_is_in_recovery() THEN "
    "left(pg_walfile_name(pg_current_wal_lsn()), 8) END FROM pg_control_system()"
)
_SETTINGS: Final = {
    "application_name": "tenfold reshard",
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "timezone": "UTC",
    "xmloption": "content",
    "row_security": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lc_monetary": "C",
    # A host that is gone without a word must not leave its locks, the fence among them, for the hours that TCP waits.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
}
# Newer servers have more of them; the connections to other shards rest for as long as a leg takes.
_UNBOUND: Final = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')"
)
LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement between the server's last word and the end of the connection
    OSError,  # TimeoutError is one
)


class Links:
    """``shards``: a connection to each, by name; ``home``: another one to the shard that stores the map. ``urls`` and
    ``servers``: of the primaries that these lead to.
    """

    __slots__ = ("home", "servers", "shards", "urls")

    def __init__(
        self,
        home: Connection,
        shards: Mapping[str, Connection],
        urls: Mapping[str, URL],
        servers: Mapping[str, Server],
    ) -> None:
        self.home: Final = home
        self.shards: Final = shards
        self.urls: Final = urls
        self.servers: Final = servers

    def others(self, *names: str) -> list[Connection]:
        """The shards but these."""
        return [connection for name, connection in self.shards.items() if name not in names]


@asynccontextmanager
async def connected(urls: Mapping[str, Sequence[URL]], *, timeout: float, within: float) -> AsyncIterator[Links]:
    """All connections, locked. ``timeout`` bounds each statement, ``within`` the wait for the locks, and for a primary
    among several servers of a shard, in seconds.

    Raises `ReshardError` when another tool holds a lock, `CannotMove` where a pooler stands between, `Interrupted` when
    a shard is not there or gets lost in the block.
    """
    opened: list[Connection] = []

    async def reach(name: str, url: URL) -> Connection:
        try:
            connection: Connection = await asyncpg.connect(
                **driver_arguments(url),
                timeout=within,
                command_timeout=timeout,
                server_settings=_SETTINGS,
                statement_cache_size=0,
            )
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):
                raise
            raise CannotMove(f"shard {name}: a pooler stands between ({error}); give the server's own URL") from error
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise CannotMove(f"shard {name}: {error}; check its URL") from error
        opened.append(connection)
        try:
            await must_be_direct(connection, f"shard {name}")
        except MisuseError as error:
            raise CannotMove(str(error)) from error
        await connection.execute(_UNBOUND)
        try:
            await connection.execute("SET session_replication_role = replica")
        except asyncpg.InsufficientPrivilegeError as error:
            raise CannotMove(
                f"shard {name}: {url.username} may not set session_replication_role, which moving rows past triggers "
                f'and foreign keys needs: GRANT SET ON PARAMETER session_replication_role TO "{url.username}", or '
                "give the URL of a superuser"
            ) from error
        return connection

    async def primary(name: str, given: Sequence[URL]) -> tuple[URL, Server]:
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while True:
            found: list[tuple[URL, Server]] = []
            why: Exception | None = None
            for url in given:
                try:
                    connection = await reach(name, url)
                    who: Any = await connection.fetchrow(_WHO)
                    replica, system, timeline = who
                except LOST as error:
                    if len(given) == 1:
                        raise
                    why = error
                    continue
                connection.terminate()
                if not replica:
                    found.append((url, Server(system, int(timeline, 16))))
            found.sort(key=lambda one: -one[1].timeline)
            if len({server.system for _, server in found}) > 1:
                raise CannotMove(f"shard {name}: its URLs lead to databases that have nothing to do with each other")
            if len(found) > 1 and found[0][1] == found[1][1]:
                raise CannotMove(f"shard {name}: two of its URLs lead to a primary: give each server once")
            if found:
                return found[0]
            if len(given) == 1 or loop.time() > until:
                raise Interrupted(
                    f"shard {name}: none of its servers that were given is its primary"
                    + (f" ({type(why).__name__}: {why})" if why else f": {given[0].host}:{given[0].port} is a replica")
                    + "; the state is kept. Give the URLs of all its servers, and run it again when one is promoted"
                ) from why
            await asyncio.sleep(_POLL)

    async def one(name: str, url: URL, lock: int) -> Connection:
        connection = await reach(name, url)
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):
            if loop.time() > until:
                raise ReshardError(f"shard {name}: another `tenfold reshard` is at work; wait until it has ended")
            await asyncio.sleep(_POLL)
        return connection

    try:
        chosen = {name: await primary(name, given) for name, given in urls.items()}
        home = next(iter(urls))
        yield Links(
            await one(home, chosen[home][0], _HOME_LOCK),
            {name: await one(name, url, _LOCK) for name, (url, _) in chosen.items()},
            {name: url for name, (url, _) in chosen.items()},
            {name: server for name, (_, server) in chosen.items()},
        )
    except LOST as error:
        raise Interrupted(
            f"a shard was lost or did not answer ({type(error).__name__}: {str(error) or 'no answer in time'}); "
            "the state is kept, so run it again when all shards are up; after a failover give the URLs of all servers "
            "of the shard"
        ) from error
    except asyncpg.PostgresError as error:
        raise ReshardError(
            f"PostgreSQL refused ({type(error).__name__}: {error}); the state is kept: put it right, then run it "
            "again, or roll back"
        ) from error
    finally:
        await shielded(_close(opened))


async def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.terminate()  # whatever was open rolls back, and the locks go
