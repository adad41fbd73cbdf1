"""What the edge has decided about one request, and what it answers with."""

from __future__ import annotations

from typing import Final, NamedTuple

from tenfold.gateway.edge.decide import Action
from tenfold.gateway.edge.flight import Flight, Follower
from tenfold.gateway.edge.message import Pair, Request
from tenfold.gateway.edge.status import Fwd
from tenfold.gateway.edge.stored import Stored

DROPPED: Final = (b"if-none-match", b"if-modified-since", b"if-range", b"range")


class Decision:
    """One request and what to do with it. The engine reads ``action`` and hands the decision back with what came."""

    __slots__ = (
        "action",
        "arriving",
        "began",
        "collapsed",
        "detail",
        "flight",
        "follower",
        "fwd",
        "fwd_status",
        "now",
        "plain",
        "request",
        "stored",
        "stores",
    )

    def __init__(
        self, action: Action, request: Request, stored: Stored | None, now: float, *, plain: bool = False
    ) -> None:
        self.action = action
        self.request = request
        self.stored = stored
        """What answers, or is revalidated, or may stand in when the origin fails."""
        self.now = now
        """When it was decided: from here the age of what comes is counted."""
        self.plain = plain
        """A GET without ranges and conditions, served while fresh."""
        self.fwd: Fwd | None = None
        self.fwd_status: int | None = None
        """What the origin said, where that is not what the client is told."""
        self.flight: Flight | None = None
        """It leads: others may wait for its response. Always hand it back."""
        self.follower: Follower | None = None
        """It follows (WAIT), or is answered from a body that is still coming in (SERVE)."""
        self.began = 0
        self.collapsed = False
        self.arriving: Stored | None = None
        self.stores = False
        """Its response is being stored."""
        self.detail = b""

    @property
    def conditions(self) -> tuple[Pair, ...]:
        """Fields to add to the forwarded request, after those in `drop` were left out."""
        if self.action in (Action.REVALIDATE, Action.SERVE_STALE_WHILE_REVALIDATE) and self.stored is not None:
            return self.stored.conditions
        return ()

    @property
    def drop(self) -> tuple[bytes, ...]:
        """Names of the client's fields that are not forwarded: the question is ours, for the whole response."""
        return DROPPED if self.action in (Action.REVALIDATE, Action.SERVE_STALE_WHILE_REVALIDATE) else ()

    def __repr__(self) -> str:
        why = "" if self.fwd is None else f", {self.fwd.value.decode()}"
        return f"<Decision {self.action.value}{why} for {self.request!r}>"


class Answer(NamedTuple):
    """A response from the store: the head up to its blank line, and the body in pieces."""

    status: int
    head: bytes
    body: tuple[bytes, ...]
