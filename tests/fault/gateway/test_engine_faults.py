"""What breaks: endpoints killed, frozen and cut at every stage, clients that leave at every stage, POST never twice."""

# ruff: noqa: SIM117 - the backend, and within it what stands before it

import asyncio
import contextlib
import json
import socket
import tomllib
from pathlib import Path

import pytest

from tenfold.testing import FaultProxy

CORPUS = tomllib.loads(
    (Path(__file__).parents[2] / "unit" / "gateway" / "corpus_responses.toml").read_text(encoding="utf-8")
)
RETRY = 'retries = { attempts = 3, base = "1ms", cap = "1ms" }'
SHORT = 'connect_timeout = "300ms"\nfirst_byte_timeout = "300ms"\nbody_timeout = "300ms"'


async def nothing_left(run):
    """No request under way, no client, and no connection to an endpoint that is not idle."""
    await run.at_rest()
    await run.until(lambda: run.gateway.state()["clients"] == 0)
    pools = run.gateway.state()["pools"].values()
    left = [each for pool in pools for each in pool["connections"].values() if each["open"] != each["idle"]]
    assert left == []


async def reset(request, writer, reader):
    """Break off without an answer."""
    writer.transport.abort()
    return False


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_what_is_idempotent_goes_to_another_endpoint(wire, method):
    async with wire.Backend(reset) as bad, wire.Backend() as good:
        async with wire.running(wire.toml(bad.url, good.url, route=RETRY, pool='pick = "round_robin"')) as run:
            for _ in range(4):
                raw = wire.get("/", "Content-Length: 4", method=method) + b"body" if method == "PUT" else wire.get(
                    "/", method=method)  # fmt: skip
                assert (await run.ask(raw, bodiless=method == "HEAD")).status == 200
            assert run.counters["retries"] == len(bad.seen) >= 2
            assert [request.body for request in good.seen] == [b"body" if method == "PUT" else b""] * 4
            await nothing_left(run)


async def test_a_post_is_never_sent_twice(wire):
    async with wire.Backend(reset) as first, wire.Backend(reset) as second:
        async with wire.running(wire.toml(first.url, second.url, route=RETRY)) as run:
            for n in range(8):
                assert (await run.ask(wire.post(b"%d" % n))).status == 502
            assert sorted(r.body for r in (*first.seen, *second.seen)) == [b"%d" % n for n in range(8)]
            await nothing_left(run)


async def test_a_post_that_could_not_be_sent_goes_to_another_endpoint(wire):
    async with wire.Backend() as good:
        text = wire.toml("http://127.0.0.1:1", good.url, route=RETRY, pool='pick = "round_robin"')
        async with wire.running(text) as run:
            for n in range(4):
                assert (await run.ask(wire.post(b"%d" % n))).status == 200
            assert [r.body for r in good.seen] == [b"0", b"1", b"2", b"3"]
            assert run.counters["failovers"] >= 2
            await nothing_left(run)


async def test_a_kept_connection_that_closed_under_a_request_costs_nobody_an_error(wire):
    async def closes(request, writer, reader):
        writer.write(wire.OK)
        await reader.readexactly(1)  # the next request is read in part and thrown away
        writer.transport.abort()
        return False

    async with wire.Backend(closes) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        for _ in range(6):
            assert (await peer.ask(wire.get())).status == 200
        assert run.counters["fresh"] == run.counters["reused"] >= 2
        assert run.counters["retries"] == 0
        peer.abort()
        await nothing_left(run)


async def test_a_post_on_a_kept_connection_that_closed_is_a_502_and_not_a_second_post(wire):
    async def closes(request, writer, reader):
        writer.write(wire.OK)
        await reader.readuntil(b"last")
        writer.transport.abort()
        return False

    async with wire.Backend(closes) as backend, wire.running(wire.toml(backend.url, route=RETRY)) as run:
        assert (await run.ask(wire.post(b"first"))).status == 200
        assert (await run.ask(wire.post(b"last"))).status == 502
        assert sum(bytes(taken).count(b"last") for taken in backend.bytes) == 1


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"])
async def test_an_endpoint_that_dies_before_the_head_is_whole_is_a_502(wire, raw):
    async def dies(request, writer, reader):
        writer.write(raw)
        return False

    async with wire.Backend(dies) as backend, wire.running(wire.toml(backend.url)) as run:
        got = await run.ask(wire.get())
        assert (got.status, json.loads(got.body)["reason"]) == (502, "upstream_broken")
        await nothing_left(run)


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_an_answer_that_breaks_off_breaks_off_for_the_client(wire, framing):
    async def dies(request, writer, reader):
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nabcd".encode())
        await writer.drain()
        return False

    async with wire.Backend(dies) as backend, wire.running(wire.toml(backend.url, route=RETRY)) as run:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await run.ask(wire.get())
        assert (run.counters["cut"], len(backend.seen)) == (1, 1)
        await nothing_left(run)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none_is_a_502(wire, raw):
    async with wire.Backend(raw) as backend, wire.running(wire.toml(backend.url)) as run:
        got = await run.ask(wire.get())
        assert got.status == 502
        assert json.loads(got.body)["reason"].startswith("upstream_")
        await nothing_left(run)


@pytest.mark.parametrize("case", [pytest.param(case, id=str(n)) for n, case in enumerate(CORPUS["refused"])])
async def test_a_malformed_answer_is_a_502_or_breaks_off_and_is_never_whole(wire, case):
    async def answer(request, writer, reader):
        writer.write(case["raw"].encode("latin-1"))
        return False

    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        raw = wire.get("/", method=case["method"])
        peer = await run.connect()
        try:
            got = await peer.ask(raw, bodiless=case["method"] == "HEAD")
            while got.status < 200:
                got = await peer.answer(bodiless=case["method"] == "HEAD")
        except (asyncio.IncompleteReadError, ConnectionError):
            assert run.counters["cut"] == 1
        else:
            if case["reason"] == "unsolicited":
                assert run.counters["reused"] == 0  # what came first was an answer; what came after it is nobody's
            else:
                assert got.status == 502
                if case["method"] != "HEAD":
                    assert json.loads(got.body)["reason"] in (f"upstream_{case['reason']}", "upstream_broken")
        peer.abort()
        await nothing_left(run)
        assert run.counters["upstreams"] == 0


async def test_bytes_that_nobody_asked_for_are_nobodys_answer(wire):
    async with wire.Backend(wire.OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil") as backend:
        async with wire.running(wire.toml(backend.url)) as run:
            peer = await run.connect()
            for _ in range(4):
                assert (await peer.ask(wire.get())).body == b"ok"
            assert backend.connections == 4

    async def later(request, writer, reader):
        writer.write(wire.OK)
        await writer.drain()
        await said.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    said = asyncio.Event()
    async with wire.Backend(later) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        assert (await peer.ask(wire.get())).body == b"ok"
        said.set()
        await run.until(lambda: run.counters["unsolicited"] == 1)
        assert (await peer.ask(wire.get())).body == b"ok"
        assert backend.connections == 2


@pytest.mark.parametrize("stage", ["connect", "request", "answer"])
async def test_a_frozen_network_ends_in_the_time_out_of_its_stage(wire, stage):
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
    async with wire.Backend(big) as backend, FaultProxy(backend.url) as proxy:
        async with wire.running(wire.toml(proxy.url, pool=SHORT)) as run:
            if stage == "answer":
                peer = await run.connect()
                peer.send(wire.get())
                await peer.reader.readuntil(b"\r\n\r\n")
                proxy.freeze()
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await asyncio.wait_for(peer.reader.readexactly(4_000_000), 10)
                assert run.counters["cut"] == 1
            else:
                proxy.freeze()
                raw = wire.get() if stage == "connect" else wire.post(b"x" * 9_000_000)
                got = await run.ask(raw)
                assert got.status == 504
                assert json.loads(got.body)["limit"] in ("pool.first_byte_timeout", "pool.body_timeout")
            await nothing_left(run)


async def test_a_connection_that_does_not_come_about_is_a_504(wire):
    async with full_backlog() as nowhere, wire.running(wire.toml(nowhere, pool=SHORT)) as run:
        got = await run.ask(wire.get())
        assert (got.status, json.loads(got.body)["limit"]) == (504, "pool.connect_timeout")
        await nothing_left(run)


@pytest.mark.parametrize("count", [1, 20, 60, 5000])
async def test_a_connection_cut_anywhere_in_the_answer(wire, count):
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    async with wire.Backend(big) as backend, FaultProxy(backend.url) as proxy:
        async with wire.running(wire.toml(proxy.url)) as run:
            proxy.cut_after(count, direction="downstream")
            try:
                got = await run.ask(wire.get())
                assert got.status == 502
            except (asyncio.IncompleteReadError, ConnectionError):
                assert count > 40
            await nothing_left(run)


async def test_endpoints_that_refuse_are_left_out_and_taken_back(wire):
    async with wire.Backend() as one, wire.Backend() as two, FaultProxy(one.url) as proxy:
        pool = 'check = { path = "/health", interval = "30ms", timeout = "1s" }\npick = "round_robin"'
        async with wire.running(wire.toml(proxy.url, two.url, pool=pool, route=RETRY)) as run:
            endpoints = run.gateway.state()["pools"]["app"]["endpoints"]
            bad = next(id for id, each in endpoints.items() if each["url"] == proxy.url)

            def ready():
                return run.gateway.state()["pools"]["app"]["endpoints"][bad]["ready"]

            proxy.refuse()
            proxy.cut()
            for _ in range(10):
                assert (await run.ask(wire.get())).status == 200
            await run.until(lambda: not ready())
            proxy.accept()
            await run.until(ready)
            assert (await run.ask(wire.get())).status == 200


@contextlib.asynccontextmanager
async def full_backlog():
    """A place where a connection is neither made nor refused: nobody accepts, and the queue is full."""
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


STAGES = ["head", "body", "connecting", "queued", "waiting", "answer", "tunnel", "retrying"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_client_that_leaves_at_any_stage_leaves_nothing_behind(wire, stage, how):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        if stage == "answer":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
            for _ in range(50):
                writer.write(b"x" * 1_000_000)
                await writer.drain()
        elif stage == "tunnel":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            await reader.read(-1)
            return False
        elif stage == "retrying":
            return await reset(request, writer, reader)
        else:
            await go.wait()
            writer.write(wire.OK)
        return None

    gateway = 'header_timeout = "1s"\nbody_timeout = "1s"\nwrite_timeout = "1s"'
    pool = 'connect_timeout = "1s"\nfirst_byte_timeout = "1s"'
    if stage == "queued":
        pool += '\nmax_in_flight = 1\nqueue = 9\nqueue_timeout = "1s"'
    async with wire.Backend(answer) as backend, wire.Backend(answer) as other, full_backlog() as nowhere:
        urls = [nowhere] if stage == "connecting" else [backend.url]
        route = 'retries = { attempts = 2, base = "500ms", jitter = "none" }' if stage == "retrying" else ""
        if stage == "retrying":
            urls.append(other.url)
        async with wire.running(wire.toml(*urls, gateway=gateway, pool=pool, route=route)) as run:
            blocker = None
            if stage == "queued":
                blocker = await run.connect()
                blocker.send(wire.get())
                await backend.arrived.wait()
            peer = await run.connect()
            if stage == "head":
                peer.send(b"GET / HTTP/1.1\r\nHo")
                await run.until(lambda: run.counters["bytes_in"] > 0)
            elif stage == "body":
                peer.send(wire.post(b"x" * 100)[:-50])
                await run.until(lambda: run.counters["in_flight"] == 1)
            elif stage == "tunnel":
                await peer.ask(wire.get("/", "Connection: Upgrade", "Upgrade: websocket"))
            else:
                peer.send(wire.get())
                await run.until(lambda: run.counters["in_flight"] == 1 + (stage == "queued"))
            if stage == "answer":
                await peer.reader.readuntil(b"\r\n\r\n")
            if stage == "retrying":
                await run.until(lambda: run.counters["retries"] == 1)
            getattr(peer, how)()
            if how == "abort" and stage != "queued":
                await nothing_left(run)  # before anything is answered
            go.set()
            if blocker is not None:
                assert (await blocker.answer()).status == 200
                blocker.abort()
            await nothing_left(run)
            assert run.in_flight == 0


async def test_a_client_that_takes_nothing_holds_up_nobody_and_is_cut(wire):
    async def answer(request, writer, reader):
        if request.start.startswith(b"GET /big"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n" + b"x" * 64_000_000)
        else:
            writer.write(wire.OK)

    async with wire.Backend(answer) as backend:
        async with wire.running(wire.toml(backend.url, gateway='write_timeout = "300ms"')) as run:
            slow = await run.connect()
            slow.reader._limit = 1  # the transport stops reading at once
            slow.send(wire.get("/big"))
            await backend.arrived.wait()
            assert (await run.ask(wire.get("/"))).body == b"ok"
            await run.until(lambda: run.counters["clients_left"] == 1)
            await nothing_left(run)


async def test_a_flood_of_pipelined_requests_whose_answers_nobody_reads_is_not_held(wire):
    async with wire.Backend(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000) as backend:
        async with wire.running(wire.toml(backend.url, gateway='write_timeout = "300ms"')) as run:
            peer = await run.connect()
            peer.reader._limit = 1
            peer.send(wire.get() * 20_000)
            await run.until(lambda: run.gateway.state()["clients"] == 0)
            assert run.counters["requests"] < 2_000
            await nothing_left(run)


async def test_without_a_budget_token_there_is_no_retry(wire):
    async with wire.Backend(reset) as one, wire.Backend(reset) as two:
        route = 'retries = { attempts = 2, base = "1ms", budget = { share = 0.0, floor = "1/h", burst = 3 } }'
        async with wire.running(wire.toml(one.url, two.url, route=route)) as run:
            for _ in range(10):
                assert (await run.ask(wire.get())).status == 502
            assert (run.counters["retries"], run.counters["retries_refused"]) == (3, 7)
            assert len(one.seen) + len(two.seen) == 13


async def test_an_open_breaker_is_a_503_that_says_when(wire):
    async with wire.Backend(reset) as backend:
        pool = 'breaker = { consecutive = 2, open = "1m" }'
        async with wire.running(wire.toml(backend.url, pool=pool)) as run:
            answers = [await run.ask(wire.get()) for _ in range(4)]
            assert [got.status for got in answers] == [502, 502, 503, 503]
            told = json.loads(answers[-1].body)
            assert (told["reason"], "1 breaker" in told["detail"]) == ("no_endpoint", True)
            assert int(answers[-1].get("retry-after")) >= 30
