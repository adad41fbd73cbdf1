"""Which timelines continue which: PostgreSQL's history files, and what they allow to say of two positions.

A promotion ends a timeline at a switch point and begins another, whose history file (``pg_wal/00000002.history``)
names every ancestor and the position where it was left (PostgreSQL manual, "Timelines"). What an old primary wrote
*before* the switch point is part of the new timeline; what it wrote behind it is lost to it, however small the number.
So a position of an ancestor is covered by one of the descendant exactly if it lies at or before the point where the
ancestor was left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenfold._core.errors import MisuseError
from tenfold.db.position import Lsn, Position, parse_lsn


@dataclass(frozen=True, slots=True)
class History:
    """The ancestry of one ``timeline`` of one ``system``: ancestor → position at which it was left."""

    system: int
    timeline: int
    left: Mapping[int, Lsn] = field(default_factory=dict)

    @classmethod
    def parse(cls, system: int, timeline: int, text: str) -> History:
        """The contents of a history file: a line for each ancestor, oldest first. Raises `MisuseError` for a line that
        is not ``timeline position reason``.
        """
        left: dict[int, Lsn] = {}
        for line in text.splitlines():
            parts = line.split(None, 2)
            if not parts or parts[0].startswith("#"):
                continue
            if len(parts) < 2 or not (parts[0].isascii() and parts[0].isdigit()):
                raise MisuseError(f"history: expected a line such as '1  0/3000158  reason', got {line!r}")
            left[int(parts[0])] = parse_lsn(parts[1])
        return cls(system, timeline, left)

    def continues(self, timeline: int) -> bool:
        """Whether it is this timeline or an ancestor."""
        return timeline == self.timeline or timeline in self.left

    def holds(self, position: Position) -> bool:
        """Whether this timeline contains what was written up to ``position``, as far as it reaches by now."""
        if position.system != self.system:
            return False
        if position.timeline == self.timeline:
            return True
        left = self.left.get(position.timeline)
        return left is not None and position.lsn <= left


def covers(seen: Position, wanted: Position, history: History | None) -> bool | None:
    """Whether a server at ``seen`` shows what was written up to ``wanted``; None where that cannot be said.

    ``history`` is that of ``seen``'s timeline, or None where it could not be read.
    """
    if seen.system != wanted.system:
        return None
    if seen.timeline == wanted.timeline:
        return seen.lsn >= wanted.lsn
    if history is None or history.timeline != seen.timeline or not history.holds(wanted):
        return None
    return seen.lsn >= wanted.lsn
