"""What an error says of the server that it came from: that it is not there, or that the statement belongs elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError

from tenfold._core.events import Event

# How the driver itself complains. Its "internal" error is a farewell of the server's that came while the connection was
# idle, seen by whoever uses it next; nothing was sent then.
OF_THE_DRIVER: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# By which a server may say that it cannot be reached or does not accept connections: to be asked with `is_gone`.
NOT_THERE: Final = (TimeoutError, DBAPIError, asyncpg.PostgresError, *OF_THE_DRIVER)
# Connection exceptions, and a server that shuts down, crashed or starts up.
_GONE: Final = ("08", "57P01", "57P02", "57P03")

# "read-only transaction", "not supported" (SERIALIZABLE, unlogged tables) and "recovery is in progress": it belongs on
# the primary.
_REFUSED: Final = frozenset({"25006", "0A000", "55000"})
# "conflict with recovery": the standby needed what the statement looked at; any server may run it again.
_CONFLICT: Final = "40001"

Refusal = Literal["refused", "again", "stale"]
_Stale: Final = AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError


@dataclass(frozen=True, slots=True)
class ReplicaRefused(Event):
    """A statement classed as a read was refused; it ran on the primary and counts as a write from now on."""

    node: str
    sqlstate: str
    statement: str


def is_gone(error: BaseException) -> bool:
    """Whether the error says that the server is not there, rather than that it minds the request."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        found = of_the_driver(error)
        if found is None:
            return False
        error = found
    if isinstance(error, OF_THE_DRIVER):
        return True
    return str(getattr(error, "sqlstate", None) or "").startswith(_GONE)


def of_the_driver(error: BaseException) -> BaseException | None:
    """What the driver raised, or None where SQLAlchemy has lost it, as it has for a stale statement: it has no driver's
    error in it, and asking for one raises `ValueError`.
    """
    try:
        found: BaseException | None = getattr(error, "driver_exception", None)
    except ValueError:
        return None
    return found


def is_stale(error: BaseException) -> bool:
    """Whether the connection had prepared the statement before DDL changed what it returns.

    That is "cached plan must not change result type", also 0A000. SQLAlchemy and the driver forget such statements by
    the error, so the next try prepares it anew.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(original, (_Stale, asyncpg.InvalidCachedStatementError))


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a driver's error; empty if it has none.

    SQLAlchemy passes on wrapped what a statement raises, and bare what the first rows of a server-side cursor raise.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else ""


def refusal(error: BaseException) -> Refusal | None:
    """``"refused"``: run it on the primary; ``"again"``: run it on another server; ``"stale"``: run it again where it
    ran; None: it is the caller's error.

    Only for a statement that ran alone in autocommit on a read-only connection: it can have changed nothing.
    """
    if is_stale(error):
        return "stale"
    state = sqlstate(error)
    if state in _REFUSED:
        return "refused"
    if state == _CONFLICT or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return "again"
    # Not by way of SQLAlchemy: from a question of ours about the read (`ClusterCausality.note`).
    if isinstance(error, (*OF_THE_DRIVER, asyncpg.PostgresConnectionError)) and not isinstance(error, TimeoutError):
        return "again"
    return None
