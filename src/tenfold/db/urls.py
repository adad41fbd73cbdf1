"""Database URLs as people have them, and as SQLAlchemy's asyncpg dialect wants them."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tenfold._core.errors import MisuseError

_DRIVERS: Final = ("postgresql", "postgres", "postgresql+asyncpg")
# Of what asyncpg takes, that which can be said in a URL and is nobody else's to say.
_TAKEN: Final = frozenset(
    {"host", "port", "user", "password", "database", "passfile", "service", "servicefile", "ssl", "krbsrvname"}
    | {"gsslib", "prepared_statement_cache_size"}
)
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
    except ValueError:
        raise MisuseError(
            f"{name}: expected a URL such as postgresql://user@host:5432/shop, got one whose port is no number; "
            "in a password @ is written %40, : is %3A and / is %2F"
        ) from None  # which may tell a part of the password
    except ArgumentError as error:
        raise MisuseError(f"{name}: expected a URL such as postgresql://user@host:5432/shop ({error})") from error
    if parsed.drivername not in _DRIVERS:
        raise MisuseError(
            f"{name}: expected postgresql:// or postgresql+asyncpg://, got {parsed.drivername}://; "
            "the cluster speaks to PostgreSQL through asyncpg only"
        )
    query = dict(parsed.query)
    if any(isinstance(host, str) and "," in host for host in (parsed.host, query.get("host"))):
        raise MisuseError(f"{name}: expected one host, got several; each server has a URL of its own")
    if "sslmode" in query:
        query.setdefault("ssl", query.pop("sslmode"))
    for parameter, value in query.items():
        if parameter not in _TAKEN:
            instead = _INSTEAD.get(parameter, "leave it out")
            raise MisuseError(
                f"{name}: expected parameters among {', '.join(sorted(_TAKEN))} and sslmode, "
                f"got ?{parameter}=…; {instead}"
            )
        if not isinstance(value, str):
            raise MisuseError(f"{name}: expected {parameter} once, got {len(value)}; each server has a URL of its own")
    return parsed.set(drivername="postgresql+asyncpg", query=query)
