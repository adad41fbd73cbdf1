"""A real client, two real servers and what a call inherits on its way through them."""

import asyncio
import contextlib
import json
import socket
import time

import httpx2
import pytest
import uvicorn

from tenfold.resilience.asgi import ResilienceMiddleware
from tenfold.resilience.errors import DeadlineTooShort
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.shed import Shed
from tenfold.resilience.transports import ResilientTransport
from tenfold.resilience.wire import PRIORITY, at_priority


@contextlib.asynccontextmanager
async def served(app, **options):
    """``app`` behind uvicorn on a free port of this machine; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1, **options)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def respond(send, content):
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def inherited():
    until, retried = SCOPE.get()
    return {"left": until - time.monotonic(), "retried": retried, "priority": PRIORITY.get().label}


@pytest.fixture
async def back():
    """The second service: it tells what it inherited, and takes its time where it is asked to."""

    async def app(scope, receive, send):
        if scope["path"] == "/slow":
            await asyncio.sleep(30)
        await respond(send, {"back": inherited()})

    guarded = ResilienceMiddleware(app)
    async with served(guarded) as guarded.url:
        yield guarded


@pytest.fixture
async def front(back):
    """The first service: it works for 50 ms and asks the second one."""
    async with httpx2.AsyncClient(
        transport=ResilientTransport(httpx2.AsyncHTTPTransport()), base_url=back.url
    ) as client:

        async def app(scope, receive, send):
            mine = inherited()
            await asyncio.sleep(0.05)
            answer = await client.get(scope["path"])
            await respond(send, {"front": mine, "status": answer.status_code, **answer.json()})

        guarded = ResilienceMiddleware(app)
        async with served(guarded) as guarded.url:
            yield guarded


async def ask(url, path="/", *, within=None, retried=False):
    async with httpx2.AsyncClient(transport=ResilientTransport(httpx2.AsyncHTTPTransport()), base_url=url) as client:
        token = SCOPE.set((time.monotonic() + within, retried)) if within else None
        try:
            return await client.get(path)
        finally:
            if token:
                SCOPE.reset(token)


async def test_deadline_retry_marker_and_priority_go_through_two_hops(front):
    with at_priority("critical"):
        answer = (await ask(front.url, within=5.0, retried=True)).json()
    mine, theirs = answer["front"], answer["back"]
    assert 0 < theirs["left"] <= mine["left"] - 0.05 + 0.001
    assert mine["left"] <= 5.0
    for each in (mine, theirs):
        assert (each["retried"], each["priority"]) == (True, "critical")


async def test_without_a_scope_nothing_is_inherited(front):
    answer = (await ask(front.url)).json()
    for each in (answer["front"], answer["back"]):
        assert (each["left"], each["retried"], each["priority"]) == (float("inf"), False, "normal")


async def test_a_deadline_ends_the_work_of_both(front, back):
    begun = time.monotonic()
    async with httpx2.AsyncClient(base_url=front.url) as client:
        answer = await client.get("/slow", headers={"Tenfold-Timeout-Ms": "400"}, timeout=20)
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert 0.3 < time.monotonic() - begun < 10
    await until(lambda: back.counters.stopped == 1)


async def test_what_cannot_be_in_time_is_not_sent(front):
    token = SCOPE.set((time.monotonic() - 1, False))
    try:
        with pytest.raises(DeadlineTooShort):
            await ask(front.url)
    finally:
        SCOPE.reset(token)


@pytest.fixture
def single():
    """An application with one place, and the switch that lets go of who holds it."""
    release = asyncio.Event()
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        await release.wait()
        await respond(send, {})

    guarded = ResilienceMiddleware(app, shedder=Shed(1, queue=1, max_wait=20, interval=30), exempt=("/health",))
    guarded.release, guarded.seen = release, seen
    return guarded


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is a counter that changes
            await asyncio.sleep(0.005)


async def test_a_full_server_refuses_in_words_and_a_client_who_hangs_up_leaves_the_queue(single):
    async with served(single) as url, httpx2.AsyncClient(base_url=url, timeout=20) as client:
        holder = asyncio.create_task(client.get("/holder"))
        await until(lambda: single.seen == ["/holder"])

        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /impatient HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: single.shedder.state()["waiting"] == 1)

        refused = await client.get("/refused")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "overloaded"
        head = await client.head("/refused")
        assert (head.status_code, head.content) == (503, b"")
        assert int(head.headers["content-length"]) == len(refused.content)

        writer.close()
        await until(lambda: single.shedder.state()["waiting"] == 0)
        posted = asyncio.create_task(client.post("/patient", content=b"x" * 200_000))
        await until(lambda: single.shedder.state()["waiting"] == 1)
        single.release.set()
        assert [(await each).status_code for each in (holder, posted)] == [200, 200]
        assert await reader.read() == b""
    assert single.seen == ["/holder", "/patient"]
    assert single.counters.disconnected == 1
    assert single.shedder.state()["running"] == 0
