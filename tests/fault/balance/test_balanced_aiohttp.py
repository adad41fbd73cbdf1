"""The middleware for aiohttp against real servers: the same rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tenfold._core.events import Hub
from tenfold.balance.balancer import Balancer
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import NoEndpoint, tried_of
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.resilience import Deadline, DeadlineExceeded, at_priority
from tenfold.testing import free_port

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

from tenfold.balance.transports.aiohttp import BalancedMiddleware  # noqa: E402 - only where aiohttp is installed

Answer = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class InOrder(Pick):
    """By id, always."""

    name = "in_order"

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(self.members)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, 0.0, "in order") for member in self.members]


async def ok(request: web.Request) -> web.StreamResponse:
    response = web.Response(text="ok")
    response.set_cookie("seen", "1")
    return response


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def busy(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


class Server:
    def __init__(self, answer: Answer = ok) -> None:
        self.answer = answer
        self.heard: list[tuple[str, bytes, dict[str, str]]] = []

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.heard.append((request.method, await request.read(), dict(request.headers)))
        return await self.answer(request)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def shop(*servers: Server | str) -> AsyncIterator[tuple[aiohttp.ClientSession, Balancer]]:
    async with AsyncExitStack() as stack:
        urls = [
            server if isinstance(server, str) else await stack.enter_async_context(server.running())
            for server in servers
        ]
        endpoints = [Endpoint(name, url) for name, url in zip("abcd", urls, strict=False)]
        balancer = Balancer(endpoints, name="shop", pick=InOrder(), hub=Hub())
        middleware = BalancedMiddleware(balancer)
        yield (
            await stack.enter_async_context(aiohttp.ClientSession("http://shop.example/", middlewares=[middleware])),
            balancer,
        )
        assert balancer.in_flight == 0


def refusing() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_goes_to_the_next_and_the_callers_url_stays(method: str) -> None:
    server = Server()
    async with shop(refusing(), server) as (session, balancer):
        async with session.request(method, "/things?page=2", data=b"order") as response:
            assert await response.text() == "ok"
            assert str(response.url) == "http://shop.example/things?page=2"
        assert [(heard[0], heard[1]) for heard in server.heard] == [(method, b"order")]
        assert f"http://{server.heard[0][2]['Host']}" == balancer.endpoints[1].url
        assert balancer.counters.failovers == 1
        assert [cookie.value for cookie in session.cookie_jar] == ["1"]
        await (await session.get("/")).read()
        assert server.heard[1][2]["Cookie"] == "seen=1"


async def test_a_get_is_tried_elsewhere_and_a_post_is_not() -> None:
    first, second = Server(hang_up), Server()
    async with shop(first, second) as (session, balancer):
        assert await (await session.get("/")).text() == "ok"
        with pytest.raises(aiohttp.ServerDisconnectedError) as failure:
            await session.post("/", data=b"order")
        assert tried_of(failure.value) == ("a",)
        assert [heard[0] for heard in first.heard] == ["GET", "POST"]
        assert [heard[0] for heard in second.heard] == ["GET"]
        assert balancer.counters.retries == 1


async def test_a_streamed_put_is_not_sent_in_half() -> None:
    first, second = Server(hang_up), Server()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with shop(first, second) as (session, _):
        with pytest.raises(aiohttp.ClientError):
            await session.put("/", data=body())
        assert second.heard == []
        assert await (await session.put("/", data=b"whole")).text() == "ok"
        assert [heard[1] for heard in second.heard] == [b"whole"]


async def test_busy_is_tried_elsewhere() -> None:
    first, second = Server(busy), Server()
    async with shop(first, second) as (session, balancer):
        assert (await session.get("/")).status == 200
        assert (await session.post("/")).status == 503
        assert len(second.heard) == 1
        assert balancer.counters.failed == 2


async def test_nobody_there_is_an_error_of_both_families() -> None:
    async with shop() as (session, _):
        with pytest.raises(aiohttp.ClientConnectionError) as failure:
            await session.get("/")
        assert isinstance(failure.value, NoEndpoint)


async def test_the_ticket_comes_back_with_the_connection_also_from_who_is_cancelled() -> None:
    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a part")
        await asyncio.sleep(30)
        return response

    async with shop(Server(slowly)) as (session, balancer):
        response = await session.get("/")
        assert balancer.in_flight == 1
        response.close()
        assert (balancer.in_flight, balancer.counters.neutral) == (0, 1)
        task = asyncio.create_task(session.get("/"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_deadline_and_priority_travel_and_the_deadline_holds() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    server = Server(never)
    async with shop(server) as (session, balancer):
        with at_priority("batch"), Deadline("100ms"), pytest.raises(DeadlineExceeded) as failure:
            await session.get("/")
        assert tried_of(failure.value) == ("a",)
        headers = server.heard[0][2]
        assert headers["Tenfold-Priority"] == "batch"
        assert 0 < int(headers["Tenfold-Timeout-Ms"]) <= 100
        assert balancer.counters.neutral == 1
