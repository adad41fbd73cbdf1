"""Read your writes: what this request, job or user must be able to see, from commit to later reads.

`causality` opens a scope in a context variable. A commit inside is only *counted*: its position is read when somebody
first needs it (a later read of that database, or the answer that carries the token), because any position read from
the primary after the commit is at or behind it. So a transaction whose token nobody asks for costs nothing, and ten
commits of one request cost one round trip. Reads ask `Causality.wanted_on` their system, and may say what they `saw`,
which makes them monotonic.

A scope may write to several systems, such as shards: each has its position in the token, and a commit on one holds up
nobody's reads of another.

Session guarantees after Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (1994): the token
holds read-your-writes alone, or monotonic reads too. It only ever grows (`Token.merge`). Where the position of a
commit cannot be read, or cannot be compared with what was there, that system is *unknown*, and unknown reads from the
primary. So is a system on which a transaction that may have written is still open when the token is handed on, for
whoever gets it would not see that commit. A scope that came with "unknown" asks for the position when it first reads
that primary: whatever was committed before is at or behind it, and the next scope is not sent there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.db.lineage import History
from tenfold.db.position import Position
from tenfold.db.token import NOWHERE, UNKNOWN, Token

Capture = Callable[[], Awaitable[Position]]
"""Reads the primary's position, on any connection to it."""
ReadHistory = Callable[[int], Awaitable[History | None]]
"""Reads the ancestry of a timeline from the primary."""


class _Unread:
    """Commits on one database whose position has not been read: ``count`` of them so far. ``system``: its identifier;
    None: not known.
    """

    __slots__ = ("capture", "count", "history", "system")

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.history: ReadHistory | None = None
        self.system: int | None = None
        self.count = 0

    def may_be_on(self, system: int | None) -> bool:
        return self.system is None or system is None or self.system == system


class Causality:
    """One scope. Shared by all tasks that are started inside it. Counters: ``commits`` (whose position has to be asked
    for), ``captures``, ``superseded`` (how often what was wanted of a system, and could not be shown to be part
    of its present timeline, was replaced by a later commit's position, for whoever comes next).
    """

    __slots__ = ("_last", "_open", "_token", "_unread", "captures", "commits", "superseded", "wrote")

    def __init__(self, token: Token | None = None) -> None:
        given: object = token
        if given is not None and not isinstance(given, Token):
            raise MisuseError(f"causality: expected a Token (TokenKeys.read of its text) or None, got {given!r:.80}")
        self._token = token
        self._unread: dict[Capture, _Unread] = {}
        self._open: list[int | None] = []
        """The systems of transactions that may have written and are not over; None: not known."""
        self._last: dict[int, Position] = {}
        """Of each system the position of this scope's last commit, unless that was on a primary of the past."""
        self.commits = self.captures = self.superseded = 0
        self.wrote = False
        """Whether anything was committed in this scope."""

    @property
    def unsettled(self) -> bool:
        """Whether there was a commit whose position has not been read."""
        return bool(self._unread)

    @property
    def writes(self) -> bool:
        """Whether something was committed in this scope, or a transaction that may write is open."""
        return self.wrote or bool(self._open)

    def begun(self, system: int | None = None) -> None:
        """A transaction on ``system`` (None: not known) may write from now on; `ended` when it is over."""
        self._open.append(system)

    def ended(self, system: int | None = None) -> None:
        """One that was `begun` so is over. If it has committed, `committed` comes first."""
        self._open.remove(system)

    def relearn(self, capture: Capture, history: ReadHistory | None, system: int | None) -> None:
        """The primary of ``system`` is read because only that will do: its position is found out, once, for whoever
        comes next.
        """
        if system is not None and system not in self._last and capture not in self._unread:
            self.committed(capture, history, system)

    def committed(self, capture: Capture, history: ReadHistory | None = None, system: int | None = None) -> None:
        """A transaction that may have written has been committed; ``capture`` will find its position when asked.
        ``system``: the identifier of the system that it was committed on; None: not known, it may be any.
        """
        self.commits += 1
        self.wrote = True
        unread = self._unread.get(capture)
        if unread is None:
            unread = self._unread[capture] = _Unread(capture)
        elif unread.system != system:
            system = None
        unread.count += 1
        unread.history, unread.system = history, system

    def committed_at(self, position: Position) -> None:
        """A transaction has been committed whose ``position`` is known."""
        self.wrote = True
        self._take(position, None)

    def saw(self, position: Position, history: History | None = None) -> None:
        """A read has shown what was written up to ``position``: later ones must not show less."""
        seen = Token(position)
        self._token = seen if self._token is None else self._token.merge(seen, history)

    def wanted(self) -> Token | None:
        """What reads must see, without a round trip: None for nothing, `UNKNOWN` (the primaries) also for a commit
        whose position has not been read yet. `settle` finds out.
        """
        return UNKNOWN if self._unread else self._token

    def wanted_on(self, system: int | None) -> Position | None:
        """What a read of ``system`` must see, without a round trip: None for nothing, `NOWHERE` for the primary.

        None for the system: it is not known; what cannot be said of all is wanted of it then.
        """
        if self._unread and any(unread.may_be_on(system) for unread in self._unread.values()):
            return NOWHERE
        token = self._token
        if token is None:
            return None
        if system is not None:
            return token.on(system)
        if token.unknown or token.others_unknown or len(token.positions) > 1:
            return NOWHERE
        return token.positions[0] if token.positions else None

    async def settle(self, system: int | None = None) -> Token | None:
        """What reads must see. Costs a round trip for each database that has had a commit since the last time, all at
        once, else nothing. ``system``: leave out commits that are known to be on others.

        Raises what ``capture`` raises; that system stays unknown then, and the next call tries again.
        """
        unread = [one for one in self._unread.values() if one.may_be_on(system)]
        if len(unread) == 1:
            await self._read(unread[0])
        elif unread:
            for outcome in await asyncio.gather(*map(self._read, unread), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        return self.wanted()

    async def outgoing(self) -> Token | None:
        """The token to hand on, after `settle`: see `so_far`."""
        await self.settle()
        return self.so_far()

    def so_far(self) -> Token | None:
        """The token to hand on, without a round trip. None for nothing.

        A system that went unknown, as through a promotion, has the position of this scope's own last commit there, so
        that whoever comes back with it is not sent to the primary for ever. Commits whose position has not been read,
        and transactions that are still open, make their system unknown; where that is not known, all.
        """
        token = self._token
        if token is not None:
            for system, position in self._last.items():
                if token.on(system) is NOWHERE:
                    token = token.replaced(position)
        for unsaid in [*(unread.system for unread in self._unread.values()), *self._open]:
            lost = UNKNOWN if unsaid is None else Token(unknown=[unsaid])
            token = lost if token is None else token.merge(lost)
        return token

    async def _read(self, unread: _Unread) -> None:
        count = unread.count
        fresh = await unread.capture()
        self.captures += 1
        at, history = None if self._token is None else self._token.on(fresh.system), None
        if at is not None and at.timeline < fresh.timeline and unread.history is not None:
            history = await unread.history(fresh.timeline)
        self._take(fresh, history)
        if unread.count == count and self._unread.get(unread.capture) is unread:
            del self._unread[unread.capture]

    def _take(self, fresh: Position, history: History | None) -> None:
        """The position of a commit, at or behind all that was committed on its system before."""
        new = Token(fresh)
        at = None if self._token is None else self._token.on(fresh.system)
        self._token = new if self._token is None else self._token.merge(new, history)
        self._last[fresh.system] = fresh
        if self._token.on(fresh.system) is NOWHERE:
            if at is not None and at is not NOWHERE and at.timeline > fresh.timeline:
                del self._last[fresh.system]  # the commit went to a primary that had been replaced
            else:
                self.superseded += 1

    def __repr__(self) -> str:
        return f"<Causality wants {self.wanted() or 'nothing'} commits={self.commits} captures={self.captures}>"


CAUSALITY: Final[ContextVar[Causality | None]] = ContextVar("tenfold_causality", default=None)
SEVERAL: Final = object()
"""Stands for several scopes, none of which knows of all that a session has done."""


def knowing(before: object, been_there: bool) -> object:
    """The scope that knows of all that a session has done on primaries, now that it does something in the present one;
    ``before`` knew what it had done, if it has ``been_there`` at all.
    """
    scope = CAUSALITY.get()
    return scope if not been_there or before is scope else SEVERAL


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


def after_commit(capture: Capture, history: ReadHistory | None = None, system: int | None = None) -> None:
    """To be called after each COMMIT on the primary: counts it in the present scope, if there is one."""
    scope = CAUSALITY.get()
    if scope is not None:
        scope.committed(capture, history, system)


def wanted() -> Token | None:
    """What the present scope wants (`Causality.wanted`); None outside of any."""
    scope = CAUSALITY.get()
    return None if scope is None else scope.wanted()


async def settle() -> Token | None:
    """What the present scope wants, after a round trip if it must be (`Causality.settle`); None outside of any."""
    scope = CAUSALITY.get()
    return None if scope is None else await scope.settle()
