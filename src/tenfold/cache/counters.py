"""Plain integers that the cache adds to, and the snapshot that readers get."""

from __future__ import annotations

from dataclasses import dataclass


class Counters:
    """Added to on the hot path; read by `CacheStats` and by whoever exports metrics."""

    __slots__ = (
        "backplane_gaps",
        "coalesced",
        "hits",
        "invalidations",
        "l2_failures",
        "l2_hits",
        "l2_skipped",
        "load_errors",
        "load_seconds",
        "loads",
        "misses",
        "refused",
        "remote_invalidations",
        "undecodable",
    )

    def __init__(self) -> None:
        self.hits = self.l2_hits = self.misses = self.coalesced = 0
        self.loads = self.load_errors = self.refused = self.undecodable = 0
        self.invalidations = self.remote_invalidations = self.backplane_gaps = 0
        self.l2_failures = self.l2_skipped = 0
        self.load_seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """A snapshot of one cache in one process.

    ``hits`` were answered by level 1, ``l2_hits`` by level 2, ``coalesced`` by a load that was already under
    way, and ``misses`` by a load of their own. ``loads`` counts calls of loaders (one may load many).
    ``refused`` values met an invalidation during their load and were not kept; ``undecodable`` ones were
    found in level 2 and could not be read. ``l2_skipped`` requests were not sent because level 2 was down.
    ``backplane_gaps`` counts how often level 1 was dropped because invalidations may have been missed.
    ``bytes`` is an estimate, 0 without ``max_bytes``.
    """

    hits: int
    l2_hits: int
    misses: int
    coalesced: int
    loads: int
    load_errors: int
    load_seconds: float
    refused: int
    undecodable: int
    invalidations: int
    remote_invalidations: int
    pending_invalidations: int
    backplane_gaps: int
    l2_failures: int
    l2_skipped: int
    l2_up: bool
    entries: int
    bytes: int
    evictions: int
    expirations: int

    @property
    def requests(self) -> int:
        """Look-ups of all kinds."""
        return self.hits + self.l2_hits + self.coalesced + self.misses

    @property
    def hit_rate(self) -> float:
        """The share of look-ups that needed no load of their own; 0 before the first."""
        return 1 - self.misses / self.requests if self.requests else 0.0
