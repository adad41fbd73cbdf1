"""One value in level 1, and what the policies know of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

SMALL: Final = -1
DEAD: Final = -2


class Entry:
    """A value, when it ends, and how often it was hit.

    ``n`` is the exact number of hits and at once the frequency that eviction asks for: a hit adds one to it and
    does nothing else. It is a float because CPython adds 1.0 to one faster than 1 to an int above 256, and exact up
    to 2^53. ``mark`` says where the entry is queued: `SMALL` (or another negative number of the policy),
    `DEAD` when it is out of the index, else, in S3-FIFO's main queue, the number of hits from which on they count
    anew. ``until`` is a monotonic time; ``epoch`` and ``tags`` see `tags`. ``home`` and ``raw`` are the dictionary
    of a decorated function that also holds the entry, and its key there.
    """

    __slots__ = ("epoch", "home", "key", "mark", "n", "raw", "size", "tags", "until", "value")

    life: Any = None
    """See `freshness`; None: ``until`` says it all."""
    mark: float  # set by the policy
    raw: Any  # set together with `home`

    def __init__(
        self, key: Hashable, value: Any, until: float, weight: int, tags: tuple[str, ...] = (), epoch: int = 0
    ) -> None:
        self.key = key
        self.value = value
        self.until = until
        self.size = weight
        self.n = 0.0
        self.tags = tags
        self.epoch = epoch
        self.home: dict[Any, Entry] | None = None


class LivedEntry(Entry):
    """One whose life has more than an end: it may be served stale, or refreshed before its time."""

    __slots__ = ("life",)
