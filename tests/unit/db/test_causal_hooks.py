"""What a session is told, inside and outside of SQLAlchemy's greenlet."""

from __future__ import annotations

from typing import Any

from sqlalchemy.util import greenlet_spawn

from tenfold.db.causal_hooks import SessionHooks
from tenfold.db.causality import causality
from tenfold.db.position import Position
from tenfold.db.token import NOWHERE, UNKNOWN, Token

HERE = Position(7, 1, 100)
NO_CONNECTION: Any = None


class Primary:
    def __init__(self) -> None:
        self.asked, self.dead = 0, False

    async def capture(self) -> Position:
        self.asked += 1
        if self.dead:
            raise OSError("gone")
        return HERE


async def test_a_commit_is_asked_about_when_a_session_reads() -> None:
    primary = Primary()
    hooks = SessionHooks(primary.capture)
    hooks.after_commit(NO_CONNECTION)
    assert hooks.wanted() is None  # outside of any scope
    with causality():
        assert hooks.wanted() is None
        hooks.after_commit(NO_CONNECTION)
        assert (hooks.wanted(), primary.asked) == (NOWHERE, 0)  # no greenlet: it cannot be asked here
        assert await greenlet_spawn(hooks.wanted) == HERE
        assert await greenlet_spawn(hooks.wanted) == hooks.wanted() == HERE
        assert primary.asked == 1


async def test_what_cannot_be_known_is_read_from_the_primary() -> None:
    primary = Primary()
    hooks = SessionHooks(primary.capture)
    with causality(UNKNOWN):
        assert await greenlet_spawn(hooks.wanted) == NOWHERE
        assert primary.asked == 0
    with causality(Token(HERE)):
        assert hooks.wanted() == HERE
        primary.dead = True
        hooks.after_commit(NO_CONNECTION)
        assert await greenlet_spawn(hooks.wanted) == NOWHERE
        assert hooks.failed == 1
        primary.dead = False
        assert await greenlet_spawn(hooks.wanted) == HERE
    assert HERE.covers(NOWHERE) is None
