"""Routes statements: classification, decision, choice of a server, and the correction when a replica refuses.

The catalogue of functions is read when the first statement comes and again when it is ``refresh_every`` old, by
whichever statement finds it so; the others go on with the old one. Without a catalogue calls of functions are doubts,
and doubts go to the primary: a catalogue that cannot be read costs replicas' help, not correctness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.sql.base import Executable
from sqlalchemy.util import greenlet_spawn

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, duration
from tenfold.db.classify import Catalogue, Classifier, Verdict
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.places import ClusterPlaces, Place, Places
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE, ReplicaRefused, refusal, sqlstate
from tenfold.db.route import Decision, Route, checked_route, decide

_TRY_AGAIN: Final = 5.0


class Causality(Protocol):
    """The causal token's two hooks."""

    def after_commit(self, connection: Connection) -> None:
        """A transaction on the primary has committed over ``connection``."""
        ...

    def wanted(self) -> Position | None:
        """The position that reads must show, None for any."""
        ...


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """Where a statement would go now, and why. ``to`` is what was decided; the first of ``places`` is where it would
    run: the primary, for a read that no replica may serve.
    """

    to: Route
    why: str
    verdict: Verdict
    places: tuple[str, ...]
    """The servers that may run it, best first, each with the reason."""
    out: tuple[str, ...] = ()
    """Those that may not."""

    def __str__(self) -> str:
        out = f"; not {'; '.join(self.out)}" if self.out else ""
        return f"{self.to}: {self.why}. Verdict: {self.verdict}. Servers: {', '.join(self.places)}{out}"


class Router:
    """See the module. One for each cluster; `routed_sessionmaker` makes its sessions."""

    __slots__ = (
        "_due", "_hub", "_monotonic", "_refresh_every", "catalogue_error", "causality", "classifier", "places",
        "reads_on_primary", "reads_on_replicas", "refused", "repeated", "sent_to_primary",
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
        self, statement: Executable | str, *, route: str | None = None, read_only: bool = False
    ) -> RouteExplanation:
        """Where ``statement`` would go as the first of a session, and why. Sends nothing to a server.

        ``route``: as given to ``execution_options``; the statement's own is seen too. Without a catalogue yet (nothing
        has run through the router) calls of functions are doubts: `refresh` reads it.
        """
        verdict = self.classifier(statement)
        decision = decide(verdict, _asked(statement, checked_route(route)), read_only=read_only)
        places = self._places(decision, read_only=read_only, pinned=None)
        return RouteExplanation(
            decision.to, decision.why, verdict, tuple(f"{place.name} ({place.why})" for place in places)
        )

    async def refresh(self) -> None:
        """Read the catalogue now. Raises what the database raises."""
        await greenlet_spawn(self._load)

    async def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        route: str | None = None,
    ) -> CursorResult[Any]:
        """Run one statement by itself and return its buffered result.

        A read runs in autocommit on a replica, without BEGIN and ROLLBACK around it; anything else in a transaction of
        its own on the primary, committed at the end. A replica that refuses or is lost is corrected as in a session.
        """
        asked = _asked(statement, checked_route(route))
        return await greenlet_spawn(self._execute, statement, parameters, asked)

    # -- for sessions, within SQLAlchemy's greenlet

    def keep_fresh(self) -> None:
        """Read the catalogue if it is due."""
        now = self._monotonic()
        if now < self._due:
            return
        self._due = now + self._refresh_every  # nobody else loads meanwhile
        try:
            self._load()
        except NOT_THERE as error:
            self.catalogue_error = f"{type(error).__name__}: {error}"
            self._due = now + _TRY_AGAIN

    def wanted(self) -> Position | None:
        """The position that reads must show."""
        return None if self.causality is None else self.causality.wanted()

    def readers(self, wanted: Position | None, *, been_there: bool, pinned: str | None) -> Iterator[Place]:
        """Places for a read that must show ``wanted``, best first; after it has ``been_there``, on the primary, whom it
        was pinned to does not matter.
        """
        return self.places.readers(wanted, None if been_there else pinned)

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
        order = (first, *[place for place in self.places.readers(None, None) if place.name != first.name])
        for place in order:
            try:
                with place.engine.connect() as connection:
                    self.classifier.catalogue = Catalogue.load_from(connection)
                break
            except NOT_THERE as error:
                place.failed(error)
                if place is order[-1]:
                    raise
        self.catalogue_error = ""
        self._due = self._monotonic() + self._refresh_every

    def _places(self, decision: Decision, *, read_only: bool, pinned: str | None) -> Iterable[Place]:
        if decision.to == "replica":
            return self.places.readers(self.wanted(), pinned)
        return [self.places.primary_reader()] if read_only else [self.places.writer()]

    def _execute(self, statement: Executable, parameters: Any, route: Route | None) -> CursorResult[Any]:
        self.keep_fresh()
        decision = decide(self.classifier(statement), route)
        if decision.to == "replica":
            refused = self._read(statement, parameters, decision)
            if refused is not None:
                return refused
        self.sent_to_primary += 1
        with self.places.at_writer(Engine.connect) as connection:
            with connection.begin():
                result = connection.execute(statement, parameters)
            if self.causality is not None:
                self.causality.after_commit(connection)
        return result

    def _read(self, statement: Executable, parameters: Any, decision: Decision) -> CursorResult[Any] | None:
        """The result, or None if a replica has refused and the primary is to run it."""
        wanted = self.wanted()
        lost: BaseException | None = None
        patient = True
        for place in self.places.readers(wanted, None):
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
                result = connection.execute(statement, parameters)
                place.saw(connection)
            except NOT_THERE as error:
                kind = refusal(error)
                if kind == "refused" and decision.may_move:
                    self.note_refused(statement, place, error)
                    return None
                if kind != "again":
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
        raise lost if lost is not None else not_shown(wanted)


def not_shown(wanted: Position | None) -> ReadsRefused:
    """No server that answers shows what was asked for."""
    reason = f"no replica shows {wanted} yet, and no primary serves readers"
    return ReadsRefused(f"{reason}. Try again, or read outside of the causality scope", (reason,))


def _asked(statement: Executable | str, route: Route | None) -> Route | None:
    if route is not None or isinstance(statement, str):
        return route
    return checked_route(statement.get_execution_options().get("route"))


def routed(cluster: Any, **options: Any) -> Router:
    """A router over a cluster's places. Raises `MisuseError` for what is no cluster."""
    if not hasattr(cluster, "nodes"):
        raise MisuseError(f"routed: expected a cluster (create_async_cluster(…)), got {cluster!r}")
    return Router(ClusterPlaces(cluster), **options)
