"""What stands around the cache keeps the types of what it decorates."""

from typing import assert_type

from tenfold.cache import Cache, PopularKey, WarmReport, WriteBehind
from tenfold.cache.http import CacheControl, mark

cache = Cache("shop")


@cache("1m")
async def price(product_id: int) -> int:
    return product_id


@cache.write_through(price, tags=["product:{product_id}"], refresh=True)
async def set_price(product_id: int, cents: int) -> str:
    return "stored"


@cache.write_behind(price, batch=10)
async def save_views(views: dict[int, str]) -> None: ...


async def main() -> None:
    assert_type(await set_price(7, cents=11), str)
    assert_type(save_views, WriteBehind[int, str])
    await save_views(7, "many")
    assert_type(await cache.warm(price, [1, 2], rate="10/s"), WarmReport)
    assert_type(cache.popular(), list[PopularKey])
    assert_type(mark(CacheControl(max_age="1m"), tags=["a"]), bool)
