"""What a session reads from: one replica while that may serve, and the next server where it does not.

Each read of a session runs alone, in autocommit. A replica that refuses a statement (25006, 0A000), loses the
connection or cancels it for its recovery has therefore changed nothing: the read runs again on the primary, or on
another replica; and where the primary loses a read, on any other server that may serve it. Each is tried once. When
none is left `ReadsRefused` is raised, with the last server's error as its cause. Reads that share a snapshot are not
continued elsewhere: the snapshot is lost with its server. Nor do they leave it for what the scope wants since it was
taken: they show its state, as on one server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from weakref import ref

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.no_reader import not_shown, unanswered
from tenfold.db.places import Place
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE, refusal
from tenfold.db.route import STRICTER, AtLeast, Decision, Needs, level_of, most_lag
from tenfold.db.router import Router
from tenfold.db.wal import driver_of

T = TypeVar("T")


class SessionReads:
    """The reads of one ``session``; `RoutedSession` decides which statements are some, and owns this."""

    __slots__ = (
        "_again", "_behind", "_connected", "_cursors", "_failed", "_loose", "_needs", "_pinned", "_router", "_session",
        "_tried", "_wanted", "last", "streaming",
    )  # fmt: skip

    def __init__(self, session: Session, router: Router) -> None:
        self._session = ref(session)  # which owns this: a cycle would leave every session to the garbage collector
        self._router = router
        self.last: tuple[Place, Decision] | None = None
        """Where the statement under way went, and why; None: to the primary as a writer."""
        self.streaming = False
        """Whether the statement under way asks for a server-side cursor."""
        self._pinned: Place | None = None
        self._loose = False
        """Whether the pinned one was chosen by a read that said itself how far behind it may be."""
        self._needs: Needs | None = None
        """Which state the read asked for that chose the pinned one."""
        self._connected: dict[Engine, Connection] = {}
        self._cursors: set[Engine] = set()
        """Whose connections have a cursor open."""
        self._again = False
        """Whether this statement was run again on the same connection."""
        self._failed: set[str] = set()
        """Who has failed this session: asked last."""
        self._behind: set[str] = set()
        """Who does not show what this statement wants."""
        self._tried: set[str] = set()
        """Who was lost under this statement."""
        self._wanted: Position | None = None
        """What the connection that comes next is to be asked for."""

    def begin(self) -> None:
        """Another statement begins."""
        self._behind.clear()
        self._again = False

    def place(self, decision: Decision, *, been_there: bool) -> Place:
        """Where a read goes that was decided so; ``been_there``: the session has been on the primary."""
        router = self._router
        if decision.to == "primary":
            primary = router.places.primary_reader()
            if primary.name in self._tried:
                raise not_shown(None)
            self.last = primary, decision
            return primary
        pinned, wanted, max_lag = self._pinned, router.wanted(decision.needs), most_lag(decision.needs)
        if pinned is not None:
            held = self._connected.get(self.engine(pinned))
            if held is not None:  # in the midst of a transaction
                fresh = (max_lag is None and not self._loose) or pinned.fresh(max_lag)
                if fresh and (wanted is None or self._shows(pinned, held, wanted, decision.needs)):
                    self._loose = self._loose and max_lag is not None
                    self.last = pinned, decision
                    return pinned
                self._leave(pinned, held, fresh)
        place: Place | None = None
        name = None if pinned is None else pinned.name
        for candidate in router.readers(wanted, been_there=been_there, pinned=name, max_lag=max_lag):
            if candidate.name not in self._behind and candidate.name not in self._tried:
                place = candidate
                if place.name not in self._failed:
                    break
        if place is None:
            raise not_shown(wanted)
        self._pinned = place
        self._loose, self._needs = max_lag is not None and place.replica, decision.needs
        self._wanted = wanted if place.replica else None
        self.last = place, decision
        return place

    def engine(self, place: Place) -> Engine:
        """The pool of ``place`` for the statement under way."""
        return place.streams if self.streaming else place.engine

    def took(self, connection: Connection) -> None:
        """SQLAlchemy has begun on ``connection``, for the place that was chosen last."""
        assert self.last is not None
        place = self.last[0]
        self._connected[connection.engine] = connection
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not place.shows(connection, wanted, not self._behind):
            raise _Behind(place)
        if self.streaming:
            self._cursors.add(connection.engine)

    def tried_on_each(self, once: Callable[[], T], statement: Any, move: Callable[[], None]) -> T:
        """What ``once()`` returns, on another server where one does not show what is wanted, refuses or is lost.

        ``move()`` is called when a replica has refused: the next try is the primary's.
        """
        before, self._tried = self._tried, set()
        held = dict(self._connected)
        lost: BaseException | None = None
        try:
            while True:
                self.last = None
                try:
                    return once()
                except _Behind as behind:
                    self._stand_aside(behind.place)
                except ReadsRefused as refused:
                    raise unanswered(refused, lost)  # noqa: B904 - it has the cause that counts
                except NOT_THERE as error:
                    if not self._recovers(statement, error, held, move):
                        raise
                    lost = error
        finally:
            self._tried = before

    def note_what_was_seen(self) -> None:
        """The statement was answered, and nobody has seen it yet."""
        if self.last is not None:
            place = self.last[0]
            held = self._connected.get(self.engine(place))
            if held is not None:
                place.saw(held)

    def count(self) -> None:
        """The statement is over."""
        if self.last is not None:
            if self.last[0].replica:
                self._router.reads_on_replicas += 1
            else:
                self._router.reads_on_primary += 1

    def let_go(self, *, every: bool = False) -> None:
        """Give back the connections: each read ran alone, so the transaction does not need them any more.

        ``every``: those that cursors are read from too.

        SQLAlchemy would keep them to its end, and would not commit at all if one of them was lost.
        """
        going = [one for one in self._connected.values() if every or one.engine not in self._cursors]
        session = self._session()
        transaction = None if session is None else session.get_transaction()
        while transaction is not None:
            held = transaction._connections
            for connection in going:
                for key in [key for key, kept in held.items() if kept[0] is connection]:
                    del held[key]
            transaction = transaction.parent
        for connection in going:
            del self._connected[connection.engine]
            connection.close()

    def ended(self) -> None:
        """The transaction is over, and SQLAlchemy has given its connections back."""
        self._connected.clear()
        self._cursors.clear()

    def forget(self) -> None:
        """The next read begins anew: any replica."""
        self._pinned = self.last = None
        self._failed.clear()

    # -- inside

    def _shows(self, pinned: Place, held: Connection, wanted: Position, needs: Needs | None) -> bool:
        if _shares_a_snapshot(held) and driver_of(held)[0].is_in_transaction():  # it has been taken
            return not isinstance(needs, AtLeast) or needs == self._needs
        return not pinned.replica or pinned.shows(held, wanted, not self._behind)

    def _leave(self, pinned: Place, held: Connection, fresh: bool) -> None:
        """It does not do for this read in the midst of a transaction: it does not show enough, or is not ``fresh``."""
        if _shares_a_snapshot(held):
            what = "may not show what this one asks for" if fresh else "is too far behind for this one"
            reason = f"{pinned.name} holds the snapshot of this transaction's reads, and {what}"
            raise ReadsRefused(f"{reason}. Run the whole transaction again", (reason,))
        if fresh:
            self._stand_aside(pinned)
            return
        self.let_go()
        if held.engine in self._connected:  # a cursor is being read from it
            self._behind.add(pinned.name)

    def _stand_aside(self, place: Place) -> None:
        """It does not show what this read wants."""
        self._behind.add(place.name)
        self.let_go()
        self._pinned = None

    def _recovers(
        self, statement: Any, error: BaseException, held: Mapping[Engine, Connection], move: Callable[[], None]
    ) -> bool:
        """Whether to run it again, after setting the way for it. ``held``: the connections that were read from before.

        Raises `ReadsRefused` where reads that were answered share a snapshot with this one, which is lost.
        """
        if self.last is None:
            return False
        place, decision = self.last
        engine = self.engine(place)
        if engine not in self._connected:  # no connection came about
            place.failed(error)
            kind = "again"
        else:
            kind = refusal(error) or ""
        if kind == "stale":
            if not _shares_a_snapshot(self._connected[engine]) and not self._again and not self.streaming:
                self._again = True
                self._router.repeated += 1
                return True
            kind = "again"
        if kind == "refused" and decision.may_move:
            self._router.note_refused(statement, place, error)
            self.let_go()
            move()
            return True
        if kind != "again":
            return False
        was = held.get(engine)
        if was is not None and _shares_a_snapshot(was):
            reason = f"{place.name} was lost, and with it the snapshot that this transaction's reads share"
            raise ReadsRefused(f"{reason}. Run the whole transaction again", (reason,)) from error
        self._router.repeated += 1
        self._tried.add(place.name)
        self._failed.add(place.name)
        self.let_go(every=True)
        self._pinned = None
        return True


class _Behind(Exception):
    """A replica does not show what is wanted; its connection has just been taken."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.name)
        self.place: Final = place


def _shares_a_snapshot(connection: Connection) -> bool:
    return level_of(connection.get_execution_options()) in STRICTER


def asks_for_a_cursor(options: Mapping[str, Any]) -> bool:
    """Whether these execution options do."""
    if options.get("stream_results") or options.get("yield_per"):
        return True
    above = options.get("sa_top_level_orm_context")  # the query that an eager load is for; it inherits its options
    if above is None:
        return False
    return asks_for_a_cursor(above.execution_options) or asks_for_a_cursor(above.query.get_execution_options())
