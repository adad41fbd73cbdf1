"""Sessions that send each statement where it belongs, and otherwise are SQLAlchemy's.

A session reads from one replica, in autocommit, until a statement needs the primary: then the transaction goes on there
and so does the session afterwards (see `route`). A replica that refuses a statement (25006, 0A000), loses the
connection or cancels it for its recovery has changed nothing, for each read ran alone: it runs again on the primary, or
on another replica; and where the primary loses a read, on any other server that may serve it. Each is tried once. When
none is left `ReadsRefused` is raised, with the last server's error as its cause.

What this does not do: compare what was read with what is written. A session that loads an object from a replica,
changes it and flushes writes over whatever another has written since, as under READ COMMITTED on one server, only that
the time between is longer by the replica's lag. A transaction that writes what it read should read from the primary
(``route="primary"`` for the session), lock (``with_for_update``), compute in the UPDATE, or use a version column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import EMPTY_DICT

from tenfold._core.errors import MisuseError
from tenfold.db.classify import LEARNED, Verdict
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.places import Place
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE, refusal
from tenfold.db.route import Decision, Route, checked_route, decide
from tenfold.db.router import Router, not_shown, unanswered

T = TypeVar("T")
_STRICTER: Final = frozenset({"REPEATABLE READ", "SERIALIZABLE"})


def routed_sessionmaker(router: Router, **options: Any) -> async_sessionmaker[AsyncSession]:
    """An `async_sessionmaker` whose sessions are routed; ``options`` are SQLAlchemy's.

    Its sessions also take ``read_only=True`` (reads only, all from one replica; anything else raises `MisuseError` or
    is refused by the server) and ``route``: ``"primary"`` for a session that stays there, ``"replica"`` for one that
    trusts no verdict. A statement takes the same as ``execution_options(route=…)``.
    """
    for taken in ("bind", "binds", "sync_session_class"):
        if taken in options:
            raise MisuseError(f"routed_sessionmaker: {taken}= is the cluster's own; leave it out")
    return async_sessionmaker(sync_session_class=RoutedSession, router=router, **options)


class RoutedSession(Session):
    """The synchronous session inside; see `routed_sessionmaker`."""

    def __init__(self, *, router: Router, read_only: bool = False, route: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._router = router
        self._read_only = read_only
        self._own_route = checked_route(route)
        self._call_route: Route | None = None
        self._pinned: Place | None = None
        self._last: tuple[Place, Decision] | None = None
        self._connected: dict[Engine, Connection] = {}
        self._cursors: set[Engine] = set()
        self._streaming = False
        self._again = False
        self._failed: set[str] = set()
        self._behind: set[str] = set()
        self._tried: set[str] = set()
        self._wanted: Position | None = None
        self._writer: Engine | None = None
        self._primary: Place | None = None
        self._writing: Connection | None = None
        self._may_write: Callable[[], None] | None = None
        """To be called when the transaction is over that may have written."""
        self._on_primary = False
        self._been_there = False

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
        self._behind.clear()
        return self._tried_on_each(lambda: super(RoutedSession, self).connection(*arguments, **options), None)

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any) -> Any:
        """The engine for ``clause``: SQLAlchemy's hook for this purpose."""
        self._writer = None
        if bind is not None:
            return bind
        decision = self._decide(clause)
        if decision.to == "primary" and not self._read_only:
            self._last = None
            if not self._on_primary:
                self._let_go()
            self._on_primary = self._been_there = True
            self._router.sent_to_primary += 1
            self._note_that_it_may_write(clause)
            self._primary = self._router.places.writer()
            self._writer = self._primary.engine
            return self._writer
        place = self._reader(decision)
        self._last = (place, decision)
        return self._engine(place)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As `Session.flush`. Raises `MisuseError` for a read-only session that holds changes."""
        if self._read_only and (self.new or self.dirty or self.deleted):
            raise MisuseError(
                "this session was opened with read_only=True and holds changes; expected reads only. "
                "Open one without read_only to write"
            )
        super().flush(objects)

    def close(self) -> None:
        """As `Session.close`. The next use begins anew: any replica, nothing remembered."""
        super().close()
        self._pinned = self._last = self._writing = None
        self._failed.clear()
        self._been_there = False
        self._ended()

    # -- inside

    def _decide(self, clause: Any) -> Decision:
        statement = clause if isinstance(clause, Executable) and not self._flushing else None
        route = self._call_route
        options: Mapping[str, Any] = EMPTY_DICT
        if statement is not None:
            options = statement.get_execution_options()
            if route is None and "route" in options:
                route = checked_route(options["route"])
        if self._on_primary and not self._read_only:
            return decide(None, on_primary=True)
        verdict = None if statement is None else self._router.classifier(statement)
        if verdict is not None and self._read_only and (route or self._own_route) != "primary":
            _check_read(verdict)
        level = options.get("isolation_level") or self.execution_options.get("isolation_level")
        return decide(
            verdict,
            None if statement is None and not self._read_only else route or self._own_route,
            read_only=self._read_only,
            one_connection=self.twophase or self.in_nested_transaction() or level in _STRICTER,
            been_there=self._been_there and self._router.wanted() is None,
        )

    def _reader(self, decision: Decision) -> Place:
        router = self._router
        if decision.to == "primary":
            primary = router.places.primary_reader()
            if primary.name in self._tried:
                raise not_shown(None)
            return primary
        pinned, wanted = self._pinned, router.wanted()
        if pinned is not None:
            held = self._connected.get(self._engine(pinned))
            if held is not None:  # in the midst of a transaction
                if wanted is None or not pinned.replica or pinned.shows(held, wanted, not self._behind):
                    return pinned
                self._stand_aside(pinned)
        place: Place | None = None
        for candidate in router.readers(
            wanted, been_there=self._been_there, pinned=None if pinned is None else pinned.name
        ):
            if candidate.name not in self._behind and candidate.name not in self._tried:
                place = candidate
                if place.name not in self._failed:
                    break
        if place is None:
            raise not_shown(wanted)
        self._pinned = place
        self._wanted = wanted if place.replica else None
        return place

    def _stand_aside(self, place: Place) -> None:
        """It does not show what this read wants."""
        self._behind.add(place.name)
        self._let_go()
        self._pinned = None

    def _routed(self, call: Callable[..., Any], statement: Any, params: Any, options: dict[str, Any]) -> Any:
        self._router.keep_fresh()
        before = self._call_route, self._streaming
        self._behind.clear()
        self._again = False
        given = options.get("execution_options") or EMPTY_DICT
        if "route" in given:
            self._call_route = checked_route(given["route"])
        elif self._is_change(statement):
            self._call_route = "primary"  # also for the SELECT before it (synchronize_session="fetch")
        self._streaming = (
            _streams(given)
            or _streams(self.execution_options)
            or (isinstance(statement, Executable) and _streams(statement.get_execution_options()))
        )

        def once() -> Any:
            result = call(statement, params, **options)
            self._note_what_was_seen()
            return result

        try:
            result = self._tried_on_each(once, statement)
            self._count()
            return result
        finally:
            self._call_route, self._streaming = before

    def _tried_on_each(self, once: Callable[[], T], statement: Any) -> T:
        """What ``once()`` returns, on another server where one does not show what is wanted, refuses or is lost."""
        before, self._tried = self._tried, set()
        held = dict(self._connected)
        lost: BaseException | None = None
        try:
            while True:
                self._last = None
                try:
                    return once()
                except _Behind as behind:
                    self._stand_aside(behind.place)
                except ReadsRefused as refused:
                    raise unanswered(refused, lost)  # noqa: B904 - it has the cause that counts
                except NOT_THERE as error:
                    if not self._recovers(statement, error, held):
                        raise
                    lost = error
        finally:
            self._tried = before

    def _note_that_it_may_write(self, clause: Any) -> None:
        causality = self._router.causality
        if causality is None or self._may_write is not None:
            return
        is_statement = isinstance(clause, Executable) and not self._flushing
        if not (is_statement and self._router.classifier(clause).is_read):
            self._may_write = causality.begun()

    def _ended(self) -> None:
        ended, self._may_write = self._may_write, None
        if ended is not None:
            ended()

    def _is_change(self, statement: Any) -> bool:
        return (
            isinstance(statement, UpdateBase)
            and not self._read_only
            and self._own_route is None
            and "route" not in statement.get_execution_options()
        )

    def _note_what_was_seen(self) -> None:
        if self._last is not None:
            place = self._last[0]
            held = self._connected.get(self._engine(place))
            if held is not None:
                place.saw(held)

    def _count(self) -> None:
        if self._last is not None:
            if self._last[0].replica:
                self._router.reads_on_replicas += 1
            else:
                self._router.reads_on_primary += 1

    def _recovers(self, statement: Any, error: BaseException, held: Mapping[Engine, Connection]) -> bool:
        """Whether to run it again, after setting the way for it. ``held``: the connections that were read from before.

        Raises `ReadsRefused` where reads that were answered share a snapshot with this one, which is lost.
        """
        if self._last is None:
            return False
        place, decision = self._last
        if self._engine(place) not in self._connected:  # no connection came about
            place.failed(error)
            kind = "again"
        else:
            kind = refusal(error) or ""
        if kind == "stale":
            connection = self._connected[self._engine(place)]
            alone = connection.get_execution_options().get("isolation_level") not in _STRICTER
            if alone and not self._again and not self._streaming:
                self._again = True
                self._router.repeated += 1
                return True
            kind = "again"
        if kind == "refused" and decision.may_move:
            self._router.note_refused(statement, place, error)
            self._let_go()
            self._on_primary = True
            return True
        if kind != "again":
            return False
        was = held.get(self._engine(place))
        if was is not None and was.get_execution_options().get("isolation_level") in _STRICTER:
            reason = f"{place.name} was lost, and with it the snapshot that this transaction's reads share"
            raise ReadsRefused(f"{reason}. Run the whole transaction again", (reason,)) from error
        self._router.repeated += 1
        self._tried.add(place.name)
        self._failed.add(place.name)
        self._let_go(every=True)
        self._pinned = None
        return True

    def _connection_for_bind(self, engine: Any, execution_options: Any = None, **options: Any) -> Connection:
        """SQLAlchemy's own, which connects: to the primary through a failover."""
        connect = super()._connection_for_bind
        if engine is not self._writer:
            return connect(engine, execution_options, **options)
        return self._router.places.at_writer(lambda writer: connect(writer, execution_options, **options))

    def _engine(self, place: Place) -> Engine:
        return place.streams if self._streaming else place.engine

    def _let_go(self, *, every: bool = False) -> None:
        """Give back the connections for reads: each read ran alone, so the transaction does not need them any more.

        ``every``: those that cursors are read from too.

        SQLAlchemy would keep them to its end, and would not commit at all if one of them was lost.
        """
        going = [one for one in self._connected.values() if every or one.engine not in self._cursors]
        transaction = self.get_transaction()
        while transaction is not None:
            held = transaction._connections
            for connection in going:
                for key in [key for key, kept in held.items() if kept[0] is connection]:
                    del held[key]
            transaction = transaction.parent
        for connection in going:
            del self._connected[connection.engine]
            connection.close()


class _Behind(Exception):
    """A replica does not show what is wanted; its connection has just been taken."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.name)
        self.place: Final = place


def _check_read(verdict: Verdict) -> None:
    """Raises `MisuseError` for what is known to be no read: a replica takes locks and settings without a word."""
    if verdict.kind == "write" and verdict.sure and verdict is not LEARNED:
        raise MisuseError(
            "this session was opened with read_only=True; expected a read, got a statement for the primary: "
            f"{', '.join(verdict.reasons)}. Open one without read_only for it"
        )


def _streams(options: Mapping[str, Any]) -> bool:
    if options.get("stream_results") or options.get("yield_per"):
        return True
    above = options.get("sa_top_level_orm_context")  # the query that an eager load is for; it inherits its options
    return above is not None and (_streams(above.execution_options) or _streams(above.query.get_execution_options()))


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if isinstance(session, RoutedSession):
        if session._last is None:
            session._writing = connection
        else:
            session._connected[connection.engine] = connection
            wanted, session._wanted = session._wanted, None
            place = session._last[0]
            if wanted is not None and not place.shows(connection, wanted, not session._behind):
                raise _Behind(place)
            if session._streaming:
                session._cursors.add(connection.engine)


def _after_commit(session: Session) -> None:
    if isinstance(session, RoutedSession) and session._writing is not None:
        causality = session._router.causality
        if causality is not None and not session.in_nested_transaction():
            causality.after_commit(session._writing)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if isinstance(session, RoutedSession) and transaction.parent is None:
        if session._writing is not None and session._primary is not None:
            session._primary.saw(session._writing)
        session._on_primary = False
        session._writing = None
        session._ended()
        session._connected.clear()
        session._cursors.clear()


event.listen(RoutedSession, "after_begin", _after_begin)
event.listen(RoutedSession, "after_commit", _after_commit)
event.listen(RoutedSession, "after_transaction_end", _after_transaction_end)
