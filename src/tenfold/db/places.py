"""Which connections there are for a read and for a write, best first, as the router asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.engine import Engine
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import await_only

from tenfold.db.choose import Choice, Want
from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.node import Node
from tenfold.db.position import Position
from tenfold.db.watch import Watch


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


class Places(Protocol):
    """What the router needs of a cluster."""

    def readers(self, after: Position | None, pinned: str | None) -> Sequence[Place]:
        """Places that may serve a read, best first. ``after``: a position they must show; ``pinned``: whom to prefer.

        Never empty: raises `ReadsRefused` where no server may serve. All refuse to write.
        """
        ...

    def primary_reader(self) -> Place:
        """The primary's read-only connections, or the last resort for readers while no primary is known."""
        ...

    def writer(self) -> Place:
        """The primary."""
        ...


class _Cluster(Protocol):
    @property
    def watch(self) -> Watch: ...

    def choices(self, want: Want) -> list[Choice[Node]]: ...

    def engine_for_writes(self) -> Engine: ...


class ClusterPlaces:
    """The places of an `AsyncCluster`, as it chooses them."""

    __slots__ = ("_cluster", "_made")

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._made: dict[tuple[Node, bool], Place] = {}

    def readers(self, after: Position | None, pinned: str | None) -> list[Place]:
        """See `Places.readers`."""
        self._settle()
        choices = self._cluster.choices(Want(after=after, pinned=pinned))
        found = [self._reader(choice.node, choice.rank != "spill") for choice in choices if choice.ok]
        if not found:
            reasons = tuple(str(choice) for choice in choices)
            raise ReadsRefused(f"no server may serve this reader now: {'; '.join(reasons)}", reasons)
        return found

    def primary_reader(self) -> Place:
        """See `Places.primary_reader`."""
        self._settle()
        node = self._cluster.watch.winner
        if node is None:
            return self.readers(None, None)[-1]
        return self._reader(node, False)

    def writer(self) -> Place:
        """See `Places.writer`."""
        engine = self._cluster.engine_for_writes()
        node = self._cluster.watch.winner
        return Place("primary" if node is None else node.name, engine, engine, False, "the primary", _nothing)

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

            place = self._made[node, replica] = Place(node.name, engine, streams, replica, why, failed)
        return place

    def _settle(self) -> None:
        watch = self._cluster.watch
        if not watch.settled:
            try:
                await_only(watch.settle())
            except MissingGreenlet:
                return  # somebody just looks; nothing is sent from here


def _nothing(error: BaseException) -> None:
    """A writer's failures are the watch's to see."""
