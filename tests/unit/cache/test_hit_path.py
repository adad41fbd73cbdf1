"""The compiled wrapper: what it answers itself, what it counts, and what it leaves to the slow path."""

from __future__ import annotations

import gc
import uuid
import weakref
from typing import Any

import pytest

from tenfold.cache import Cache


class Watched(Cache):
    """Counts how often a wrapper could not answer by itself."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.slow = 0
        look = self.near.look

        def watched(key: str) -> Any:
            self.slow += 1
            return look(key)

        self.near.look = watched  # type: ignore[method-assign]


def home(function: Any) -> dict[Any, Any]:
    return function.__globals__["_tf_home"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("policy", ["s3fifo", "lfu"])
def test_the_second_call_is_answered_by_the_wrapper_whatever_the_type(policy: str) -> None:
    cache = Watched("t", policy=policy)
    same = uuid.UUID(int=1)
    arguments = [1, True, 1.0, "1", b"1", None, 0.0, -0.0, (1,), ("1",), same, str(same)]
    calls: list[Any] = []

    @cache("1m")
    def f(a: int) -> Any:
        calls.append(a)
        return len(calls)

    first = [f(one) for one in arguments]  # type: ignore[arg-type]
    assert first == list(range(1, len(arguments) + 1))
    cache.slow = 0
    assert [f(one) for one in arguments] == first  # type: ignore[arg-type]
    assert cache.slow == 0
    assert cache.stats().hits == len(arguments)
    assert len(home(f)) == len(arguments)


def test_several_parameters_and_none() -> None:
    cache = Watched("t")

    @cache("1m")
    def g(a: int, b: str = "x", *, c: float = 1.0) -> Any:
        return a, b, c

    @cache("1m")
    def nothing() -> int:
        return 5

    calls = [((1,), {}), ((1, "x"), {"c": 1.0}), ((True, "x"), {}), ((1, "y"), {}), ((1,), {"c": 1})]
    for _ in range(2):
        for args, kwargs in calls:
            assert g(*args, **kwargs) == (args[0], [*args, "x"][1], kwargs.get("c", 1.0))  # type: ignore[arg-type]
        assert nothing() == 5
    assert cache.stats().misses == 5  # the first two of g are one
    assert cache.slow == 5


@pytest.mark.parametrize("epochs", [1, 300])
async def test_after_an_invalidation_elsewhere_only_the_first_call_is_slow(epochs: int) -> None:
    """Epochs above 256 are objects of their own: an equal one that is another would make every call slow."""
    cache = Watched("t")

    @cache("1m", tags=["x"])
    async def f(a: int) -> int:
        return a

    await f(1)
    for _ in range(epochs):
        await cache.invalidate_tags("unrelated")
    cache.slow = 0
    assert [await f(1) for _ in range(10)] == [1] * 10
    assert cache.slow == 1
    assert cache.stats().hits == 10


async def test_what_is_loaded_after_many_invalidations_is_fast_at_once() -> None:
    cache = Watched("t")

    @cache("1m", tags=["x"])
    async def f(a: int) -> int:
        return a

    for _ in range(300):
        await cache.invalidate_tags("x")
    await f(1)
    cache.slow = 0
    await f(1)
    assert cache.slow == 0


async def test_entries_leave_the_function_with_level_one() -> None:
    cache = Cache("t", max_items=10)

    @cache("1m")
    async def f(a: int) -> int:
        return a

    for number in range(100):
        await f(number)
        await f(number)
    assert 0 < len(home(f)) <= 10
    assert cache.stats().hits == 100  # also those of entries that are gone
    (some, *_) = home(f)
    await f.invalidate(some)
    assert some not in home(f)
    await cache.clear()
    assert home(f) == {}
    assert cache.stats().hits == 100


async def test_time_ends_on_the_hit_path(clock: Any) -> None:
    cache = Cache("t", clock=clock, jitter=0)
    calls = 0

    @cache("10s")
    async def f(a: int) -> int:
        nonlocal calls
        calls += 1
        return calls

    assert [await f(1), await f(1)] == [1, 1]
    clock.now += 9.99
    assert await f(1) == 1
    clock.now += 0.01
    assert await f(1) == 2
    assert cache.stats().expirations == 1


async def test_a_value_put_by_key_is_found_by_the_wrapper() -> None:
    cache = Watched("t")

    @cache("1m")
    async def f(a: int) -> int:
        return a

    async def load() -> int:
        return 9

    assert await cache.get_or_load(f.key(1), load) == 9
    assert [await f(1), await f(1)] == [9, 9]
    await f.refresh(1)
    assert await f(1) == 1


async def test_a_method_with_a_key_of_its_own_does_not_keep_the_instance() -> None:
    cache = Watched("t")
    calls = []

    class Shop:
        def __init__(self, number: int) -> None:
            self.number = number

        @cache("1m", key=lambda self, page, *, size=10: (self.number, page, size), tags=["page:{page}"], name="m")
        async def page(self, page: int, *, size: int = 10) -> str:
            calls.append((self.number, page, size))
            return f"{self.number}/{page}"

    one, same, other = Shop(1), Shop(1), Shop(2)
    assert [await one.page(7), await same.page(7, size=10), await other.page(7)] == ["1/7", "1/7", "2/7"]
    assert calls == [(1, 7, 10), (2, 7, 10)]
    assert Shop.page.key(one, 7) == "m((1,7,10))"
    await cache.invalidate_tags("page:7")
    await one.page(7)
    assert len(calls) == 3
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


async def test_many_counts_each_id_and_keeps_the_order() -> None:
    cache = Watched("t")

    @cache.many("1m")
    async def things(ids: list[int]) -> dict[int, str]:
        return {one: f"v{one}" for one in ids if one != 4}

    await things([1, 3])
    cache.slow = 0
    assert list((await things([3, 2, 4, 1])).items()) == [(3, "v3"), (2, "v2"), (1, "v1")]
    assert cache.slow == 2
    assert list(await things([1, 2, 3])) == [1, 2, 3]
    assert cache.slow == 2
    assert cache.stats().hits == 5
