"""A cache in two levels that answers in less than a microsecond, loads once, and never keeps what was
invalidated.

See `Cache` for the whole and `Memory` for level 1 alone. Needs the ``redis`` extra only where a level 2 is
asked for.
"""

from tenfold.cache.cache import Cache
from tenfold.cache.context import LoadContext, load_context
from tenfold.cache.counters import CacheStats
from tenfold.cache.errors import CacheError, LoadCancelled, LoadTimeout
from tenfold.cache.explain import Explanation
from tenfold.cache.freshness import FreshnessOptions
from tenfold.cache.function import Cached, CachedPlain
from tenfold.cache.happenings import CacheInvalidated
from tenfold.cache.many import CachedMany
from tenfold.cache.memory import Memory, MemoryStats
from tenfold.cache.popular import PopularKey
from tenfold.cache.warm import WarmFailed, WarmReport
from tenfold.cache.wire import Wire
from tenfold.cache.write import WriteBehind, WriteError, WriteStats

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the cache
    "Cache",
    "CacheStats",
    "Cached",
    "CachedMany",
    "CachedPlain",
    "Explanation",
    "Wire",
    # freshness, and what a loader may say
    "FreshnessOptions",
    "LoadContext",
    "load_context",
    # level 1 alone
    "Memory",
    "MemoryStats",
    # warming
    "PopularKey",
    "WarmReport",
    # what it tells
    "CacheInvalidated",
    # writing
    "WriteBehind",
    "WriteStats",
    # errors
    "CacheError",
    "LoadCancelled",
    "LoadTimeout",
    "WarmFailed",
    "WriteError",
]
