"""What a replica's error says about where the statement belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import asyncpg
from sqlalchemy.exc import DBAPIError

from tenfold._core.events import Event

# By which a server says that it cannot be reached or does not accept connections.
NOT_THERE: Final = (OSError, TimeoutError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)

# "read-only transaction" and "not supported" (SERIALIZABLE, unlogged tables): it belongs on the primary.
_REFUSED: Final = frozenset({"25006", "0A000"})
# "conflict with recovery": the standby needed what the statement looked at; any server may run it again.
_CONFLICT: Final = "40001"

Refusal = Literal["refused", "again"]


@dataclass(frozen=True, slots=True)
class ReplicaRefused(Event):
    """A statement classed as a read was refused; it ran on the primary and counts as a write from now on."""

    node: str
    sqlstate: str
    statement: str


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a driver's error as SQLAlchemy passes it on; empty if it has none."""
    if not isinstance(error, DBAPIError):
        return ""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state if isinstance(state, str) else ""


def refusal(error: BaseException) -> Refusal | None:
    """``"refused"``: run it on the primary; ``"again"``: run it on another server; None: it is the caller's error.

    Only for a statement that ran alone in autocommit on a read-only connection: it can have changed nothing.
    """
    state = sqlstate(error)
    if state in _REFUSED:
        return "refused"
    if state == _CONFLICT or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return "again"
    return None
