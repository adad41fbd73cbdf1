"""`disabled`: calls go past the cache in one context, and nowhere else."""

from __future__ import annotations

import asyncio

from tenfold.cache import Cache


async def test_calls_go_to_their_loaders_and_nothing_is_kept() -> None:
    cache = Cache("t")
    loads: list[object] = []

    @cache("1h", name="f")
    async def f(a: int) -> int:
        loads.append(a)
        return len(loads)

    @cache("1h", name="g")
    def g(a: int) -> int:
        loads.append(a)
        return len(loads)

    @cache.many("1h", name="h")
    async def h(ids: list[int]) -> dict[int, int]:
        loads.append(ids)
        return {one: len(loads) for one in ids if one}

    async def own() -> int:
        loads.append("own")
        return len(loads)

    async def all_four() -> list[object]:
        return [await f(1), g(1), await h([2, 1]), await cache.get_or_load("own", own)]

    cached = [1, 2, {2: 3, 1: 3}, 4]
    assert await all_four() == await all_four() == cached
    before, entries = cache.stats(), len(cache.memory)
    with cache.disabled():
        assert cache.is_disabled()
        assert await all_four() == [5, 6, {2: 7, 1: 7}, 8]
        assert list((await h([2, 0, 1])).keys()) == [2, 1]  # in the order asked for, without what is not there
        assert loads[-1] == [2, 0, 1]
        assert await f(9) == 10  # cold ones too
        with cache.disabled():
            assert await f(1) == 11
        assert await f(1) == 12
        await asyncio.create_task(f(1))
        assert len(loads) == 13
    assert not cache.is_disabled()
    assert (cache.stats(), len(cache.memory)) == (before, entries)
    assert await all_four() == cached
    assert await f(9) == 14


async def test_other_contexts_are_served_as_ever_and_an_invalidation_is_not_lost() -> None:
    cache, other = Cache("t"), Cache("u")
    loads = 0

    async def load(a: int) -> int:
        nonlocal loads
        loads += 1
        return loads

    f, g = cache("1h", name="f", tags=["t"])(load), other("1h", name="f")(load)
    assert (await f(1), await g(1)) == (1, 2)
    inside, leave = asyncio.Event(), asyncio.Event()

    async def disabled() -> None:
        with cache.disabled():
            inside.set()
            await leave.wait()
            assert await f(1) == 3
            assert await g(1) == 2  # another cache

    task = asyncio.create_task(disabled())
    await inside.wait()
    hits = cache.stats().hits
    assert [await f(1), await f(1)] == [1, 1]
    assert cache.stats().hits == hits + 2
    leave.set()
    await task
    assert await f(1) == 1
    with cache.disabled():
        await cache.invalidate_tags("t")
    assert await f(1) == 4
