"""Collapsed forwarding: one request goes to the origin, those that ask the same meanwhile follow it (RFC 9111 §4).

A pure state machine: nobody waits here. A follower has a `Turn` that says what it is to do now, and a callable
``wake`` that is called when this changes.

=============  =================================  =========================================================
state          what happened                      turn of a follower
=============  =================================  =========================================================
asked          the leader asks the origin         WAIT
filling        a head came, of unknown length     WAIT
streaming      a head came, with a length that    STREAM: head and pieces as they come; WAIT if it needs the
               fits and is reserved               whole (a range, a condition, HEAD)
done           the body is whole and may be       SERVE; STREAM, if it has begun to take pieces
               used
released       it may not be shared, or has       ALONE, all at once: who waits for the next leader would
               become too large                   wait in a row behind responses that cannot be shared
failed         the origin failed                  FAILED: a stale response or the same error; if all asked
                                                  now, an origin that fails would have them all at once
cancelled      the leader went away               LEAD, for the first that can; the others go on waiting
=============  =================================  =========================================================

Who has begun to take pieces when a body breaks off is BROKEN: its client has half a response, and only a closed
connection says so. Bodies of unknown length are therefore not streamed to followers: whether they fit shows at the end.

A request that follows must be answered by what comes: when the head is there, those for whom its Vary names other
values go ALONE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, Final

from tenfold.gateway.edge.message import Request
from tenfold.gateway.edge.stored import Stored
from tenfold.gateway.edge.vary import select


class Turn(Enum):
    """What a follower is to do."""

    WAIT = "wait"
    STREAM = "stream"
    SERVE = "serve"
    LEAD = "lead"
    ALONE = "alone"
    FAILED = "failed"
    BROKEN = "broken"


def _nobody() -> None:
    return None


class Follower:
    """One request that waits for another one's response."""

    __slots__ = ("_taken", "_turn", "begun", "flight", "partial", "request", "wake")

    def __init__(self, flight: Flight, request: Request, *, partial: bool) -> None:
        self.flight = flight
        self.request = request
        self.partial = partial
        """It needs the whole body before it can answer, and cannot lead."""
        self.wake: Callable[[], Any] = _nobody
        """Called when `turn` may have changed or pieces have come. Set by the engine; must not block."""
        self.begun = False
        """Its client has part of the response."""
        self._turn: Turn | None = None
        self._taken = 0

    @property
    def turn(self) -> Turn:
        """What to do now."""
        if self._turn is not None:
            return self._turn
        flight = self.flight
        if flight.streaming and not self.partial and (self.begun or not flight.done):
            return Turn.STREAM
        return Turn.SERVE if flight.done else Turn.WAIT

    @property
    def stored(self) -> Stored | None:
        """The response, from its head on."""
        return self.flight.stored

    def take(self) -> list[bytes]:
        """The pieces of the body that came since the last time, while `turn` is STREAM."""
        self.begun = True
        pieces = self.flight.chunks[self._taken :]
        self._taken += len(pieces)
        return pieces

    @property
    def ended(self) -> bool:
        """Whether all pieces are taken and no more will come."""
        return self.flight.done and self._taken == len(self.flight.chunks)

    def leave(self) -> None:
        """Its client went away, or waited long enough: it follows no more."""
        self.flight.leave(self)

    def settle(self, turn: Turn) -> None:
        """From now on, whatever happens to the flight."""
        if self._turn is None:
            self._turn = Turn.BROKEN if self.begun else turn
            self.wake()


class Flight:
    """One request under way and those that follow it."""

    __slots__ = (
        "began",
        "chunks",
        "done",
        "failure",
        "followers",
        "key",
        "keys",
        "length",
        "most",
        "over",
        "stored",
        "streaming",
        "url",
    )

    def __init__(self, key: Hashable, url: bytes, began: int, most: int) -> None:
        self.key: Final = key
        self.url: Final = url
        self.began = began
        """How many purges there had been when the origin was asked."""
        self.most: Final = most
        self.followers: list[Follower] = []
        self.stored: Stored | None = None
        self.chunks: list[bytes] = []
        self.keys: frozenset[bytes] | None = None
        self.streaming = False
        self.length = 0
        """Of the body, while it streams."""
        self.done = False
        self.over = False
        """Nobody can join any more."""
        self.failure: int | None = None

    def join(self, request: Request, *, partial: bool) -> Follower | None:
        """A new follower, or None where there are enough."""
        if self.over or len(self.followers) >= self.most:
            return None
        follower = Follower(self, request, partial=partial)
        self.followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower."""
        if follower in self.followers:
            self.followers.remove(follower)

    def head(self, stored: Stored, chunks: list[bytes], *, length: int | None, encoding: bool) -> None:
        """The head has come and may be shared. ``chunks`` grows as the body comes; ``length`` is known or None."""
        self.stored = stored
        self.chunks = chunks
        self.keys = stored.keys
        self.streaming = length is not None
        self.length = length or 0
        names, values = stored.vary
        for follower in list(self.followers):
            if names and select(names, follower.request.fields, encoding=encoding) != values:
                self._settle(follower, Turn.ALONE)
        self.wake()

    def wake(self) -> None:
        """Something is new for those who follow."""
        for follower in list(self.followers):
            follower.wake()

    def finish(self, stored: Stored) -> None:
        """The body is whole; ``stored`` answers all who follow."""
        self.stored = stored
        self.done = self.over = True
        self.wake()

    def release(self) -> None:
        """The response cannot be shared: everybody goes on alone."""
        self._end(Turn.ALONE)

    def fail(self, status: int) -> None:
        """The origin failed, or could not be reached; ``status`` is what the leader answered."""
        self.failure = status
        self._end(Turn.FAILED)

    def cancel(self) -> Follower | None:
        """The leader went away. The follower that leads from now on, if there is one that can.

        What had begun to stream breaks; the others go on waiting.
        """
        self.streaming = False
        self.stored = None
        self.chunks = []
        self.keys = None
        for follower in [one for one in self.followers if one.begun]:
            self._settle(follower, Turn.BROKEN)
        for follower in list(self.followers):
            if not follower.partial:
                self._settle(follower, Turn.LEAD)
                return follower
        self._end(Turn.ALONE)
        return None

    def _settle(self, follower: Follower, turn: Turn) -> None:
        follower.settle(turn)
        self.leave(follower)

    def _end(self, turn: Turn) -> None:
        self.over = True
        for follower in list(self.followers):
            self._settle(follower, turn)

    def __repr__(self) -> str:
        state = "done" if self.done else "over" if self.over else "streaming" if self.streaming else "asked"
        return f"<Flight {self.key!r} {state}, {len(self.followers)} follow>"
