"""`explain` over level 1: each state of a key has its words, and looking changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.cache.forget import Invalidated
from tenfold.testing import FakeClock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as made:
        yield made


def made(clock: FakeClock) -> tuple[Cache, Any]:
    cache = Cache("t", clock=clock, jitter=0)

    @cache("1m", tags=["product:{number}", "catalog"], name="product")
    async def product(number: int, *, language: str = "en") -> str:
        await asyncio.sleep(5)
        return f"{number} {language}"

    return cache, product


def test_what_is_there_has_an_age_and_a_life(clock: FakeClock) -> None:
    cache, product = made(clock)

    async def main() -> None:
        await product(7)
        await asyncio.sleep(20)
        before = cache.stats()
        told = await cache.explain(product.key(7))
        assert (told.outcome, told.age, told.left) == ("memory", pytest.approx(20), pytest.approx(40))
        assert (told.tags, told.function, told.loading) == (("product:7", "catalog"), "product", False)
        assert str(told) == (
            'product(7,"en"): a hit in memory\n'
            "  memory:  there, 40.0 s left, hit 0 times lately\n"
            "  level 2: there is none\n"
            "  tags:    product:7, catalog\n"
            "  life:    40.0 s left, at most 20.0 s old"
        )
        assert cache.stats() == before

    clock.run(main())


def test_never_stored_and_being_loaded(clock: FakeClock) -> None:
    cache, product = made(clock)

    async def main() -> None:
        told = await cache.explain(product.key(7))
        assert (told.outcome, told.left, told.age) == ("miss", None, None)
        assert told.memory.startswith("not there: never stored")
        assert told.tags == ("product:7", "catalog")
        loading = asyncio.create_task(product(7))
        await asyncio.sleep(1)
        told = await cache.explain(product.key(7))
        assert (told.outcome, told.loading) == ("loading", True)
        await loading

    clock.run(main())


def test_expired(clock: FakeClock) -> None:
    cache, product = made(clock)

    async def main() -> None:
        await product(7)
        await asyncio.sleep(63)
        told = await cache.explain(product.key(7))
        assert (told.outcome, told.memory) == ("miss", "expired 3.00 s ago")

    clock.run(main())


def test_invalidated_by_which_tag_and_when(clock: FakeClock) -> None:
    cache, product = made(clock)

    async def main() -> None:
        await product(7)
        at = clock.time()
        await cache.invalidate_tags("catalog")
        await asyncio.sleep(10)
        told = await cache.explain(product.key(7))
        assert told.outcome == "miss"
        assert told.memory.startswith("invalidated: tag 'catalog' 10.0 s ago")
        assert told.invalidated == ("tag 'catalog'", at)

    clock.run(main())


def test_invalidated_by_key_and_by_clear(clock: FakeClock) -> None:
    cache, product = made(clock)

    async def main() -> None:
        await product(7)
        await product.invalidate(7)
        await asyncio.sleep(2)
        told = await cache.explain(product.key(7))
        assert told.memory.endswith("key invalidated 2.00 s ago")
        await product(7)
        await asyncio.sleep(1)
        await cache.clear()
        told = await cache.explain(product.key(7))
        assert told.invalidated == ("clear", clock.time())
        assert told.outcome == "miss"

    clock.run(main())


def test_a_key_of_ones_own_with_tags(clock: FakeClock) -> None:
    cache, _ = made(clock)

    async def load() -> int:
        return 1

    async def main() -> None:
        await cache.get_or_load("mine", load, tags=["a"])
        told = await cache.explain("mine")
        assert (told.outcome, told.tags, told.function, told.age) == ("memory", ("a",), None, None)
        await cache.invalidate_tags("a")
        assert (await cache.explain("mine", tags=["a"])).invalidated is not None

    clock.run(main())


def test_a_key_that_cannot_be_read_still_has_its_constant_tags(clock: FakeClock) -> None:
    cache, _ = made(clock)

    async def main() -> None:
        told = await cache.explain("product(shop.Colour.RED)")
        assert (told.function, told.tags) == ("product", ("catalog",))
        with pytest.raises(MisuseError, match="key: expected a text"):
            await cache.explain("")

    clock.run(main())


def test_what_was_invalidated_is_remembered_within_bounds() -> None:
    known = Invalidated(3)
    known.note(["a"], ["t"], 1.0)
    known.note(["b"], [], 2.0)
    known.note(["a"], [], 3.0)
    known.note(["c"], [], 4.0)
    assert [known.when(f"e:{key}") for key in "abc"] == [3.0, 2.0, 4.0]
    assert known.when("t:t") is None
    assert known.newest("a", ["t"]) == ("key", 3.0)
    assert known.newest("z", ["t"]) is None
