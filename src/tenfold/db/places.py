"""Which connections there are for a read and for a write, best first, as the router asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from sqlalchemy.engine import Engine

from tenfold.db.node import Node
from tenfold.db.routing import order


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

    def readers(self, after: object | None, pinned: str | None) -> Sequence[Place]:
        """Places that may serve a read, best first. ``after``: a position they must show; ``pinned``: whom to prefer.

        Never empty: the last resort is the primary, over connections that refuse to write.
        """
        ...

    def writer(self) -> Place:
        """The primary."""
        ...


class _Cluster(Protocol):
    def nodes(self) -> tuple[Node, ...]: ...


class ClusterPlaces:
    """The places of an `AsyncCluster` that does not know positions: after a write only the primary will do."""

    __slots__ = ("_cluster", "_made", "_monotonic", "_random")

    def __init__(
        self, cluster: _Cluster, random: Random | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster, self._random, self._monotonic = cluster, random or Random(), monotonic
        self._made: dict[Node, Place] = {}

    def readers(self, after: object | None, pinned: str | None) -> list[Place]:
        """See `Places.readers`."""
        _, last, *replicas = self._cluster.nodes()
        found = []
        if after is None:
            ordered = order(replicas, self._monotonic(), self._random)
            found = [self._place(node, True) for node in ordered]
            found.sort(key=lambda place: place.name != pinned)
        return [*found, self._place(last, False)]

    def writer(self) -> Place:
        """See `Places.writer`."""
        return self._place(self._cluster.nodes()[0], False)

    def _place(self, node: Node, replica: bool) -> Place:
        place = self._made.get(node)
        if place is None:
            if len(self._made) > 64:  # nodes of event loops that are gone
                self._made.clear()

            def failed(error: BaseException) -> None:
                node.fail(error, self._monotonic())

            why = "a replica that answers" if replica else "the primary"
            engine = node.engine.sync_engine
            streams = engine.execution_options(isolation_level="READ COMMITTED")
            place = self._made[node] = Place(node.name, engine, streams, replica, why, failed)
        return place
