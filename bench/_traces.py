"""What share of a trace a cache answers, beside naive oracles and Belady's optimum.

A trace is a list of integer keys. Every cache is asked for each key and given it when it does not have it. Belady
(IBM Systems Journal 5(2), 1966) evicts what will be needed last and is allowed not to keep the new one: no cache
can do better.
"""

from __future__ import annotations

import gzip
import heapq
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tenfold.cache import Memory

WEB07 = Path(__file__).parent / "data" / "web07.txt.gz"
Run = Callable[[list[int], int], int]


def web07() -> list[int]:
    """The requests of the one real trace."""
    with gzip.open(WEB07, "rt") as lines:
        return [int(line) for line in lines]


def loop(keys: int, rounds: int) -> list[int]:
    """All keys in turn, again and again: a table scanned in a cycle."""
    return list(range(keys)) * rounds


def mixed(rng: Random, keys: int, length: int) -> list[int]:
    """Two thirds skewed requests, one third a loop over keys of its own that does not fit."""
    weights = [1 / (rank + 1) for rank in range(keys)]
    popular = rng.choices(range(keys), weights, k=length)
    return [keys + at // 3 % keys if at % 3 == 0 else key for at, key in enumerate(popular)]


def memory(policy: str) -> Run:
    """The real `Memory`."""

    def run(trace: list[int], size: int) -> int:
        cache = Memory(size, policy=policy)
        get, put = cache.get, cache.set
        for key in trace:
            if get(key) is None:
                put(key, True)
        return cache.hits

    return run


def lru(trace: list[int], size: int) -> int:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in kept:
            hits += 1
            kept.move_to_end(key)
            continue
        if len(kept) >= size:
            kept.popitem(last=False)
        kept[key] = None
    return hits


def fifo(trace: list[int], size: int) -> int:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in kept:
            hits += 1
            continue
        if len(kept) >= size:
            kept.popitem(last=False)
        kept[key] = None
    return hits


def belady(trace: list[int], size: int) -> int:
    """The optimum."""
    upcoming, last = [0] * len(trace), dict[int, int]()
    for at in range(len(trace) - 1, -1, -1):
        upcoming[at] = last.get(trace[at], len(trace) + at)
        last[trace[at]] = at
    kept: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    hits = 0
    for at, key in enumerate(trace):
        if key in kept:
            hits += 1
        kept[key] = upcoming[at]
        heapq.heappush(heap, (-upcoming[at], key))
        while len(kept) > size:
            when, victim = heapq.heappop(heap)
            if kept.get(victim) == -when:  # not an old entry of the heap
                del kept[victim]
    return hits


def cachebox_lru(trace: list[int], size: int) -> int:
    import cachebox

    cache: Any = cachebox.LRUCache(size)
    return _mapping(cache, trace)


def theine(trace: list[int], size: int) -> int:
    """theine's default policy."""
    from theine import Cache

    cache: Any = Cache(size)
    hits = 0
    for key in trace:
        _, found = cache.get(key)
        if found:
            hits += 1
        else:
            cache.set(key, True)
    cache.close()
    return hits


def _mapping(cache: Any, trace: list[int]) -> int:
    hits = 0
    for key in trace:
        if cache.get(key) is None:
            cache[key] = True
        else:
            hits += 1
    return hits


def hit_ratios(trace: list[int], runs: dict[str, Run], shares: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Hit ratio in % for caches of so many parts of the unique keys."""
    unique = len(set(trace))
    found: dict[str, dict[str, float]] = {}
    for share in shares:
        size = max(1, round(unique * share))
        found[f"{share:.0%} ({size} entries)"] = {
            name: round(run(trace, size) / len(trace) * 100, 2) for name, run in runs.items()
        }
    return found


def of_optimum(ratios: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean over the sizes of each cache's share of Belady's hits."""
    names = next(iter(ratios.values()))
    return {name: round(sum(row[name] / row["Belady"] for row in ratios.values()) / len(ratios), 4) for name in names}
