"""Mistakes that mypy finds before anybody writes or warms."""

from tenfold.cache import Cache

cache = Cache("shop")


@cache.write_through(tags=["all"])
async def set_price(product_id: int, cents: int) -> str:
    return "stored"


@cache.write_behind()
async def save_views(views: dict[int, str]) -> None: ...


async def main() -> None:
    await set_price("7", 11)  # E: arg-type
    await save_views(7, 8)  # E: arg-type
    await save_views("7", "many")  # E: arg-type
    await cache.warm(set_price)  # E: call-arg
    cache.popular("many")  # E: arg-type
