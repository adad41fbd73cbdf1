"""The frequency sketch against an exact count, and W-TinyLFU against what it is there for."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.cache import Memory
from tenfold.cache.sketch import MAX_COUNT, Sketch

hashes = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(hashes | st.integers(0, 20), max_size=300), st.integers(1, 100))
def test_before_it_ages_an_estimate_is_never_too_low(asked: list[int], capacity: int) -> None:
    asked = asked[: 10 * capacity - 1]
    sketch = Sketch(capacity)
    for one in asked:
        sketch.add(one)
    assert sketch.agings == 0
    for one, count in Counter(asked).items():
        assert min(count, MAX_COUNT + 1) <= sketch.estimate(one) <= MAX_COUNT + 1


@given(st.integers(1, 60), hashes)
def test_ageing_halves(times: int, hashed: int) -> None:
    sketch = Sketch(1000)
    for _ in range(times):
        sketch.add(hashed)
    before = sketch.estimate(hashed)
    sketch._age()
    # The doorkeeper's one is forgotten, the rest is halved.
    assert sketch.estimate(hashed) == (before - 1) // 2
    for _ in range(5):
        sketch._age()
    assert sketch.estimate(hashed) == 0


def test_collisions_are_rare() -> None:
    """As many keys as the cache holds, three requests each: nearly all estimates are exact."""
    rng, sketch = Random(5), Sketch(2000)
    keys = [rng.getrandbits(64) for _ in range(2000)]
    for _ in range(3):
        for key in keys:
            sketch.add(key)
    estimates = Counter(sketch.estimate(key) for key in keys)
    assert estimates[3] > 1950
    strangers = [rng.getrandbits(64) for _ in range(2000)]
    assert sum(sketch.estimate(key) > 1 for key in strangers) < 40


def test_it_ages_by_itself_and_stays_small() -> None:
    sketch = Sketch(100)
    for number in range(10_000):
        sketch.add(number)
    assert sketch.agings > 5
    assert len(sketch._table) + len(sketch._door) <= 2 * 10 * 128


def hits(policy: str, trace: list[int], size: int) -> int:
    memory = Memory(size, policy=policy)
    for key in trace:
        if memory.get(key) is None:
            memory.set(key, True)
    return memory.hits


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_of_a_loop_larger_than_the_memory_lfu_keeps_a_part(share: float) -> None:
    """The optimum keeps size - 1 of the keys for ever; FIFO and LRU keep none in time."""
    keys, rounds = 500, 20
    size = int(keys * share)
    trace = list(range(keys)) * rounds
    found = hits("lfu", trace, size)
    assert found > 0.85 * (rounds - 1) * size
    assert found > hits("s3fifo", trace, size)


def test_a_scan_does_not_wash_out_what_is_popular() -> None:
    memory = Memory(100, policy="lfu")
    for _ in range(20):
        for key in range(50):
            if memory.get(key) is None:
                memory.set(key, key)
    for key in range(1000, 11_000):
        memory.set(key, key)
    assert sum(key in memory for key in range(50)) >= 49


@given(st.lists(st.integers(0, 60), max_size=400), st.integers(1, 30), st.sampled_from(["s3fifo", "lfu"]))
def test_no_policy_beats_the_optimum_or_forgets_without_need(trace: list[int], size: int, policy: str) -> None:
    found = hits(policy, trace, size)
    assert found <= len(trace) - len(set(trace))
    if len(set(trace)) <= size:
        assert found == len(trace) - len(set(trace))
