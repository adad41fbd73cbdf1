"""`Memory` against a plain dictionary: it may forget, it must never remember wrongly or keep too much."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenfold.cache import Memory
from tenfold.cache.entry import SMALL, Entry
from tenfold.cache.lfu import BUFFER, TinyLfu
from tenfold.cache.s3fifo import S3Fifo
from tenfold.cache.weigh import weigh

KEYS = st.integers(0, 30)


class MovedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class MemoryMachine(RuleBasedStateMachine):
    """The oracle knows the last value and end of each key; the cache may only differ by having forgotten."""

    policy = "s3fifo"
    hits = 0

    @initialize(max_items=st.integers(1, 12), max_bytes=st.none() | st.integers(600, 3000))
    def make(self, max_items: int, max_bytes: int | None) -> None:
        self.clock = MovedClock()
        self.max_items, self.max_bytes = max_items, max_bytes
        self.memory = Memory(max_items, max_bytes=max_bytes, clock=self.clock, policy=self.policy)
        self.oracle: dict[int, tuple[Any, float]] = {}
        self.turn = 0

    @rule(key=KEYS, ttl=st.sampled_from([1, 5, 100]), length=st.integers(0, 900))
    def set(self, key: int, ttl: int, length: int) -> None:
        self.turn += 1
        value = (str(self.turn) + "x" * length).encode()
        kept = self.memory.set(key, value, ttl)
        self.oracle[key] = (value, self.clock.now + ttl)
        if self.max_bytes is not None and weigh(value) > self.max_bytes:
            assert not kept
            del self.oracle[key]
            assert key not in self.memory
        else:
            assert kept == (key in self.memory)

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        missing = object()
        found = self.memory.get(key, missing)
        if found is not missing:
            value, until = self.oracle[key]
            self.hits += 1
            assert found == value
            assert until > self.clock.now

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        self.memory.delete(key)
        self.oracle.pop(key, None)
        assert key not in self.memory

    @rule(seconds=st.sampled_from([0.5, 1, 4, 60]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.oracle.clear()

    @invariant()
    def bounds_hold_and_books_balance(self) -> None:
        memory = self.memory
        assert len(memory) <= self.max_items
        living = list(memory._index.values())
        if self.max_bytes is not None:
            assert memory.stats().bytes <= self.max_bytes
            assert memory.stats().bytes == sum(entry.size for entry in living)
        assert memory.stats().hits == self.hits
        self.queues_balance(memory, living)
        assert all(memory._index[key].value == self.oracle[key][0] for key in memory._index)

    def queues_balance(self, memory: Memory, living: list[Entry]) -> None:
        queues = memory._policy
        assert isinstance(queues, S3Fifo)
        small = [entry for entry in queues.small if entry.mark == SMALL]
        main = [entry for entry in queues.main if entry.mark >= 0]
        assert sorted(id(entry) for entry in small + main) == sorted(id(entry) for entry in living)
        assert (queues.small_items, queues.main_items) == (len(small), len(main))
        assert queues.small_bytes == sum(entry.size for entry in small)
        assert len(queues.small) + len(queues.main) == len(living) + queues.dead
        assert queues.ghosts <= max(1, self.max_items * 9 // 10)


class LfuMachine(MemoryMachine):
    policy = "lfu"

    def queues_balance(self, memory: Memory, living: list[Entry]) -> None:
        queues = memory._policy
        assert isinstance(queues, TinyLfu)
        segments = [queues._window, queues._probation, queues._protected]
        assert sorted(id(entry) for one in segments for entry in one.values()) == sorted(id(one) for one in living)
        for segment in segments:
            assert all(queues._segment(entry) is segment for entry in segment.values())
        assert queues.bytes == sum(entry.size for entry in living)
        assert queues._window_bytes == sum(entry.size for entry in queues._window.values())
        assert len(queues._protected) <= queues._protected_room
        assert len(queues.reads) <= BUFFER


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestLfu = LfuMachine.TestCase
TestLfu.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
