"""The libraries that `bench.cache` compares with, each used as its own documentation shows.

A library that is not installed is left out and named. Every decorated function returns its argument (or its two)
and keeps results for five minutes where the library knows life times.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

NAMES = ("cashews", "aiocache", "dogpile.cache", "cachetools", "cachebox", "theine", "async_lru")
SIZE = 10_000
TTL = 300
Sync = Callable[..., Any]
Async = Callable[[Any], Awaitable[Any]]


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name in NAMES if importlib.util.find_spec(name.partition(".")[0]) is None]


def work(number: int) -> Any:
    return number


def pair(*, number: int, word: str) -> Any:
    return number, word


async def awork(number: int) -> Any:
    return number


def sync(absent: list[str], function: Sync) -> dict[str, Sync]:
    """A plain function behind each cache that serves such."""
    found: dict[str, Sync] = {"functools.lru_cache": lru_cache(SIZE)(function)}
    if "cachebox" not in absent:
        import cachebox

        found["cachebox LRU"] = cachebox.cached(cachebox.LRUCache(SIZE))(function)
        found["cachebox TTL"] = cachebox.cached(cachebox.TTLCache(SIZE, TTL))(function)
    if "cachetools" not in absent:
        import cachetools

        found["cachetools LRU, lock"] = cachetools.cached(cachetools.LRUCache(SIZE), lock=threading.RLock())(function)
        found["cachetools TTL, lock"] = cachetools.cached(cachetools.TTLCache(SIZE, TTL), lock=threading.RLock())(
            function
        )
    if "theine" not in absent:
        from theine import Memoize

        found["theine"] = Memoize(SIZE, timedelta(seconds=TTL))(function)
    if "dogpile.cache" not in absent and function is work:  # it takes no keywords
        from dogpile.cache import make_region

        region = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
        found["dogpile.cache memory"] = region.cache_on_arguments()(function)
    return found


def awaits(absent: list[str]) -> dict[str, Async]:
    """An ``async def`` behind each cache that serves such, in memory."""
    found: dict[str, Async] = {}
    if "cachebox" not in absent:
        import cachebox

        found["cachebox TTL"] = cachebox.cached(cachebox.TTLCache(SIZE, TTL))(awork)
    if "async_lru" not in absent:
        from async_lru import alru_cache

        found["async-lru TTL"] = alru_cache(maxsize=SIZE, ttl=TTL)(awork)
    if "theine" not in absent:
        from theine import Memoize

        found["theine"] = Memoize(SIZE, timedelta(seconds=TTL))(awork)
    if "aiocache" not in absent:
        import aiocache

        found["aiocache memory"] = aiocache.cached(ttl=TTL)(awork)
    if "cashews" not in absent:
        from cashews import Cache

        cache = Cache()
        cache.setup("mem://", size=SIZE)
        found["cashews memory"] = cache(ttl=f"{TTL}s")(awork)
    return found


def setters(absent: list[str]) -> dict[str, Callable[[int, Any], Any]]:
    """What inserts one more entry into a cache of `SIZE` that is full."""
    found: dict[str, Callable[[int, Any], Any]] = {}
    if "cachetools" not in absent:
        import cachetools

        ttl, locked, lock = cachetools.TTLCache(SIZE, TTL), cachetools.TTLCache(SIZE, TTL), threading.RLock()

        def put_locked(key: int, value: Any) -> None:
            with lock:
                locked[key] = value

        found["cachetools TTL, lock"] = put_locked
        found["cachetools TTL"] = ttl.__setitem__
        found["cachetools LRU"] = cachetools.LRUCache(SIZE).__setitem__
    if "cachebox" not in absent:
        import cachebox

        found["cachebox LRU"] = cachebox.LRUCache(SIZE).insert
        varying = cachebox.VTTLCache(SIZE)
        found["cachebox VTTL"] = lambda key, value: varying.insert(key, value, TTL)
    if "theine" not in absent:
        from theine import Cache

        life, cache = timedelta(seconds=TTL), Cache(SIZE)
        found["theine"] = lambda key, value: cache.set(key, value, life)
    return found
