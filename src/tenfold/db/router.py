"""Routes statements: classification, decision, choice of a server, and the correction when a replica refuses.

The catalogue of functions is read when the first statement comes and again when it is ``refresh_every`` old, by
whichever statement finds it so; the others go on with the old one, and wait for the first. Without a catalogue calls
of functions are doubts, and doubts go to the primary. Relations are none: a view that writes is then found out by a
replica's refusal, and a sequence may be read from one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.sql.base import Executable
from sqlalchemy.util import await_only, greenlet_spawn

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, duration
from tenfold.db.classify import Catalogue, Classifier
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.no_reader import not_shown, unanswered
from tenfold.db.places import ClusterPlaces, Place, Places
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE, ReplicaRefused, is_stale, refusal, sqlstate
from tenfold.db.route import STRICTER, Asked, Decision, Needs, Stale, asked_route, checked_route, decide, most_lag
from tenfold.db.route_explanation import RouteExplanation

_TRY_AGAIN: Final = 5.0
_LOOK: Final = 0.005
_ALL_AT_ONCE: Final[Any] = {"stream_results": False, "yield_per": None}


class Causality(Protocol):
    """The causal token's hooks."""

    def after_commit(self, connection: Connection) -> None:
        """A transaction on the primary has committed over ``connection``."""
        ...

    def begun(self) -> Callable[[], None] | None:
        """A transaction on the primary may write from now on; what is returned, if anything, is called at its end."""
        ...

    def wanted(self) -> Position | None:
        """The position that reads must show, None for any."""
        ...


class Router:
    """See the module. One for each cluster; `routed_sessionmaker` makes its sessions."""

    __slots__ = (
        "_due", "_hub", "_loading", "_monotonic", "_refresh_every", "catalogue_error", "causality", "classifier",
        "level", "places", "reads_on_primary", "reads_on_replicas", "refused", "repeated", "sent_to_primary",
    )  # fmt: skip

    def __init__(
        self,
        places: Places,
        *,
        classifier: Classifier | None = None,
        causality: Causality | None = None,
        refresh_every: Duration = "60s",
        monotonic: Callable[[], float] = time.monotonic,
        hub: Hub = EVENTS,
    ) -> None:
        self.places = places
        self.classifier = classifier or Classifier()
        self.causality = causality
        self._refresh_every = duration(refresh_every, "refresh_every")
        self._monotonic = monotonic
        self._hub = hub
        self._due = float("-inf")
        self._loading = False
        self.level = ""
        """The isolation level that the database's transactions have by default, as far as it is known."""
        self.catalogue_error = ""
        """Why the catalogue could not be read last time; empty if it could."""
        self.reads_on_replicas = 0
        self.reads_on_primary = 0
        """Reads over its read-only connections, where no replica was to be had."""
        self.sent_to_primary = 0
        """Writes, doubts, and what came after them in their transactions."""
        self.refused = 0
        """Statements classed as reads that a replica refused; they ran on the primary."""
        self.repeated = 0
        """Reads run again elsewhere: no connection, a lost one, or a conflict with recovery."""

    def explain(
        self, statement: Executable | str, *, route: str | Needs | None = None, read_only: bool = False
    ) -> RouteExplanation:
        """Where ``statement`` would go as the first of a session, and why. Sends nothing to a server.

        ``route``: as given to ``execution_options``; the statement's own is seen too. Without a catalogue yet (nothing
        has run through the router) calls of functions are doubts: `refresh` reads it.
        """
        verdict = self.classifier(statement)
        asked = asked_route(statement, checked_route(route))
        decision = decide(verdict, asked, read_only=read_only, one_connection=self.level in STRICTER)
        places = self._places(decision, read_only=read_only, pinned=None)
        return RouteExplanation(
            decision.to,
            decision.why,
            verdict,
            tuple(f"{place.name} ({place.why})" for place in places),
            needs=decision.needs,
        )

    async def refresh(self) -> None:
        """Read the catalogue now. Raises what the database raises."""
        await greenlet_spawn(self._load)

    async def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        route: str | Needs | None = None,
    ) -> CursorResult[Any]:
        """Run one statement by itself and return its buffered result.

        A read runs in autocommit on a replica, without BEGIN and ROLLBACK around it; anything else in a transaction of
        its own on the primary, committed at the end. A replica that refuses or is lost is corrected as in a session.
        """
        if not isinstance(statement, Executable):
            raise MisuseError(f"execute: expected a statement such as select(…) or text(…), got {statement!r:.80}")
        asked = asked_route(statement, checked_route(route))
        return await greenlet_spawn(self._execute, statement, parameters, asked)

    # -- for sessions, within SQLAlchemy's greenlet

    def keep_fresh(self) -> None:
        """Read the catalogue if it is due. While somebody reads the first one, wait for that."""
        now = self._monotonic()
        if now < self._due:
            while self._loading and self.classifier.catalogue is None and self._monotonic() < now + _TRY_AGAIN:
                await_only(asyncio.sleep(_LOOK))
            return
        self._due = now + self._refresh_every  # nobody else loads meanwhile
        self._loading = True
        try:
            self._load()
        except (ReadsRefused, PoolTimeoutError, *NOT_THERE) as error:
            self.catalogue_error = f"{type(error).__name__}: {error}"
            self._due = now + _TRY_AGAIN
        except BaseException:  # whoever asked was cancelled: the next one reads it
            self._due = now
            raise
        finally:
            self._loading = False

    def wanted(self, needs: Needs | None = None) -> Position | None:
        """The position that a read must show: what the scope wants and, besides or instead, what the read ``needs``."""
        if needs is not None and isinstance(needs, Stale):
            return None
        wanted = None if self.causality is None else self.causality.wanted()
        return wanted if needs is None else needs.beside(wanted, self.places.system)

    def readers(
        self, wanted: Position | None, *, been_there: bool, pinned: str | None, max_lag: float | None = None
    ) -> Iterator[Place]:
        """Places for a read that must show ``wanted`` and may be ``max_lag`` behind (None: what the cluster was told),
        best first; after it has ``been_there``, on the primary, whom it was pinned to does not matter.
        """
        return self.places.readers(wanted, None if been_there else pinned, max_lag)

    def note_refused(self, statement: Executable, place: Place, error: BaseException) -> None:
        """A replica refused what was classed as a read."""
        self.refused += 1
        self.classifier.learn(statement)
        if self._hub.wants(ReplicaRefused):
            text = str(getattr(error, "statement", "") or "")[:500]
            self._hub.emit(ReplicaRefused(place.name, sqlstate(error), text))

    def __repr__(self) -> str:
        return (
            f"<Router {self.reads_on_replicas} reads on replicas, {self.reads_on_primary} on the primary, "
            f"{self.sent_to_primary} sent to the primary, {self.refused} refused, "
            f"{self.repeated} repeated, {self.classifier}>"
        )

    # -- inside

    def _load(self) -> None:
        first = self.places.primary_reader()  # the primary has what replicas may not have yet
        try:
            self._load_from(first)
        except NOT_THERE as error:
            first.failed(error)
            for place in self.places.readers(None, None):
                if place.name != first.name:
                    try:
                        self._load_from(place)
                        break
                    except NOT_THERE as other:
                        place.failed(other)
            else:
                raise
        self.catalogue_error = ""
        self._due = self._monotonic() + self._refresh_every

    def _load_from(self, place: Place) -> None:
        with place.engine.connect() as connection:
            self.classifier.catalogue = catalogue = Catalogue.load_from(connection)
            self.level = catalogue.level

    def _places(self, decision: Decision, *, read_only: bool, pinned: str | None) -> Iterable[Place]:
        if decision.to == "replica":
            return self.places.readers(self.wanted(decision.needs), pinned, most_lag(decision.needs))
        return [self.places.primary_reader()] if read_only else [self.places.writer()]

    def _execute(self, statement: Executable, parameters: Any, route: Asked | None) -> CursorResult[Any]:
        self.keep_fresh()
        decision = decide(self.classifier(statement), route)
        if decision.to == "replica":
            refused = self._read(statement, parameters, decision)
            if refused is not None:
                return refused
        self.sent_to_primary += 1
        with self.places.at_writer(Engine.connect) as connection:
            committing = False
            try:
                with connection.begin():
                    result = _buffered(connection, statement, parameters)
                    committing = True
            finally:
                if committing and self.causality is not None:  # also if nobody knows what became of it
                    self.causality.after_commit(connection)
        return result

    def _read(self, statement: Executable, parameters: Any, decision: Decision) -> CursorResult[Any] | None:
        """The result, or None if a replica has refused and the primary is to run it."""
        wanted = self.wanted(decision.needs)
        lost: BaseException | None = None
        patient = True
        places = self.places.readers(wanted, None, most_lag(decision.needs))
        while True:
            try:
                place = next(places, None)
            except ReadsRefused as refused:
                raise unanswered(refused, lost)  # noqa: B904 - it has the cause that counts
            if place is None:
                raise unanswered(not_shown(wanted), lost)
            try:
                connection = place.engine.connect()
            except NOT_THERE as error:
                place.failed(error)
                lost = error
                self.repeated += 1
                continue
            try:
                if wanted is not None and place.replica and not place.shows(connection, wanted, patient):
                    patient = False
                    continue
                try:
                    result = _buffered(connection, statement, parameters)
                except DBAPIError as error:
                    if not is_stale(error):
                        raise
                    self.repeated += 1
                    result = _buffered(connection, statement, parameters)
                place.saw(connection)
            except NOT_THERE as error:
                kind = refusal(error)
                if kind == "refused" and decision.may_move:
                    self.note_refused(statement, place, error)
                    return None
                if kind not in ("again", "stale"):  # stale: DDL came between the two tries here
                    raise
                lost = error
                self.repeated += 1
                continue
            finally:
                connection.close()
            if place.replica:
                self.reads_on_replicas += 1
            else:
                self.reads_on_primary += 1
            return result


def _buffered(connection: Connection, statement: Executable, parameters: Any) -> CursorResult[Any]:
    """All rows at once, whatever the statement's options say: there is no transaction for a cursor to live in."""
    options = statement.get_execution_options()
    if options.get("stream_results") or options.get("yield_per"):
        return connection.execute(statement, parameters, execution_options=_ALL_AT_ONCE)
    return connection.execute(statement, parameters)


def routed(cluster: Any, **options: Any) -> Router:
    """A router over a cluster's places. Raises `MisuseError` for what is no cluster."""
    if not hasattr(cluster, "nodes"):
        raise MisuseError(f"routed: expected a cluster (create_async_cluster(…)), got {cluster!r}")
    return Router(ClusterPlaces(cluster), **options)
