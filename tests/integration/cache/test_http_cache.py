"""A real client asks a real server again: 304, who may hold what, and what must pass untouched."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache.http import CacheControl, HTTPCache, mark

httpx2 = pytest.importorskip("httpx2", reason="needs httpx2: tenfold[shop]")
uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: tenfold[shop]")

HELD = CacheControl(max_age="1m", s_maxage="1h", stale_while_revalidate="10s", stale_if_error="1d")


class Shop:
    """Answers by path; ``headers`` are added to every answer."""

    def __init__(self) -> None:
        self.content = b"a page"
        self.headers: list[tuple[bytes, bytes]] = []
        self.calls: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(f"{scope['method']} {scope['path']}")
        status, content, length = 200, self.content, True
        match scope["path"]:
            case "/page":
                mark(HELD, tags=["product:7", "catalog"], vary=["Accept-Language"])
                mark(tags=["catalog", "a b"])
            case "/error":
                mark(HELD, tags=["catalog"])
                status = 503
            case "/missing":
                mark(CacheControl(max_age="5s"), tags=["product:8"])
                status = 404
            case "/many-tags":
                mark(HELD, tags=[f"product:{number}" for number in range(5000)])
            case "/large":
                content = b"x" * 2_000_000
            case "/chunks":
                await self.start(send, 200, len(content) * 2)
                await send({"type": "http.response.body", "body": content, "more_body": True})
                await send({"type": "http.response.body", "body": content})
                return
            case "/stream":
                mark(HELD)
                await self.start(send, 200, None)
                await send({"type": "http.response.body", "body": b"first", "more_body": True})
                await self.go_on.wait()
                await send({"type": "http.response.body", "body": b"last"})
                return
            case "/crash":
                raise RuntimeError("before the answer")
        if scope["method"] == "HEAD" and scope["path"] == "/bare-head":
            content, length = b"", False
        await self.start(send, status, len(content) if length else None)
        await send({"type": "http.response.body", "body": content})

    async def start(self, send: Any, status: int, length: int | None) -> None:
        headers = [(b"content-type", b"text/plain"), *self.headers]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[Any]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with httpx2.AsyncClient(base_url=url, timeout=10) as client:
                yield client
        finally:
            server.should_exit = True
            await task


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def client(shop: Shop) -> AsyncIterator[Any]:
    async with served(HTTPCache(shop)) as made:
        yield made


async def test_who_has_it_gets_a_304_and_who_does_not_the_new_page(shop: Shop, client: Any) -> None:
    first = await client.get("/page")
    assert (first.status_code, first.content) == (200, b"a page")
    assert first.headers["cache-control"] == (
        "max-age=60, s-maxage=3600, stale-while-revalidate=10, stale-if-error=86400"
    )
    assert first.headers["surrogate-key"] == "product:7 catalog a%20b"
    assert first.headers["vary"] == "Accept-Language"
    etag = first.headers["etag"]
    assert etag.startswith('"')

    for listed in (etag, f'"other", W/{etag}', "*"):
        again = await client.get("/page", headers={"If-None-Match": listed})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        for name in ("cache-control", "surrogate-key", "vary"):
            assert again.headers[name] == first.headers[name]
        assert "content-type" not in again.headers
        assert "date" in again.headers  # of the server

    shop.content = b"another page"
    changed = await client.get("/page", headers={"If-None-Match": etag})
    assert (changed.status_code, changed.content) == (200, b"another page")
    assert changed.headers["etag"] != etag


async def test_a_list_in_two_lines_is_one_list(client: Any) -> None:
    etag = (await client.get("/page")).headers["etag"]
    headers = [("If-None-Match", '"one"'), ("If-None-Match", etag)]
    assert (await client.get("/page", headers=headers)).status_code == 304


async def test_head_is_a_get_without_content(client: Any) -> None:
    got, head = await client.get("/page"), await client.head("/page")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "cache-control", "vary", "surrogate-key"):
        assert head.headers[name] == got.headers[name]
    again = await client.head("/page", headers={"If-None-Match": got.headers["etag"]})
    assert again.status_code == 304


async def test_a_head_that_the_application_leaves_empty_gets_no_tag_of_nothing(client: Any) -> None:
    assert "etag" not in (await client.head("/bare-head")).headers
    assert "etag" in (await client.get("/bare-head")).headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_what_changes_something_is_never_a_304(shop: Shop, client: Any, method: str) -> None:
    etag = (await client.get("/page")).headers["etag"]
    for listed in (etag, "*"):
        done = await client.request(method, "/page", headers={"If-None-Match": listed})
        assert (done.status_code, done.content) == (200, b"a page")
        assert not {"etag", "cache-control", "surrogate-key"} & set(done.headers)
    assert shop.calls[-1] == f"{method} /page"


@pytest.mark.parametrize("path", ["/error", "/missing"])
async def test_only_a_200_is_not_modified(client: Any, path: str) -> None:
    done = await client.get(path, headers={"If-None-Match": "*"})
    assert done.status_code in (503, 404)
    assert done.content == b"a page"
    assert "etag" not in done.headers


async def test_an_error_is_not_held_and_a_page_that_is_gone_may_be(client: Any) -> None:
    assert not {"cache-control", "surrogate-key"} & set((await client.get("/error")).headers)
    gone = await client.get("/missing")
    assert (gone.headers["cache-control"], gone.headers["surrogate-key"]) == ("max-age=5", "product:8")


async def test_an_answer_with_a_cookie_is_for_one_client(shop: Shop, client: Any) -> None:
    shop.headers = [(b"set-cookie", b"session=1")]
    done = await client.get("/page", headers={"If-None-Match": "*"})
    assert (done.status_code, done.headers["cache-control"]) == (200, "no-store")
    assert not {"etag", "surrogate-key"} & set(done.headers)
    async with served(HTTPCache(shop, cookies=True)) as told:
        assert (await told.get("/page", headers={"If-None-Match": "*"})).status_code == 304


async def test_the_applications_own_headers_count(shop: Shop, client: Any) -> None:
    shop.headers = [
        (b"etag", b'W/"7"'),
        (b"cache-control", b"max-age=7"),
        (b"vary", b"accept-language, Origin"),
        (b"content-encoding", b"identity"),
        (b"last-modified", b"Sat, 29 Oct 2024 19:43:31 GMT"),
    ]
    plain = await client.get("/plain")
    assert (plain.headers["etag"], plain.headers["cache-control"]) == ('W/"7"', "max-age=7")
    assert plain.headers["vary"] == "accept-language, Origin, Accept-Encoding"
    assert (await client.get("/plain", headers={"If-None-Match": '"7"'})).status_code == 304
    since = {"If-Modified-Since": "Sat, 29 Oct 2024 19:43:31 GMT"}
    assert (await client.get("/plain", headers=since)).status_code == 304
    assert (await client.get("/plain", headers={**since, "If-None-Match": '"8"'})).status_code == 200
    assert (await client.get("/plain", headers={"If-Match": '"8"'})).status_code == 412
    marked = await client.get("/page")  # a handler that marks knows more than what set the header for all
    assert marked.headers["cache-control"].startswith("max-age=60")
    assert marked.headers["vary"] == "accept-language, Origin, Accept-Encoding"


async def test_no_store_gets_no_tag(shop: Shop, client: Any) -> None:
    shop.headers = [(b"cache-control", b"No-Store")]
    assert "etag" not in (await client.get("/plain", headers={"If-None-Match": "*"})).headers


async def test_the_default_is_for_a_200_that_says_nothing_and_private_where_somebody_is_known(shop: Shop) -> None:
    async with served(HTTPCache(shop, default=CacheControl(max_age="10s", s_maxage="20s"))) as client:
        assert (await client.get("/plain")).headers["cache-control"] == "max-age=10, s-maxage=20"
        assert (await client.get("/page")).headers["cache-control"].startswith("max-age=60")
        assert "cache-control" not in (await client.get("/error")).headers
        known = await client.get("/plain", headers={"Authorization": "Bearer 1"})
        assert known.headers["cache-control"] == "private, max-age=10"
        shop.headers = [(b"set-cookie", b"session=1")]
        assert (await client.get("/plain")).headers["cache-control"] == "no-store"


async def test_more_tags_than_a_header_holds_keep_it_out_of_shared_caches(client: Any, caplog: Any) -> None:
    done = await client.get("/many-tags")
    assert done.headers["cache-control"] == "private, no-cache"
    assert "surrogate-key" not in done.headers
    assert "too many for one header" in caplog.text


async def test_a_stream_is_not_held_back(shop: Shop, client: Any) -> None:
    async with asyncio.timeout(10), client.stream("GET", "/stream") as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"first"  # while the application still waits
        assert "etag" not in answer.headers
        assert answer.headers["cache-control"].startswith("max-age=60")
        shop.go_on.set()
        assert await anext(chunks) == b"last"


async def test_parts_of_a_known_length_are_put_together_and_large_ones_pass(shop: Shop, client: Any) -> None:
    parts = await client.get("/chunks")
    assert parts.content == shop.content * 2
    assert (await client.get("/chunks", headers={"If-None-Match": parts.headers["etag"]})).status_code == 304
    large = await client.get("/large")
    assert (len(large.content), "etag" in large.headers) == (2_000_000, False)


async def test_a_crash_is_the_servers_500(client: Any) -> None:
    done = await client.get("/crash")
    assert done.status_code == 500
    assert "etag" not in done.headers


async def test_marks_do_not_leak_and_need_nobody(shop: Shop, client: Any) -> None:
    await asyncio.gather(*[client.get("/page") for _ in range(5)])
    assert "surrogate-key" not in (await client.get("/plain")).headers
    assert mark(HELD) is False
    with pytest.raises(MisuseError, match="mark: expected lists"):
        mark(tags="catalog")


async def test_it_goes_around_a_fastapi_application() -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    app.add_middleware(HTTPCache)

    @app.get("/threaded")
    def threaded() -> dict[str, int]:  # in a thread of the pool
        mark(HELD, tags=["threaded"])
        return {"a": 1}

    async with served(app) as client:
        first = await client.get("/threaded")
        assert first.headers["surrogate-key"] == "threaded"
        again = await client.get("/threaded", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
