"""What a cache and its functions may be told of freshness, as a user would write it."""

from typing import assert_type

from tenfold._core.errors import TenfoldError
from tenfold.cache import Cache, FreshnessOptions, LoadContext, LoadTimeout, load_context

cache = Cache("shop", ttl="5m", stale="1h", eager=0.8, none_ttl="10s", soft_timeout=0.2, hard_timeout="2s")
calm: FreshnessOptions = {"stale": "1d", "throttle": "1m"}
other = Cache("other", **calm)


@cache("1m", tags=["page:{number}"], stale="10m", eager=None, none_ttl=0)
async def page(number: int) -> str | None:
    ctx = load_context()
    assert_type(ctx, LoadContext)
    if ctx.has_stale and ctx.etag == "v1":
        old: str = ctx.not_modified()
        return old
    ctx.ttl, ctx.tags, ctx.etag = "5m", ["late"], "v1"
    assert_type(ctx.ttl, float | None)
    return None


@cache.many("1m", **calm)
async def pages(ids: list[int]) -> dict[int, str]:
    return {}


async def use() -> None:
    assert_type(await page(7), str | None)

    async def load() -> int:
        return 1

    assert_type(await cache.get_or_load("k", load, stale="1m", hard_timeout=1), int)
    assert cache.stats().stale_served == 0


def handle(error: LoadTimeout) -> None:
    one: TimeoutError = error
    two: TenfoldError = error
    print(one, two)
