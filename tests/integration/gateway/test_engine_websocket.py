"""WebSocket through the gateway is what it is without: every frame, every close code, and every way to end."""

import asyncio
import contextlib
import json

import pytest

wsproto = pytest.importorskip("wsproto", reason="wsproto is not installed: WebSocket is not compared")
events = pytest.importorskip("wsproto.events")

LARGE = 1024 * 1024


async def echo(reader, writer, *, refuse=False, gone=None):
    """A WebSocket server: what comes goes back, frame by frame; ``leave`` is answered with close code 4001."""
    peer = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    try:
        while data := await reader.read(65536):
            peer.receive_data(data)
            for event in peer.events():
                if isinstance(event, events.Request):
                    if refuse:
                        length = [(b"content-length", b"2")]
                        writer.write(peer.send(events.RejectConnection(status_code=403, headers=length, has_body=True)))
                        writer.write(peer.send(events.RejectData(data=b"no", body_finished=True)))
                        return
                    writer.write(peer.send(events.AcceptConnection(subprotocol="shop.v1")))
                elif isinstance(event, events.Ping):
                    writer.write(peer.send(event.response()))
                elif isinstance(event, events.CloseConnection):
                    writer.write(peer.send(event.response()))
                    return
                elif isinstance(event, events.TextMessage) and event.data == "leave":
                    writer.write(peer.send(events.CloseConnection(code=4001, reason="asked to")))
                elif isinstance(event, events.Message):
                    writer.write(peer.send(type(event)(event.data, event.frame_finished, event.message_finished)))
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        if gone is not None:
            gone.set()
        writer.close()


async def open_socket(port):
    """A client's connection after the handshake: the machine, its streams and what the server accepted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    writer.write(peer.send(events.Request(host="shop.example", target="/chat", subprotocols=["shop.v1"])))
    accepted = []
    while not accepted:
        peer.receive_data(await asyncio.wait_for(reader.read(65536), 10))
        accepted = list(peer.events())
    return peer, reader, writer, accepted


async def talk(port, sent):
    """All bytes that come back for these events until the server ends it, and what they mean."""
    peer, reader, writer, accepted = await open_socket(port)
    raw = b""
    seen = [(type(event).__name__, getattr(event, "subprotocol", None)) for event in accepted]

    async def send():
        for event in sent:
            writer.write(peer.send(event))
            await writer.drain()

    sender = asyncio.create_task(send())
    while data := await asyncio.wait_for(reader.read(65536), 10):
        raw += data
        peer.receive_data(data)
        for event in peer.events():
            if isinstance(event, events.CloseConnection):
                seen.append(("close", event.code, event.reason))
                with contextlib.suppress(wsproto.utilities.LocalProtocolError):  # it was we who closed
                    writer.write(peer.send(event.response()))
            elif isinstance(event, events.Message):
                seen.append((type(event).__name__, event.message_finished, bytes(str(event.data), "utf-8")
                             if isinstance(event, events.TextMessage) else bytes(event.data)))  # fmt: skip
            else:
                seen.append((type(event).__name__, bytes(getattr(event, "payload", b""))))
    await sender
    writer.close()
    return raw, joined(seen)


def joined(seen):
    """Parts of one message put together: how TCP cut them is nobody's statement."""
    found, parts = [], b""
    for event in seen:
        if event[0] in ("TextMessage", "BytesMessage"):
            parts += event[2]
            if event[1]:
                found.append((event[0], parts))
                parts = b""
        else:
            found.append(event)
    return found


TEXT, DATA = events.TextMessage, events.BytesMessage
TALKS = {
    "text": [TEXT("hello"), TEXT("schöne Grüße ☃"), TEXT("")],
    "binary": [DATA(bytes(range(256))), DATA(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), DATA(b"")],
    "fragmented": [
        TEXT("one ", message_finished=False),
        TEXT("two ", message_finished=False),
        events.Ping(b"between"),
        TEXT("three"),
        DATA(b"a", message_finished=False),
        DATA(b""),
    ],
    "large": [DATA(bytes(range(256)) * (LARGE // 256))],
    "pings": [events.Ping(b""), events.Ping(b"x" * 125), events.Pong(b"unasked")],
    "server closes": [TEXT("leave")],
}


@pytest.mark.parametrize(("name", "code"), [*((name, 1000) for name in TALKS), ("text", 4321), ("pings", 1001)])
async def test_an_echo_through_the_gateway_is_the_echo_without_it(wire, name, code):
    sent = [*TALKS[name], *([] if name == "server closes" else [events.CloseConnection(code=code, reason="done")])]
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{port}")) as run:
        direct, through = await talk(port, sent), await talk(run.gateway.addresses[0].port, sent)
        assert through[1] == direct[1]
        assert ("close", 4001, "asked to") in through[1] if name == "server closes" else len(through[1]) > 1
        if name != "large":  # the echo of a large frame is cut as the reads of the server happened to cut it
            assert through[0] == direct[0]
        await run.at_rest()
        await run.until(lambda: run.counters["upstreams"] == 0)
        assert (run.counters["tunnels"], run.counters["cut"], run.counters["clients_left"]) == (1, 0, 0)


async def test_an_upgrade_that_the_endpoint_refuses_is_an_answer_like_any_other(wire):
    server = await asyncio.start_server(lambda r, w: echo(r, w, refuse=True), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{port}")) as run:
        _, _, writer, told = await open_socket(run.gateway.addresses[0].port)
        assert isinstance(told[0], events.RejectConnection)
        assert told[0].status_code == 403
        writer.close()
        await run.at_rest()
        assert (run.counters["tunnels"], run.counters["answered_4xx"]) == (0, 1)


async def test_an_upgrade_that_the_endpoint_cannot_answer_is_a_problem(wire):
    async with wire.running(wire.toml("http://127.0.0.1:1")) as run:
        got = await run.ask(wire.get("/", "Connection: Upgrade", "Upgrade: websocket"))
        assert (got.status, json.loads(got.body)["status"]) == (502, 502)
        await run.at_rest()


@pytest.mark.parametrize("who", ["client", "endpoint"])
async def test_when_one_end_is_gone_the_other_one_is_told(wire, who):
    gone = asyncio.Event()
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        await echo(reader, writer, gone=gone)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{port}")) as run:
        _, reader, writer, _ = await open_socket(run.gateway.addresses[0].port)
        if who == "client":
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), 5)
        else:
            writers[0].transport.abort()
            with contextlib.suppress(ConnectionError):  # a reset says the same
                assert await asyncio.wait_for(reader.read(-1), 5) == b""
            writer.close()
        await run.at_rest()
        await run.until(lambda: run.gateway.state()["clients"] == 0 and run.counters["upstreams"] == 0)
