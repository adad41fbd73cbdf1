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
from tenfold.db.seen import Position
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

    __slots__ = ("_cluster",)

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster

    def readers(self, after: Position | None, pinned: str | None) -> list[Place]:
        """See `Places.readers`."""
        self._settle()
        choices = self._cluster.choices(Want(after=after, pinned=pinned))
        found = [_reader(choice.node, choice.rank != "spill", choice.why) for choice in choices if choice.ok]
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
        return _reader(node, False, "the primary")

    def writer(self) -> Place:
        """See `Places.writer`."""
        engine = self._cluster.engine_for_writes()
        node = self._cluster.watch.winner
        return Place("primary" if node is None else node.name, engine, engine, False, "the primary", _nothing)

    def _settle(self) -> None:
        watch = self._cluster.watch
        if not watch.settled:
            try:
                await_only(watch.settle())
            except MissingGreenlet:
                return  # somebody just looks; nothing is sent from here


def _reader(node: Node, replica: bool, why: str) -> Place:
    engine = node.reads.sync_engine
    streams = engine.execution_options(isolation_level="READ COMMITTED")
    return Place(node.name, engine, streams, replica, why, lambda error: node.fail(error, time.monotonic()))


def _nothing(error: BaseException) -> None:
    """A writer's failures are the watch's to see."""
