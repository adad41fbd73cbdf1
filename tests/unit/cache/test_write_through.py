"""Store, then invalidate, then refresh; and the entries go whatever became of the store."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache


class Shop:
    """An origin with prices, a cache before it, and the order in which things happened."""

    def __init__(self) -> None:
        self.cache = cache = Cache("t")
        self.prices = {7: 10, 8: 20}
        self.happened: list[str] = []
        self.broken = False

        @cache("1h", tags=["catalog"])
        async def price(product_id: int, currency: str = "EUR") -> int:
            self.happened.append(f"load {product_id}")
            if self.broken:
                raise OSError("down")
            return self.prices[product_id]

        @cache.many("1h", tags=["catalog"])
        async def prices(ids: list[int]) -> dict[int, int]:
            return {one: self.prices[one] for one in ids}

        self.price, self.many = price, prices


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_what_was_written_is_read(shop: Shop) -> None:
    @shop.cache.write_through(shop.price)
    async def set_price(product_id: int, cents: int) -> str:
        shop.happened.append(f"store {product_id}")
        assert await shop.price(product_id) == 10  # still the old one, and from the cache
        shop.prices[product_id] = cents
        return "done"

    assert (await shop.price(7), await shop.price(8)) == (10, 20)
    assert await set_price(7, cents=11) == "done"
    assert (await shop.price(7), await shop.price(8)) == (11, 20)
    assert shop.happened == ["load 7", "load 8", "store 7", "load 7"]
    assert set_price.__name__ == "set_price"


@pytest.mark.parametrize("failure", [OSError("after the commit"), asyncio.CancelledError()])
async def test_after_a_failure_the_entries_go_too(shop: Shop, failure: BaseException) -> None:
    @shop.cache.write_through(shop.price)
    async def set_price(product_id: int, cents: int) -> None:
        shop.prices[product_id] = cents
        raise failure

    await shop.price(7)
    with pytest.raises(type(failure)):
        await set_price(7, 11)
    assert await shop.price(7) == 11


async def test_a_writer_that_is_cancelled_from_outside_invalidates(shop: Shop) -> None:
    stored = asyncio.Event()

    @shop.cache.write_through(shop.price)
    async def set_price(product_id: int, cents: int) -> None:
        shop.prices[product_id] = cents
        stored.set()
        await asyncio.sleep(3600)

    await shop.price(7)
    writing = asyncio.create_task(set_price(7, 11))
    await stored.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await shop.price(7) == 11


async def test_a_load_that_read_the_old_value_meanwhile_is_not_kept(shop: Shop) -> None:
    go = asyncio.Event()

    @shop.cache("1h")
    async def slow(product_id: int) -> int:
        read = shop.prices[product_id]
        await go.wait()
        return read

    @shop.cache.write_through(slow)
    async def set_price(product_id: int, cents: int) -> None:
        shop.prices[product_id] = cents

    early = asyncio.create_task(slow(7))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await set_price(7, 11)
    go.set()
    assert await early == 10  # it asked before the write
    assert await slow(7) == 11


async def test_refresh_leaves_the_new_value_for_the_next_reader(shop: Shop) -> None:
    @shop.cache.write_through(shop.price, shop.many, refresh=True)
    async def set_prices(product_id: int, ids: list[int], cents: int) -> None:
        shop.prices[product_id] = cents

    await shop.price(7)
    await set_prices(7, [7, 8], 11)
    loads = shop.cache.stats().loads
    assert await shop.price(7) == 11
    assert await shop.many([7, 8]) == {7: 11, 8: 20}
    assert shop.cache.stats().loads == loads


async def test_a_refresh_that_fails_does_not_undo_the_write(shop: Shop, caplog: Any) -> None:
    @shop.cache.write_through(shop.price, refresh=True)
    async def set_price(product_id: int, cents: int) -> str:
        shop.prices[product_id] = cents
        shop.broken = True
        return "stored"

    await shop.price(7)
    with caplog.at_level(logging.WARNING, "tenfold.cache"):
        assert await set_price(7, 11) == "stored"
    assert "could not be loaded anew" in caplog.text
    shop.broken = False
    assert await shop.price(7) == 11


async def test_tags_and_ids_of_many(shop: Shop) -> None:
    @shop.cache.write_through(tags=["catalog"])
    async def reprice(factor: int) -> None:
        shop.prices = {key: price * factor for key, price in shop.prices.items()}

    @shop.cache.write_through(shop.many)
    async def set_one(id: int, cents: int) -> None:
        shop.prices[id] = cents

    assert await shop.many([7, 8]) == {7: 10, 8: 20}
    await reprice(2)
    assert await shop.many([7, 8]) == {7: 20, 8: 40}
    await set_one(7, 1)
    shop.prices[8] = 2  # behind the cache's back
    assert await shop.many([7, 8]) == {7: 1, 8: 40}


async def test_nothing_is_stored_if_the_entry_cannot_be_named(shop: Shop) -> None:
    @shop.cache.write_through(shop.price)
    async def set_price(product_id: Any) -> None:
        shop.happened.append("stored")

    with pytest.raises(MisuseError, match="cannot be part of a key"):
        await set_price([7])
    assert shop.happened == []


def test_what_does_not_fit_is_refused_at_decoration(shop: Shop) -> None:
    async def writer(number: int) -> None: ...

    with pytest.raises(MisuseError, match=r"needs 'product_id'; expected a parameter of that name, got number"):
        shop.cache.write_through(shop.price)(writer)
    with pytest.raises(MisuseError, match="it would invalidate nothing"):
        shop.cache.write_through()(writer)
    with pytest.raises(MisuseError, match="names 'product'"):
        shop.cache.write_through(tags=["p:{product}"])(writer)
    with pytest.raises(MisuseError, match="expected a function declared with `async def`"):
        shop.cache.write_through(tags=["a"])(len)  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="expected a function that this cache"):
        shop.cache.write_through(writer)
