"""A token of what has been committed so far, made of positions that the primaries have just said.

Any position read after a commit is at or behind it, whoever committed, so nothing needs to be known of sessions. In a
scope the token tells also of what the scope wants elsewhere. Where both name one system, what was just read counts,
unless the scope knows of a later timeline: then the position is a replaced primary's, and the system is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable

from tenfold.db.causality import CAUSALITY
from tenfold.db.position import Position
from tenfold.db.token import NOWHERE, Token


def committed_so_far(positions: Iterable[Position], *, elsewhere: bool = False) -> Token:
    """A token of ``positions`` and of what the present scope wants besides. ``elsewhere``: something may have been
    committed on systems that were not asked.
    """
    read = Token()
    for position in positions:
        read = read.merge(Token(position))
    read = Token(*read.positions, unknown=read.unknown, others_unknown=elsewhere)
    scope = CAUSALITY.get()
    token = None if scope is None else scope.so_far()
    if token is None:
        return read
    for position in read.positions:
        at = token.on(position.system)
        if at is NOWHERE or at is None or at.timeline < position.timeline:
            token = token.replaced(position)
    return token.merge(read)
