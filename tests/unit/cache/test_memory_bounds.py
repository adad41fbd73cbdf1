"""Level 1 alone: eviction order, life times, byte bounds, tombstones."""

from __future__ import annotations

import random
from typing import Any

from tenfold.cache import Memory
from tenfold.cache.s3fifo import S3Fifo


def test_one_hit_saves_an_entry_from_a_scan() -> None:
    memory = Memory(100)
    for key in range(50):
        memory.set(("hot", key), key)
        assert memory.get(("hot", key)) == key
    for key in range(10_000):
        memory.set(("scan", key), key)
    assert sum(("hot", key) in memory for key in range(50)) == 50
    assert len(memory) == 100


def test_a_key_that_comes_back_goes_to_the_main_queue() -> None:
    memory = Memory(10)
    for key in range(11):
        memory.set(key, key)
    assert 0 not in memory  # evicted from the small queue, remembered as a ghost
    memory.set(0, "again")
    for key in range(100, 140):
        memory.set(key, key)
    assert memory.get(0) == "again"


def test_time_is_over(clock: Any) -> None:
    memory = Memory(10, ttl="10s", clock=clock)
    memory.set("a", 1)
    memory.set("b", 2, ttl="20s")
    clock.now += 9.999
    assert memory.get("a") == 1
    clock.now += 0.001
    assert memory.get("a", "gone") == "gone"
    assert memory.get("b") == 2
    assert (memory.stats().expirations, memory.stats().hits, memory.stats().misses) == (1, 2, 1)


def test_bytes_are_bounded_and_the_too_large_refused() -> None:
    memory = Memory(10_000, max_bytes="100kB")
    for key in range(500):
        memory.set(key, b"x" * 1000)
        assert memory.stats().bytes <= 100_000
    assert 60 <= len(memory) <= 90
    assert memory.set("big", b"x" * 200_000) is False
    memory.set(499, b"x" * 200_000)
    assert 499 not in memory  # the old value is not kept in place of the one refused
    assert memory.stats().too_large == 2
    memory.clear()
    assert (len(memory), memory.stats().bytes) == (0, 0)


def test_none_is_a_value() -> None:
    memory = Memory(2)
    memory.set("a", None)
    assert memory.get("a", "default") is None
    assert "a" in memory


def test_deleting_and_setting_again_leaves_no_trail_of_tombstones() -> None:
    memory = Memory(100)
    for turn in range(10_000):
        memory.set(turn % 7, turn)
        memory.delete(turn % 7)
    assert len(memory) == 0
    queues = memory._policy
    assert isinstance(queues, S3Fifo)
    assert len(queues.small) + len(queues.main) <= 65


def test_skewed_traffic_is_served_better_than_by_lru() -> None:
    """A Zipf stream with one-time visitors: the reason for the policy, so it must show."""
    rng = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(5000)]
    stream = [("once", turn) if rng.random() < 0.3 else rng.choices(range(5000), weights)[0] for turn in range(30_000)]
    memory, lru, lru_hits = Memory(500), dict[Any, None](), 0
    for key in stream:
        if memory.get(key) is None:
            memory.set(key, True)
        if key in lru:
            lru_hits += 1
            del lru[key]
        elif len(lru) == 500:
            del lru[next(iter(lru))]
        lru[key] = None
    assert memory.stats().hits > lru_hits * 1.05
    assert memory.stats().entries == 500
