"""Level 1: a bounded dictionary in this process, with a life time per entry, shared by all threads.

A hit takes no lock. From the look-up in the dictionary to adding one to the entry's counter there is nothing at
which CPython could switch threads (no call, no loop: the clock is read before), so a hit is one step: either it
comes before an eviction and is counted with the entry, or it finds nothing. What inserts, replaces or removes holds the
lock. A free-threaded build would need another `get`.

What goes when the memory is full is decided by `s3fifo` or `lfu`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, size
from tenfold.cache.entry import DEAD, Entry, LivedEntry
from tenfold.cache.lfu import TinyLfu
from tenfold.cache.s3fifo import S3Fifo
from tenfold.cache.weigh import weigh

_FOREVER: Final = float("inf")


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
    """A bounded in-process cache with a life time per entry and bounds in items and in bytes.

    ``max_items`` entries at most (default 100,000); ``max_bytes`` (``"64MB"`` or a number; default none)
    bounds the estimated size of the values. ``ttl`` is the life time of entries that are set without one
    (default: for ever). ``policy`` says what goes when it is full: ``"s3fifo"`` (default; best for what people
    ask for) or ``"lfu"``, which is W-TinyLFU (best for scans and loops larger than the memory; a hit costs a
    little more). Keys are compared as a dictionary compares them. Values are shared, not copied: treat them as
    read-only. Threads may share it.

    Raises `MisuseError` for bounds that make no sense and for a ``policy`` of another name.
    """

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_clock",
        "_gone_hits",
        "_index",
        "_max_bytes",
        "_max_items",
        "_now",
        "_policy",
        "_ttl",
        "evictions",
        "expirations",
        "lock",
        "misses",
        "too_large",
        "touch",
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
        if policy not in ("s3fifo", "lfu"):
            raise MisuseError(f'policy: expected "s3fifo" or "lfu", got {policy!r}')
        self._max_items = max_items
        self._max_bytes = None if max_bytes is None else size(max_bytes, "max_bytes")
        if self._max_bytes == 0:
            raise MisuseError('max_bytes: expected a size above 0 such as "64MB", got 0; leave it out for no bound')
        self._ttl = None if ttl is None else duration(ttl, "ttl")
        self._clock = clock
        self._now = clock.monotonic
        self._index: dict[Hashable, Entry] = {}
        self._policy: S3Fifo | TinyLfu
        self.touch: Callable[[Entry], None] | None = None  # for a policy that wants to know the order of hits
        if policy == "lfu":
            self._policy = lfu = TinyLfu(max_items, self._max_bytes)
            self.touch = lfu.reads.append
        else:
            self._policy = S3Fifo(max_items, self._max_bytes)
        self.lock = threading.RLock()
        self._bytes = 0
        self._gone_hits = 0.0
        self.misses = self.evictions = self.expirations = self.too_large = 0
        _memories.add(self)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` where there is none or its time is over."""
        now = self._now()
        try:
            entry = self._index[key]
        except KeyError:
            pass
        else:
            if entry.until > now:
                entry.n += 1.0
                if self.touch is None:
                    return entry.value
                value = entry.value
                self.touch(entry)
                return value
            self.expire(entry)
        with self.lock:
            self.misses += 1
        return default

    def set(self, key: Hashable, value: Any, ttl: Duration | None = None) -> bool:
        """Keep ``value`` for ``ttl`` (default: the memory's own). False if there is no room for it: it alone is
        larger than ``max_bytes``, or it is the one that the policy lets go.
        """
        life = self._ttl if ttl is None else duration(ttl, "ttl")
        until = _FOREVER if life is None else self._now() + life
        return self.put(key, value, until) is not None

    def delete(self, key: Hashable) -> bool:
        """Forget ``key``. True if it was there."""
        with self.lock:
            entry = self._index.get(key)
            if entry is None:
                return False
            self._remove(entry)
        return True

    def clear(self) -> None:
        """Forget everything, also what the policy remembers of evicted keys."""
        with self.lock:
            entries = list(self._index.values())
            self._index.clear()
            self._policy.clear()
            for entry in entries:
                if entry.home is not None:
                    del entry.home[entry.raw]
                self._gone_hits += entry.n
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: Hashable) -> bool:
        entry = self._index.get(key)
        return entry is not None and entry.until > self._now()

    @property
    def hits(self) -> int:
        """Look-ups that found a value, exactly. Adds up what the entries have counted: about 2 ms for 100,000."""
        with self.lock:
            return int(self._gone_hits + sum([entry.n for entry in self._index.values()]))

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

    # -- for the front of the cache, which stamps entries with tags and an epoch

    def put(
        self, key: Hashable, value: Any, until: float, tags: tuple[str, ...] = (), epoch: int = 0, life: Any = None
    ) -> Entry | None:
        """As `set`, with a monotonic time at which the entry ends; the entry, or None if there is no room.

        ``life`` is what `freshness` knows of it beyond that.
        """
        max_bytes = self._max_bytes
        weight = 0
        if max_bytes is not None:
            weight = weigh(value)
            if weight > max_bytes:
                with self.lock:
                    self.too_large += 1
                    self.delete(key)
                return None
        index = self._index
        lock = self.lock
        lock.acquire()  # half the price of `with`, here where it shows
        try:
            if life is not None and key in index and type(index[key]) is Entry:
                self._remove(index[key])  # it has no room for a life
            if key in index:
                entry = index[key]
                if type(entry) is LivedEntry:
                    entry.life = life
                self._bytes += weight - entry.size
                self._policy.resize(entry, weight)
                # For those who look meanwhile: never the old value with the new life, tags or epoch.
                entry.value = value
                entry.until, entry.tags, entry.epoch = until, tags, epoch
            else:
                entry = index[key] = (Entry if life is None else LivedEntry)(key, value, until, weight, tags, epoch)
                if life is not None:
                    entry.life = life  # a slot of LivedEntry
                if max_bytes is None and len(index) > self._max_items:
                    victim = self._policy.exchange(entry)
                    del index[victim.key]
                    if victim.home is not None:
                        del victim.home[victim.raw]
                    if victim.n:
                        self._gone_hits += victim.n
                    self.evictions += 1
                else:
                    self._policy.insert(entry)
                    self._bytes += weight
            while max_bytes is not None and (self._bytes > max_bytes or len(index) > self._max_items):
                self.evictions += 1
                self._forget(self._policy.evict())
            return None if entry.mark == DEAD else entry
        finally:
            lock.release()

    def link(self, key: Hashable, home: dict[Any, Entry], raw: Any) -> None:
        """From now on the entry of ``key``, if there is one, is found in ``home`` as ``raw`` too, as long as it
        lives.
        """
        with self.lock:
            entry = self._index.get(key)
            if entry is not None and entry.home is None:
                entry.home, entry.raw = home, raw
                home[raw] = entry

    def expire(self, entry: Entry) -> None:
        """Remove an entry whose time is over, unless somebody else did, or gave it another value meanwhile."""
        with self.lock:
            if entry.mark != DEAD and entry.until <= self._now():
                self.expirations += 1
                self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        self._policy.remove(entry)
        self._forget(entry)
        entry.value = None  # its tombstone may stay in a queue for a while

    def _forget(self, entry: Entry) -> None:
        """Take an entry that left its queue out of the index. From there on nobody adds to its hits."""
        del self._index[entry.key]
        if entry.home is not None:
            del entry.home[entry.raw]
        self._bytes -= entry.size
        self._gone_hits += entry.n

    def _after_fork(self) -> None:
        """In the child: a thread that held the lock is not here to let it go, and left its work half done."""
        if self.lock.acquire(blocking=False):
            self.lock.release()
            return
        self.lock = threading.RLock()
        for entry in self._index.values():
            if entry.home is not None:
                entry.home.clear()
        self._index.clear()
        self._policy.clear()
        self._bytes = 0


_memories: weakref.WeakSet[Memory] = weakref.WeakSet()


def _after_fork() -> None:
    for memory in list(_memories):
        memory._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
