"""Database URLs as people have them, and as SQLAlchemy's asyncpg dialect wants them."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tenfold._core.errors import MisuseError

_DRIVERS: Final = ("postgresql", "postgres", "postgresql+asyncpg")
# Of what asyncpg takes, that which can be said in a URL and is nobody else's to say.
_OPTIONS: Final = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "database",
        "passfile",
        "service",
        "servicefile",
        "ssl",
        "krbsrvname",
        "gsslib",
    }
    | {"prepared_statement_cache_size"}
)


def asyncpg_url(url: str | URL, name: str) -> URL:
    """``postgresql://…`` as ``postgresql+asyncpg://…``. Raises `MisuseError` for anything but PostgreSQL.

    libpq's ``sslmode`` is asyncpg's ``ssl``; other options that the driver does not know are refused. ``name`` is how
    the message calls the argument; passwords never stand in it.
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
    if "sslmode" in parsed.query:
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": parsed.query["sslmode"]})
    for option, value in parsed.query.items():
        if option not in _OPTIONS:
            raise MisuseError(f"{name}: expected options among {', '.join(sorted(_OPTIONS))} and sslmode, got {option}")
        if not isinstance(value, str):
            raise MisuseError(f"{name}: expected {option} once, got {len(value)}; each server has a URL of its own")
    return parsed.set(drivername="postgresql+asyncpg")
