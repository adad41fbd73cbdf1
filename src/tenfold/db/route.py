"""Replica or primary: the decision for one statement. Pure.

One transaction has one target. Reads of a routed session run on a replica in autocommit, which under READ COMMITTED is
no other isolation than a transaction's: each statement has a snapshot of its own. So a transaction that began with
reads may still *move* to the primary when it writes: nothing that the replica's connection held is lost, for it held
nothing. It does not move back: what comes after a write must see it. A transaction that asks for more than READ
COMMITTED wants one snapshot, and a two-phase one or a savepoint wants one connection: those are the primary's from
their first statement.

A session that has been on the primary stays there, for a replica might show it an older state, unless the causal token
says how new a replica has to be.

`AtLeast` and `Stale` force nothing of this: they say which state a statement needs *if* it is a read. What is not
surely one goes to the primary as it would without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy.sql.base import Executable

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.db.causality import Causality
from tenfold.db.classify import Verdict
from tenfold.db.position import Position
from tenfold.db.token import NOWHERE, Token

Route = Literal["primary", "replica"]
STRICTER: Final = frozenset({"REPEATABLE READ", "SERIALIZABLE"})
"""Levels at which the statements of a transaction share one snapshot."""


def level_of(options: Mapping[str, Any]) -> str | None:
    """The isolation level that execution options ask for, spelt as SQLAlchemy's dialects spell it."""
    level = options.get("isolation_level")
    return None if level is None else str(level).replace("_", " ").upper()


@dataclass(frozen=True, slots=True)
class AtLeast:
    """``execution_options(route=AtLeast(token))``: this read must show what ``token`` tells of, and what the present
    `causality` scope wants besides: a replica that shows it, after a short wait (`CausalOptions.wait`), else the
    primary.

    ``token``: from ``await cluster.token()``, from a scope, or of a header (`TokenKeys.read`). Where it and the scope
    name timelines that differ, as after a promotion, the primary is read. Raises `MisuseError` for what is no token.
    """

    token: Token

    def __post_init__(self) -> None:
        token: object = self.token
        if not isinstance(token, Token):
            raise MisuseError(
                f"AtLeast: expected a Token (await cluster.token(), or TokenKeys.read of its text), got {token!r}; "
                "where nothing has to be shown, leave the route out"
            )

    def beside(self, wanted: Position | None, system: int | None) -> Position | None:
        """What a read of ``system`` (None: not known) must show to whom ``wanted`` (of that system) is wanted too."""
        asked = Causality(self.token).wanted_on(system)
        if wanted is None or asked is None:
            return asked if wanted is None else wanted
        if wanted is NOWHERE or asked is NOWHERE or wanted.system != asked.system:
            return NOWHERE
        return Token(wanted).merge(Token(asked)).on(wanted.system)

    def __str__(self) -> str:
        return f"it must show {self.token}"


@dataclass(frozen=True, slots=True)
class Stale:
    """``execution_options(route=Stale("5s"))``: this read may show a state of up to ``max_lag`` (above 0) ago, and need
    not show what the present `causality` scope wants: a replica whose lag is measured and no longer, whatever the
    cluster's own ``max_lag`` is, else the primary.

    The measure is the last probe's, ``watch_period`` (250 ms) ago at most while the server answers. A lag that is not
    known is too long. Raises `MisuseError` for what makes no sense.
    """

    max_lag: Duration

    def __post_init__(self) -> None:
        seconds = duration(self.max_lag, "Stale")
        if not seconds:
            raise MisuseError('Stale: expected a duration above 0 such as "5s", got 0; take route="primary" for that')
        object.__setattr__(self, "max_lag", seconds)

    def __str__(self) -> str:
        return f"it may be {format_duration(float(self.max_lag))} behind"


Needs = AtLeast | Stale
"""Which state a read needs."""
Asked = Route | AtLeast | Stale
"""What ``route=`` takes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to, why, and whether the router may correct it when a replica refuses."""

    to: Route
    why: str
    may_move: bool = False
    needs: Needs | None = None
    """Which state was asked for, of a read."""


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


def checked_route(route: Any, name: str = "route") -> Asked | None:
    """``route`` if it is one. Raises `MisuseError` otherwise."""
    if route is None or isinstance(route, AtLeast | Stale) or route in ("primary", "replica"):
        checked: Asked | None = route
        return checked
    raise MisuseError(
        f'{name}: expected "primary", "replica", AtLeast(token) or Stale("5s"), got {route!r}; '
        "leave it out to let the statement decide"
    )


def asked_route(statement: object, route: Asked | None = None) -> Asked | None:
    """``route``, which was asked for with ``statement``; None: what its own options say. Raises `MisuseError`."""
    if route is not None or not isinstance(statement, Executable):
        return route
    return checked_route(statement.get_execution_options().get("route"))


def most_lag(needs: Needs | None) -> float | None:
    """Seconds that a read may be behind; None: what the cluster was told."""
    return float(needs.max_lag) if isinstance(needs, Stale) else None


def decide(
    verdict: Verdict | None,
    route: Asked | None = None,
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
        return READ_ONLY_PRIMARY if route == "primary" else _needing(READ_ONLY, route)
    if on_primary:
        return ON_PRIMARY
    if one_connection:
        return ONE_CONNECTION
    if route is not None and isinstance(route, str):
        return ASKED_PRIMARY if route == "primary" else ASKED_REPLICA
    if verdict is None:
        return NO_STATEMENT
    if verdict.kind == "write":
        return A_WRITE if verdict.sure else A_DOUBT
    if been_there and not isinstance(route, Stale):
        return BEEN_THERE
    return A_READ if route is None else _needing(A_READ, route)


def _needing(read: Decision, route: Asked | None) -> Decision:
    if route is None or isinstance(route, str):
        return read
    return Decision(read.to, f"{read.why}, and {route}", read.may_move, route)
