"""Which connections there are for a read and for a write, best first, as the router asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from tenfold.db.causal_cluster import ClusterCausality
from tenfold.db.choose import Choice, Want, too_late
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.node import Node
from tenfold.db.position import Position
from tenfold.db.read_connection import refused
from tenfold.db.refusals import NOT_THERE
from tenfold.db.watch import Watch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A pool of connections: in autocommit and read-only where it is for reads."""

    name: str
    engine: Engine
    streams: Engine
    """The same pool for server-side cursors, which live in transactions; for a writer, ``engine``."""
    replica: bool
    why: str
    failed: Callable[[BaseException], None]
    """Told when no connection could be made."""
    shows: Callable[[Connection, Position, bool], bool]
    """Whether a fresh connection to this replica shows a position; if the last is True, after a short wait."""
    saw: Callable[[Connection], None]
    """Told when a read over this connection was answered, before anybody gets to see it. May raise as a read does."""
    fresh: Callable[[float | None], bool]
    """Whether it was seen to be that many seconds behind at most; for None, what the cluster was told."""


class Places(Protocol):
    """What the router needs of a cluster."""

    @property
    def system(self) -> int | None:
        """The identifier of the system that they are; None: not known yet."""
        ...

    def readers(self, after: Position | None, pinned: str | None, max_lag: float | None = None) -> Iterator[Place]:
        """Places that may serve a read, best first. ``after``: a position they must show; ``pinned``: whom to prefer;
        ``max_lag``: seconds behind at most, None for what the cluster was told.

        Replicas must be asked whether they show ``after`` (`Place.shows`). Never empty: raises `ReadsRefused` where no
        server may serve. All refuse to write.
        """
        ...

    def primary_reader(self) -> Place:
        """The primary's read-only connections, or the last resort for readers while no primary is known."""
        ...

    def writer(self) -> Place:
        """The primary."""
        ...

    def at_writer(self, connect: Callable[[Engine], T]) -> T:
        """What ``connect(engine)`` returns for the primary's engine. While the primary refuses connections, nothing was
        sent: writers wait through the failover and connect to the next one.
        """
        ...


class _Cluster(Protocol):
    @property
    def watch(self) -> Watch: ...

    @property
    def system(self) -> int | None: ...

    def choices(self, want: Want) -> list[Choice[Node]]: ...

    @property
    def causal(self) -> ClusterCausality: ...

    def has_room(self, choice: Choice[Node], want: Want) -> bool: ...

    def best_reader(self, pinned: str | None) -> Node | None: ...

    def node_for_writes(self) -> Node: ...

    def patience(self) -> float: ...

    async def stand_by(self, node: Node, error: Exception, until: float) -> None: ...


class ClusterPlaces:
    """The places of an `AsyncCluster`, as it chooses them."""

    __slots__ = ("_cluster", "_made")

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._made: dict[tuple[Node, bool], Place] = {}

    @property
    def system(self) -> int | None:
        """See `Places.system`."""
        return self._cluster.system

    def readers(self, after: Position | None, pinned: str | None, max_lag: float | None = None) -> Iterator[Place]:
        """See `Places.readers`. The first place is found without an order of all, which is made if it does not do; if
        nobody else may serve then, `ReadsRefused` is raised.
        """
        self._settle()
        first = self._cluster.best_reader(pinned) if after is None and max_lag is None else None
        if first is not None:
            yield self._reader(first, True)
        want = Want(after=after, max_lag=max_lag, pinned=pinned)
        choices = self._cluster.choices(want)
        found = False
        for choice in choices:
            if choice.ok and choice.node is not first:
                found = self._cluster.has_room(choice, want)
                if found:
                    yield self._reader(choice.node, choice.rank != "spill")
                else:
                    choices = self._cluster.choices(want)  # with the reason
        if not found:
            if in_greenlet():
                await_only(asyncio.sleep(0))  # whoever tries again at once must not keep the watch from its turn
            raise refused(choices)

    def primary_reader(self) -> Place:
        """See `Places.primary_reader`."""
        self._settle()
        node = self._cluster.watch.winner
        if node is None:
            last: Place | None = None
            try:
                for last in self.readers(None, None):  # noqa: B007 - all but the last are skipped
                    pass
            except ReadsRefused:
                if last is None:
                    raise
            assert last is not None
            return last
        return self._reader(node, False)

    def writer(self) -> Place:
        """See `Places.writer`."""
        node = self._cluster.node_for_writes()
        engine = node.engine.sync_engine
        return Place(node.name, engine, engine, False, "the primary", _nothing, _at_once, self._saw_primary, _always)

    def at_writer(self, connect: Callable[[Engine], T]) -> T:
        """See `Places.at_writer`. Raises `NoPrimary`, or what the last try raised, after ``failover_wait``."""
        node = self._cluster.node_for_writes()
        until: float | None = None
        while True:
            try:
                return connect(node.engine.sync_engine)
            except NOT_THERE as error:
                until = self._cluster.patience() if until is None else until
                await_only(self._cluster.stand_by(node, error, until))
            node = await_only(self._cluster.watch.primary(until))

    def forget(self, nodes: Sequence[Node]) -> None:
        """Keep nothing of ``nodes``, whose event loop is gone."""
        for node in nodes:
            for replica in (False, True):
                self._made.pop((node, replica), None)

    def _reader(self, node: Node, replica: bool) -> Place:
        engine = node.reads.sync_engine
        place = self._made.get((node, replica))
        if place is None or place.engine is not engine:
            if len(self._made) > 64:  # nodes of event loops that are gone
                self._made.clear()
            streams = engine.execution_options(isolation_level="READ COMMITTED")
            why = "a replica that may serve" if replica else "the primary"

            def failed(error: BaseException) -> None:
                node.fail(error, time.monotonic())

            def shows(connection: Connection, wanted: Position, patient: bool) -> bool:
                return self._cluster.causal.shows(connection, node, wanted, patient)

            def saw(connection: Connection) -> None:
                self._cluster.causal.saw(connection)

            def fresh(max_lag: float | None) -> bool:
                return too_late(max_lag, node.seen) is None

            place = Place(
                node.name,
                engine,
                streams,
                replica,
                why,
                failed,
                shows,
                saw if replica else self._saw_primary,
                fresh if replica else _always,
            )
            self._made[node, replica] = place
        return place

    def _saw_primary(self, connection: Connection) -> None:
        self._cluster.causal.saw_primary()

    def _settle(self) -> None:
        watch = self._cluster.watch
        if not watch.settled:
            try:
                await_only(watch.settle())
            except MissingGreenlet:
                return  # somebody just looks; nothing is sent from here


def _nothing(error: BaseException) -> None:
    """A writer's failures are the watch's to see."""


def _at_once(connection: Connection, wanted: Position, patient: bool) -> bool:
    """A primary shows all."""
    return True


def _always(max_lag: float | None) -> bool:
    """A primary is not behind."""
    return True
