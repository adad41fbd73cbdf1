"""A tag that is invalidated in a cache purges the edge; and what the cache tells."""

from __future__ import annotations

from collections.abc import Callable

from tenfold._core.events import EVENTS
from tenfold.cache import Cache, CacheInvalidated
from tenfold.gateway.edge import Action, Edge, Request, Response, TagPurge

NOW, WALL = 100.0, 1_800_000_000.0


def keep(edge: Edge, url: bytes, keys: bytes) -> None:
    pairs = [(b"Cache-Control", b"max-age=60, stale-while-revalidate=60"), (b"Surrogate-Key", keys), (b"ETag", b'"a"')]
    filling = edge.begin_store(edge.lookup(Request(b"GET", url, {}), NOW), Response(200, pairs), NOW, WALL)
    assert filling is not None
    filling.finish()


def shop() -> Edge:
    edge = Edge()
    keep(edge, b"http://shop/1", b"product:1 catalog")
    keep(edge, b"http://shop/2", b"product:2 catalog")
    keep(edge, b"http://shop/3", b"gr%C3%BC%C3%9Fe%2C%20alle")
    keep(edge, b"http://shop/none", b"")
    return edge


def there(edge: Edge) -> str:
    urls = ((b"1", b"http://shop/1"), (b"2", b"http://shop/2"), (b"3", b"http://shop/3"), (b"n", b"http://shop/none"))
    peek = [edge._store.of_url(url) for _, url in urls]
    return b"".join(name for (name, _), found in zip(urls, peek, strict=True) if found).decode()


async def test_a_tag_purges_what_carries_it() -> None:
    edge, cache = shop(), Cache("shop")
    with TagPurge(edge, cache) as purge:
        await cache.invalidate_tags("product:1")
        assert there(edge) == "23n"
        await cache.invalidate_tags("grüße, alle")
        assert there(edge) == "2n"
        await cache.invalidate("some key")
        assert there(edge) == "2n"
        assert purge.heard >= 2
    await cache.invalidate_tags("catalog")
    assert there(edge) == "2n"  # closed
    await cache.aclose()


async def test_clear_purges_all_that_carries_a_key() -> None:
    edge, cache = shop(), Cache("shop")
    with TagPurge(edge, cache):
        await cache.clear()
    assert there(edge) == "n"
    await cache.aclose()


async def test_another_cache_does_not_matter() -> None:
    edge, cache = shop(), Cache("other")
    with TagPurge(edge, "shop"):
        await cache.invalidate_tags("catalog")
    assert there(edge) == "123n"
    await cache.aclose()


async def test_soft_and_posted() -> None:
    edge, cache = shop(), Cache("shop")
    posted: list[Callable[[], None]] = []
    with TagPurge(edge, cache, soft=lambda: NOW + 1, post=posted.append):
        await cache.invalidate_tags("product:1")
    assert edge.lookup(Request(b"GET", b"http://shop/1", {}), NOW + 2).action is Action.SERVE
    for run in posted:
        run()
    assert edge.lookup(Request(b"GET", b"http://shop/1", {}), NOW + 2).action is Action.SERVE_STALE_WHILE_REVALIDATE
    await cache.aclose()


async def test_what_the_cache_tells() -> None:
    cache, told = Cache("shop"), list[CacheInvalidated]()
    with EVENTS.subscribe(CacheInvalidated, told.append):
        await cache.invalidate("a", "b")
        await cache.invalidate_tags("t")
        await cache.clear()
        cache.forgetting._heard(["t:x", "e:y"])  # as the backplane does
        cache.forgetting._gap()
    assert set(told) == {
        CacheInvalidated("shop", ("a", "b"), (), everything=False),
        CacheInvalidated("shop", (), ("t",), everything=False),
        CacheInvalidated("shop", (), (), everything=True),
        CacheInvalidated("shop", ("y",), ("x",), everything=False),
    }
    await cache.aclose()
