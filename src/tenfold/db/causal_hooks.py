"""The present scope as a session sees it, which runs SQLAlchemy's synchronous code in a greenlet: two plain calls."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from tenfold.db.causality import CAUSALITY, Capture, ReadHistory, after_commit
from tenfold.db.position import Position
from tenfold.db.token import UNKNOWN, Token

NOWHERE: Final = Position(0, 1, 2**64 - 1)
"""A position that no server has: a read that wants it goes to the primary. No system has the identifier 0."""


class SessionHooks:
    """``capture`` and ``history`` read the primary's position and a timeline's ancestry (`CausalReads` has both)."""

    __slots__ = ("_capture", "_history", "failed")

    def __init__(self, capture: Capture, history: ReadHistory | None = None) -> None:
        self._capture, self._history = capture, history
        self.failed = 0
        """How often the primary did not say its position, so that the primary had to be read."""

    def after_commit(self, connection: Connection) -> None:
        """A transaction on the primary has committed over ``connection``, which is not used: it may be closed."""
        after_commit(self._capture, self._history)

    def wanted(self) -> Position | None:
        """What a read must see: None for anything, `NOWHERE` for the primary. In a greenlet a commit's position is read
        now, if it has not been; elsewhere it stays unknown.
        """
        scope = CAUSALITY.get()
        if scope is None:
            return None
        token: Token | None = scope.wanted()
        if token == UNKNOWN and scope.unsettled and in_greenlet():
            try:
                token = await_only(scope.settle())
            except Exception:  # noqa: BLE001 - whatever it was, the primary will say it to the read itself
                self.failed += 1
        if token is None:
            return None
        return NOWHERE if token.position is None else token.position

    def __repr__(self) -> str:
        return f"<SessionHooks failed={self.failed}>"
