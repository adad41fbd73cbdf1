"""Read your writes: what this request, job or user must be able to see, from commit to later reads.

`causality` opens a scope in a context variable. A commit inside is only *counted*: its position is read when somebody
first needs it (a later read in the scope, or the answer that carries the token), because any position read from the
primary after the commit is at or behind it. So a transaction whose token nobody asks for costs nothing, and ten commits
of one request cost one round trip. Reads ask `wanted`, and may say what they `saw`, which makes them monotonic.

Session guarantees after Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (1994): the token
holds read-your-writes alone, or monotonic reads too. It only ever grows (`Token.merge`). Where the position of a
commit cannot be read, or cannot be compared with what was there, the scope is *unknown*, and unknown reads from the
primary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from tenfold.db.lineage import History
from tenfold.db.position import Position
from tenfold.db.token import UNKNOWN, Token

Capture = Callable[[], Awaitable[Position]]
"""Reads the primary's position, on any connection to it."""
ReadHistory = Callable[[int], Awaitable[History | None]]
"""Reads the ancestry of a timeline from the primary."""


class Causality:
    """One scope. Shared by all tasks that are started inside it. Counters: ``commits``, ``captures``, ``superseded``
    (how often a token of a timeline that could not be shown to continue was replaced by a later commit's).
    """

    __slots__ = (
        "_capture", "_captured", "_history", "_outgoing", "_parts", "_token", "captures", "commits", "superseded",
    )  # fmt: skip

    def __init__(self, token: Token | None = None) -> None:
        self._token = token
        self._outgoing: Token | None = None
        self._capture: Capture | None = None
        self._history: ReadHistory | None = None
        self._captured = 0
        self._parts: dict[object, Causality] = {}
        self.commits = self.captures = self.superseded = 0

    @property
    def wrote(self) -> bool:
        """Whether anything was committed in this scope."""
        return self.commits > 0 or self._parts_wrote

    @property
    def unsettled(self) -> bool:
        """Whether there was a commit whose position has not been read."""
        return self._captured < self.commits

    def committed(self, capture: Capture, history: ReadHistory | None = None) -> None:
        """A transaction that may have written has been committed; ``capture`` will find its position when asked."""
        self.commits += 1
        self._capture, self._history = capture, history

    def saw(self, position: Position, history: History | None = None) -> None:
        """A read has shown what was written up to ``position``: later ones must not show less."""
        seen = Token(position)
        self._token = seen if self._token is None else self._token.merge(seen, history)

    def wanted(self) -> Token | None:
        """What a read must see, without a round trip: None for nothing, `UNKNOWN` (the primary) also for a commit whose
        position has not been read yet. `settle` finds out.
        """
        return UNKNOWN if self.unsettled else self._token

    async def settle(self) -> Token | None:
        """What a read must see. Costs a round trip if there was a commit since the last time, else nothing.

        Raises what ``capture`` raises; the scope stays unknown then, and the next call tries again.
        """
        commits, capture = self.commits, self._capture
        if self._captured < commits and capture is not None:
            fresh = await capture()
            self.captures += 1
            await self._take(fresh)
            self._captured = max(self._captured, commits)
        return self.wanted()

    def part(self, who: object, system: int | None) -> Causality:
        """The scope within this one for ``who``, a database of its own, whose system identifier is ``system`` (None:
        not known). It begins with this scope's token, unless that is a position of another system.
        """
        found = self._parts.get(who)
        if found is None:
            token = self._token
            at = None if token is None else token.position
            foreign = at is not None and system is not None and at.system != system
            found = self._parts[who] = Causality(None if foreign else token)
        return found

    @property
    def _parts_wrote(self) -> bool:
        return any(part.wrote for part in self._parts.values())

    async def outgoing(self) -> Token | None:
        """The token to hand on: `settle`'s; in a scope that went unknown through a promotion the position of its own
        last commit, so that whoever comes back with it is not sent to the primary for ever. Where a `part` has written,
        unknown: one token holds one position.
        """
        if self._parts_wrote:
            return UNKNOWN
        token = await self.settle()
        return self._outgoing if token == UNKNOWN and self._outgoing is not None else token

    async def _take(self, fresh: Position) -> None:
        at, history = None if self._token is None else self._token.position, None
        if at is not None and at.system == fresh.system and at.timeline < fresh.timeline and self._history is not None:
            history = await self._history(fresh.timeline)
        old, new = self._token, Token(fresh)
        self._outgoing = new
        if old is None:
            self._token = new
            return
        self._token = old.merge(new, history)
        if self._token == UNKNOWN:
            if at is not None and at.system == fresh.system and at.timeline > fresh.timeline:
                self._outgoing = None  # the commit went to a primary that had been replaced
            else:
                self.superseded += 1

    def __repr__(self) -> str:
        return f"<Causality wants {self.wanted() or 'nothing'} commits={self.commits} captures={self.captures}>"


CAUSALITY: Final[ContextVar[Causality | None]] = ContextVar("tenfold_causality", default=None)


@contextmanager
def causality(token: Token | None = None) -> Iterator[Causality]:
    """A scope whose reads see its own writes, and what ``token`` says. An inner scope begins with the token it is
    given and hands nothing to the outer one.
    """
    scope = Causality(token)
    reset = CAUSALITY.set(scope)
    try:
        yield scope
    finally:
        CAUSALITY.reset(reset)


def after_commit(capture: Capture, history: ReadHistory | None = None) -> None:
    """To be called after each COMMIT on the primary: counts it in the present scope, if there is one."""
    scope = CAUSALITY.get()
    if scope is not None:
        scope.committed(capture, history)


def wanted() -> Token | None:
    """What the present scope wants (`Causality.wanted`); None outside of any."""
    scope = CAUSALITY.get()
    return None if scope is None else scope.wanted()


async def settle() -> Token | None:
    """What the present scope wants, after a round trip if it must be (`Causality.settle`); None outside of any."""
    scope = CAUSALITY.get()
    return None if scope is None else await scope.settle()
