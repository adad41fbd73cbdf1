"""Live metrics and events over server-sent events and WebSocket, with a client library of others for the latter."""

import asyncio
import contextlib
import json

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, TextMessage
from wsproto.events import Request as Handshake

from tenfold.gateway.admin import AdminServer, Control, Here
from tenfold.gateway.config import Address, Admin, Secret

TOKEN = "a-token-for-the-tests"
AUTHORIZATION = f"Authorization: Bearer {TOKEN}"


@contextlib.asynccontextmanager
async def serving(wire):
    async with wire.Backend() as backend, wire.running(wire.toml(backend.url)) as run:
        control = Control(run.gateway)
        options = Admin(listen=Address("127.0.0.1", 0), token=Secret(TOKEN))
        async with AdminServer(options, Here(control), interval=0.02) as run.admin:
            yield run
        control.close()
        (endpoint,) = run.gateway.state()["pools"]["app"]["endpoints"]
        assert endpoint


async def of_kind(messages, kind, condition=lambda data: True):
    async with asyncio.timeout(10):
        async for told, data in messages:
            if told == kind and condition(data):
                return data
    raise AssertionError(f"the stream ended without {kind}")


async def sse(reader):
    while True:
        block = (await reader.readuntil(b"\n\n")).decode()
        fields = dict(line.split(": ", 1) for line in block.strip().split("\n"))
        yield fields["event"], json.loads(fields["data"])


def is_in(key):
    return lambda data: any(each.startswith(key) for each in data["rates"])


async def happen(wire, run):
    """Something to be told of: traffic and a drain."""
    control = Control(run.gateway)
    (id,) = run.gateway.state()["pools"]["app"]["endpoints"]
    assert (await run.ask(wire.get())).status == 200
    await control.call("endpoint", {"pool": "app", "id": id, "drain": True})
    await control.call("endpoint", {"pool": "app", "id": id, "ready": True})


async def test_server_sent_events(wire):
    async with serving(wire) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.admin.address.port)
        writer.write(f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZATION}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/event-stream" in head
        messages = sse(reader)
        snapshot = await of_kind(messages, "snapshot")
        assert snapshot["values"]['tenfold_gateway_requests_total{route="all",pool="app"}'] == 0
        await of_kind(messages, "metrics")
        await happen(wire, run)
        told = await of_kind(messages, "metrics", is_in('tenfold_gateway_requests_total{route="all"'))
        assert told["seconds"] > 0
        assert all(rate > 0 for rate in told["rates"].values())
        event = await of_kind(messages, "event")
        assert (event["type"], event["balancer"], event["worker"]) == ("DrainStarted", "app", 0)
        # Another looker begins with all there is.
        again, other = await asyncio.open_connection("127.0.0.1", run.admin.address.port)
        other.write(f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZATION}\r\n\r\n".encode())
        await again.readuntil(b"\r\n\r\n")
        snapshot = await of_kind(sse(again), "snapshot")
        assert snapshot["values"]['tenfold_gateway_requests_total{route="all",pool="app"}'] == 1
        other.transport.abort()
        writer.transport.abort()
        await run.until(lambda: not run.admin._live._lookers and not len(run.admin._live._tasks))


class Socket:
    """A WebSocket client made of wsproto."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.ws = reader, writer, WSConnection(ConnectionType.CLIENT)

    @classmethod
    async def connect(cls, port):
        self = cls(*await asyncio.open_connection("127.0.0.1", port))
        headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
        self.send(Handshake(host="localhost", target="/v1/live", extra_headers=headers))
        return self, await self.next()

    def send(self, event):
        self.writer.write(self.ws.send(event))

    async def events(self):
        while True:
            for event in self.ws.events():
                yield event
            data = await asyncio.wait_for(self.reader.read(65536), 10)
            self.ws.receive_data(data or None)

    async def next(self, *kinds):
        async for event in self.events():
            if not kinds or isinstance(event, kinds):
                return event
        raise AssertionError

    async def messages(self):
        text = ""
        async for event in self.events():
            if isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    told, text = json.loads(text), ""
                    yield told["type"], told["data"]


async def test_websocket(wire):
    async with serving(wire) as run:
        socket, answer = await Socket.connect(run.admin.address.port)
        assert isinstance(answer, AcceptConnection)
        messages = socket.messages()
        assert (await of_kind(messages, "snapshot"))["values"]
        await happen(wire, run)
        await of_kind(messages, "metrics", is_in('tenfold_gateway_responses_total{pool="app",code="2xx"}'))
        await of_kind(messages, "event", lambda data: data["type"] == "DrainStarted")
        socket.send(Ping(b"there?"))
        assert (await socket.next(Pong)).payload == b"there?"
        socket.send(CloseConnection(1000))
        assert (await socket.next(CloseConnection)).code == 1000
        assert await asyncio.wait_for(socket.reader.read(), 10) == b""
        socket.writer.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [(TextMessage("hello"), 1003), (BytesMessage(b"x" * 1000), 1009), (b"\x89\x00", 1002), (b"\xc9\x80\0\0\0\0", 1002)],
)
async def test_what_a_client_may_not_send(wire, data, code):
    async with serving(wire) as run:
        socket, answer = await Socket.connect(run.admin.address.port)
        assert isinstance(answer, AcceptConnection)
        if isinstance(data, bytes):
            socket.writer.write(data)  # unmasked; with a reserved bit
        else:
            socket.send(data)
        assert (await socket.next(CloseConnection)).code == code
        socket.writer.close()


async def test_no_websocket_without_its_handshake(wire):
    async with serving(wire) as run:
        for lines, status in (
            ((), 426),
            (("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), 400),
            (("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8"), 426),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", run.admin.address.port)
            writer.write(
                "\r\n".join(["GET /v1/live HTTP/1.1", "Host: localhost", AUTHORIZATION, *lines, "", ""]).encode()
            )
            assert (await wire.read(reader)).status == status
            writer.close()
        port = run.admin.address.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        socket = Socket(reader, writer)
        socket.send(Handshake(host="localhost", target="/v1/live"))
        answer = await socket.next()
        assert isinstance(answer, RejectConnection)
        assert answer.status_code == 401
        writer.close()
