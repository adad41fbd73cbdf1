"""Plain integers that the cache adds to, and the snapshot that readers get."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold.cache.memory import MemoryStats


class Counters:
    """Added to on the hot path; read by `CacheStats` and by whoever exports metrics."""

    __slots__ = (
        "backplane_gaps",
        "coalesced",
        "hits",
        "invalidations",
        "l2_failures",
        "l2_hits",
        "l2_packets",
        "l2_seconds",
        "l2_skipped",
        "load_errors",
        "load_seconds",
        "load_timeouts",
        "loads",
        "misses",
        "refresh_errors",
        "refreshes",
        "refreshes_skipped",
        "refused",
        "remote_invalidations",
        "stale_hits",
        "stale_rescues",
        "undecodable",
    )

    def __init__(self) -> None:
        self.hits = self.l2_hits = self.misses = self.coalesced = 0
        self.loads = self.load_errors = self.refused = self.undecodable = 0
        self.invalidations = self.remote_invalidations = self.backplane_gaps = 0
        self.l2_failures = self.l2_skipped = 0
        self.stale_hits = self.stale_rescues = 0
        self.refreshes = self.refreshes_skipped = self.refresh_errors = self.load_timeouts = 0
        self.l2_packets = 0
        self.load_seconds = self.l2_seconds = 0.0

    def snapshot(self, memory: MemoryStats, *, pending: int, l2_up: bool) -> CacheStats:
        """These, with what level 1 counts itself and with the state of level 2."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["hits"] += memory.hits  # level 1 counts in its entries
        return CacheStats(
            **plain,
            pending_invalidations=pending,
            l2_up=l2_up,
            entries=memory.entries,
            bytes=memory.bytes,
            evictions=memory.evictions,
            expirations=memory.expirations,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """A snapshot of one cache in one process.

    ``hits`` were answered by level 1, ``l2_hits`` by level 2, ``coalesced`` by a load that was already under
    way, and ``misses`` by a load of their own. ``loads`` counts calls of loaders (one may load many).
    ``refused`` values met an invalidation during their load and were not kept; ``undecodable`` ones were
    found in level 2 and could not be read. ``l2_skipped`` requests were not sent because level 2 was down;
    ``l2_packets`` were sent and answered (the requests of one turn of the event loop are one), in ``l2_seconds``
    altogether. ``backplane_gaps`` counts how often level 1 was dropped because invalidations may have been missed.
    ``stale_hits`` were answered at once with a value whose TTL was over, ``stale_rescues`` after some waiting, because
    the load was slow or failed (these are also among ``coalesced`` and ``misses``). ``refreshes`` are loads in the
    background, for values past their TTL or past the eager share of it; ``refresh_errors`` of them failed (also among
    ``load_errors``), ``refreshes_skipped`` were not begun because too many were under way. ``load_timeouts`` met their
    hard time-out. ``bytes`` is an estimate, 0 without ``max_bytes``.
    """

    hits: int
    l2_hits: int
    misses: int
    coalesced: int
    loads: int
    load_errors: int
    load_seconds: float
    load_timeouts: int
    stale_hits: int
    stale_rescues: int
    refreshes: int
    refreshes_skipped: int
    refresh_errors: int
    refused: int
    undecodable: int
    invalidations: int
    remote_invalidations: int
    pending_invalidations: int
    backplane_gaps: int
    l2_failures: int
    l2_skipped: int
    l2_packets: int
    l2_seconds: float
    l2_up: bool
    entries: int
    bytes: int
    evictions: int
    expirations: int

    @property
    def requests(self) -> int:
        """Look-ups of all kinds."""
        return self.hits + self.l2_hits + self.coalesced + self.misses + self.stale_hits

    @property
    def stale_served(self) -> int:
        """Answers with a value whose TTL was over."""
        return self.stale_hits + self.stale_rescues

    @property
    def hit_rate(self) -> float:
        """The share of look-ups that needed no load of their own; 0 before the first."""
        return 1 - self.misses / self.requests if self.requests else 0.0
