"""The present scope as a session sees it, which runs SQLAlchemy's synchronous code in a greenlet: two plain calls."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from tenfold.db.causality import CAUSALITY, Capture, ReadHistory, after_commit
from tenfold.db.position import Position
from tenfold.db.token import NOWHERE


class SessionHooks:
    """``capture`` and ``history`` read the primary's position and a timeline's ancestry (`CausalReads` has both);
    ``system`` tells which system that is, None while it is not known.
    """

    __slots__ = ("_capture", "_history", "_system", "failed")

    def __init__(
        self,
        capture: Capture,
        history: ReadHistory | None = None,
        system: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._capture, self._history, self._system = capture, history, system
        self.failed = 0
        """How often the primary did not say its position, so that the primary had to be read."""

    def after_commit(self, connection: Connection) -> None:
        """A transaction on the primary has committed over ``connection``, which is not used: it may be closed."""
        if CAUSALITY.get() is not None:
            after_commit(self._capture, self._history, self._system())

    def begun(self) -> Callable[[], None] | None:
        """A transaction on the primary may write from now on; what is returned is to be called when it is over."""
        scope = CAUSALITY.get()
        if scope is None:
            return None
        system = self._system()
        scope.begun(system)
        return lambda: scope.ended(system)

    def wanted(self) -> Position | None:
        """What a read must see: None for anything, `NOWHERE` for the primary. In a greenlet a commit's position is read
        now, if it has not been; elsewhere it stays unknown.
        """
        scope = CAUSALITY.get()
        if scope is None or scope.wanted() is None:
            return None
        system = self._system()
        wanted = scope.wanted_on(system)
        if wanted is NOWHERE and scope.unsettled and in_greenlet():
            try:
                await_only(scope.settle(system))
            except Exception:  # noqa: BLE001 - whatever it was, the primary will say it to the read itself
                self.failed += 1
            wanted = scope.wanted_on(system)
        if wanted is NOWHERE:
            scope.relearn(self._capture, self._history, system)
        return wanted

    def __repr__(self) -> str:
        return f"<SessionHooks failed={self.failed}>"
