"""The front over level 1: one load, shielded waiters, errors, invalidation, tags, many, life cycle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from tenfold.cache import Cache, LoadCancelled


@dataclass
class Gate:
    """A loader that waits to be let through, so that tests decide when a load ends."""

    calls: list[Any] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, argument: Any) -> int:
        self.calls.append(argument)
        number = len(self.calls)
        self.entered.set()
        await self.open.wait()
        return number


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def gated(cache: Cache, **options: Any) -> tuple[Gate, Any]:
    gate = Gate()

    @cache("1m", **options)
    async def f(a: int) -> int:
        return await gate.load(a)

    return gate, f


async def test_many_callers_one_load_and_none_is_cached() -> None:
    cache = Cache("t")
    gate, f = gated(cache)
    callers = [asyncio.create_task(f(1)) for _ in range(200)]
    await gate.entered.wait()
    gate.open.set()
    assert await asyncio.gather(*callers) == [1] * 200
    assert await f(1) == 1
    stats = cache.stats()
    assert (stats.loads, stats.misses, stats.coalesced, stats.hits) == (1, 1, 199, 1)
    assert stats.hit_rate == pytest.approx(200 / 201)

    loads = 0

    async def nothing() -> None:
        nonlocal loads
        loads += 1

    assert [await cache.get_or_load("n", nothing) for _ in range(3)] == [None] * 3
    assert loads == 1
    await cache.aclose()


async def test_a_cancelled_first_caller_hurts_nobody() -> None:
    cache = Cache("t")
    gate, f = gated(cache)
    first = asyncio.create_task(f(1))
    await gate.entered.wait()
    others = [asyncio.create_task(f(1)) for _ in range(3)]
    await turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open.set()
    assert await asyncio.gather(*others) == [1, 1, 1]
    assert gate.calls == [1]


async def test_the_load_goes_on_when_every_caller_left() -> None:
    cache = Cache("t")
    gate, f = gated(cache)
    caller = asyncio.create_task(f(1))
    await gate.entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.open.set()
    await cache.aclose()  # waits for the load
    assert await f(1) == 1
    assert gate.calls == [1]


async def test_an_error_reaches_each_waiter_once_and_is_not_cached() -> None:
    cache = Cache("t")
    calls, gate = 0, asyncio.Event()

    @cache("1m")
    async def f() -> int:
        nonlocal calls
        calls += 1
        await gate.wait()
        if calls == 1:
            raise LookupError("no")
        return calls

    callers = [asyncio.create_task(f()) for _ in range(20)]
    await turns()
    gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [LookupError] * 20
    assert calls == 1
    assert await f() == 2
    assert cache.stats().load_errors == 1


@pytest.mark.parametrize("how", ["key", "tag", "clear"])
async def test_what_was_invalidated_during_its_load_does_not_survive(how: str) -> None:
    cache = Cache("t")
    gate, f = gated(cache, tags=["a:{a}"])
    before = asyncio.create_task(f(1))
    await gate.entered.wait()
    assert await {
        "key": lambda: f.invalidate(1),
        "tag": lambda: cache.invalidate_tags("a:1"),
        "clear": cache.clear,
    }[how]()
    after = asyncio.create_task(f(1))  # must not join the load that began before
    await turns()
    assert len(gate.calls) == 2
    gate.open.set()
    assert await before == 1
    assert await after == 2
    assert await f(1) == 2
    await turns()
    assert await f(1) == 2
    assert cache.stats().refused == 1


async def test_a_tag_drops_its_entries_and_no_others() -> None:
    cache = Cache("t")
    calls: list[int] = []

    @cache("1m", tags=["one:{a}", "all"])
    async def f(a: int) -> int:
        calls.append(a)
        return a

    for _ in range(2):
        assert [await f(1), await f(2)] == [1, 2]
    assert calls == [1, 2]
    await cache.invalidate_tags("one:1", "unknown")
    assert [await f(1), await f(2)] == [1, 2]
    assert calls == [1, 2, 1]
    await cache.invalidate_tags("all")
    assert [await f(1), await f(2)] == [1, 2]
    assert calls == [1, 2, 1, 1, 2]


async def test_after_an_invalidation_elsewhere_an_entry_is_fast_again() -> None:
    """The second hit after an unrelated invalidation takes the short way: the entry has taken over the
    epoch.
    """
    cache = Cache("t")

    @cache("1m", tags=["x"])
    async def f(a: int) -> int:
        return a

    await f(1)
    await cache.invalidate_tags("unrelated")
    entry = cache._memory._index[f.key(1)]
    assert entry.epoch != cache._shared.barriers.epoch
    await f(1)
    assert entry.epoch == cache._shared.barriers.epoch
    assert cache.stats().hits == 1


async def test_refresh_replaces_and_time_ends(clock: Any) -> None:
    cache = Cache("t", clock=clock, jitter=0)
    calls = 0

    @cache("10s")
    async def f() -> int:
        nonlocal calls
        calls += 1
        return calls

    assert [await f(), await f.refresh(), await f()] == [1, 2, 2]
    clock.now += 9.9
    assert await f() == 2
    clock.now += 0.2
    assert await f() == 3


async def test_jitter_only_shortens(clock: Any) -> None:
    cache = Cache("t", clock=clock, jitter=0.5)

    async def load() -> int:
        return 1

    for number in range(200):
        await cache.get_or_load(f"k{number}", load, ttl="100s")
    lives = [entry.until - clock.now for entry in cache._memory._index.values()]
    assert 50 <= min(lives) < 60
    assert 90 < max(lives) <= 100


async def test_many_asks_only_for_what_is_missing() -> None:
    cache = Cache("t")
    asked: list[list[int]] = []

    @cache.many("1m", tags=["p:{id}"])
    async def things(ids: list[int]) -> dict[int, str]:
        asked.append(ids)
        return {one: f"v{one}" for one in ids if one != 13}

    assert await things([1, 2, 2, 13]) == {1: "v1", 2: "v2"}
    assert await things([3, 2, 1]) == {3: "v3", 2: "v2", 1: "v1"}
    assert await things([]) == {}
    assert asked == [[1, 2, 13], [3]]
    await things.invalidate(1, 2)
    assert await things([1, 3]) == {1: "v1", 3: "v3"}
    await cache.invalidate_tags("p:3")
    assert await things((1, 3)) == {1: "v1", 3: "v3"}
    assert await things.refresh([1]) == {1: "v1"}
    assert asked[2:] == [[1], [3], [1]]


async def test_many_joins_loads_under_way() -> None:
    cache = Cache("t")
    asked: list[list[int]] = []
    gate = asyncio.Event()

    @cache.many("1m")
    async def things(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        await gate.wait()
        return {one: one for one in ids}

    first, second = asyncio.create_task(things([1, 2])), asyncio.create_task(things([2, 3]))
    await turns()
    gate.set()
    assert (await first, await second) == ({1: 1, 2: 2}, {2: 2, 3: 3})
    assert asked == [[1, 2], [3]]


async def test_closing_cancels_a_load_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.cache.tasks.CLOSE_PATIENCE", 0.05)
    cache = Cache("t")
    gate, f = gated(cache)
    caller = asyncio.create_task(f(1))
    await gate.entered.wait()
    await cache.aclose()
    with pytest.raises(LoadCancelled, match="was cancelled"):
        await caller
    await cache.aclose()


def test_one_cache_serves_two_event_loops() -> None:
    cache = Cache("t")
    calls = 0

    @cache("1m")
    async def f(a: int) -> int:
        nonlocal calls
        calls += 1
        return a

    async def use() -> None:
        async with cache:
            assert await asyncio.gather(f(1), f(1), f(2)) == [1, 1, 2]

    asyncio.run(use())
    asyncio.run(use())
    assert calls == 2


async def test_the_wrapper_looks_like_the_function() -> None:
    cache = Cache("shop", max_items=10)

    @cache("1m")
    async def product(product_id: int, full: bool = True) -> int:
        """A product."""
        return product_id

    assert product.__name__ == "product"
    assert product.__doc__ == "A product."
    assert asyncio.iscoroutinefunction(product)
    await product(1)
    assert repr(cache) == "Cache('shop', Memory(1/10 items), no level 2)"


async def test_a_loader_that_cancels_itself_does_not_cancel_its_callers() -> None:
    cache = Cache("t")

    @cache("1m")
    async def f() -> int:
        raise asyncio.CancelledError

    with pytest.raises(LoadCancelled):
        await f()
