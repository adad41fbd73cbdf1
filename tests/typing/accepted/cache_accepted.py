"""What the types of cached functions must accept."""

from collections.abc import Coroutine
from typing import Any, assert_type

from tenfold.cache import Cache, Memory

cache = Cache("typed", policy="lfu")
memory = Memory(10, policy="lfu")


@cache("1m", tags=["n:{number}"])
async def waits(number: int, *, full: bool = False) -> str:
    return str(number)


@cache("1m")
def plain(number: int, *, full: bool = False) -> str:
    return str(number)


class Shop:
    @cache("1m", key=lambda self, number: number)
    async def page(self, number: int) -> bytes:
        return b""

    @cache("1m", key=lambda self, number: number)
    def title(self, number: int) -> str:
        return ""


@cache.many("1m")
async def several(ids: list[int]) -> dict[int, str]:
    return {}


async def main() -> None:
    assert_type(await waits(1, full=True), str)
    coroutine: Coroutine[Any, Any, str] = waits(1)
    await coroutine
    assert_type(await waits.refresh(1), str)
    assert_type(await waits.invalidate(1, full=True), bool)
    assert_type(waits.key(1), str)
    assert_type(await Shop().page(1), bytes)
    assert_type(Shop().title(1), str)
    assert_type(await Shop.page.invalidate(Shop(), 1), bool)
    assert_type(await several([1]), dict[int, str])


assert_type(plain(1), str)
assert_type(plain.refresh(1, full=True), str)
assert_type(plain.invalidate(1), bool)
assert_type(plain.key(1), str)
