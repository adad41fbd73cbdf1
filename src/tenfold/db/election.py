"""Which server takes the writes, when more than one says that it would.

Theory. PostgreSQL itself lets any number of servers be primaries: a replica that is promoted does not ask the old one,
and an old one that comes back knows nothing of its successor. Each promotion begins a timeline with a higher number
(documentation, "Continuous Archiving: Timelines"), which makes it a *fencing token* in the sense of Lamport's epochs:
of two primaries of one system the one with the higher timeline is the later one, and what is written to the other will
be thrown away when it is rewound. So the higher timeline wins, and a timeline that is lower than one that has been seen
before is refused even when it is the only one left: losing the successor for a moment does not make its predecessor
right. Servers of another system (another ``initdb``) are strangers and never elected.

The memory is that of one process. It does not replace the fencing that whoever promotes has to do; it keeps *this*
process from writing to the wrong side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tenfold.db.seen import Seen


@dataclass(frozen=True, slots=True)
class Elected:
    """The outcome: who takes the writes (None: nobody), and who says so in vain, each with the reason."""

    winner: str | None
    refused: tuple[tuple[str, str], ...]


class Election:
    """Decides from what was seen. Pure; remembers the system and the highest timeline."""

    __slots__ = ("system", "timeline", "winner")

    def __init__(self) -> None:
        self.system: int | None = None
        """Of the first primary that was seen; the cluster is that one from then on."""
        self.timeline = 0
        """The highest on which a primary was seen."""
        self.winner: str | None = None

    def decide(self, nodes: Iterable[tuple[str, Seen]]) -> Elected:
        """Elect among ``(name, seen)``, in the order in which they were declared.

        Two on the same timeline: the present one stays, else the one declared first.
        """
        refused: list[tuple[str, str]] = []
        able: list[tuple[int, str]] = []
        for name, seen in nodes:
            position = seen.position
            if seen.role != "primary" or position is None:
                continue
            if self.system is None:
                self.system = position.system
            if position.system != self.system:
                refused.append((name, f"it belongs to system {position.system}, the cluster is {self.system}"))
                continue
            able.append((position.timeline, name))
        self.timeline = max([self.timeline, *(timeline for timeline, _ in able)])
        highest = [name for timeline, name in able if timeline == self.timeline]
        self.winner = self.winner if self.winner in highest else (highest[0] if highest else None)
        for timeline, name in able:
            if timeline < self.timeline:
                refused.append((name, f"its timeline is {timeline}, and {self.timeline} has been seen"))
            elif name != self.winner:
                refused.append((name, f"{self.winner} is a primary of the same timeline {timeline} already"))
        return Elected(self.winner, tuple(refused))

    def __repr__(self) -> str:
        return f"<Election winner={self.winner} timeline={self.timeline}>"
