"""RFC 9111 end to end, as tables: what a client gets and what the endpoint is asked, over sockets.

The rules themselves are proved without sockets in `test_edge_rfc9111.py`; this is that the engine asks and obeys. Time
passes because the gateway's clocks are put forward; each request comes on a connection of its own.
"""

import asyncio
import time

import pytest

HOUR = 3600


class Step:
    """One request: ``after`` seconds since the last one; what the endpoint would say; what comes of it."""

    def __init__(
        self, expect, *lines, body=b"one", says=(), status="200 OK", path="/a", method="GET", after=0, asked=None,
        head=(), seen=(), payload=None,
    ):  # fmt: skip
        self.expect = expect  # status and body that the client gets
        self.lines = lines
        self.says, self.status, self.body = says, status, body
        self.path, self.method, self.payload = path, method, payload
        self.after = after
        self.asked = asked  # whether the endpoint is asked
        self.head = head  # fields of the answer: name and what stands in it, None for absent
        self.seen = seen  # fields of what the endpoint was asked


def hit(body=b"one", *lines, **more):
    return Step((more.pop("got", 200), body), *lines, asked=False, says=("X-Never: asked",), **more)


def miss(body=b"one", *lines, says=("Cache-Control: max-age=60",), **more):
    return Step((more.pop("got", 200), more.pop("gets", body)), *lines, body=body, says=says, asked=True, **more)


NOT_MODIFIED = "304 Not Modified"
TABLE = {
    "Age grows while it is stored, and what it came with counts": [
        miss(says=("Cache-Control: max-age=60", "Age: 20"), head=[("age", "20")]),
        hit(after=30, head=[("age", "50")]),
        miss(b"two", after=11, head=[("age", None)]),
    ],
    "Expires where there is no max-age, and Date says since when": [
        miss(says=("Date: {now}", "Expires: {in 60 s}")),
        hit(after=58),
        miss(b"two", after=5),
    ],
    "s-maxage counts before max-age": [
        miss(says=("Cache-Control: max-age=1, s-maxage=60",)),
        hit(after=30),
    ],
    "no-store is not stored": [miss(says=("Cache-Control: no-store",)), miss(b"two")],
    "private is not stored": [miss(says=("Cache-Control: private, max-age=60",)), miss(b"two")],
    "Set-Cookie is not stored": [
        miss(says=("Cache-Control: max-age=60", "Set-Cookie: a=b"), head=[("set-cookie", "a=b")]),
        miss(b"two"),
    ],
    "Authorization shares nothing": [
        miss(b"one", "Authorization: Basic eA==", seen=[("authorization", "Basic eA==")]),
        miss(b"two"),
    ],
    "Authorization with public is shared": [
        miss(b"one", "Authorization: Basic eA==", says=("Cache-Control: public, max-age=60",)),
        hit(),
    ],
    "Vary: each language its own, and the same again": [
        miss(b"one", "Accept-Language: de", says=("Cache-Control: max-age=60", "Vary: Accept-Language")),
        miss(b"two", "Accept-Language: fr", says=("Cache-Control: max-age=60", "Vary: Accept-Language")),
        hit(b"one", "Accept-Language: de"),
        hit(b"two", "Accept-Language: fr"),
        miss(b"none", says=("Cache-Control: max-age=60", "Vary: Accept-Language"),
             head=[("cache-status", "fwd=vary-miss")]),
    ],
    "Vary: * is never used again": [
        miss(says=("Cache-Control: max-age=60", "Vary: *")),
        miss(b"two"),
    ],
    "a stale one is asked for by its tag, and a 304 makes it fresh": [
        miss(says=("Cache-Control: max-age=60", 'ETag: "v1"', "X-Old: kept", "X-New: old")),
        miss(b"", after=61, status=NOT_MODIFIED, gets=b"one",
             says=("Cache-Control: max-age=60", 'ETag: "v1"', "X-New: new"),
             seen=[("if-none-match", '"v1"')], head=[("x-old", "kept"), ("x-new", "new")]),
        hit(after=30, head=[("x-new", "new"), ("age", "30")]),
    ],
    "and by its date, where it has no tag": [
        miss(says=("Cache-Control: max-age=60", "Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT")),
        miss(b"", after=61, status=NOT_MODIFIED, gets=b"one", says=("Cache-Control: max-age=60",),
             seen=[("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT")]),
        hit(),
    ],
    "a 200 to the question replaces it": [
        miss(says=("Cache-Control: max-age=60", 'ETag: "v1"')),
        miss(b"two", after=61, says=("Cache-Control: max-age=60", 'ETag: "v2"'), seen=[("if-none-match", '"v1"')]),
        hit(b"two", head=[("etag", '"v2"')]),
    ],
    "the client's own condition is answered from the store": [
        miss(says=("Cache-Control: max-age=60", 'ETag: "v1"')),
        hit(b"", 'If-None-Match: "v0", W/"v1"', got=304, head=[("etag", '"v1"')]),
        hit(b"one", 'If-None-Match: "v0"'),
    ],
    "ranges of what is stored": [
        miss(b"0123456789"),
        hit(b"234", "Range: bytes=2-4", got=206, head=[("content-range", "bytes 2-4/10"), ("content-length", "3")]),
        hit(b"89", "Range: bytes=-2", got=206),
        hit(b"0123456789", "Range: pages=1-2"),
        Step((416, None), "Range: bytes=10-", asked=False, head=[("content-range", "bytes */10")]),
    ],
    "no-cache is asked for before each use": [
        miss(says=("Cache-Control: no-cache", 'ETag: "v1"')),
        miss(b"", status=NOT_MODIFIED, gets=b"one", says=('ETag: "v1"',), seen=[("if-none-match", '"v1"')]),
    ],
    "a client's no-cache reaches the endpoint": [
        miss(),
        miss(b"two", "Cache-Control: no-cache", head=[("cache-status", "fwd=request")]),
        hit(b"two"),
    ],
    "only-if-cached does not": [Step((504, None), "Cache-Control: only-if-cached", asked=False)],
    "the targeted field counts, and goes no further than us": [
        miss(says=("Cache-Control: no-store", "Tenfold-Cache-Control: max-age=60"),
             head=[("tenfold-cache-control", None), ("cache-control", "no-store")]),
        hit(after=59, head=[("tenfold-cache-control", None), ("cache-control", "no-store")]),
        miss(b"two", after=2),
    ],
    "CDN-Cache-Control counts before Cache-Control, and goes on": [
        miss(says=("Cache-Control: max-age=60", "CDN-Cache-Control: no-store"),
             head=[("cdn-cache-control", "no-store")]),
        miss(b"two"),
    ],
    "Cache-Status says what was done and why": [
        miss(head=[("cache-status", "tenfold; fwd=uri-miss"), ("cache-status", "stored")]),
        hit(after=9.5, head=[("cache-status", "tenfold; hit; ttl=50")]),
        miss(b"two", after=51, head=[("cache-status", "fwd=stale")]),
    ],
    "an earlier cache's Cache-Status stays before ours": [
        miss(says=("Cache-Control: max-age=60", "Cache-Status: origin; hit"), head=[("cache-status", "origin; hit")]),
    ],
    "an unsafe method that goes well invalidates its URL": [
        miss(),
        Step((200, b"done"), method="POST", payload=b"x", body=b"done", asked=True),
        miss(b"two"),
    ],
    "and what Location names": [
        miss(path="/b"),
        Step((201, b""), method="POST", payload=b"x", body=b"", status="201 Created", says=("Location: /b",),
             asked=True),
        miss(b"two", path="/b"),
    ],
    "one that fails invalidates nothing": [
        miss(),
        Step((500, b"no"), method="POST", payload=b"x", body=b"no", status="500 Oops", asked=True),
        hit(),
    ],
    "HEAD is answered from a stored GET": [
        miss(b"0123456789"),
        hit(b"", method="HEAD", head=[("content-length", "10")]),
    ],
    "stale-if-error hides a failure, for as long as it says": [
        miss(says=("Cache-Control: max-age=60, stale-if-error=60",)),
        miss(b"broken", after=90, status="503 No", gets=b"one", head=[("age", "90")]),
        miss(b"broken", after=31, status="503 No", got=503),
    ],
    "must-revalidate allows no stale use": [
        miss(says=("Cache-Control: max-age=60, must-revalidate, stale-if-error=60",)),
        miss(b"broken", after=61, status="503 No", got=503),
    ],
    "a 404 with a life time is kept as any other": [
        miss(b"nothing", status="404 Not Found", got=404),
        hit(b"nothing", after=59, got=404),
    ],
    "the query is part of the key, its order too": [
        miss(path="/a?x=1&y=2"),
        hit(path="/a?x=1&y=2"),
        miss(b"two", path="/a?y=2&x=1"),
    ],
}  # fmt: skip


class Clock:
    """The gateway's clocks, which can be put forward."""

    def __init__(self, run):
        site = run.gateway._site
        self.ahead = 0.0
        site.clock = lambda: time.monotonic() + self.ahead
        site.wall = self.wall

    def wall(self):
        return time.time() + self.ahead

    def date(self, seconds):
        return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.wall() + seconds))


def answer(step, clock):
    lines = [line.replace("{now}", clock.date(0)).replace("{in 60 s}", clock.date(60)) for line in step.says]
    if step.status != NOT_MODIFIED:
        lines.append(f"Content-Length: {len(step.body)}")
    return "\r\n".join([f"HTTP/1.1 {step.status}", *lines, "", ""]).encode() + step.body


@pytest.mark.parametrize("name", TABLE)
async def test_the_rules_of_a_shared_cache_hold_over_the_wire(wire, name):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        clock = Clock(run)
        for number, step in enumerate(TABLE[name]):
            clock.ahead += step.after
            backend.answer = answer(step, clock)
            before = len(backend.seen)
            length = () if step.payload is None else (f"Content-Length: {len(step.payload)}",)
            raw = wire.get(step.path, *step.lines, *length, method=step.method) + (step.payload or b"")
            bodiless = step.method == "HEAD" or step.expect[0] == 304
            got = await run.ask(raw, bodiless=bodiless)
            where = (number, got.start, got.fields)
            assert got.status == step.expect[0], where
            assert step.expect[1] is None or got.body == step.expect[1], where
            assert len(backend.seen) - before == step.asked, where
            for field, value in step.head:
                stands = b", ".join(got.fields.get(field.encode(), [])).decode()
                assert (not stands) if value is None else value in stands, (field, where)
                if field == "age" and value is not None:
                    assert int(stands) == int(value), where
            for field, value in step.seen:
                assert backend.seen[-1].get(field) == value
            await run.at_rest()


async def test_fifty_at_once_are_one_question_and_each_is_told(wire):
    go = asyncio.Event()

    async def slow(request, writer, reader):
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\none")

    async with wire.Backend(slow) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        asks = [asyncio.create_task(run.ask(wire.get("/a"))) for _ in range(50)]
        await run.until(lambda: run.counters["requests"] == 50)
        go.set()
        answers = await asyncio.gather(*asks)
        assert [got.body for got in answers] == [b"one"] * 50
        assert len(backend.seen) == 1
        said = [got.get("cache-status") for got in answers]
        assert sum("collapsed" in each for each in said) == 49
        assert sum("fwd=uri-miss" in each and "collapsed" not in each for each in said) == 1
        await run.at_rest()


async def test_a_stale_one_is_revalidated_once_for_all_who_ask(wire):
    go = asyncio.Event()

    async def slow(request, writer, reader):
        if request.get("if-none-match"):
            await go.wait()
            writer.write(b'HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: "a"\r\n\r\n')
        else:
            writer.write(b'HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: "a"\r\nContent-Length: 3\r\n\r\none')

    async with wire.Backend(slow) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        clock = Clock(run)
        assert (await run.ask(wire.get("/a"))).body == b"one"
        clock.ahead += 61
        run.gateway.site.sweep()  # or what begins now is 61 s late when the next sweep comes
        asks = [asyncio.create_task(run.ask(wire.get("/a"))) for _ in range(20)]
        await run.until(lambda: run.counters["requests"] == 21)
        go.set()
        assert [got.body for got in await asyncio.gather(*asks)] == [b"one"] * 20
        assert len(backend.seen) == 2
        await run.at_rest()


async def test_stale_while_revalidate_serves_the_old_asks_once_and_then_serves_the_new(wire):
    go = asyncio.Event()

    async def answers(request, writer, reader):
        number = len(backend.seen)
        if number > 1:
            await go.wait()
        writer.write(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60, stale-while-revalidate=60\r\nContent-Length: 1\r\n\r\n%d"
            % number
        )

    async with wire.Backend(answers) as backend, wire.running(wire.toml(backend.url, route="edge = true")) as run:
        clock = Clock(run)
        assert (await run.ask(wire.get("/a"))).body == b"1"
        clock.ahead += 90
        for _ in range(5):
            got = await run.ask(wire.get("/a"))
            assert (got.body, got.get("age")) == (b"1", "90")
        await run.until(lambda: len(backend.seen) == 2)
        go.set()
        await run.at_rest()
        assert (await run.ask(wire.get("/a"))).body == b"2"
        clock.ahead += 121  # past both: asked before it is served
        assert (await run.ask(wire.get("/a"))).body == b"3"
        assert len(backend.seen) == 3
