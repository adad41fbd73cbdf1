"""Level 1: a bounded dictionary in this process, with a life time per entry.

Eviction is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP
2023). Most objects of a skewed workload are never asked for again, so new ones first pass a *small* queue
that holds a tenth of the room. Who was hit while there moves to the *main* queue; who was not leaves at once,
and only the hash of its key is remembered in a *ghost* list. A key that comes back while its ghost is
remembered goes straight to main. The main queue is a FIFO with second chances: a counter of hits (0 to 3) is
lowered by one for each turn that an entry survives. A hit adds to a counter and moves nothing, which is why
it is cheap. We promote after one hit, not two.

Deleted entries leave a tombstone in their queue (a deque has no cheap removal from the middle); when
tombstones outnumber the living, both queues are rebuilt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, size
from tenfold.cache.weigh import weigh

_SMALL: Final = 0
_MAIN: Final = 1
_DEAD: Final = 2
_FOREVER: Final = float("inf")


class Entry:
    """One value in level 1. ``n`` is the S3-FIFO hit counter, ``until`` a monotonic time, ``epoch`` see
    `tags`.
    """

    __slots__ = ("epoch", "key", "life", "n", "queue", "size", "tags", "until", "value")

    def __init__(self, key: Hashable, value: Any, until: float, weight: int) -> None:
        self.key = key
        self.value = value
        self.until = until
        self.size = weight
        self.n = 0
        self.queue = _SMALL
        self.tags: tuple[str, ...] = ()
        self.epoch = 0
        self.life: Any = None  # see `freshness`; None: `until` says it all


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """What a `Memory` did so far; ``bytes`` is an estimate and 0 where no ``max_bytes`` was asked for."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int
    too_large: int


class Memory:
    """A bounded in-process cache: S3-FIFO eviction, a life time per entry, bounds in items and in bytes.

    ``max_items`` entries at most (default 100,000); ``max_bytes`` (``"64MB"`` or a number; default none)
    bounds the estimated size of the values. ``ttl`` is the life time of entries that are set without one
    (default: for ever). Keys are compared as a dictionary compares them. Values are shared, not copied: treat
    them as read-only. One event loop (or thread) at a time.

    Raises `MisuseError` for bounds that make no sense and for a ``policy`` other than ``"s3fifo"``.
    """

    __slots__ = (
        "_bytes",
        "_clock",
        "_dead",
        "_ghost",
        "_ghost_order",
        "_ghost_turn",
        "_index",
        "_main",
        "_max_bytes",
        "_max_items",
        "_small",
        "_small_bytes",
        "_small_items",
        "_ttl",
        "evictions",
        "expirations",
        "hits",
        "misses",
        "too_large",
    )

    def __init__(
        self,
        max_items: int = 100_000,
        *,
        max_bytes: Size | None = None,
        ttl: Duration | None = None,
        policy: str = "s3fifo",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if type(max_items) is not int or max_items < 1:
            raise MisuseError(f"max_items: expected a whole number of at least 1, got {max_items!r}")
        if policy != "s3fifo":
            raise MisuseError(f'policy: expected "s3fifo", the one policy there is, got {policy!r}')
        self._max_items = max_items
        self._max_bytes = None if max_bytes is None else size(max_bytes, "max_bytes")
        if self._max_bytes == 0:
            raise MisuseError('max_bytes: expected a size above 0 such as "64MB", got 0; leave it out for no bound')
        self._ttl = None if ttl is None else duration(ttl, "ttl")
        self._clock = clock
        self._index: dict[Hashable, Entry] = {}  # the same object for ever: compiled hit paths hold it
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        self._small_items = self._small_bytes = self._bytes = self._dead = 0
        self._ghost: dict[int, int] = {}
        self._ghost_order: deque[tuple[int, int]] = deque()
        self._ghost_turn = 0
        self.hits = self.misses = self.evictions = self.expirations = self.too_large = 0

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` where there is none or its time is over."""
        entry = self._index.get(key)
        if entry is not None:
            if entry.until > self._clock.monotonic():
                if entry.n < 3:
                    entry.n += 1
                self.hits += 1
                return entry.value
            self._expire(entry)
        self.misses += 1
        return default

    def set(self, key: Hashable, value: Any, ttl: Duration | None = None) -> bool:
        """Keep ``value`` for ``ttl`` (default: the memory's own). False if it alone is larger than
        ``max_bytes``.
        """
        life = self._ttl if ttl is None else duration(ttl, "ttl")
        until = _FOREVER if life is None else self._clock.monotonic() + life
        return self.put(key, value, until) is not None

    def delete(self, key: Hashable) -> bool:
        """Forget ``key``. True if it was there."""
        entry = self._index.get(key)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def clear(self) -> None:
        """Forget everything, the ghosts too."""
        for entry in self._index.values():
            entry.queue, entry.value = _DEAD, None
        self._index.clear()
        self._small.clear()
        self._main.clear()
        self._ghost.clear()
        self._ghost_order.clear()
        self._small_items = self._small_bytes = self._bytes = self._dead = 0

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: Hashable) -> bool:
        entry = self._index.get(key)
        return entry is not None and entry.until > self._clock.monotonic()

    def stats(self) -> MemoryStats:
        """A snapshot of the counters. Entries whose time is over count until somebody asks for them."""
        return MemoryStats(
            entries=len(self._index),
            bytes=self._bytes,
            hits=self.hits,
            misses=self.misses,
            evictions=self.evictions,
            expirations=self.expirations,
            too_large=self.too_large,
        )

    def __repr__(self) -> str:
        bound = "" if self._max_bytes is None else f", {self._bytes}/{self._max_bytes} bytes"
        return f"Memory({len(self._index)}/{self._max_items} items{bound})"

    # -- for the front of the cache, which keeps its own counters and stamps entries with tags and an epoch

    def put(self, key: Hashable, value: Any, until: float) -> Entry | None:
        """As `set`, with a monotonic time at which the entry ends; the entry, or None if it is too large."""
        weight = 0
        if self._max_bytes is not None:
            weight = weigh(value)
            if weight > self._max_bytes:
                self.too_large += 1
                self.delete(key)
                return None
        entry = self._index.get(key)
        if entry is not None:
            self._bytes += weight - entry.size
            if entry.queue == _SMALL:
                self._small_bytes += weight - entry.size
            entry.value, entry.until, entry.size = value, until, weight
        else:
            entry = self._index[key] = Entry(key, value, until, weight)
            self._bytes += weight
            if self._ghost.pop(hash(key), None) is not None:
                entry.queue = _MAIN
                self._main.append(entry)
            else:
                self._small.append(entry)
                self._small_items += 1
                self._small_bytes += weight
        while len(self._index) > self._max_items or (self._max_bytes is not None and self._bytes > self._max_bytes):
            self._evict_one()
        return entry if entry.queue != _DEAD else None

    def _expire(self, entry: Entry) -> None:
        self.expirations += 1
        self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        """Take a living entry out of the index; its tombstone stays in the queue until it comes up or is
        swept.
        """
        self._forget(entry)
        self._dead += 1
        if self._dead > 64 + len(self._index):
            self._small = deque(e for e in self._small if e.queue != _DEAD)
            self._main = deque(e for e in self._main if e.queue != _DEAD)
            self._dead = 0

    def _forget(self, entry: Entry) -> None:
        del self._index[entry.key]
        self._bytes -= entry.size
        if entry.queue == _SMALL:
            self._small_items -= 1
            self._small_bytes -= entry.size
        entry.queue, entry.value = _DEAD, None

    def _evict_one(self) -> None:
        """One step: take one entry off the end of a queue and evict it, promote it or give it another
        turn.
        """
        small_is_full = self._small_items * 10 > self._max_items or (
            self._max_bytes is not None and self._small_bytes * 10 > self._max_bytes
        )
        from_small = small_is_full or len(self._index) == self._small_items
        queue = self._small if from_small else self._main
        entry = queue.popleft()
        if entry.queue == _DEAD:
            self._dead -= 1
        elif entry.n == 0:
            self._forget(entry)
            self.evictions += 1
            if from_small:
                self._remember(hash(entry.key))
        elif from_small:
            entry.n, entry.queue = 0, _MAIN
            self._small_items -= 1
            self._small_bytes -= entry.size
            self._main.append(entry)
        else:
            entry.n -= 1
            self._main.append(entry)

    def _remember(self, ghost: int) -> None:
        """Keep the hash of an evicted key, as many as the main queue may have entries."""
        self._ghost_turn += 1
        self._ghost[ghost] = self._ghost_turn
        self._ghost_order.append((ghost, self._ghost_turn))
        if len(self._ghost_order) > max(1, self._max_items * 9 // 10):
            oldest, turn = self._ghost_order.popleft()
            if self._ghost.get(oldest) == turn:
                del self._ghost[oldest]
