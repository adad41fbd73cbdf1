"""What goes in comes out: framing, keep-alive, pipelining, bodies both ways, heads, refusals, limits."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import contextlib
import json
import re
import tomllib
from pathlib import Path

import pytest

CORPUS = tomllib.loads(
    (Path(__file__).parents[2] / "unit" / "gateway" / "corpus_requests.toml").read_text(encoding="utf-8")
)


async def test_one_connection_each_way_serves_many_requests(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        for n in range(5):
            answer = await peer.ask(wire.get(f"/{n}"))
            assert (answer.status, answer.body) == (200, b"ok")
        assert backend.connections == 1
        assert [request.start for request in backend.seen] == [b"GET /%d HTTP/1.1" % n for n in range(5)]
        assert run.counters["reused"] == 4
        await run.at_rest()


async def test_pipelined_requests_are_answered_one_after_another_in_order(wire):
    busy = []

    async def answer(request, writer, reader):
        busy.append(1)
        assert len(busy) == 1
        await asyncio.sleep(0.01 if request.start.endswith(b"/0 HTTP/1.1") else 0)
        path = request.start.split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
        busy.pop()

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        peer.send(b"".join(wire.get(f"/{n}") for n in range(40)) + wire.post(b"body", path="/40"))
        assert [(await peer.answer()).body for _ in range(41)] == [b"/%d" % n for n in range(41)]
        assert backend.seen[-1].body == b"body"


async def test_a_body_in_chunks_goes_through_as_it_came_both_ways(wire):
    async def answer(request, writer, reader):
        chunked = request.get("transfer-encoding") is not None
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + request.raw_body if chunked else wire.OK
        )

    sent = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        peer.send(wire.get("/", "Transfer-Encoding: chunked", method="POST"))
        for at in range(len(sent)):
            peer.send(sent[at : at + 1])
            await asyncio.sleep(0)
        answered = await peer.answer()
        assert answered.body == backend.seen[0].body == b"hello world"
        assert b"X-Sum: 1" in answered.raw_body
        assert (await peer.ask(wire.post(b"x"))).status == 200  # and the connection lives on


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', b""),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
)
async def test_answers_without_a_body_leave_both_connections_in_use(wire, method, answer, body):
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        for _ in range(3):
            got = await peer.ask(wire.get("/", method=method), bodiless=method == "HEAD")
            if got.status == 103:
                got = await peer.answer()
            assert got.body == body
        assert backend.connections == 1


async def test_an_answer_until_the_end_of_the_connection_is_sent_in_chunks_and_to_http_1_0_as_it_is(wire):
    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        return False

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        got = await run.ask(wire.get())
        assert got.get("transfer-encoding") == "chunked"
        assert got.body == b"all of it"
        peer = await run.connect()
        peer.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        raw = await peer.rest()
        assert raw.endswith(b"\r\n\r\nall of it")
        assert b"chunked" not in raw


async def test_continue_is_the_endpoints_to_say(wire):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{port}")) as run:
        peer = await run.connect()
        peer.send(wire.get("/", "Expect: 100-continue", "Content-Length: 4", method="PUT"))
        assert (await peer.answer()).status == 100
        assert (await peer.ask(b"body")).body == b"body"


async def test_hop_by_hop_fields_end_here_and_the_client_is_told_of(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        await run.ask(
            wire.get("/", "Connection: X-Mine, keep-alive", "X-Mine: 1", "TE: trailers", "X-Forwarded-For: 6.6.6.6",
                     "X-Request-Id: forged", "Keep-Alive: 5")
        )  # fmt: skip
        seen = backend.seen[0]
        for name in ("connection", "x-mine", "te", "keep-alive"):
            assert seen.get(name) is None
        assert seen.get("x-forwarded-for") == "127.0.0.1"
        assert seen.get("forwarded") == 'for=127.0.0.1;proto=http;host="shop.example"'
        assert seen.get("x-request-id") == seen.get("traceparent").split("-")[1] != "forged"


async def test_an_early_answer_is_passed_on_and_the_connections_are_not_used_again(wire):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{port}")) as run:
        peer = await run.connect()
        got = await peer.ask(wire.get("/", "Content-Length: 1000000", method="POST") + b"x" * 1000)
        assert (got.status, got.body, got.get("connection")) == (403, b"no", "close")
        assert await peer.rest() == b""
        await run.at_rest()
        assert run.counters["upstreams"] == 0


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{n}") for n, c in enumerate(CORPUS["refused"])])
async def test_what_is_no_request_is_refused_and_never_reaches_the_endpoint_in_another_framing(wire, case):
    async with (
        wire.Backend() as backend,
        wire.running(wire.toml(backend.url, gateway='header_timeout = "300ms"')) as run,
    ):
        peer = await run.connect()
        peer.send(case["raw"].encode("latin-1"))
        peer.writer.write_eof()
        raw = await peer.rest()
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]
        problem = json.loads(raw.rpartition(b"\r\n\r\n")[2]) if raw.endswith(b"}") else {}
        assert statuses
        assert 400 <= statuses[-1] <= 505
        assert problem["reason"] in (case["reason"], "upstream_broken")
        await run.at_rest()
        # What did reach the endpoint are whole requests whose bodies are where their heads say.
        for taken in backend.bytes:
            assert _framed(bytes(taken)), taken


def _framed(raw):
    """Whether these bytes are requests with one framing each, the last of which may be cut."""
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
        if names.count(b"content-length") + names.count(b"transfer-encoding") > 1 or names.count(b"host") != 1:
            return False
        if not end or b"transfer-encoding" in names:
            return b"\n" not in head.replace(b"\r\n", b"")
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:])
        raw = rest[int(fields.get(b"Content-Length", b"0")) :]
    return True


async def test_limits_say_which_of_them_fired(wire):
    gateway = 'header_max = "2KiB"\nheaders_max = 20\nbody_max = 10\nheader_timeout = "200ms"\nbody_timeout = "200ms"'
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway=gateway)) as run:
        asked = {
            (431, "gateway.header_max"): wire.get("/", "X: " + "x" * 3000),
            (431, "gateway.headers_max"): wire.get("/", *["X: y"] * 30),
            (413, "gateway.body_max"): wire.post(b"x" * 11),
            (408, "gateway.header_timeout"): b"GET / HTTP/1.1\r\nHost: a\r\nX-",
            (408, "gateway.body_timeout"): wire.post(b"x" * 9)[:-1],
        }
        for (status, limit), raw in asked.items():
            got = await run.ask(raw)
            told = json.loads(got.body)
            assert (got.status, told["limit"]) == (status, limit)
            assert (got.get("content-type"), got.get("connection")) == ("application/problem+json", "close")
        chunked = wire.get("/", "Transfer-Encoding: chunked", method="POST")
        got = await run.ask(chunked + b"6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n")
        assert (got.status, json.loads(got.body)["limit"]) == (413, "gateway.body_max")
        assert (await run.ask(wire.post(b"x" * 10))).status == 200
        await run.at_rest()


async def test_an_idle_connection_is_closed_without_a_word(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, gateway='idle_timeout = "150ms"')) as run:
        peer = await run.connect()
        await peer.ask(wire.get())
        assert await peer.rest() == b""
        await run.until(lambda: run.gateway.state()["clients"] == 0)


async def test_a_half_closed_client_gets_its_answer(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        await go.wait()
        writer.write(wire.OK)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        peer.send(wire.get())
        peer.writer.write_eof()
        await backend.arrived.wait()
        go.set()
        assert (await peer.rest()).endswith(b"ok")


async def test_routes_by_path_change_heads_redirect_and_answer(wire):
    more = """
[[route]]
path = "/api"
pool = "app"
strip_prefix = true
request_headers = { set = { X-User = "me" }, remove = ["Cookie"] }
response_headers = { set = { Server = "here" } }
[[route]]
path = "/old"
redirect = "https://{host}/new{query}"
[[route]]
path = "/health"
exact = true
respond = { status = 200, body = "well" }
[[route]]
host = "only.example"
path = "/x"
pool = "app"
"""
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, more=more)) as run:
        peer = await run.connect()
        got = await peer.ask(wire.get("/api/items?a=1", "Cookie: a=b", "X-User: you"))
        assert got.get("server") == "here"
        seen = backend.seen[0]
        assert seen.start == b"GET /items?a=1 HTTP/1.1"
        assert (seen.fields[b"x-user"], seen.get("cookie"), seen.get("x-forwarded-prefix")) == ([b"me"], None, "/api")
        got = await peer.ask(wire.get("/old?x=1"))
        assert (got.status, got.get("location")) == (308, "https://shop.example/new?x=1")
        assert (await peer.ask(wire.get("/health"))).body == b"well"
        got = await peer.ask(wire.get("/health/../api"))
        assert (got.status, json.loads(got.body)["reason"]) == (400, "dot_segments")


async def test_no_route_is_a_404(wire):
    text = wire.toml("http://127.0.0.1:9", route='path = "/a"')
    async with wire.running(text) as run:
        got = await run.ask(wire.get("/b"))
        assert (got.status, json.loads(got.body)["reason"]) == (404, "no_route")


async def test_the_canary_gets_its_share_and_users_keep_to_their_side(wire):
    async with wire.Backend(wire.OK) as old, wire.Backend(wire.OK.replace(b"ok", b"no")) as new:
        more = f'[[pool]]\nname = "next"\nendpoints = ["{new.url}"]'
        route = 'canary = { pool = "next", weight = 0.3, header = "X-Canary", cookie = "side" }'
        async with wire.running(wire.toml(old.url, route=route, more=more)) as run:
            assert (await run.ask(wire.get("/", "X-Canary: always"))).body == b"no"
            assert (await run.ask(wire.get("/", "X-Canary: never"))).body == b"ok"
            sides = set()
            for _ in range(40):
                first = await run.ask(wire.get())
                mark = first.get("set-cookie").partition(";")[0]
                sides.add(first.body)
                assert {(await run.ask(wire.get("/", f"Cookie: {mark}"))).body for _ in range(3)} == {first.body}
            assert sides == {b"ok", b"no"}


async def test_the_deadline_is_passed_on_and_kept(wire):
    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /slow"):
            await asyncio.sleep(5)
        writer.write(wire.OK)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route='deadline = "2s"')) as run:
        await run.ask(wire.get("/", "Tenfold-Timeout-Ms: 700"))
        assert 500 < int(backend.seen[0].get("tenfold-timeout-ms")) <= 760
        assert len(backend.seen[0].fields[b"tenfold-timeout-ms"]) == 1
        got = await run.ask(wire.get("/slow", "Tenfold-Timeout-Ms: 100"))
        assert (got.status, json.loads(got.body)["reason"]) == (504, "callers_deadline")
        await run.at_rest()


async def test_requests_wait_for_a_place_the_critical_first(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        await go.wait()
        writer.write(wire.OK)

    more = '[[route]]\nname = "vip"\npath = "/vip"\npool = "app"\npriority = "critical"'
    pool = 'max_in_flight = 1\nqueue = 2\nqueue_timeout = "5s"'
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, pool=pool, more=more)) as run:
        peers = [await run.connect() for _ in range(3)]
        for n, (peer, path) in enumerate(zip(peers, ("/first", "/second", "/vip"), strict=True)):
            peer.send(wire.get(path))
            await run.until(lambda n=n: run.counters["requests"] == n + 1)
        got = await run.ask(wire.get("/third"))
        assert (got.status, json.loads(got.body)["limit"]) == (503, "pool.queue")
        go.set()
        assert [(await peer.answer()).status for peer in peers] == [200, 200, 200]
        assert [seen.start.split(b" ")[1] for seen in backend.seen] == [b"/first", b"/vip", b"/second"]
        await run.at_rest()


async def test_the_turn_of_somebody_who_left_the_queue_is_the_next_ones(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        await go.wait()
        writer.write(wire.OK)

    pool = 'max_in_flight = 1\nqueue = 5\nqueue_timeout = "8s"'
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, pool=pool)) as run:
        peers = [await run.connect() for _ in range(5)]
        for n, peer in enumerate(peers):
            peer.send(wire.get(f"/{n}"))
            await run.until(lambda n=n: run.counters["requests"] == n + 1)
        assert (run.counters["queued"], run.gateway.state()["pools"]["app"]["queued"]) == (4, 4)
        clients = {each.exchange.head.target: each for each in run.gateway._site.clients}
        clients[b"/1"].cut()
        clients[b"/3"].cut()
        go.set()
        assert [(await peers[n].answer()).status for n in (0, 2, 4)] == [200, 200, 200]
        assert [seen.start.split(b" ")[1] for seen in backend.seen] == [b"/0", b"/2", b"/4"]
        await run.at_rest()


async def test_a_websocket_echo_equals_the_direct_one(wire):
    upgrade = wire.get("/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAA")

    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        return False

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = b"".join(bytes([n % 256]) * 997 for n in range(300))
        writer.write(upgrade + sent[:5])
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(sent[5:])
        echo = await asyncio.wait_for(reader.readexactly(len(sent)), 5)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
        writer.close()
        return head.split(b"\r\n")[0], echo == sent

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        assert await talk(backend.port) == await talk(run.gateway.addresses[0].port)
        await run.at_rest()
        assert run.counters["tunnels"] == 1
        assert run.counters["upstreams"] == 0


async def test_a_silent_tunnel_is_closed(wire):
    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.read(-1)
        return False

    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, gateway='tunnel_timeout = "200ms"')) as run:
            peer = await run.connect()
            got = await peer.ask(wire.get("/", "Connection: Upgrade", "Upgrade: websocket"))
            assert got.status == 101
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(peer.reader.readexactly(1), 5)
            await run.at_rest()


async def test_a_unix_socket_on_both_sides(wire, tmp_path):
    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await wire.read(reader)
                writer.write(wire.OK)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "app.sock")
    text = wire.toml(f"unix:{tmp_path}/app.sock").replace("127.0.0.1:0", f"unix:{tmp_path}/gw.sock")
    async with server, wire.running(text):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "gw.sock")
        writer.write(wire.get())
        assert (await wire.read(reader)).body == b"ok"
        writer.close()
    assert not (tmp_path / "gw.sock").exists()
