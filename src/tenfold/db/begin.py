"""What must hold for one transaction, sent together with its BEGIN: no round trip of its own.

asyncpg starts a transaction by the simple query ``BEGIN;``, and a simple query may hold several statements (PostgreSQL
protocol, "Multiple Statements in a Simple Query"). So a connection of a derived class appends ``SET LOCAL …`` to it.
SET LOCAL ends with the transaction, so nothing is left for the next user of the connection, and poolers in transaction
mode may stand between.

The class is asyncpg's own extension point (``connection_class``). It reaches the pool by SQLAlchemy's ``do_connect``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tenfold._core.errors import MisuseError

Addition = Callable[[], str]
"""Called at every BEGIN; one statement such as ``SET LOCAL x = 1`` without a semicolon, or "". Must not raise."""


class HasNodes(Protocol):
    """An `AsyncCluster`."""

    def each_engine(self, install: Callable[[Engine], None], *, key: Hashable = None) -> None: ...


_ADDITIONS: Final[WeakKeyDictionary[Engine, list[Addition]]] = WeakKeyDictionary()


class _Additions:
    """Mixed into asyncpg's connection."""

    __slots__ = ()
    tenfold_additions: list[Addition]

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        if not args and query.startswith("BEGIN"):
            query += "".join(f"{more};" for addition in self.tenfold_additions if (more := addition()))
        found: str = await super().execute(query, *args, timeout=timeout)  # type: ignore[misc]
        return found


def for_each_engine(target: AsyncEngine | HasNodes, install: Callable[[Engine], None], key: Hashable) -> None:
    """Call ``install`` with the engine, or with all that a cluster has and will have, in any event loop.

    ``key`` says what is installed; ``install`` must expect an engine that has it already.
    """
    if isinstance(target, AsyncEngine):
        install(target.sync_engine)
    else:
        target.each_engine(install, key=key)


def at_begin(engine: Engine, addition: Addition) -> None:
    """Send ``addition`` with each BEGIN on connections of ``engine``.

    Raises `MisuseError` for another driver than asyncpg and for an engine that has connections already, which would go
    without.
    """
    before_first_use(engine)
    known = _ADDITIONS.get(engine)
    if known is not None:
        known.append(addition)
        return
    additions = _ADDITIONS[engine] = [addition]

    @event.listens_for(engine, "do_connect")
    def derive(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        kind = options.get("connection_class", asyncpg.Connection)
        if not issubclass(kind, _Additions):
            derived = type(kind.__name__, (_Additions, kind), {"__slots__": (), "tenfold_additions": additions})
            options["connection_class"] = derived


async def must_be_in_transaction(where: AsyncConnection | AsyncSession, what: str) -> None:
    """Raise `MisuseError`, in the name of ``what``, for a connection in autocommit. Sends nothing."""
    connection = await where.connection() if isinstance(where, AsyncSession) else where
    inner: Any = connection.sync_connection
    if inner.dialect.detect_autocommit_setting(inner.connection.dbapi_connection):
        raise MisuseError(
            f"{what}: expected a transaction, got a connection in autocommit, where it would end with its first "
            "statement; use `async with engine.begin()`, or a session on an engine that is not in autocommit"
        )


def before_first_use(engine: Engine) -> None:
    """Raises `MisuseError` if it is too late, or the wrong driver."""
    if engine.dialect.driver != "asyncpg":
        raise MisuseError(f"expected an engine of asyncpg (postgresql+asyncpg://), got {engine.dialect.driver}")
    checked_in, checked_out = (getattr(engine.pool, name, lambda: 0)() for name in ("checkedin", "checkedout"))
    if checked_in + checked_out > 0:
        raise MisuseError(
            f"expected an engine that was not used yet, got one with {checked_in + checked_out} connections; "
            "call this right after it was made"
        )
