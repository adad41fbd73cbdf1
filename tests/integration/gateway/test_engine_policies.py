"""What routes hold requests to, on real sockets: rates, places, deadlines, tries; and the gateway's own cookies."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import contextlib
import json
import socket
import struct

import pytest

from tenfold.gateway.config import read_config
from tenfold.servers import Valkey

SECRET = "0123456789abcdef0123"
TRUSTED = 'trusted = "127.0.0.0/8"'


def told(answer):
    return json.loads(answer.body)


def reset(peer):
    """Leave so that the gateway knows of it at once: a plain close may be half of one."""
    how = struct.pack("ii", 1, 0)
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
    peer.abort()


def limits(run):
    return run.gateway.state()["limits"]


@pytest.fixture
async def silent():
    """The port of a server that takes all and says nothing."""

    async def serve(reader, writer):
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


# -- rate limits ------------------------------------------------------------------------------------------------------


async def test_a_rate_limit_answers_429_and_says_what_it_is(wire):
    route = 'rate_limit = { rate = "1/m", burst = 2 }'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        peer = await run.connect()
        assert [(await peer.ask(wire.get())).status for _ in range(2)] == [200, 200]
        got = await peer.ask(wire.get())
        problem = told(got)
        assert (got.status, got.get("content-type")) == (429, "application/problem+json")
        assert 50 <= int(got.get("retry-after")) <= 60
        assert got.get("ratelimit-policy") == '"all";q=2;w=120'
        assert got.get("ratelimit") == f'"all";r=0;t={got.get("retry-after")}'
        assert (problem["limit"], problem["limit_value"]) == ("route.rate_limit", "0.0166667/s")
        assert problem["type"].endswith(":rate_limit")
        assert "burst of 2" in problem["detail"]
        # With a body that nobody will read the connection ends, and the answer arrives all the same.
        refused = await peer.ask(wire.post(b"x" * 100_000))
        assert (refused.status, refused.get("connection")) == (429, "close")
        assert len(backend.seen) == 2
        assert run.counters["rate_limited"] == limits(run)["rate"]["all"]["refused"] == 2
        await run.at_rest()


@pytest.mark.parametrize(
    ("by", "line"),
    [("client", "X-Forwarded-For: 192.0.2.{}"), ("header:X-Key", "X-Key: {}"), ("cookie:who", "Cookie: a=b; who={}")],
)
async def test_everybody_has_a_limit_of_their_own_in_bounded_memory(wire, by, line):
    route = f'rate_limit = {{ rate = "1/h", max_keys = 5 }}\nlimit_by = "{by}"'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route=route, gateway=TRUSTED)) as run:
        peer = await run.connect()
        for n in range(8):
            assert (await peer.ask(wire.get("/", line.format(n)))).status == 200
        assert (await peer.ask(wire.get("/", line.format(7)))).status == 429
        assert (await peer.ask(wire.get())).status == 200
        assert (await peer.ask(wire.get())).status == 429  # those who say nothing are known by their address
        assert limits(run)["rate"]["all"]["keys"] == 5


async def test_a_limit_holds_for_answers_of_the_gateway_and_is_asked_once_however_often_it_is_tried(wire):
    more = '[[route]]\nname = "up"\npath = "/up"\nrespond = { body = "yes" }\nrate_limit = { rate = "1/h", burst = 1 }'
    route = 'retries = { attempts = 3, base = "1ms", budget = false }\nretry_statuses = 503\nrate_limit = "100/s"'
    unwell = b"HTTP/1.1 503 Unwell\r\nContent-Length: 0\r\n\r\n"
    async with wire.Backend(unwell) as a, wire.Backend(unwell) as b, wire.Backend(wire.OK) as c:
        async with wire.running(wire.toml(a.url, b.url, c.url, route=route, more=more)) as run:
            assert [(await run.ask(wire.get("/up"))).status for _ in range(2)] == [200, 429]
            for _ in range(6):
                assert (await run.ask(wire.get())).status == 200
            assert limits(run)["rate"]["all"]["admitted"] == 6 < len(a.seen) + len(b.seen) + len(c.seen)


async def test_a_reload_keeps_what_is_used_up(wire):
    text = 'rate_limit = {{ rate = "1/h", burst = {} }}'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route=text.format(1))) as run:
        assert [(await run.ask(wire.get())).status for _ in range(2)] == [200, 429]
        for burst, statuses in ((1, [429, 429]), (2, [200, 429])):
            await run.gateway.reload(read_config(wire.toml(backend.url, route=text.format(burst)), environ={}))
            assert [(await run.ask(wire.get())).status for _ in range(2)] == statuses
        await run.gateway.reload(read_config(wire.toml(backend.url), environ={}))
        assert limits(run)["rate"] == {}
        assert (await run.ask(wire.get())).status == 200


async def test_two_gateways_share_a_limit_over_a_store(wire):
    server = Valkey()
    await server.start()
    try:
        route = f'rate_limit = {{ rate = "1/h", burst = 5, store = "{server.url}", store_timeout = "5s" }}'
        async with wire.Backend() as backend:
            text = wire.toml(backend.url, route=route)
            async with wire.running(text) as one, wire.running(text) as other:
                posts = [await run.ask(wire.post(b"body")) for run in (one, other, one, other, one, other, one)]
                assert [got.status for got in posts] == [200] * 5 + [429] * 2
                assert [seen.body for seen in backend.seen] == [b"body"] * 5
                got = await other.ask(wire.get())
                assert (told(got)["limit"], got.get("ratelimit-policy")) == ("route.rate_limit", '"all";q=5;w=18000')
                state = limits(one)["rate"]["all"]
                assert (state["store_up"], state["asking"], state["unmetered"]) == (True, 0, 0)
                await one.at_rest()
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "tenfold rate limit"]
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("on_error", "status"), [('"open"', 200), ('"closed"', 429), ('"local", local_share = "50%"', 200)]
)
async def test_a_store_that_says_nothing_costs_its_time_out_once(wire, silent, on_error, status):
    route = (
        f'rate_limit = {{ rate = "1/h", burst = 4, store = "redis://127.0.0.1:{silent}", store_timeout = "100ms", '
        f'store_pause = "60s", on_store_error = {on_error} }}'
    )
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        peer = await run.connect()
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await peer.ask(wire.get())
        assert 0.09 < loop.time() - began < 2
        assert first.status == status
        began = loop.time()
        for _ in range(3):
            got = await peer.ask(wire.get())
        assert loop.time() - began < 2
        state = limits(run)["rate"]["all"]
        assert (state["asked"], state["failures"], state["store_up"]) == (1, 1, False)
        assert state["unmetered"] == (4 if on_error == '"open"' else 0)
        if status == 429:
            assert (told(got)["limit"], told(got)["limit_value"]) == ("route.rate_limit.on_store_error", "closed")
        else:
            assert got.status == (200 if on_error == '"open"' else 429)
        await run.at_rest()


async def test_a_client_that_leaves_while_the_store_is_asked_leaves_nothing_behind(wire, silent):
    route = f'rate_limit = {{ rate = "1/s", store = "redis://127.0.0.1:{silent}", store_timeout = "300ms" }}'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        peer = await run.connect()
        peer.send(wire.get())
        await run.until(lambda: limits(run)["rate"]["all"]["asking"] == 1)
        reset(peer)
        await run.until(lambda: run.counters["clients_left"] == 1)
        await run.until(lambda: limits(run)["rate"]["all"]["asking"] == 0)
        await run.at_rest()
        assert backend.seen == []


# -- adaptive concurrency ---------------------------------------------------------------------------------------------

FIXED = "adaptive = { initial = 2, minimum = 2, maximum = 2 }"


def places(run):
    return limits(run)["adaptive"]["app"][0]


async def test_a_full_pool_refuses_at_once_and_says_so(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        await go.wait()
        writer.write(wire.OK)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route=FIXED)) as run:
        peers = [await run.connect() for _ in range(2)]
        for peer in peers:
            peer.send(wire.get())
        await run.until(lambda: places(run)["in_flight"] == 2)
        got = await run.ask(wire.get())
        assert (got.status, told(got)["limit"], told(got)["limit_value"]) == (503, "route.adaptive", 2)
        assert int(got.get("retry-after")) >= 1
        assert (run.counters["shed"], places(run)["refused_by_priority"]["normal"]) == (1, 1)
        go.set()
        assert [(await peer.answer()).status for peer in peers] == [200, 200]
        assert places(run)["in_flight"] == 0
        assert places(run)["latency"] > 0
        await run.at_rest()


async def test_every_way_out_gives_the_place_back_and_time_outs_are_losses(wire):
    async def answer(request, writer, reader):
        path = request.start.split(b" ")[1]
        if path == b"/ws":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            await reader.read(-1)
            return False
        if path == b"/broken":
            return False
        if path in (b"/slow", b"/left", b"/long"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" if path == b"/long" else b"")
            await reader.read(-1)
            return False
        writer.write(b"HTTP/1.1 %b Word\r\nContent-Length: 0\r\n\r\n" % path[1:])
        return None

    text = 'first_byte_timeout = "200ms"'
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, pool=text, route=FIXED)) as run:
        asked = {"/200": 200, "/404": 404, "/500": 500, "/503": 503, "/429": 429, "/broken": 502, "/slow": 504}
        for path, status in asked.items():
            assert (await run.ask(wire.get(path))).status == status
            await run.until(lambda: places(run)["in_flight"] == 0)
        assert places(run)["lost"] == 3  # 503, 429 and the time-out
        tunnel, long = await run.connect(), await run.connect()
        tunnel.send(wire.get("/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAA"))
        assert (await tunnel.answer()).status == 101
        long.send(wire.get("/long"))
        await long.reader.readuntil(b"\r\n\r\n")
        assert places(run)["in_flight"] == 0  # who only listens takes no place
        gone = await run.connect()
        gone.send(wire.get("/left"))
        await run.until(lambda: places(run)["in_flight"] == 1)
        reset(gone)
        await run.until(lambda: places(run)["in_flight"] == 0)
        assert places(run)["lost"] == 3
        reset(tunnel)
        reset(long)
        await run.at_rest()


async def test_the_limit_is_measured_under_traffic_and_what_the_edge_answers_takes_no_place(wire):
    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /kept"):
            writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok")
            return
        await asyncio.sleep(0.002)
        writer.write(wire.OK)

    route = "edge = true\nadaptive = { initial = 4, maximum = 50 }"
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        assert [(await run.ask(wire.get("/kept"))).status for _ in range(5)] == [200] * 5
        assert places(run)["admitted"] == 1
        peers = [await run.connect() for _ in range(8)]
        stop = asyncio.Event()

        async def keep_asking(peer):
            while not stop.is_set():
                assert (await peer.ask(wire.get("/", "Cache-Control: no-store"))).status in (200, 503)

        tasks = [asyncio.create_task(keep_asking(peer)) for peer in peers]
        await run.until(lambda: places(run)["limit"] != 4)
        stop.set()
        await asyncio.gather(*tasks)
        assert places(run)["experiments"] >= 1
        assert 0.001 < places(run)["latency"] < 1  # a timer of uvloop may be a millisecond early
        assert places(run)["in_flight"] == 0


# -- cookies of the gateway's own -------------------------------------------------------------------------------------


def naming(name, *lines):
    more = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(name)}\r\n\r\n{name}".encode()


@contextlib.asynccontextmanager
async def three(wire, **text):
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(wire.Backend(naming(name))) for name in "abc"]
        text.setdefault("pool", f'pick = {{ name = "sticky", secret = "{SECRET}" }}')
        yield backends, await stack.enter_async_context(wire.running(wire.toml(*[b.url for b in backends], **text)))


def jar(answer):
    return answer.get("set-cookie").partition(";")[0]


async def test_a_visitor_keeps_the_endpoint_and_the_cookie_is_set_once(wire):
    async with three(wire) as (backends, run):
        had = set()
        for _ in range(12):
            first = await run.ask(wire.get("/", "Cookie: mine=1"))
            (line,) = first.fields[b"set-cookie"]
            assert line.startswith(b"tenfold_app=")
            assert line.endswith(b"; Path=/; HttpOnly; SameSite=Lax")
            assert first.get("cache-control") == 'no-cache="Set-Cookie"'
            had.add(first.body)
            for lines in ([f"Cookie: mine=1; {jar(first)}"], [f"Cookie: {jar(first)}; mine=1"],
                          ["Cookie: mine=1", f"cookie:{jar(first)}"]):  # fmt: skip
                again = await run.ask(wire.get("/", *lines))
                assert (again.body, again.get("set-cookie"), again.get("cache-control")) == (first.body, None, None)
        assert len(had) > 1
        assert {seen.get("cookie") for backend in backends for seen in backend.seen} == {"mine=1"}
        alone = await run.ask(wire.get("/", f"Cookie: {jar(first)}"))
        assert alone.body == first.body
        assert backends["abc".index(alone.body.decode())].seen[-1].get("cookie") is None
        assert limits(run)["sticky"] == {"app": 12}


async def test_a_cookie_that_is_forged_or_of_an_endpoint_that_has_left_is_renewed(wire):
    async with three(wire) as (backends, run):
        first = await run.ask(wire.get())
        name, _, value = jar(first).partition("=")
        for forged in (value[:-1] + ("A" if value[-1] != "A" else "B"), value.partition(".")[0], "", "%", "é.x"):
            got = await run.ask(wire.get("/", f"Cookie: {name}={forged}"))
            assert (got.status, got.get("set-cookie") is None) == (200, False)
        balancer = run.gateway._site.plan.pools["app"].balancer
        index = "abc".index(first.body.decode())
        here = next(each.id for each in balancer.endpoints if each.url == backends[index].url)
        assert await balancer.drain(here, 1)
        moved = await run.ask(wire.get("/", f"Cookie: {jar(first)}"))
        assert moved.body != first.body
        assert jar(moved) != jar(first)
        assert (await run.ask(wire.get("/", f"Cookie: {jar(moved)}"))).get("set-cookie") is None
        there = "abc".index(moved.body.decode())
        backends[there].server.close()  # and one that can no longer be reached
        backends[there].abort()
        text = wire.toml(*[each.url for each in backends], route="retries = 3",
                         pool=f'pick = {{ name = "sticky", secret = "{SECRET}" }}')  # fmt: skip
        await run.gateway.reload(read_config(text, environ={}))
        third = await run.ask(wire.get("/", f"Cookie: {jar(moved)}"))
        assert (third.status, jar(third) != jar(moved)) == (200, True)
        assert len(third.fields[b"set-cookie"]) == 1


async def test_a_full_endpoint_keeps_its_visitors(wire):
    go, busy = asyncio.Event(), asyncio.Event()

    async def slow(request, writer, reader):
        if request.start.startswith(b"GET /slow"):
            busy.set()
            await go.wait()
        writer.write(naming("x"))

    pool = f'max_in_flight = 1\npick = {{ name = "sticky", secret = "{SECRET}", cookie = "where" }}'
    async with (
        wire.Backend(slow) as a,
        wire.Backend(slow) as b,
        wire.running(wire.toml(a.url, b.url, pool=pool)) as run,
    ):
        first = await run.ask(wire.get())
        assert jar(first).startswith("where=")
        peer = await run.connect()
        peer.send(wire.get("/slow", f"Cookie: {jar(first)}"))
        await asyncio.wait_for(busy.wait(), 5)
        other = await run.ask(wire.get("/", f"Cookie: {jar(first)}"))
        assert (other.status, other.get("set-cookie")) == (200, None)
        go.set()
        assert (await peer.answer()).get("set-cookie") is None
        assert sorted((len(a.seen), len(b.seen))) == [1, 2]


@pytest.mark.parametrize(
    ("gateway", "line", "secure"),
    [(TRUSTED, "X-Forwarded-Proto: https", True), (TRUSTED, "X-Forwarded-Proto: http", False),
     ("", "X-Forwarded-Proto: https", False)],
)  # fmt: skip
async def test_cookies_are_secure_where_the_client_came_by_tls(wire, gateway, line, secure):
    pool = f'pick = {{ name = "priority", inner = {{ name = "sticky", secret = "{SECRET}" }} }}'
    async with three(wire, gateway=gateway, pool=pool) as (_, run):
        got = await run.ask(wire.get("/", line))
        assert ("; Secure" in got.get("set-cookie")) is secure
        assert (await run.ask(wire.get("/", line, f"Cookie: {jar(got)}"))).body == got.body


async def test_the_edge_never_keeps_a_cookie_of_the_gateways_own(wire):
    answers = [naming(name, "Cache-Control: max-age=60", "Vary: Cookie") for name in "abc"]
    pool = f'pick = {{ name = "sticky", secret = "{SECRET}" }}'
    more = '[[pool]]\nname = "next"\nendpoints = ["{}"]'
    route = 'edge = true\ncanary = {{ pool = "next", weight = {}, cookie = "side" }}'
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(wire.Backend(each)) for each in answers]
        text = wire.toml(
            *[each.url for each in backends[:2]], pool=pool, route=route.format(1e-9), more=more.format(backends[2].url)
        )
        run = await stack.enter_async_context(wire.running(text))
        first = await run.ask(wire.get())
        cookies = first.fields[b"set-cookie"]
        assert {line.partition(b"=")[0] for line in cookies} == {b"side", b"tenfold_app"}
        back = "Cookie: " + "; ".join(line.partition(b";")[0].decode() for line in cookies)
        hit = await run.ask(wire.get("/", back))
        assert (hit.get("cache-status").split(";")[1], hit.get("set-cookie")) == (" hit", None)
        stranger = await run.ask(wire.get())  # whom the edge answers, too: a side of their own, and no endpoint
        (side,) = stranger.fields[b"set-cookie"]
        assert side.startswith(b"side=")
        assert side not in cookies
        assert sum(len(each.seen) for each in backends) == 1


# -- deadlines and tries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trusted", "status"), [(TRUSTED, 504), ("", 200)])
async def test_a_trusted_peers_deadline_holds_without_one_of_the_route(wire, trusted, status):
    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /slow"):
            await asyncio.sleep(0.4)
        writer.write(wire.OK)

    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, gateway=trusted)) as run:
            got = await run.ask(wire.get("/slow", "Tenfold-Timeout-Ms: 100"))
            assert got.status == status
            if trusted:
                assert told(got)["reason"] == "callers_deadline"
                assert int(backend.seen[0].get("tenfold-timeout-ms")) <= 160
                over = await run.ask(wire.get("/", "Tenfold-Timeout-Ms: 0"))
                assert (over.status, len(backend.seen)) == (504, 1)
                twice = await run.ask(wire.get("/slow", "Tenfold-Timeout-Ms: 9000", "tenfold-timeout-ms: 100"))
                assert twice.status == 504  # the strictest counts
            # A caller's haste is no failure of the endpoint's.
            assert run.gateway.state()["pools"]["app"]["counters"]["failed"] == 0
            await run.ask(wire.get("/", "Tenfold-Timeout-Ms: soon"))
            assert (backend.seen[-1].get("tenfold-timeout-ms") is None) is bool(trusted)
            await run.at_rest()


def unwell(status, *lines):
    return "\r\n".join([f"HTTP/1.1 {status} Unwell", *lines, "Content-Length: 4", "", "sick"]).encode()


TRIES = 'retries = {{ attempts = 3, base = "1ms", budget = false{} }}\nretry_statuses = [429, 503]\n'


async def test_an_answer_with_a_status_of_the_list_is_tried_elsewhere(wire):
    async with wire.Backend(unwell(503)) as sick, wire.Backend() as well:
        async with wire.running(wire.toml(sick.url, well.url, route=TRIES.format(""))) as run:
            peer = await run.connect()
            for _ in range(10):
                assert (await peer.ask(wire.get())).body == b"ok"
            assert len(sick.seen) == run.counters["retries"] == run.counters["retries_status"] > 0
            assert sick.connections == 1  # the answer was read to its end
            posts = [await peer.ask(wire.post(b"x")) for _ in range(10)]
            assert {(got.status, got.body) for got in posts} == {(200, b"ok"), (503, b"sick")}
            sick.answer = unwell(500)
            assert {(await peer.ask(wire.get())).status for _ in range(10)} == {200, 500}
            await run.at_rest()


@pytest.mark.parametrize(
    ("options", "route", "said", "status"),
    [
        ("", "", "0", 200),
        (', retry_after = "500ms"', "", "1", 503),
        ("", 'deadline = "900ms"', "1", 503),
        ("", "", "Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ("", "", "nonsense", 200),
    ],
)
async def test_a_retry_after_ends_the_trying_where_it_is_too_long(wire, options, route, said, status):
    text = TRIES.format(options) + route
    async with wire.Backend(unwell(503, f"Retry-After: {said}")) as sick, wire.Backend() as well:
        async with wire.running(wire.toml(sick.url, well.url, route=text)) as run:
            answers = [await run.ask(wire.get()) for _ in range(12)]
            assert {got.status for got in answers} == {200, status}
            for got in answers:
                if got.status == 503:
                    assert (got.body, got.get("retry-after")) == (b"sick", said)
            assert len(sick.seen) > 0
            await run.at_rest()


async def test_a_retry_after_is_waited_for(wire):
    async with wire.Backend(unwell(429, "Retry-After: 1")) as sick, wire.Backend() as well:
        async with wire.running(wire.toml(sick.url, well.url, route=TRIES.format(""))) as run:
            loop = asyncio.get_running_loop()
            while not sick.seen:
                began = loop.time()
                assert (await run.ask(wire.get())).status == 200
            assert loop.time() - began >= 1
            assert run.gateway.state()["pools"]["app"]["counters"]["failed"] == 0  # 429 is no fault of the endpoint's


async def test_the_last_answer_goes_to_the_client_as_it_came(wire):
    async with wire.Backend(unwell(503)) as one, wire.Backend(unwell(503)) as other:
        async with wire.running(wire.toml(one.url, other.url, route=TRIES.format(""))) as run:
            got = await run.ask(wire.get())
            assert (got.status, got.body, len(one.seen), len(other.seen)) == (503, b"sick", 1, 1)
            big = await run.ask(wire.get("/", "Content-Length: 3", method="PUT") + b"abc")
            assert (big.body, one.seen[-1].body, other.seen[-1].body) == (b"sick", b"abc", b"abc")
            await run.at_rest()


async def test_the_edge_gets_the_answer_of_the_last_try(wire):
    kept = naming("x", "Cache-Control: max-age=60")
    async with wire.Backend(unwell(503)) as sick, wire.Backend(kept) as well:
        text = TRIES.format("") + "edge = true"
        async with wire.running(wire.toml(sick.url, well.url, route=text)) as run:
            for n in range(10):
                answers = [await run.ask(wire.get(f"/{n}")) for _ in range(2)]
                assert [got.body for got in answers] == [b"x", b"x"]
                assert "hit" in answers[1].get("cache-status")
            assert (len(well.seen), len(sick.seen) > 0) == (10, True)
            await run.at_rest()


# -- keys of the edge -------------------------------------------------------------------------------------------------


async def test_headers_and_cookies_of_the_key_tell_responses_apart_and_a_purge_finds_them_all(wire):
    count = iter(range(100))

    async def answer(request, writer, reader):
        body = b"%d" % next(count)
        writer.write(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    route = 'edge = { headers = ["X-Lang"], cookies = ["plan"] }'
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        variants = [
            [], ["X-Lang: de"], ["X-Lang: en"], ["Cookie: plan=pro"], ["X-Lang: de", "Cookie: plan=pro"],
            ["Cookie: plan=free"],
        ]  # fmt: skip
        bodies = [(await run.ask(wire.get("/", *lines))).body for lines in variants]
        assert len(set(bodies)) == len(variants)
        for lines, body in zip(variants, bodies, strict=True):
            for more in ([], ["Cookie: else=1"], ["X-Other: 1"]):
                got = await run.ask(wire.get("/", *lines, *more))
                assert (got.body, got.get("vary")) == (body, None)
        many = [(await run.ask(wire.get("/", f"Cookie: plan=p{n}"))).body for n in range(70)]
        assert (await run.ask(wire.get("/", "Cookie: plan=p0"))).body == many[0]
        assert run.gateway.edge.purge_url(b"http://shop.example/") == 76
        assert (await run.ask(wire.get())).body not in bodies
        await run.gateway.reload(read_config(wire.toml(backend.url, route="edge = true"), environ={}))
        fresh = [(await run.ask(wire.get("/", *lines))).body for lines in variants]
        assert len(set(fresh)) == 1  # another key: nothing of the old one is found


async def test_tags_come_from_the_header_that_the_route_names(wire):
    head = "Cache-Control: max-age=60", "X-Tags: a b", "Surrogate-Key: c"
    async with wire.Backend(naming("x", *head)) as backend:
        async with wire.running(wire.toml(backend.url, route='edge = { tag_header = "X-Tags" }')) as run:
            for _ in range(2):
                got = await run.ask(wire.get())
                assert (got.get("x-tags"), got.get("surrogate-key")) == (None, None)
            assert len(backend.seen) == 1
            assert run.gateway.edge.purge_keys([b"c"]) == 0
            assert run.gateway.edge.purge_keys([b"a"]) == 1
            await run.ask(wire.get())
            assert len(backend.seen) == 2
