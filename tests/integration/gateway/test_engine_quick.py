"""The short ways: answers from the store without an exchange, and bodies that come together with their heads."""

from __future__ import annotations

import asyncio

import pytest

STORED = b'HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: "a"\r\nContent-Length: 5\r\n\r\nhello'


@pytest.mark.parametrize("fields", [(), ("Accept: */*", "Cookie: a=b")])
async def test_hits_are_answered_in_order_and_counted(wire, fields) -> None:
    async with wire.Backend(STORED) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        peer = await run.connect()
        first = await peer.ask(wire.get("/a", *fields))
        assert "stored" in first.get("cache-status")
        peer.send(wire.get("/a", *fields) * 6)
        for _ in range(6):
            answer = await peer.answer()
            assert (answer.status, answer.body, answer.get("age")) == (200, b"hello", "0")
            assert answer.get("cache-status").startswith("tenfold; hit; ttl=")
        assert len(backend.seen) == 1
        await run.at_rest()
        counters, edge = run.counters, run.gateway.state()["edge"]
        assert (counters["requests"], counters["answered_2xx"], edge["hits"], edge["misses"]) == (7, 7, 6, 1)


async def test_what_leaves_something_to_decide_takes_the_long_way(wire) -> None:
    async with wire.Backend(STORED) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        peer = await run.connect()
        await peer.ask(wire.get("/a"))
        assert (await peer.ask(wire.get("/a", 'If-None-Match: "a"'), bodiless=True)).status == 304
        part = await peer.ask(wire.get("/a", "Range: bytes=1-2"))
        assert (part.status, part.body) == (206, b"el")
        assert (await peer.ask(wire.get("/a", method="HEAD"), bodiless=True)).get("content-length") == "5"
        await peer.ask(wire.get("/a", "Cache-Control: no-cache"))
        assert len(backend.seen) == 2
        last = await peer.ask(wire.get("/a", "Connection: close"))
        assert (last.body, last.get("connection")) == (b"hello", "close")
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "route",
    [
        'edge = true\npath = "/a"\nstrip_prefix = true',
        'edge = true\nrequest_headers = { set = { X-Mine = "1" } }',
        'edge = { query = ["q"] }',
        'edge = true\npriority = "batch"',
    ],
)
async def test_routes_that_do_more_answer_from_the_store_as_well(wire, route) -> None:
    async with wire.Backend(STORED) as backend, wire.running(wire.toml(backend.url, route=route)) as run:
        peer = await run.connect()
        for _ in range(3):
            assert (await peer.ask(wire.get("/a/b"))).body == b"hello"
        assert len(backend.seen) == 1
        assert not run.gateway._site.plan.routes["all"].quick


async def test_hits_stand_in_the_access_log(wire, tmp_path) -> None:
    log = tmp_path / "log"
    text = wire.toml(backend_url := "http://127.0.0.1:9", route="edge = true", gateway=f'access_log = "{log}"')
    async with wire.Backend(STORED) as backend:
        async with wire.running(text.replace(backend_url, backend.url)) as run:
            peer = await run.connect()
            for _ in range(3):
                await peer.ask(wire.get("/a"))
        assert len(log.read_text().splitlines()) == 3


async def test_a_large_hit_comes_whole_to_a_client_that_reads_late(wire) -> None:
    body = bytes(range(256)) * 8192  # 2 MiB
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with (
        wire.Backend(head + body) as backend,
        wire.running(wire.toml(backend.url, route="edge = true")) as run,
    ):
        assert (await run.ask(wire.get("/a"))).body == body
        peer = await run.connect()
        peer.send(wire.get("/a") * 3)
        for _ in range(3):
            assert (await peer.answer()).body == body
        assert len(backend.seen) == 1


@pytest.mark.parametrize("size", [1, 1000, 65_536, 70_000, 1_000_000])
async def test_a_body_that_comes_with_its_head_arrives_whole(wire, size) -> None:
    body = b"x" * size
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        for _ in range(3):
            assert (await peer.ask(wire.post(body))).body == b"ok"
        chunked = wire.get("/", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        assert (await peer.ask(chunked)).body == b"ok"
        assert [len(each.body) for each in backend.seen] == [size] * 4
        await run.at_rest()


async def test_a_body_that_is_refused_as_it_comes_goes_nowhere(wire) -> None:
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route='body_max = "4B"')) as run:
        raw = wire.get("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n"
        assert (await run.ask(raw)).status == 413
        broken = wire.get("/", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n"
        assert (await run.ask(broken)).status == 400
        await asyncio.sleep(0)
        assert backend.connections == 0
        await run.at_rest()
