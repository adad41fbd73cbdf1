"""Whether a pooler (PgBouncer, pgcat, Odyssey …) stands between us and the server, and what follows from that.

Theory. A pooler in transaction mode gives each transaction whatever server connection is free. What one leaves on a
connection, named prepared statements above all, is not there the next time, or is somebody else's. A pooler shows no
sign of itself: it repeats the server's version and settings. But it answers the handshake itself and makes up the
key for cancel requests, in which PostgreSQL itself sends the process id of the backend. So the process id of the
handshake and ``pg_backend_pid()`` are the same exactly where nobody stands between.

The policy behind a pooler: statements are prepared without a name, nothing is cached on the connection, and reads run
in transactions (READ ONLY) rather than in autocommit, because an unnamed statement that is parsed and bound in two
round trips needs the transaction to hold its server. Settings do not go into the handshake, where poolers refuse them:
transactions bring their own. And the connection no longer stands for one start of one server: what was learnt of the
server over it (`POOLED` in its ``info``) is asked anew each time, because a server that has restarted behind the pooler
may show less.

What lives with a session, such as advisory locks and LISTEN, is lost there without a sign: the lock stays with a server
connection that others use. `must_be_direct` refuses that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from tenfold._core.errors import MisuseError
from tenfold.db.dialect import DIALECT

READ_ONLY: Final = "default_transaction_read_only"
POOLED: Final = "tenfold.db.pooled"
"""In the ``info`` of a connection to a pooler."""
DIRECT: Final = "tenfold.db.direct"
"""In the ``info`` of a connection that is known to lead to one session of a server."""
_PID: Final = text("SELECT pg_backend_pid()")
# PgBouncer ends a connection whose first message has a setting that it does not keep ("unsupported startup parameter").
_TOLERATED: Final = frozenset({"application_name", "client_encoding", "datestyle", "timezone"})


async def is_pooled(connection: asyncpg.Connection[Any]) -> bool:
    """Ask through ``connection``, whose statement cache must be off: one query."""
    found = await connection.fetchval("SELECT pg_backend_pid()")
    return bool(found != connection.get_server_pid())


def note(info: Any, pooled: bool | None) -> None:
    """Write down what is known of a new connection in its ``info``."""
    if pooled is not None:
        info[POOLED if pooled else DIRECT] = True


async def must_be_direct(
    connection: AsyncConnection | asyncpg.Connection[Any], what: str, *, instead: str = ""
) -> None:
    """Raise `MisuseError`, in the name of ``what``, where a pooler stands between: for what needs a session of its own.

    Where that is not known yet it is asked, one query; an engine's connection should be in autocommit by then. Whoever
    knows that a pooler hands out whole sessions says so: ``pooler="none"`` to the cluster, or as an execution option.
    """
    if isinstance(connection, AsyncConnection):
        inner: Any = connection.sync_connection
        info = inner.info
        if inner.get_execution_options().get("pooler") == "none":
            return
        if POOLED not in info and DIRECT not in info:
            driver = inner.connection.driver_connection
            note(info, (await connection.execute(_PID)).scalar_one() != driver.get_server_pid())
        pooled = POOLED in info
    else:
        pooled = await is_pooled(connection)
    if pooled:
        refuse_pooled(what, instead)


def refuse_pooled(what: str, instead: str = "") -> NoReturn:
    """The refusal of `must_be_direct`, where it is known already."""
    raise MisuseError(
        f"{what}: a pooler stands between, which gives the session with its locks to others; expected a direct "
        f'connection (or pooler="none" of create_async_cluster, if it pools sessions){instead and ", or " + instead}'
    )


async def asked(url: URL, timeout: float) -> bool:
    """Connect, ask and disconnect."""
    connection = await asyncpg.connect(**driver_arguments(url), timeout=timeout, statement_cache_size=0)
    try:
        return await is_pooled(connection)
    finally:
        connection.terminate()


def driver_arguments(url: URL) -> dict[str, Any]:
    """What asyncpg wants to know of a URL."""
    _, arguments = DIALECT.create_connect_args(url)  # as the engines have it: ?host=name:port is both, for instance
    return {key: value for key, value in arguments.items() if not key.startswith("prepared_statement_")}


def _unnamed() -> str:
    return ""


def is_adapted(cparams: dict[str, Any]) -> bool:
    """Whether `obey` found a pooler."""
    return cparams.get("prepared_statement_name_func") is _unnamed


def obey(cparams: dict[str, Any], pooled: Callable[[], bool | None], ask: Callable[[], Any]) -> bool:
    """From within SQLAlchemy's ``do_connect``: find out where it is not known, and adapt the arguments."""
    found = pooled()
    if found is None:
        found = bool(await_only(ask()))
    if found:
        settings = cparams.get("server_settings") or {}
        cparams["server_settings"] = {name: settings[name] for name in settings if name in _TOLERATED}
        cparams.update(statement_cache_size=0, prepared_statement_cache_size=0, prepared_statement_name_func=_unnamed)
    return found
