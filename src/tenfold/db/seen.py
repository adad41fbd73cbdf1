"""What is known of a server: its role, where in the log it stands, and how far behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Role = Literal["primary", "replica", "unknown"]
LagState = Literal["fresh", "stale", "unknown"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the write-ahead log. Comparable only within one system and one timeline."""

    system: int
    """The system identifier, which a cluster keeps for life and all its replicas share."""
    timeline: int
    """Counts promotions: each starts a new branch of the log."""
    lsn: int
    """Bytes of log since the beginning."""

    def covers(self, other: Position) -> bool | None:
        """Whether all up to ``other`` is contained; None where the two cannot be compared."""
        if (self.system, self.timeline) != (other.system, other.timeline):
            return None
        return self.lsn >= other.lsn


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of the last probe of a server."""

    role: Role = "unknown"
    position: Position | None = None
    """What a primary has written, or what a replica has replayed."""
    lag: float | None = None
    """Seconds behind the primary; None where nobody knows. 0 for a primary."""
    lag_state: LagState = "unknown"
    at: float = -math.inf
    """When, in monotonic seconds."""
    lag_bytes: int | None = None
    """Bytes of log that the replica has yet to replay; None where nobody knows."""


NOTHING = Seen()
