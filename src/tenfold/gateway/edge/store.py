"""The stored responses: bounded in bytes and in number, found by URL and by surrogate key.

What goes when the room is full is S3-FIFO's choice (`tenfold.cache.s3fifo`, the policy of level 1). `Memory` itself
does not fit: it weighs by walking objects, reads a clock and takes a lock, and does not say what it evicts, while here
the weight is known to the byte, time is handed in, one event loop owns the store, and each response that goes must
leave two indexes behind clean.

The bound covers what is stored *and* what is just arriving: whoever takes in a body reserves room before it does, half
of all at most, and stored responses make way at once. So the sum of both is never above the bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tenfold.cache.entry import DEAD, Entry
from tenfold.cache.s3fifo import S3Fifo
from tenfold.gateway.edge.message import Request
from tenfold.gateway.edge.stored import Stored
from tenfold.gateway.edge.vary import Key, select

_FOREVER: Final = float("inf")
_PLAIN: Final[Key] = ((), ())


class Resource:
    """All that is stored under one URL, by secondary key, the oldest first."""

    __slots__ = ("names", "only", "variants")

    def __init__(self) -> None:
        self.variants: dict[Key, Stored] = {}
        self.names: list[tuple[bytes, ...]] = []
        """Each list of names that a Vary had, the newest first."""
        self.only: Stored | None = None
        """The one response, where it varies with nothing."""

    def settle(self, newest: tuple[bytes, ...] | None = None) -> None:
        """Look again at what follows from the variants; ``newest`` are the names of the latest response."""
        there = {names for names, _ in self.variants}
        self.names = [names for names in self.names if names in there and names != newest]
        if newest is not None and newest in there:
            self.names.insert(0, newest)
        self.only = self.variants.get(_PLAIN) if len(self.variants) == 1 else None


class Store:
    """Responses and their indexes. ``resources`` may be read by whoever looks for a hit; only the store changes it."""

    __slots__ = (
        "_encoding",
        "_fifo",
        "_max_bytes",
        "_max_items",
        "_max_variants",
        "bytes",
        "entries",
        "evicted",
        "keys",
        "reserved",
        "resources",
    )

    def __init__(self, max_bytes: int, max_items: int, *, max_variants: int = 64, encoding: bool = True) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._max_variants = max_variants
        self._encoding = encoding
        self._fifo = S3Fifo(max_items, max_bytes)
        self.resources: dict[bytes, Resource] = {}
        self.keys: dict[bytes, set[Stored]] = {}
        self.bytes = self.reserved = self.entries = self.evicted = 0

    def find(self, request: Request) -> tuple[Stored | None, bool]:
        """The response that was selected by the request's fields, and whether there is any for the URL."""
        resource = self.resources.get(request.url)
        if resource is None:
            return None, False
        best: Stored | None = None
        for names in resource.names:
            stored = resource.variants.get((names, select(names, request.fields, encoding=self._encoding)))
            if stored is not None and (best is None or stored.born > best.born):
                best = stored  # several Vary lists of one URL: the most recent response counts (RFC 9111 §4.1)
        return best, True

    def add(self, stored: Stored) -> bool:
        """Keep a response, in place of the one with the same URL and secondary key. False: there is no room for it."""
        old = self.get(stored.url, stored.vary)
        entry: Entry
        if old is not None and old.entry is not None:
            entry = old.entry
            self._unlink(old)
            self._fifo.resize(entry, stored.weight)
            entry.value = stored
        else:
            entry = Entry((stored.url, stored.vary), stored, _FOREVER, stored.weight)
            self._fifo.insert(entry)
        stored.entry = entry
        self._link(stored)
        self._make_room()
        return entry.mark != DEAD

    def get(self, url: bytes, vary: Key) -> Stored | None:
        """The response under exactly this key."""
        resource = self.resources.get(url)
        return None if resource is None else resource.variants.get(vary)

    def drop(self, stored: Stored) -> bool:
        """Forget a response. False if it is not here any more."""
        entry = stored.entry
        if entry is None or entry.value is not stored:
            return False
        self._fifo.remove(entry)
        self._unlink(stored)
        entry.value = None  # its tombstone stays in a queue for a while
        return True

    def reserve(self, count: int) -> bool:
        """Room for ``count`` bytes that are going to arrive. False if more than half of all were for arrivals."""
        if (self.reserved + count) * 2 > self._max_bytes:
            return False
        self.reserved += count
        self._make_room()
        return True

    def give_back(self, count: int) -> None:
        """What was reserved has arrived, or will not."""
        self.reserved -= count

    def of_url(self, url: bytes) -> list[Stored]:
        """All responses of a URL."""
        resource = self.resources.get(url)
        return [] if resource is None else list(resource.variants.values())

    def of_keys(self, keys: Iterable[bytes]) -> list[Stored]:
        """All responses that carry one of these surrogate keys; takes as long as there are such."""
        found: dict[Stored, None] = {}
        for key in keys:
            found.update(dict.fromkeys(self.keys.get(key, ())))
        return list(found)

    def under(self, prefix: bytes) -> list[Stored]:
        """All responses whose URL begins with ``prefix``; looks at every URL."""
        return [one for url, at in self.resources.items() if url.startswith(prefix) for one in at.variants.values()]

    def _make_room(self) -> None:
        while self.entries and (self.bytes + self.reserved > self._max_bytes or self.entries > self._max_items):
            entry = self._fifo.evict()
            stored: Stored = entry.value
            self.evicted += 1
            self._unlink(stored)
            entry.value = None

    def _link(self, stored: Stored) -> None:
        resource = self.resources.get(stored.url)
        if resource is None:
            resource = self.resources[stored.url] = Resource()
        resource.variants[stored.vary] = stored
        resource.settle(stored.vary[0])
        for key in stored.keys:
            self.keys.setdefault(key, set()).add(stored)
        self.bytes += stored.weight
        self.entries += 1
        if len(resource.variants) > self._max_variants:
            self.evicted += 1
            self.drop(next(iter(resource.variants.values())))

    def _unlink(self, stored: Stored) -> None:
        resource = self.resources[stored.url]
        del resource.variants[stored.vary]
        if resource.variants:
            resource.settle()
        else:
            del self.resources[stored.url]
        for key in stored.keys:
            carriers = self.keys[key]
            carriers.discard(stored)
            if not carriers:
                del self.keys[key]
        self.bytes -= stored.weight
        self.entries -= 1
        stored.entry = None

    def __repr__(self) -> str:
        return (
            f"<Store {self.entries}/{self._max_items} responses, {self.bytes}+{self.reserved}/{self._max_bytes} bytes>"
        )
