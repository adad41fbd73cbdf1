"""What a loader may say of its value (life, tags, etag), ask of the old one, and what becomes of None."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache, LoadContext, load_context
from tenfold.testing import FakeClock


def on_a_clock(test: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with FakeClock() as clock:
            clock.run(test(clock))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_a_clock
async def test_the_loader_chooses_the_life(clock: FakeClock) -> None:
    cache, loads = Cache("t", clock=clock, jitter=0), list[float]()

    @cache("1h")
    async def f(life: float) -> int:
        loads.append(life)
        load_context().ttl = life
        return len(loads)

    assert [await f(2.0), await f(5.0), await f(0.0), await f(0.0)] == [1, 2, 3, 4]
    await clock.advance(2)
    assert [await f(2.0), await f(5.0)] == [5, 2]


@on_a_clock
async def test_a_value_not_to_be_kept_ends_the_old_one_as_well(clock: FakeClock) -> None:
    cache, answers = Cache("t", clock=clock, jitter=0), iter([1, 2, 3])

    @cache("10s", stale="1h")
    async def f() -> int:
        answer = next(answers)
        if answer == 2:
            load_context().ttl = 0
        return answer

    assert await f() == 1
    await clock.advance(11)
    assert await f() == 1
    await clock.advance(0)
    assert await f() == 3


@on_a_clock
async def test_none_is_cached_with_its_own_life(clock: FakeClock) -> None:
    cache, rows = Cache("t", clock=clock, jitter=0, stale="1h", none_ttl="2s"), dict[int, str]()
    loads = 0

    @cache("1m")
    async def find(key: int) -> str | None:
        nonlocal loads
        loads += 1
        return rows.get(key)

    assert [await find(1) for _ in range(5)] == [None] * 5
    assert loads == 1
    rows[1] = "here"
    await clock.advance(1.9)
    assert await find(1) is None
    await clock.advance(0.1)
    assert await find(1) == "here"  # never stale
    del rows[1]
    await clock.advance(61)
    assert await find(1) == "here"  # stale, and its refresh finds it gone
    await clock.advance(0)
    assert await find(1) is None


@on_a_clock
async def test_none_is_not_kept_if_so_declared_and_lives_like_the_rest_if_nothing_is(clock: FakeClock) -> None:
    cache, loads = Cache("t", clock=clock), list[str]()

    async def none() -> None:
        loads.append("x")

    for _ in range(3):
        assert await cache.get_or_load("never", none, none_ttl=0) is None
    assert len(loads) == 3
    for _ in range(3):
        assert await cache.get_or_load("long", none) is None
    assert len(loads) == 4


@on_a_clock
async def test_tags_that_only_the_loader_knows(clock: FakeClock) -> None:
    cache, loads = Cache("t", clock=clock), list[int]()

    @cache("1h", tags=["all"])
    async def order(number: int) -> int:
        loads.append(number)
        load_context().tags = [f"customer:{number % 2}"]
        return len(loads)

    assert [await order(1), await order(2), await order(3)] == [1, 2, 3]
    await cache.invalidate_tags("customer:1")
    assert [await order(1), await order(2), await order(3)] == [4, 2, 5]
    await cache.invalidate_tags("all")
    assert await order(2) == 6


@on_a_clock
async def test_such_a_tag_invalidated_during_the_load(clock: FakeClock) -> None:
    """The loader names the tag after the invalidation; its value began before it all the same."""
    cache, loads = Cache("t", clock=clock), 0

    @cache("1h")
    async def f() -> int:
        nonlocal loads
        loads += 1
        number = loads
        await asyncio.sleep(1)
        load_context().tags = ["late"]
        return number

    early = asyncio.create_task(f())
    await clock.advance(0.5)
    await cache.invalidate_tags("late")
    assert await early == 1
    assert await f() == 2
    assert await f() == 2


@on_a_clock
async def test_not_modified_keeps_the_value_and_renews_its_life(clock: FakeClock) -> None:
    cache, seen = Cache("t", clock=clock, jitter=0), list[tuple[str | None, Any, bool]]()
    version = "v1"

    @cache("10s", stale="1m")
    async def page() -> list[str]:
        ctx = load_context()
        seen.append((ctx.etag, ctx.stale_value, ctx.has_stale))
        if ctx.etag == version:
            old: list[str] = ctx.not_modified()
            return old
        ctx.etag = version
        return [version]

    first = await page()
    await clock.advance(11)
    assert await page() is first
    await clock.advance(9)
    assert await page() is first
    assert cache.stats().stale_hits == 1  # its life began anew
    await clock.advance(2)
    version = "v2"
    assert await page() is first
    await clock.advance(0)
    assert await page() == ["v2"]
    assert seen == [(None, None, False), ("v1", ["v1"], True), ("v1", ["v1"], True)]


@on_a_clock
async def test_an_eager_refresh_can_be_conditional_too(clock: FakeClock) -> None:
    cache, seen = Cache("t", clock=clock, jitter=0), list[str | None]()

    @cache("10s", eager=0.5)
    async def page() -> str:
        ctx = load_context()
        seen.append(ctx.etag)
        ctx.etag = "v"
        return ctx.not_modified() if ctx.has_stale else "body"

    for _ in range(3):
        assert await page() == "body"
        await clock.advance(6)
    assert seen == [None, "v", "v"]


@on_a_clock
async def test_not_modified_does_not_bring_back_what_was_invalidated(clock: FakeClock) -> None:
    cache, loads = Cache("t", clock=clock, jitter=0), 0

    @cache("10s", stale="1m", tags=["t"])
    async def page() -> int:
        nonlocal loads
        loads += 1
        ctx = load_context()
        if ctx.has_stale:
            await asyncio.sleep(1)
            old: int = ctx.not_modified()
            return old
        return loads

    assert await page() == 1
    await clock.advance(11)
    assert await page() == 1
    await cache.invalidate_tags("t")
    await clock.advance(1)  # the refresh answers "not modified" to what is gone
    assert await page() == 3
    assert cache.stats().refused == 1


@on_a_clock
async def test_many_share_a_life_and_have_no_old_value(clock: FakeClock) -> None:
    cache, errors = Cache("t", clock=clock, jitter=0, stale="1h"), list[str]()

    @cache.many("1h")
    async def things(ids: list[int]) -> dict[int, int]:
        ctx = load_context()
        ctx.ttl = "2s"
        for act in (ctx.not_modified, lambda: setattr(ctx, "etag", "v")):
            try:
                act()
            except MisuseError as error:
                errors.append(str(error))
        return dict.fromkeys(ids, int(clock.monotonic()))

    await things([1, 2])
    await clock.advance(3)
    await things([1, 2])
    await clock.advance(0)
    assert await things([1, 2]) == {1: 3, 2: 3}
    assert "there is no old value" in errors[0]
    assert "a loader of many has no etag" in errors[1]


@on_a_clock
async def test_a_load_within_a_load_has_its_own_context(clock: FakeClock) -> None:
    cache = Cache("t", clock=clock, jitter=0)

    async def inner() -> int:
        load_context().ttl = 1
        return int(clock.monotonic())

    async def outer() -> int:
        ctx = load_context()
        value = await cache.get_or_load("inner", inner)
        assert load_context() is ctx
        return value

    await cache.get_or_load("outer", outer, ttl="1m")
    await clock.advance(2)
    assert await cache.get_or_load("inner", inner) == 2
    assert await cache.get_or_load("outer", outer) == 0


def test_outside_of_a_load_a_loader_can_be_called_as_it_is() -> None:
    ctx = load_context()
    ctx.ttl, ctx.tags, ctx.etag = "5m", ["a", "a"], "v"
    assert (ctx.ttl, ctx.tags, ctx.etag, ctx.has_stale) == (300.0, ("a",), "v", False)
    assert load_context().ttl is None
    assert repr(ctx) == "LoadContext('load_context()', ttl=300.0, tags=['a'], has_stale=False)"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ttl", "soon", "f: ctx.ttl: expected a duration"),
        ("tags", "catalog", "f: ctx.tags: expected a list"),
        ("tags", [1], "f: ctx: tags: expected texts"),
        ("etag", b"v", "f: ctx.etag: expected a text"),
        ("etag", "v" * 1001, "f: ctx.etag: expected a text of up to 1000"),
    ],
)
def test_refusals(name: str, value: object, sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        setattr(LoadContext("f"), name, value)
