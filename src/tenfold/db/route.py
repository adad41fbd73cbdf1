"""Replica or primary: the decision for one statement. Pure.

One transaction has one target. Reads of a routed session run on a replica in autocommit, which under READ COMMITTED is
no other isolation than a transaction's: each statement has a snapshot of its own. So a transaction that began with
reads may still *move* to the primary when it writes: nothing that the replica's connection held is lost, for it held
nothing. It does not move back: what comes after a write must see it. A transaction that asks for more than READ
COMMITTED wants one snapshot, and a two-phase one or a savepoint wants one connection: those are the primary's from
their first statement.

A session that has been on the primary stays there, for a replica might show it an older state, unless the causal token
says how new a replica has to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tenfold._core.errors import MisuseError
from tenfold.db.classify import Verdict

Route = Literal["primary", "replica"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to, why, and whether the router may correct it when a replica refuses."""

    to: Route
    why: str
    may_move: bool = False


READ_ONLY: Final = Decision("replica", "the session is read-only")
READ_ONLY_PRIMARY: Final = Decision("primary", 'the session is read-only, and route="primary" was asked for')
ON_PRIMARY: Final = Decision("primary", "the transaction is on the primary already")
ONE_CONNECTION: Final = Decision("primary", "it needs one connection or one snapshot for the whole transaction")
NO_STATEMENT: Final = Decision("primary", "the statement is not known beforehand")
ASKED_PRIMARY: Final = Decision("primary", 'route="primary" was asked for')
ASKED_REPLICA: Final = Decision("replica", 'route="replica" was asked for')
BEEN_THERE: Final = Decision("primary", "the session has been on the primary, and a replica may be behind")
A_READ: Final = Decision("replica", "it is a read", may_move=True)
A_WRITE: Final = Decision("primary", "it is a write")
A_DOUBT: Final = Decision("primary", "it may be a write")


def checked_route(route: object, name: str = "route") -> Route | None:
    """``route`` if it is one. Raises `MisuseError` otherwise."""
    if route is None or route in ("primary", "replica"):
        return route
    raise MisuseError(
        f'{name}: expected "primary" or "replica", got {route!r}; leave it out to let the statement decide'
    )


def decide(
    verdict: Verdict | None,
    route: Route | None = None,
    *,
    read_only: bool = False,
    on_primary: bool = False,
    one_connection: bool = False,
    been_there: bool = False,
) -> Decision:
    """Where a statement goes. ``verdict`` None: there is no statement to judge.

    ``on_primary``: this transaction has used the primary; ``been_there``: the session has, and no token tells which
    replica is new enough; ``one_connection``: the isolation level, a savepoint or two phases hold it together.
    """
    if read_only:
        return READ_ONLY_PRIMARY if route == "primary" else READ_ONLY
    if on_primary:
        return ON_PRIMARY
    if one_connection:
        return ONE_CONNECTION
    if route is not None:
        return ASKED_PRIMARY if route == "primary" else ASKED_REPLICA
    if verdict is None:
        return NO_STATEMENT
    if verdict.kind == "write":
        return A_WRITE if verdict.sure else A_DOUBT
    return BEEN_THERE if been_there else A_READ
