"""What a statement is to the router, and the findings that lead there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a statement may run: a ``"read"`` on any server, a ``"write"`` on the primary only.

    ``sure`` is whether that is known. What is not known to be a read is a write: ``kind="write", sure=False``.
    ``reasons`` are clauses a person can read, in the order found; a read gives none.
    """

    kind: Kind
    sure: bool
    reasons: tuple[str, ...] = ()

    @property
    def is_read(self) -> bool:
        """Whether a replica may run it."""
        return self.kind == "read"

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.sure else ' (to be safe)'}{''.join(f'; {reason}' for reason in self.reasons)}"


READ: Final = Verdict("read", True)
LEARNED: Final = Verdict("write", True, ("a replica has refused it before",))


class Findings:
    """Collects what speaks against a replica: a certain write, or a doubt."""

    __slots__ = ("_doubts", "_writes")

    def __init__(self) -> None:
        self._writes: dict[str, None] = {}
        self._doubts: dict[str, None] = {}

    def write(self, reason: str) -> None:
        """It certainly needs the primary."""
        self._writes[reason] = None

    def doubt(self, reason: str) -> None:
        """It may need the primary."""
        self._doubts[reason] = None

    def add(self, verdict: Verdict) -> None:
        """Take over another verdict's reasons."""
        if verdict.kind == "write":
            for reason in verdict.reasons:
                (self.write if verdict.sure else self.doubt)(reason)

    @property
    def wrote(self) -> bool:
        """Whether nothing more needs to be found."""
        return bool(self._writes)

    def verdict(self) -> Verdict:
        """A certain write, else a write to be safe, else a read."""
        if self._writes:
            return Verdict("write", True, tuple(self._writes))
        if self._doubts:
            return Verdict("write", False, tuple(self._doubts))
        return READ
