"""The deadline in force, told to the server: a statement does not outlive the one who asked for it.

A client that gives up sends a cancel request over a new connection; one that was killed, cut off or is too busy sends
nothing, and its statement runs on, holding locks. ``statement_timeout`` is the server's own clock. It is set from what
`tenfold.resilience.remaining` says when the transaction begins, by ``SET LOCAL`` in the same message as BEGIN
(`tenfold.db.begin`).

What it bounds is each *statement*, from its own start; the transaction as a whole is bounded by ``async with
Deadline``, which cancels. A deadline that is set or shortened within a transaction takes `apply_deadline`, one round
trip. In autocommit there is no BEGIN: there ``longest`` holds, given once as a setting of the connection, and the
deadline only by cancellation.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tenfold._core.units import Duration, duration
from tenfold.db.begin import HasNodes, at_begin, before_first_use, for_each_engine
from tenfold.db.pool_policy import is_adapted
from tenfold.resilience.deadline import remaining
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort

_QUERY_CANCELED: Final = "57014"
_CLOCKS_APART: Final = 0.05
_LONGEST_MS: Final = 2**31 - 1
LONGEST_WAIT: Final = _LONGEST_MS / 1000
"""Seconds, 24 days: what the server takes for a time-out."""


def statement_deadline(target: AsyncEngine | HasNodes, *, longest: Duration | None = "30s") -> None:
    """Bound every statement on ``target`` (an engine or a cluster, not used yet) by the deadline in force.

    Needs no running loop: call it where the engine or cluster is made. A cluster's engines are bounded in every loop.
    Called again it does nothing, or changes ``longest`` where nothing is used yet.

    ``longest`` (30 s; None: the server's own) bounds statements without a deadline too, in autocommit as well.

    A transaction is not begun once its deadline has passed: `DeadlineTooShort`. A statement that the server ends
    because the deadline passed raises `DeadlineExceeded`, from SQLAlchemy's error; one that it ends for ``longest``
    that error itself. Raises `MisuseError` as `tenfold.db.begin.at_begin`.
    """
    cap = None if longest is None else min(_LONGEST_MS, max(1, int(duration(longest, "longest") * 1000)))
    for_each_engine(target, lambda engine: _install(engine, cap), "statement_deadline")


class _Bound:
    """What bounds an engine's statements."""

    __slots__ = ("cap", "pooled")

    def __init__(self, cap: int | None) -> None:
        self.cap, self.pooled = cap, False


_BOUNDS: Final[WeakKeyDictionary[Engine, _Bound]] = WeakKeyDictionary()


def _install(engine: Engine, cap: int | None) -> None:
    known = _BOUNDS.get(engine)
    if known is not None and known.cap == cap:
        return
    before_first_use(engine)
    if known is not None:
        known.cap = cap
        return
    bound = _BOUNDS[engine] = _Bound(cap)
    at_begin(engine, lambda: setting(remaining(), bound.cap, always=bound.pooled))
    event.listen(engine, "begin", _refuse_late)
    event.listen(engine, "handle_error", _translate)

    @event.listens_for(engine, "do_connect")
    def with_cap(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        bound.pooled = is_adapted(options)
        if bound.pooled or bound.cap is None:
            return  # a pooler would refuse it; there all is in transactions, and they bring it
        options["server_settings"] = {**options.get("server_settings", {}), "statement_timeout": str(bound.cap)}


def setting(left: float | None, cap: int | None, *, always: bool = False) -> str:
    """The statement that says it, "" where there is nothing to say. ``left`` in seconds, ``cap`` in milliseconds;
    ``always`` says the cap too.
    """
    if left is None or left * 1000 >= (_LONGEST_MS if cap is None else cap):
        return f"SET LOCAL statement_timeout = {cap}" if always and cap is not None else ""
    return f"SET LOCAL statement_timeout = {max(1, int(left * 1000))}"  # 0 would mean for ever


async def apply_deadline(connection: AsyncConnection | AsyncSession) -> None:
    """Bound the statements that follow in this transaction by the deadline in force now. One round trip.

    For a deadline that was set after the transaction began; nothing where there is none. Raises `DeadlineTooShort`.
    """
    left = remaining()
    if left is not None:
        _check(left)
        await connection.execute(
            text("SELECT set_config('statement_timeout', :ms, true)"),
            {"ms": str(min(_LONGEST_MS, max(1, int(left * 1000))))},
        )


def _refuse_late(connection: Connection) -> None:
    left = remaining()
    if left is not None:
        _check(left)


def _check(left: float) -> None:
    if left <= 0:
        raise DeadlineTooShort("the deadline passed before the transaction began")


def _translate(context: ExceptionContext) -> BaseException | None:
    if getattr(context.original_exception, "sqlstate", None) != _QUERY_CANCELED:
        return None
    left = remaining()
    if left is None or left > _CLOCKS_APART:
        return None
    return DeadlineExceeded("the deadline passed and the server ended the statement")
