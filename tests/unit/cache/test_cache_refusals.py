"""Misuse is refused when it is declared, in a sentence that says what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache, Memory

URL = "redis://127.0.0.1:1/0"


class Opaque:
    pass


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Cache(""), "name: expected letters"),
        (lambda: Cache("a:b"), "name: expected letters"),
        (lambda: Cache("t", ttl=0), "ttl: expected at least 1 ms"),
        (lambda: Cache("t", ttl="soon"), "ttl: expected a duration"),
        (lambda: Cache("t", jitter=2), "jitter: expected a share"),
        (lambda: Cache("t", max_items=0), "max_items: expected a whole number"),
        (lambda: Cache("t", max_bytes="many"), "max_bytes: expected a size"),
        (lambda: Cache("t", redis="http://x"), "redis=: expected a URL"),
        (lambda: Memory(0), "max_items"),
        (lambda: Memory(policy="lru"), 'policy: expected "s3fifo" or "lfu"'),
        (lambda: Memory(max_bytes=0), "max_bytes: expected a size above 0"),
    ],
)
def test_arguments_of_the_cache(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        make()


def test_functions_that_cannot_be_cached() -> None:
    cache = Cache("t")

    def plain(a: int) -> int:
        return a

    def generator(a: int) -> Iterator[int]:
        yield a

    async def async_generator(a: int) -> AsyncIterator[int]:
        yield a

    async def rest(*a: int) -> int:
        return 0

    async def taken(_tf_key: int) -> int:
        return 0

    async def method(self: object, a: int) -> int:
        return a

    with pytest.raises(MisuseError, match="declared with `async def`"):
        cache.many("1m")(plain)  # type: ignore[arg-type]
    for made in (generator, async_generator):
        with pytest.raises(MisuseError, match="a generator can be read only once"):
            cache("1m")(made)
    with pytest.raises(MisuseError, match="expected a function"):
        cache("1m", name="class")(Opaque)
    with pytest.raises(MisuseError, match="key: expected a function"):
        cache("1m", key="a")  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="named parameters only"):
        cache("1m")(rest)
    with pytest.raises(MisuseError, match="rename `_tf_key`"):
        cache("1m")(taken)
    with pytest.raises(MisuseError, match="methods cannot be cached"):
        cache("1m")(method)
    with pytest.raises(MisuseError, match="with brackets"):
        cache(plain)  # type: ignore[arg-type]


def test_tags_are_checked_at_decoration() -> None:
    cache = Cache("t")

    async def f(product_id: int) -> int:
        return 0

    with pytest.raises(MisuseError, match="names 'product'; expected one of the arguments: product_id"):
        cache("1m", tags=["p:{product}"])(f)
    with pytest.raises(MisuseError, match="is not a template"):
        cache("1m", tags=["p:{product_id"], name="g")(f)
    with pytest.raises(MisuseError, match="expected a list"):
        cache("1m", tags="catalog", name="h")(f)


def test_two_functions_of_one_name_are_refused() -> None:
    cache = Cache("t")

    async def f() -> int:
        return 0

    cache("1m", name="f")(f)
    with pytest.raises(MisuseError, match="another function of this cache has this name"):
        cache("1m", name="f")(f)


def test_level_two_needs_to_know_the_type() -> None:
    cache = Cache("t", redis=URL)

    async def untyped(a: int):  # type: ignore[no-untyped-def]
        return a

    async def unknown(a: int) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return a

    async def pair(ids: list[int]) -> list[int]:
        return ids

    with pytest.raises(MisuseError, match="expected a return annotation, because level 2"):
        cache("1m")(untyped)
    with pytest.raises(MisuseError, match="expected a return annotation that evaluates"):
        cache("1m")(unknown)
    with pytest.raises(MisuseError, match=r"dict\[int, Product\]"):
        cache.many("1m")(pair)  # type: ignore[arg-type]


def test_memory_false_needs_level_two() -> None:
    async def f() -> int:
        return 0

    with pytest.raises(MisuseError, match="memory=False needs level 2"):
        Cache("t")("1m", memory=False)(f)


async def test_a_loader_of_many_must_return_a_dictionary() -> None:
    cache = Cache("t")

    @cache.many("1m")
    async def things(ids: list[int]) -> dict[int, int]:
        return [1]  # type: ignore[return-value]

    with pytest.raises(MisuseError, match="expected the loader to return a dict, got list"):
        await things([1])
    with pytest.raises(MisuseError, match="expected ids of one type"):
        await things([1, True])
