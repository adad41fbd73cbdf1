"""What is known of a server: its role, where in the log it stands, and how far behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tenfold.db.position import Position

Role = Literal["primary", "replica", "unknown"]
LagState = Literal["fresh", "stale", "unknown"]


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
    hidden: bool = False
    """Whether `position` tells a timeline before the primary's, and perhaps only because the role may not see which one
    the replica receives.
    """
    read_only: bool = False
    """Whether the role's transactions are read-only unless they say otherwise (``default_transaction_read_only``)."""


NOTHING = Seen()
