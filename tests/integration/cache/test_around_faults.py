"""Writing, warming and asking why while Valkey is frozen: nothing waits for long, nothing old comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from tenfold.cache import Cache
from tenfold.testing import FaultProxy


class Process:
    """One price list behind a cache of its own; ``rows`` is the database that all share."""

    def __init__(self, url: str, rows: dict[int, int]) -> None:
        self.cache = cache = Cache("shop", redis=url)

        @cache("1h", name="price", memory=False)
        async def price(number: int) -> int:
            return rows[number]

        @cache.write_through(price)
        async def set_price(number: int, cents: int) -> None:
            rows[number] = cents

        @cache.write_behind(price, delay="10ms")
        async def save_later(batch: dict[int, int]) -> None:
            rows.update(batch)

        self.price, self.set_price, self.save_later = price, set_price, save_later


async def test_a_write_during_a_freeze_is_seen_here_at_once_and_elsewhere_after_it(valkey: Any, until: Any) -> None:
    rows = {1: 10, 2: 20}
    async with FaultProxy(f"127.0.0.1:{valkey.port}") as proxy:
        writer = Process(f"redis://{proxy.address}/0", rows)
        reader = Process(valkey.url, rows)
        async with writer.cache, reader.cache:
            assert [await one.price(n) for one in (writer, reader) for n in (1, 2)] == [10, 20, 10, 20]
            proxy.freeze()
            async with asyncio.timeout(3):
                await writer.set_price(1, 11)
                await writer.save_later(2, 21)
                await writer.save_later.flush()
                assert [await writer.price(1), await writer.price(2)] == [11, 21]
                told = await writer.cache.explain(writer.price.key(1))
                assert told.level2.startswith("down: ")
            assert writer.cache.stats().pending_invalidations == 2
            proxy.thaw()
            await until(lambda: writer.cache.stats().pending_invalidations == 0)
            assert [await reader.price(1), await reader.price(2)] == [11, 21]


async def test_warming_goes_on_without_level_two(valkey: Any) -> None:
    async with FaultProxy(f"127.0.0.1:{valkey.port}") as proxy:
        cache, loads = Cache("shop", redis=f"redis://{proxy.address}/0"), list[int]()

        @cache.many("1h", name="prices")
        async def prices(ids: list[int]) -> dict[int, int]:
            loads.extend(ids)
            if len(loads) == 20:
                proxy.freeze()
            return {one: one for one in ids}

        async with cache, asyncio.timeout(10):
            report = await cache.warm(prices, range(100), batch=10, concurrency=1)
            assert (report.warmed, report.errors, sorted(loads)) == (100, 0, list(range(100)))
            assert await prices(range(100)) == {one: one for one in range(100)}
            assert len(loads) == 100
            proxy.thaw()
