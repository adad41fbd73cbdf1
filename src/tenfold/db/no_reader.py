"""What a reader is told when no server is left for it."""

from __future__ import annotations

from tenfold.db.cluster_errors import ReadsRefused
from tenfold.db.position import Position
from tenfold.db.refusals import is_gone, refusal
from tenfold.db.token import NOWHERE


def not_shown(wanted: Position | None) -> ReadsRefused:
    """No server that answers shows what was asked for."""
    if wanted is None:
        return ReadsRefused("no server answered this read. Try again", ("those that may serve it were tried",))
    what = "what this scope wants" if wanted is NOWHERE else str(wanted)
    reason = f"no replica shows {what} yet, and no primary serves readers"
    return ReadsRefused(f"{reason}. Try again, or read outside of the causality scope", (reason,))


def unanswered(refused: ReadsRefused, lost: BaseException | None) -> BaseException:
    """What to raise when no server is left for a read: ``refused``, because of ``lost``, the last server's error, if
    there was one. ``lost`` itself where that says something else than that the server is not there.
    """
    if lost is None:
        return refused
    if is_gone(lost) or refusal(lost) == "again" or isinstance(lost, TimeoutError):
        refused.__cause__ = lost
        return refused
    return lost
