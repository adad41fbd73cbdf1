"""Decorated functions against a naive dictionary with a clock: what is kept, for how long, and what an invalidation
drops. Where level 1 is too small to keep all, it may load anew, and must otherwise agree.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tenfold.cache import Cache

NUMBERS = st.integers(0, 5)
WAYS = st.sampled_from(["plain", "waits", "many"])
TTL = 10.0


class MovedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class FrontMachine(RuleBasedStateMachine):
    """Three functions over one source. The oracle knows what each would keep, and until when."""

    @initialize(max_items=st.sampled_from([2, 100]), policy=st.sampled_from(["s3fifo", "lfu"]))
    def make(self, max_items: int, policy: str) -> None:
        self.runner = asyncio.Runner()
        self.clock = MovedClock()
        self.cache = Cache("model", max_items=max_items, policy=policy, jitter=0, clock=self.clock)
        self.roomy = max_items == 100
        self.source = [0] * 6
        self.oracle: dict[tuple[str, int], tuple[int, float]] = {}
        self.asked = 0
        source = self.source

        @self.cache(TTL, tags=["all", "n:{number}"], name="plain")
        def plain(number: int) -> int:
            return source[number]

        @self.cache(TTL, tags=["all", "n:{number}"], name="waits")
        async def waits(number: int) -> int:
            return source[number]

        @self.cache.many(TTL, tags=["all", "n:{id}"], name="many")
        async def many(ids: list[int]) -> dict[int, int]:
            return {one: source[one] for one in ids}

        self.plain, self.waits, self.many = plain, waits, many

    def call(self, way: str, number: int) -> Any:
        if way == "plain":
            return self.plain(number)
        if way == "waits":
            return self.runner.run(self.waits(number))
        return self.runner.run(self.many([number]))[number]

    @rule(way=WAYS, number=NUMBERS)
    def ask(self, way: str, number: int) -> None:
        self.asked += 1
        kept = self.oracle.get((way, number))
        found = self.call(way, number)
        if kept is not None and kept[1] > self.clock.now and (self.roomy or found == kept[0]):
            assert found == kept[0]
            return
        assert found == self.source[number]
        self.oracle[way, number] = (found, self.clock.now + TTL)

    @rule(number=NUMBERS)
    def change(self, number: int) -> None:
        self.source[number] += 1

    @rule(way=WAYS, number=NUMBERS)
    def invalidate(self, way: str, number: int) -> None:
        if way == "plain":
            self.plain.invalidate(number)
        else:
            function = self.waits if way == "waits" else self.many
            assert self.runner.run(function.invalidate(number))
        self.oracle.pop((way, number), None)

    @rule(way=st.sampled_from(["plain", "waits"]), number=NUMBERS)
    def refresh(self, way: str, number: int) -> None:
        found = self.plain.refresh(number) if way == "plain" else self.runner.run(self.waits.refresh(number))
        assert found == self.source[number]
        self.oracle[way, number] = (found, self.clock.now + TTL)

    @rule(number=NUMBERS | st.none())
    def invalidate_tag(self, number: int | None) -> None:
        assert self.runner.run(self.cache.invalidate_tags("all" if number is None else f"n:{number}"))
        for key in [key for key in self.oracle if number in (None, key[1])]:
            del self.oracle[key]

    @rule()
    def clear(self) -> None:
        assert self.runner.run(self.cache.clear())
        self.oracle.clear()

    @rule(seconds=st.sampled_from([0.5, 4, 9, 10, 60]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def every_call_is_counted_once(self) -> None:
        stats = self.cache.stats()
        assert stats.hits + stats.loads >= self.asked
        assert stats.hits <= self.asked
        homes = [self.plain.__globals__["_tf_home"], self.waits.__globals__["_tf_home"], self.many._home]  # type: ignore[attr-defined]
        linked = [entry for home in homes for entry in home.values()]
        living = {id(entry) for entry in self.cache.memory._index.values()}
        assert {id(entry) for entry in linked} <= living
        assert len(linked) == len({id(entry) for entry in linked})

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.cache.aclose())
            self.runner.close()


TestFront = FrontMachine.TestCase
TestFront.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
