"""Popular keys travel through Valkey to the next process, and warming from Valkey costs the origin nothing."""

from __future__ import annotations

from typing import Any

from tenfold.cache import Cache


def process(url: str) -> tuple[Cache, Any, list[int]]:
    cache, loads = Cache("shop", redis=url, timeout="2s"), list[int]()

    @cache("1h", name="page")
    async def page(number: int) -> str:
        loads.append(number)
        return f"page {number}"

    return cache, page, loads


async def test_the_next_process_starts_with_what_was_popular(valkey: Any) -> None:
    cache, page, _ = process(valkey.url)
    async with cache:
        for number, times in ((1, 2), (2, 4), (3, 1)):
            for _ in range(times):
                await page(number)
        await cache.save_popular()

    cache, page, loads = process(valkey.url)
    async with cache:
        assert await cache.load_popular() == 3
        popular = cache.popular(2)
        assert [one.key for one in popular] == [page.key(2), page.key(1)]
        assert (await cache.warm(page, popular)).warmed == 2
        assert loads == []  # level 2 had them
        assert cache.stats().l2_hits >= 2
        before = cache.stats().hits
        assert await page(2) == "page 2"
        assert cache.stats().hits == before + 1


async def test_processes_that_save_one_after_another_keep_the_larger_count(valkey: Any) -> None:
    for times in (5, 3):
        cache, page, _ = process(valkey.url)
        async with cache:
            for _ in range(times):
                await page(times)
                await page(0)
            await cache.save_popular()
    cache, page, _ = process(valkey.url)
    async with cache:
        await cache.load_popular()
        counts = dict(cache.popular())
        assert set(counts) == {page.key(5), page.key(3), page.key(0)}
        assert counts[page.key(0)] >= counts[page.key(5)] >= counts[page.key(3)] > 0


async def test_nothing_kept_yet_is_nothing_and_a_frozen_level_two_no_error(valkey: Any) -> None:
    cache, page, _ = process(valkey.url)
    async with cache:
        await page(1)
        assert await cache.load_popular() == 0
        await valkey.close()
        await cache.save_popular()  # counted, not raised
        assert cache.popular(1)[0].key == page.key(1)
        assert cache.stats().l2_failures > 0


async def test_what_another_version_kept_is_nothing_and_is_replaced(valkey: Any) -> None:
    cache, page, _ = process(valkey.url)
    async with cache:
        await page(1)
        cache._to_keep = b"of another version"
        await cache._keeper().refresh()
        cache._to_keep = b""
        assert await cache.load_popular() == 0
        assert cache.stats().undecodable == 1
        await cache.save_popular()
        assert await cache.load_popular() == 1
