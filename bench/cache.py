"""What a hit costs, what an insertion costs, what an entry weighs, and how many requests of a trace are hits.

Cost: nanoseconds a call. All candidates take turns, round after round, and the minimum over the rounds counts: what
else the machine does only ever adds. Ratios are ratios of minima of the same run. Tenfold's functions have a TTL,
tags (one of them a template) and jitter, and their statistics are exact: after the timing the hits that `stats`
reports must be the calls that were made.

Traces: hit ratio of the real `Memory` beside its peers and beside Belady's optimum; see `_traces`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import tracemalloc
from collections.abc import Callable
from contextvars import Context
from itertools import repeat
from typing import Any

from bench import _cache_level2
from bench import _cache_peers as peers
from bench import _traces as traces
from bench._timing import minima, no_collector
from tenfold.cache import Cache, Memory

ENTRIES = 100_000
SHARES = (0.01, 0.05, 0.10)
LOOP_SHARES = (0.2, 0.5, 0.8)


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers; a peer that is not installed gives null and a note."""
    return level1(quick=quick) | _cache_level2.measure(quick=quick)


def level1(*, quick: bool) -> dict[str, Any]:
    """What needs no server."""
    absent = peers.missing()
    rounds, seconds = (21, 0.002) if quick else (121, 0.003)
    hits = _hits(absent, rounds, seconds)
    keywords = _keyword_hits(absent, rounds, seconds)
    waits = asyncio.run(_async_hits(absent, rounds, seconds))
    puts = _insertions(absent, rounds, seconds)
    return {
        "sync_hit_vs_lru_cache": _ratio(hits["tenfold"], hits["functools.lru_cache"]),
        "sync_kwargs_hit_vs_lru_cache": _ratio(keywords["tenfold"], keywords["functools.lru_cache"]),
        "async_hit_vs_await": _ratio(waits["tenfold"], waits["bare await"]),
        "async_hit_vs_cashews": _ratio(waits.get("cashews memory"), waits["tenfold"]),
        "sync_hit_vs_cachebox": _ratio(hits.get("cachebox TTL"), hits["tenfold"]),
        "insert_evict_vs_cachetools_ttl": _ratio(puts["tenfold Memory"], puts.get("cachetools TTL, lock")),
        **_weights(),
        **_trace_numbers(absent, quick),
        "sync_hit_ns": hits,
        "sync_kwargs_hit_ns": keywords,
        "async_hit_ns": waits,
        "insert_evict_ns": puts,
        "rounds": rounds,
        "notes": [f"{name} is not installed: its numbers are null" for name in absent],
    }


# Cost


Timer = Callable[[int], float]
"""Nanoseconds a call over so many calls."""


def _hits(absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    cache = Cache("bench")

    @cache("5m", tags=["number:{number}", "all"])
    def tenfold(number: int) -> Any:
        return number

    lfu = Cache("bench-lfu", policy="lfu")("5m", tags=["all"], name="lfu")(peers.work)
    found = {"bare call": peers.work, "tenfold": tenfold, "tenfold lfu": lfu} | peers.sync(absent, peers.work)
    made = 0

    def timer(function: Callable[..., Any]) -> Timer:
        def calls(count: int) -> float:
            nonlocal made
            made += count if function is tenfold else 0
            began = time.perf_counter()
            for _ in repeat(None, count):
                function(7)
            return (time.perf_counter() - began) / count * 1e9

        return lambda count: Context().run(calls, count)

    for name, function in found.items():
        _expect(name, [function(7), function(7)], [7, 7])
    best = _best({name: timer(function) for name, function in found.items()}, rounds, seconds)
    _expect("tenfold's hits", cache.stats().hits, made + 1)
    return best


def _keyword_hits(absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    cache = Cache("bench")

    @cache("5m", tags=["number:{number}", "all"])
    def tenfold(*, number: int, word: str) -> Any:
        return number, word

    def timer(function: Callable[..., Any]) -> Timer:
        def calls(count: int) -> float:
            began = time.perf_counter()
            for _ in repeat(None, count):
                function(number=7, word="a")
            return (time.perf_counter() - began) / count * 1e9

        return lambda count: Context().run(calls, count)

    found = {"bare call": peers.pair, "tenfold": tenfold} | peers.sync(absent, peers.pair)
    for name, function in found.items():
        _expect(name, [function(number=7, word="a"), function(number=7, word="a")], [(7, "a")] * 2)
    return _best({name: timer(function) for name, function in found.items()}, rounds, seconds)


async def _async_hits(absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    cache = Cache("bench")

    @cache("5m", tags=["number:{number}", "all"])
    async def tenfold(number: int) -> Any:
        return number

    found: dict[str, peers.Async] = {"bare await": peers.awork, "tenfold": tenfold} | peers.awaits(absent)
    counts: dict[str, int] = {}
    for name, function in found.items():
        _expect(name, [await function(7), await function(7)], [7, 7])
        counts[name] = max(10, int(seconds * 1e9 / await _timed(function, 200)))
    best = dict.fromkeys(found, float("inf"))
    before = cache.stats().hits
    for _ in range(rounds):
        with no_collector():
            for name, function in found.items():
                best[name] = min(best[name], await _timed(function, counts[name]))
    _expect("tenfold's hits", cache.stats().hits - before, rounds * counts["tenfold"])
    await cache.aclose()
    return best


async def _timed(function: peers.Async, count: int) -> float:
    began = time.perf_counter()
    for _ in repeat(None, count):
        await function(7)
    return (time.perf_counter() - began) / count * 1e9


def _insertions(absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    """One more entry into a cache that is full, never asked for: an insertion and an eviction."""
    memories = {"tenfold Memory": Memory(peers.SIZE, ttl="5m"), "tenfold Memory lfu": Memory(peers.SIZE, policy="lfu")}
    found: dict[str, Callable[[int, Any], Any]] = {name: memory.set for name, memory in memories.items()}
    found |= peers.setters(absent)

    def timer(put: Callable[[int, Any], Any]) -> Timer:
        keys = itertools.count()
        for key in itertools.islice(keys, 2 * peers.SIZE):
            put(key, None)

        def calls(count: int) -> float:
            began = time.perf_counter()
            for key in itertools.islice(keys, count):
                put(key, None)
            return (time.perf_counter() - began) / count * 1e9

        return calls

    best = _best({name: timer(put) for name, put in found.items()}, rounds, seconds)
    for name, memory in memories.items():
        _expect(name, [len(memory), memory.evictions > peers.SIZE], [peers.SIZE, True])
    return best


def _best(timers: dict[str, Timer], rounds: int, seconds: float) -> dict[str, float]:
    return minima(timers, rounds, seconds, 1e9)


# Weight


def _weights() -> dict[str, float]:
    """Bytes an entry that is not key or value, by tracemalloc: freshly filled, and full after twice as many
    insertions more, when the ghosts of evicted keys are there too; and of a decorated function, with its text key.
    """
    keys, value = [("key", number) for number in range(3 * ENTRIES)], object()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = Memory(ENTRIES, ttl="5m")
        for key in keys[:ENTRIES]:
            memory.set(key, value)
        filled = tracemalloc.get_traced_memory()[0] - before
        for key in keys[ENTRIES:]:
            memory.set(key, value)
        churned = tracemalloc.get_traced_memory()[0] - before
        _expect("entries", len(memory), ENTRIES)
        cache = Cache("bench", max_items=ENTRIES)
        numbers = list(range(ENTRIES, 2 * ENTRIES))
        before = tracemalloc.get_traced_memory()[0]
        function = cache("5m", tags=["all"], name="bench.weight")(lambda number: value)
        for number in numbers:
            function(number)
        decorated = tracemalloc.get_traced_memory()[0] - before
        _expect("entries", cache.stats().entries, ENTRIES)
    finally:
        tracemalloc.stop()
    return {
        "bytes_per_entry": filled / ENTRIES,
        "bytes_per_entry_with_ghosts": churned / ENTRIES,
        "bytes_per_entry_decorated": decorated / ENTRIES,
    }


# Traces


def _trace_numbers(absent: list[str], quick: bool) -> dict[str, Any]:
    runs: dict[str, traces.Run] = {"tenfold s3fifo": traces.memory("s3fifo"), "tenfold lfu": traces.memory("lfu")}
    runs |= {"LRU": traces.lru, "FIFO": traces.fifo, "Belady": traces.belady}
    if "cachebox" not in absent:
        runs["cachebox LRU"] = traces.cachebox_lru
    if "theine" not in absent:
        runs["theine"] = traces.theine
    web = traces.hit_ratios(traces.web07(), runs, SHARES)
    loop = traces.hit_ratios(traces.loop(500 if quick else 2000, 20), runs, LOOP_SHARES)
    return {
        "trace_web07_of_optimum": traces.of_optimum(web)["tenfold s3fifo"],
        "trace_web07_of_optimum_all": traces.of_optimum(web),
        "trace_loop_of_optimum_all": traces.of_optimum(loop),
        "trace_web07_hit_ratios": web,
        "trace_loop_hit_ratios": loop,
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def _expect(name: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise RuntimeError(f"{name}: expected {expected!r}, got {got!r}")
