"""A cache in two levels that answers in less than a microsecond, loads once, and never keeps what was
invalidated.

See `Cache` for the whole and `Memory` for level 1 alone. Needs the ``redis`` extra only where a level 2 is
asked for.
"""

from tenfold.cache.cache import Cache
from tenfold.cache.counters import CacheStats
from tenfold.cache.errors import CacheError, LoadCancelled
from tenfold.cache.function import Cached, CachedMany
from tenfold.cache.memory import Memory, MemoryStats
from tenfold.cache.wire import Wire

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the cache
    "Cache",
    "CacheStats",
    "Cached",
    "CachedMany",
    "Wire",
    # level 1 alone
    "Memory",
    "MemoryStats",
    # errors
    "CacheError",
    "LoadCancelled",
]
