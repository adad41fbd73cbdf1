"""Sessions that send each statement where it belongs, and otherwise are SQLAlchemy's.

A session reads from one replica, in autocommit, until a statement needs the primary: then the transaction goes on there
and so does the session afterwards (see `route`). Reads whose server refuses, is lost or does not show enough run again
elsewhere (`session_reads`).

What this does not do: compare what was read with what is written. A session that loads an object from a replica,
changes it and flushes writes over whatever another has written since, as under READ COMMITTED on one server, only that
the time between is longer by the replica's lag. A transaction that writes what it read should read from the primary
(``route="primary"`` for the session), lock (``with_for_update``), compute in the UPDATE, or use a version column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import EMPTY_DICT

from tenfold._core.errors import MisuseError
from tenfold.db.causality import CAUSALITY, knowing
from tenfold.db.classify import LEARNED, Verdict
from tenfold.db.places import Place
from tenfold.db.route import STRICTER, Asked, Decision, Needs, Stale, asked_route, checked_route, decide, level_of
from tenfold.db.router import Router
from tenfold.db.session_reads import SessionReads, asks_for_a_cursor


def routed_sessionmaker(router: Router, **options: Any) -> async_sessionmaker[AsyncSession]:
    """An `async_sessionmaker` whose sessions are routed; ``options`` are SQLAlchemy's.

    Its sessions also take ``read_only=True`` (reads only, all from one replica; anything else raises `MisuseError` or
    is refused by the server) and ``route``: ``"primary"`` for a session that stays there, ``"replica"`` for one that
    trusts no verdict, or `AtLeast` or `Stale` for what its reads need. A statement takes the same as
    ``execution_options(route=…)``.
    """
    for taken in ("bind", "binds", "sync_session_class"):
        if taken in options:
            raise MisuseError(f"routed_sessionmaker: {taken}= is the cluster's own; leave it out")
    return async_sessionmaker(sync_session_class=RoutedSession, router=router, **options)


class RoutedSession(Session):
    """The synchronous session inside; see `routed_sessionmaker`."""

    def __init__(
        self, *, router: Router, read_only: bool = False, route: str | Needs | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._router = router
        self._read_only = read_only
        self._own_route = checked_route(self.execution_options.get("route") if route is None else route)
        self._call_route: Asked | None = None
        self._hooked: ORMExecuteState | None = None
        """What ``do_orm_execute`` hooks make of the statement under way, if there are any."""
        self._reads = SessionReads(self, router)
        self._writer: Engine | None = None
        self._primary: Place | None = None
        self._writing: Connection | None = None
        self._may_write: Callable[[], None] | None = None
        """To be called when the transaction is over that may have written."""
        self._on_primary = False
        self._been_there = False
        self._scope: object = None
        """The causal scope in which it has been on the primary; `SEVERAL`: whose token may miss something of it."""
        self._autocommits = self._lasts = False
        """Whether what the transaction wrote may last whatever becomes of it: COMMIT was sent, or it autocommits."""

    def execute(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """As `Session.execute`, routed."""
        return self._routed(super().execute, statement, params, options)

    def scalar(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """As `Session.scalar`, routed."""
        return self._routed(super().scalar, statement, params, options)

    def scalars(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """As `Session.scalars`, routed."""
        return self._routed(super().scalars, statement, params, options)

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """As `Session.connection`: the primary's, or in a read-only session a replica's."""
        self._reads.begin()
        connect = super().connection
        return self._reads.tried_on_each(lambda: connect(*arguments, **options), None, self._move)

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any) -> Any:
        """The engine for ``clause``: SQLAlchemy's hook for this purpose."""
        self._writer = None
        if bind is not None:
            return bind
        decision = self._decide(clause)
        if decision.to == "primary" and not self._read_only:
            self._reads.last = None
            if not self._on_primary:
                self._reads.let_go()
            self._scope = knowing(self._scope, self._been_there)
            self._on_primary = self._been_there = True
            self._router.sent_to_primary += 1
            self._note_that_it_may_write(clause)
            self._primary = self._router.places.writer()
            self._writer = self._primary.engine
            return self._writer
        return self._reads.engine(self._reads.place(decision, been_there=self._been_there))

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As `Session.flush`. Raises `MisuseError` for a read-only session that holds changes."""
        if self._read_only and (self.new or self.dirty or self.deleted):
            raise MisuseError(
                "this session was opened with read_only=True and holds changes; expected reads only. "
                "Open one without read_only to write"
            )
        super().flush(objects)
        if self._autocommits:
            self._count_commit()

    def commit(self) -> None:
        """As `Session.commit`. Where the answer is lost it may have happened, and later reads must show it."""
        try:
            super().commit()
        finally:
            if self._lasts:
                self._count_commit()

    def close(self) -> None:
        """As `Session.close`. The next use begins anew: any replica, nothing remembered."""
        super().close()
        self._reads.forget()
        self._writing = None
        self._been_there = False
        self._scope = None
        self._ended()

    # -- inside

    def _decide(self, clause: Any) -> Decision:
        statement = clause if isinstance(clause, Executable) and not self._flushing else None
        route = self._call_route
        options: Mapping[str, Any] = EMPTY_DICT
        if statement is not None:
            hooked = self._hooked
            if hooked is not None:
                if not hooked.is_orm_statement:  # then SQLAlchemy hands on what came before the hooks
                    statement = hooked.statement
                route = checked_route(hooked.local_execution_options.get("route")) or route
            options = statement.get_execution_options()
            if route is None and "route" in options:
                route = checked_route(options["route"])
        route = route or self._own_route
        if self._on_primary and not self._read_only:
            return decide(None, on_primary=True)
        verdict = None if statement is None else self._router.classifier(statement)
        if verdict is not None and self._read_only and route != "primary":
            _check_read(verdict)
        level = level_of(options) or level_of(self.execution_options) or self._router.level
        return decide(
            verdict,
            None if statement is None and not self._read_only else route,
            read_only=self._read_only,
            one_connection=self.twophase or self.in_nested_transaction() or level in STRICTER,
            been_there=self._been_there and not isinstance(route, Stale) and not self._token_tells(),
        )

    def _routed(self, call: Callable[..., Any], statement: Any, params: Any, options: dict[str, Any]) -> Any:
        self._router.keep_fresh()
        reads = self._reads
        before = self._call_route, reads.streaming, self._hooked
        self._hooked = None
        if self.dispatch.do_orm_execute and not event.contains(self, "do_orm_execute", _note_hooked):
            event.listen(self, "do_orm_execute", _note_hooked)
        reads.begin()
        given = options.get("execution_options") or EMPTY_DICT
        if "route" in given:
            self._call_route = checked_route(given["route"])
        if self._is_change(statement):
            self._call_route = "primary"  # also for the SELECT before it (synchronize_session="fetch")
        reads.streaming = (
            asks_for_a_cursor(given)
            or asks_for_a_cursor(self.execution_options)
            or (isinstance(statement, Executable) and asks_for_a_cursor(statement.get_execution_options()))
        )

        def once() -> Any:
            result = call(statement, params, **options)
            reads.note_what_was_seen()
            return result

        try:
            result = reads.tried_on_each(once, statement, self._move)
            reads.count()
            if self._autocommits:
                self._count_commit()
            return result
        finally:
            self._call_route, reads.streaming, self._hooked = before

    def _move(self) -> None:
        """A replica has refused what looked like a read."""
        self._on_primary = True

    def _note_that_it_may_write(self, clause: Any) -> None:
        causality = self._router.causality
        if causality is None or self._may_write is not None:
            return
        is_statement = isinstance(clause, Executable) and not self._flushing
        if not (is_statement and self._router.classifier(clause).is_read):
            self._may_write = causality.begun()

    def _token_tells(self) -> bool:
        """Whether what the present scope wants covers what this session has seen on the primary."""
        return self._scope is CAUSALITY.get() and self._router.wanted() is not None

    def _count_commit(self) -> None:
        """What was written over the primary's connection may last from now on."""
        causality = self._router.causality
        if causality is not None and self._writing is not None:
            causality.after_commit(self._writing)
            self._scope = knowing(self._scope, True)

    def _ended(self) -> None:
        ended, self._may_write = self._may_write, None
        if ended is not None:
            ended()

    def _is_change(self, statement: Any) -> bool:
        """Whether it is one, and nobody has said where it is to go."""
        return (
            isinstance(statement, UpdateBase)
            and not self._read_only
            and not isinstance(asked_route(statement, self._call_route) or self._own_route, str)
        )

    def _connection_for_bind(self, engine: Any, execution_options: Any = None, **options: Any) -> Connection:
        """SQLAlchemy's own, which connects: to the primary through a failover."""
        connect = super()._connection_for_bind
        if engine is not self._writer:
            return connect(engine, execution_options, **options)
        return self._router.places.at_writer(lambda writer: connect(writer, execution_options, **options))


def _check_read(verdict: Verdict) -> None:
    """Raises `MisuseError` for what is known to be no read: a replica takes locks and settings without a word."""
    if verdict.kind == "write" and verdict.sure and verdict is not LEARNED:
        raise MisuseError(
            "this session was opened with read_only=True; expected a read, got a statement for the primary: "
            f"{', '.join(verdict.reasons)}. Open one without read_only for it"
        )


def _note_hooked(state: ORMExecuteState) -> None:
    if isinstance(state.session, RoutedSession):
        state.session._hooked = state  # which the hooks that are called later change too


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if isinstance(session, RoutedSession):
        if session._reads.last is None:
            session._writing = connection
            session._autocommits = session._lasts = level_of(connection.get_execution_options()) == "AUTOCOMMIT"
        else:
            session._reads.took(connection)


def _before_commit(session: Session) -> None:
    if isinstance(session, RoutedSession) and session._writing is not None and not session.in_nested_transaction():
        session._lasts = True


def _after_commit(session: Session) -> None:
    if isinstance(session, RoutedSession) and not session.in_nested_transaction():
        session._lasts = False
        session._count_commit()


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if isinstance(session, RoutedSession) and transaction.parent is None:
        if session._writing is not None and session._primary is not None:
            session._primary.saw(session._writing)
        if session._lasts:  # COMMIT was sent, and nobody knows what became of it; or there was none to send
            session._count_commit()
        session._on_primary = session._autocommits = session._lasts = False
        session._writing = None
        session._ended()
        session._reads.ended()


event.listen(RoutedSession, "after_begin", _after_begin)
event.listen(RoutedSession, "before_commit", _before_commit)
event.listen(RoutedSession, "after_commit", _after_commit)
event.listen(RoutedSession, "after_transaction_end", _after_transaction_end)
