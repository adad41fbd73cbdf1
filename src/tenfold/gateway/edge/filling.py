"""A response on its way into the store.

Room is reserved before a piece is kept: the whole at once where Content-Length says how much will come. A body that
is longer or shorter than that was not complete, and is not stored (RFC 9111 §3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenfold.gateway.edge.decision import Decision
from tenfold.gateway.edge.flight import Flight
from tenfold.gateway.edge.store import Store
from tenfold.gateway.edge.stored import CHUNK_OVERHEAD, Stored

JOINED: Final = 256 * 1024  # bodies up to here are kept in one piece, so that a hit is one write


class Filling:
    """Takes the body of a response that is to be stored. End it with `finish` or `abort`, exactly once."""

    __slots__ = (
        "_done",
        "_flight",
        "_largest",
        "_room",
        "_store",
        "chunks",
        "decision",
        "expected",
        "overran",
        "size",
        "stored",
    )

    def __init__(
        self,
        store: Store,
        decision: Decision,
        stored: Stored,
        *,
        flight: Flight | None,
        expected: int | None,
        largest: int,
        room: int,
        done: Callable[[Filling, bool], Stored | None],
    ) -> None:
        self._store = store
        self._flight = flight
        self._largest = largest
        self._room = room
        self._done: Callable[[Filling, bool], Stored | None] | None = done
        self.decision = decision
        self.stored = stored
        self.expected = expected
        """Content-Length, or None where nobody knows."""
        self.chunks: list[bytes] = []
        self.size = 0
        self.overran = False
        """It was given up because of its size."""

    @property
    def open(self) -> bool:
        """Whether it still takes pieces."""
        return self._done is not None

    @property
    def followers(self) -> int:
        """How many wait for it: a reason to read on when the own client has gone."""
        return 0 if self._flight is None else len(self._flight.followers)

    @property
    def flight(self) -> Flight | None:
        """The flight that it answers, if there is one."""
        return self._flight

    def write(self, chunk: bytes | bytearray | memoryview) -> bool:
        """Keep a piece of the body (a copy, unless it is ``bytes``). False: it has become too large, or there is no
        room; it has let go of everything, and the response goes on without it.
        """
        if self._done is None:
            return False
        if not chunk:
            return True
        self.size += len(chunk)
        taken = self.size + CHUNK_OVERHEAD * (len(self.chunks) + 1) + self.stored.weight
        if self.expected is not None and self.size > self.expected:
            return self._overrun()
        if taken > self._room:
            more = taken - self._room
            if taken > self._largest or not self._store.reserve(more):
                return self._overrun()
            self._room += more
        self.chunks.append(bytes(chunk))
        if self._flight is not None and self._flight.streaming:
            self._flight.wake()
        return True

    def finish(self) -> Stored | None:
        """The body is complete. What is stored now, or None: it was cut short, or purged meanwhile."""
        if self._done is None:
            return None
        if self.expected is not None and self.size != self.expected:
            self.abort()
            return None
        self.stored.fill((b"".join(self.chunks),) if 0 < self.size <= JOINED else tuple(self.chunks))
        return self._end(True)

    def abort(self) -> None:
        """The body will not be complete: the origin broke off, or nobody reads on. Followers are told."""
        if self._done is not None:
            self._end(False)

    def _overrun(self) -> bool:
        self.overran = True
        self._end(False)
        return False

    def _end(self, whole: bool) -> Stored | None:
        done, self._done = self._done, None
        self._store.give_back(self._room)
        self._room = 0
        return None if done is None else done(self, whole)

    def __repr__(self) -> str:
        of = "" if self.expected is None else f"/{self.expected}"
        return f"<Filling {self.stored.url!r} {self.size}{of} bytes{'' if self.open else ', over'}>"
