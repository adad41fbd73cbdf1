"""What a balancer counts."""

from __future__ import annotations


class Counters:
    """Plain numbers of one balancer; they never fall. Written under its lock."""

    __slots__ = (
        "acquired",
        "discovery_empty",
        "discovery_failures",
        "drains",
        "failed",
        "failovers",
        "hedges",
        "neutral",
        "panics",
        "refused",
        "retries",
        "retries_refused",
        "succeeded",
    )

    def __init__(self) -> None:
        self.acquired = 0
        """Tickets given out."""
        self.succeeded = 0
        self.failed = 0
        self.neutral = 0
        """Tickets that came back with no verdict."""
        self.refused = 0
        """Times that no endpoint could be given."""
        self.failovers = 0
        """Further tries after one that had sent nothing."""
        self.retries = 0
        """Further tries after one that had sent something; each cost a token of the budget."""
        self.retries_refused = 0
        """Further tries that would have been allowed and were not paid for, or found no other endpoint."""
        self.hedges = 0
        """Attempts started because the first one was slow."""
        self.panics = 0
        """Times that panic began."""
        self.drains = 0
        """Times that an endpoint was told to drain."""
        self.discovery_failures = 0
        self.discovery_empty = 0
        """Empty sets of endpoints that were not believed."""

    def state(self) -> dict[str, int]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}
