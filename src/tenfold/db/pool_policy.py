"""Whether a pooler (PgBouncer, pgcat, Odyssey …) stands between us and the server, and what follows from that.

Theory. A pooler in transaction mode gives each transaction whatever server connection is free. What one leaves on a
connection, named prepared statements above all, is not there the next time, or is somebody else's. A pooler shows no
sign of itself: it repeats the server's version and settings. But it answers the handshake itself and makes up the
key for cancel requests, in which PostgreSQL itself sends the process id of the backend. So the process id of the
handshake and ``pg_backend_pid()`` are the same exactly where nobody stands between.

The policy behind a pooler: statements are prepared without a name, nothing is cached on the connection, and reads run
in transactions (READ ONLY) rather than in autocommit, because an unnamed statement that is parsed and bound in two
round trips needs the transaction to hold its server. No setting is sent with the handshake: PgBouncer refuses those it
does not know. And the connection no longer stands for one start of one server: what was learnt of the server over it
(`POOLED` in its ``info``) is asked anew each time, because a server that has restarted behind the pooler may show less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.util import await_only

READ_ONLY: Final = "default_transaction_read_only"
POOLED: Final = "tenfold.db.pooled"
"""In the ``info`` of a connection to a pooler."""


async def is_pooled(connection: asyncpg.Connection[Any]) -> bool:
    """Ask through ``connection``, whose statement cache must be off: one query."""
    found = await connection.fetchval("SELECT pg_backend_pid()")
    return bool(found != connection.get_server_pid())


async def asked(url: URL, timeout: float) -> bool:
    """Connect, ask and disconnect."""
    connection = await asyncpg.connect(**driver_arguments(url), timeout=timeout, statement_cache_size=0)
    try:
        return await is_pooled(connection)
    finally:
        connection.terminate()


def driver_arguments(url: URL) -> dict[str, Any]:
    """What asyncpg wants to know of a URL."""
    arguments: dict[str, Any] = url.translate_connect_args(username="user")
    own = {key: value for key, value in url.query.items() if not key.startswith("prepared_statement_")}
    return {**arguments, **own}


def _unnamed() -> str:
    return ""


def obey(cparams: dict[str, Any], pooled: Callable[[], bool | None], ask: Callable[[], Any]) -> bool:
    """From within SQLAlchemy's ``do_connect``: find out where it is not known, and adapt the arguments."""
    found = pooled()
    if found is None:
        found = bool(await_only(ask()))
    if found:
        cparams["server_settings"] = {
            name: value for name, value in cparams.get("server_settings", {}).items() if name != READ_ONLY
        }
        cparams.update(statement_cache_size=0, prepared_statement_cache_size=0, prepared_statement_name_func=_unnamed)
    return found
