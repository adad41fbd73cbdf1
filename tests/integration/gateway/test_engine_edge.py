"""The edge over the wire: hits, 304, one fetch for many, stale while it is fetched anew, stale on errors, purges."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import json

import pytest


def response(body=b"hello", *lines, status="200 OK"):
    """The bytes of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


FRESH = ("Cache-Control: max-age=60", 'ETag: "a"', "Surrogate-Key: books shop")


async def test_a_hit_does_not_ask_the_endpoint(wire):
    async with wire.Backend(response(b"hello", *FRESH)) as backend:
        async with wire.running(wire.toml(backend.url, route="edge = true")) as run:
            peer = await run.connect()
            first = await peer.ask(wire.get("/a"))
            assert "fwd=uri-miss" in first.get("cache-status")
            assert "stored" in first.get("cache-status")
            for _ in range(3):
                hit = await peer.ask(wire.get("/a"))
                assert (hit.status, hit.body, hit.get("age")) == (200, b"hello", "0")
                assert "hit" in hit.get("cache-status")
                assert hit.get("surrogate-key") is first.get("surrogate-key") is None
            assert (await peer.ask(wire.get("/a", method="HEAD"), bodiless=True)).get("content-length") == "5"
            assert (await peer.ask(wire.get("/a", 'If-None-Match: "a"'))).status == 304
            part = await peer.ask(wire.get("/a", "Range: bytes=1-2"))
            assert (part.status, part.body) == (206, b"el")
            assert (await run.ask(b"GET /a HTTP/1.0\r\nHost: shop.example\r\n\r\n")).get("connection") == "close"
            assert len(backend.seen) == 1
            assert run.gateway.state()["edge"]["hits"] == 7
            await run.at_rest()


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_bodies_of_unknown_length_are_kept_too(wire, framing):
    async def answer(request, writer, reader):
        if framing == "close":
            writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nhello world")
            return False
        writer.write(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
        )
        return True

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        first, second = await run.ask(wire.get()), await run.ask(wire.get())
        assert first.body == second.body == b"hello world"
        assert second.get("content-length") == "11"
        assert len(backend.seen) == 1


async def test_a_stale_response_is_revalidated_and_a_304_makes_it_fresh(wire):
    async def answer(request, writer, reader):
        if request.get("if-none-match") == '"a"':
            writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nCache-Control: max-age=60\r\n\r\n')
        else:
            writer.write(response(b"hello", 'ETag: "a"', "Cache-Control: max-age=0"))

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        peer = await run.connect()
        answers = [await peer.ask(wire.get("/", 'If-None-Match: "mine"')) for _ in range(1)]
        answers += [await peer.ask(wire.get()) for _ in range(4)]
        assert [got.body for got in answers] == [b"hello"] * 5
        assert [request.get("if-none-match") for request in backend.seen] == ['"mine"', '"a"']
        assert backend.connections == 1
        assert run.gateway.state()["edge"]["revalidated"] == 1


async def test_one_fetch_answers_all_that_wait(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 200000\r\n\r\n" + b"a" * 100_000)
        await go.wait()
        writer.write(b"b" * 100_000)

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        peers = [await run.connect() for _ in range(30)]
        for peer in peers:
            peer.send(wire.get())
        for peer in peers:  # all have the first half before the second one is there
            await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 5)
            await asyncio.wait_for(peer.reader.readexactly(100_000), 5)
        peers[0].abort()  # the first one asked for all of them
        go.set()
        for peer in peers[1:]:
            assert await asyncio.wait_for(peer.reader.readexactly(100_000), 5) == b"b" * 100_000
        assert len(backend.seen) == 1
        await run.at_rest()
        assert (await run.ask(wire.get())).body == b"a" * 100_000 + b"b" * 100_000
        assert len(backend.seen) == 1


async def test_when_the_one_that_asks_leaves_another_one_asks(wire):
    async def answer(request, writer, reader):
        if len(backend.seen) == 1:
            await asyncio.sleep(30)
        writer.write(response(b"hello", *FRESH))

    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, route="edge = true", gateway='body_timeout="5s"')) as run:
            leader, *others = [await run.connect() for _ in range(5)]
            leader.send(wire.get("/", "Connection: close"))
            await backend.arrived.wait()
            for n, peer in enumerate(others):
                peer.send(wire.get())
                await run.until(lambda n=n: run.counters["requests"] == n + 2)
            [client] = [each for each in run.gateway._site.clients if each.exchange.connection is not None]
            client.cut()
            assert [(await peer.answer()).body for peer in others] == [b"hello"] * 4
            assert len(backend.seen) == 2
            await run.at_rest()


async def test_collapse_can_be_off(wire):
    async def answer(request, writer, reader):
        await asyncio.sleep(0.05)
        writer.write(response(b"hello", *FRESH))

    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, route="edge = { collapse = false }")) as run:
            await asyncio.gather(*(run.ask(wire.get()) for _ in range(4)))
            assert len(backend.seen) == 4


async def test_stale_while_revalidate_answers_at_once_and_fetches_behind(wire):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        if len(backend.seen) > 1:
            await go.wait()
        writer.write(response(b"%d" % len(backend.seen), "Cache-Control: max-age=0"))

    async with wire.Backend(answer) as backend:
        route = 'edge = { stale_while_revalidate = "1m" }'
        async with wire.running(wire.toml(backend.url, route=route)) as run:
            assert (await run.ask(wire.get())).body == b"1"
            for _ in range(3):
                assert (await run.ask(wire.get())).body == b"1"
            await run.until(lambda: len(backend.seen) == 2)
            go.set()
            await run.at_rest()
            assert (await run.ask(wire.get())).body == b"2"


@pytest.mark.parametrize("failure", ["500", "reset", "refused"])
async def test_stale_if_error_hides_a_failure(wire, failure):
    async def answer(request, writer, reader):
        if len(backend.seen) == 1:
            writer.write(response(b"hello", "Cache-Control: max-age=0"))
            return failure != "refused"
        if failure == "500":
            writer.write(response(b"broken", status="500 Oops"))
            return True
        writer.transport.abort()
        return False

    async with wire.Backend(answer) as backend:
        route = 'edge = { stale_if_error = "1m" }'
        async with wire.running(wire.toml(backend.url, route=route)) as run:
            assert (await run.ask(wire.get())).body == b"hello"
            if failure == "refused":
                backend.server.close()
            got = await run.ask(wire.get())
            assert (got.status, got.body) == (200, b"hello")
            assert "stale-if-error" in got.get("cache-status")
            await run.at_rest()


async def test_a_failure_is_everybodys_who_waited(wire):
    async def answer(request, writer, reader):
        await asyncio.sleep(0.05)
        writer.transport.abort()
        return False

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        answers = await asyncio.gather(*(run.ask(wire.get()) for _ in range(6)))
        assert {got.status for got in answers} == {502}
        assert len(backend.seen) == 1
        assert {json.loads(got.body)["reason"] for got in answers} == {"upstream_broken", "collapsed"}
        await run.at_rest()


async def test_purges_by_url_and_by_tag(wire):
    async def answer(request, writer, reader):
        key = request.start.split(b"/")[1].split(b" ")[0].decode()
        writer.write(response(b"%d" % len(backend.seen), "Cache-Control: max-age=60", f"Surrogate-Key: all {key}"))

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:

        async def bodies():
            return [int((await run.ask(wire.get(f"/{key}"))).body) for key in "ab"]

        assert await bodies() == await bodies() == [1, 2]
        edge = run.gateway.edge
        assert edge.purge_keys(["a"]) == 1
        assert await bodies() == [3, 2]
        assert edge.purge_url("http://shop.example/b") == 1
        assert await bodies() == [3, 4]
        assert (await run.ask(wire.post(b"x", path="/a"))).status == 200  # an unsafe method invalidates its URL
        assert await bodies() == [6, 4]
        assert edge.purge_keys(["all"]) == 2
        assert await bodies() == [7, 8]


async def test_what_a_route_says_of_the_edge(wire):
    async with wire.Backend(response(b"hello")) as backend:
        route = 'edge = { ttl = "1m", query = ["page"], largest = "1KiB" }'
        async with wire.running(wire.toml(backend.url, route=route)) as run:
            for target in ("/?page=1&utm=a", "/?utm=b&page=1", "/?page=2", "/"):
                got = await run.ask(wire.get(target))
            assert got.get("tenfold-cache-control") is None
            assert len(backend.seen) == 3
            backend.answer = response(b"x" * 2000)
            for _ in range(2):
                assert (await run.ask(wire.get("/large?page=9"))).body == b"x" * 2000
            assert len(backend.seen) == 5
            only = await run.ask(wire.get("/none", "Cache-Control: only-if-cached"))
            assert (only.status, json.loads(only.body)["reason"]) == (504, "only_if_cached")


async def test_cookies_and_private_answers_are_nobody_elses(wire):
    async def answer(request, writer, reader):
        said = "Set-Cookie: a=b" if request.start.startswith(b"GET /cookie") else "Cache-Control: private, max-age=60"
        writer.write(response(b"%d" % len(backend.seen), said, "Cache-Control: max-age=60"))

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        for path in ("/cookie", "/private"):
            assert (await run.ask(wire.get(path))).body != (await run.ask(wire.get(path))).body
