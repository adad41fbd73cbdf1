"""Database URLs as people have them, and as SQLAlchemy's asyncpg dialect wants them."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tenfold._core.errors import MisuseError

_DRIVERS: Final = ("postgresql", "postgres", "postgresql+asyncpg")


def asyncpg_url(url: str | URL, name: str) -> URL:
    """``postgresql://…`` as ``postgresql+asyncpg://…``. Raises `MisuseError` for anything but PostgreSQL.

    ``name`` is how the message calls the argument; passwords never stand in it.
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
    return parsed.set(drivername="postgresql+asyncpg")
