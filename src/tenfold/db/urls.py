"""Database URLs as people have them, and as SQLAlchemy's asyncpg dialect wants them."""

from __future__ import annotations

import inspect
from typing import Final

import asyncpg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tenfold._core.errors import MisuseError

_DRIVERS: Final = ("postgresql", "postgres", "postgresql+asyncpg")
_TAKEN: Final = frozenset(inspect.signature(asyncpg.connect).parameters)
_INSTEAD: Final = {
    "application_name": "set it for the role (ALTER ROLE … SET application_name), or tag queries (tenfold.db.tags)",
    "connect_timeout": "say create_async_cluster(…, connect_timeout=…)",
    "options": "set it for the role (ALTER ROLE … SET …)",
    "sslcert": "set the environment variable PGSSLCERT",
    "sslkey": "set the environment variable PGSSLKEY",
    "sslrootcert": "set the environment variable PGSSLROOTCERT",
}


def asyncpg_url(url: str | URL, name: str) -> URL:
    """``postgresql://…`` as ``postgresql+asyncpg://…``. Raises `MisuseError` for anything but PostgreSQL, and for
    parameters that its driver does not take, of which it would complain at each connection.

    libpq's ``sslmode`` becomes asyncpg's ``ssl``, which has the same values. ``name`` is how the message calls the
    argument; passwords never stand in it.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise MisuseError(f"{name}: expected a URL such as postgresql://user@host:5432/shop ({error})") from error
    if parsed.drivername not in _DRIVERS:
        raise MisuseError(
            f"{name}: expected postgresql:// or postgresql+asyncpg://, got {parsed.drivername}://; "
            "the cluster speaks to PostgreSQL through asyncpg only"
        )
    query = dict(parsed.query)
    if "sslmode" in query:
        query.setdefault("ssl", query.pop("sslmode"))
    for parameter in query:
        if parameter not in _TAKEN and not parameter.startswith("prepared_statement_"):
            instead = _INSTEAD.get(parameter, "leave it out")
            raise MisuseError(f"{name}: expected parameters that asyncpg takes, got ?{parameter}=…; {instead}")
    return parsed.set(drivername="postgresql+asyncpg", query=query)
