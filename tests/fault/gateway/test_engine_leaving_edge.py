"""Clients that leave while the edge is at work for them: the one that asks, one that waits, one that is served, one
whose stale answer is fetched anew behind it; and through a tunnel that nobody reads.
"""

import asyncio
import socket
import struct

import pytest


async def nothing_left(run):
    """No request, no client, no connection to an endpoint that is not idle, no place taken, nothing half stored."""
    await run.at_rest()
    await run.until(lambda: run.gateway.state()["clients"] == 0)
    [pool] = run.gateway.state()["pools"].values()
    assert [each for each in pool["connections"].values() if each["open"] != each["idle"]] == []


BODY = b"x" * 400_000
FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(BODY)
STAGES = ["asking", "waiting", "all of them", "filling", "served from the store", "behind a stale one"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_a_client_that_leaves_the_edge_leaves_nothing_behind(wire, stage, how):
    go = asyncio.Event()

    async def answer(request, writer, reader):
        if stage == "filling":
            writer.write(FRESH + BODY[:1000])
            await go.wait()
            writer.write(BODY[1000:])
        elif stage == "behind a stale one":
            if len(backend.seen) > 1:
                await go.wait()
            writer.write(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=0, stale-while-revalidate=60\r\nContent-Length: 2\r\n\r\nok"
            )
        else:
            if stage != "served from the store":
                await go.wait()
            writer.write(FRESH + BODY)

    async with wire.Backend(answer) as backend:
        text = wire.toml(backend.url, route="edge = true", gateway='write_timeout = "1s"')
        async with wire.running(text) as run:
            peers = [await run.connect() for _ in range(3)]
            if stage == "served from the store":
                assert (await run.ask(wire.get("/a"))).body == BODY
                peers[0].reader._limit = 1
                peers[0].send(wire.get("/a") * 40)
                await run.until(lambda: run.counters["requests"] > 5)
                leaving = peers[:1]
            elif stage == "behind a stale one":
                assert (await run.ask(wire.get("/a"))).body == b"ok"
                assert (await peers[0].ask(wire.get("/a"))).body == b"ok"
                await run.until(lambda: len(backend.seen) == 2)
                leaving = peers[:1]
            else:
                for number, peer in enumerate(peers):
                    peer.send(wire.get("/a"))
                    await run.until(lambda number=number: run.counters["requests"] == number + 1)
                if stage == "filling":
                    for peer in peers:
                        await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 5)
                leaving = {"waiting": peers[1:2], "all of them": peers}.get(stage, peers[:1])
            for peer in leaving:
                if how == "reset":  # an end without one is a half-close, and whoever half-closes wants the answer
                    peer.writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                peer.abort()
            if how == "reset":
                await run.until(lambda: run.gateway.state()["clients"] == 3 - len(leaving))
            go.set()
            staying = [peer for peer in peers if peer not in leaving]
            if stage in ("asking", "waiting"):
                assert [(await peer.answer()).body for peer in staying] == [BODY] * len(staying)
            elif stage == "filling":
                for peer in staying:
                    assert await asyncio.wait_for(peer.reader.readexactly(len(BODY)), 5) == BODY
            for peer in staying:
                peer.abort()
            await nothing_left(run)
            assert len(backend.seen) <= 2
            # What is in the store is whole, and the next one gets it or asks.
            assert (await run.ask(wire.get("/a"))).body == (b"ok" if stage == "behind a stale one" else BODY)
            await nothing_left(run)


@pytest.mark.parametrize("side", ["client", "endpoint"])
async def test_a_tunnel_whose_other_end_reads_nothing_is_not_held_in_memory(wire, side):
    """The side named sends all that it can; the other one takes nothing; then the sender is gone."""
    sent = 0
    piece = b"t" * 65536

    async def flood(writer):
        nonlocal sent
        while sent < 256 * 1024 * 1024:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async def answer(request, writer, reader):
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        if side == "endpoint":
            await flood(writer)
        reader._limit = 1
        await go.wait()
        return False

    go = asyncio.Event()
    async with wire.Backend(answer) as backend, wire.running(wire.toml(backend.url)) as run:
        peer = await run.connect()
        peer.send(wire.get("/", "Connection: Upgrade", "Upgrade: websocket"))
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reader._limit = 1
        flooding = asyncio.create_task(flood(peer.writer)) if side == "client" else None
        still, last = 0, -1
        async with asyncio.timeout(20):
            while still < 6:
                await asyncio.sleep(0.05)
                still, last = (still + 1 if sent == last and sent else 0), sent
        assert 0 < sent < 24 * 1024 * 1024
        if flooding is not None:
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
        peer.abort()
        go.set()
        await nothing_left(run)
        assert run.counters["upstreams"] == 0
