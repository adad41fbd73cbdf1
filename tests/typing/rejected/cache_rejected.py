"""What the types of cached functions must refuse, with mypy's error code at the end of the line."""

from tenfold.cache import Cache

cache = Cache("typed")


@cache("1m")
async def waits(number: int) -> str:
    return str(number)


@cache("1m")
def plain(number: int) -> str:
    return str(number)


class Shop:
    @cache("1m", key=lambda self, number: number)
    async def page(self, number: int) -> bytes:
        return b""


async def main() -> None:
    await waits("1")  # E: arg-type
    text: str = waits(1)  # E: assignment
    number: int = await waits(1)  # E: assignment
    await plain(1)  # E: misc
    plain(1, 2)  # E: call-arg
    await plain.invalidate(1)  # E: misc
    plain.refresh("1")  # E: arg-type
    await Shop().page("1")  # E: arg-type
    waits.key()  # E: call-arg
    print(text, number)


cache("1m", policy="lfu")  # E: call-arg
