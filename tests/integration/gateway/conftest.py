"""A gateway on real sockets, backends that keep every byte, and clients that speak in bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from types import SimpleNamespace

import pytest
import uvloop

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import read_config
from tenfold.gateway.engine import Gateway
from tenfold.gateway.haproxy import HAProxyGateway, find_binary

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WITHIN = 10.0


class Message:
    """A request or a response as it was read."""

    def __init__(self, head, body, raw_body):
        self.start, *lines = head.split(b"\r\n")
        self.fields = {}
        for line in lines:
            name, _, value = line.partition(b":")
            self.fields.setdefault(name.lower(), []).append(value.strip())
        self.body = body
        self.raw_body = raw_body

    @property
    def status(self):
        return int(self.start.split(b" ")[1])

    def get(self, name):
        values = self.fields.get(name.encode())
        return None if values is None else values[0].decode()


async def read_message(reader, *, bodiless=False):
    """The next message, whole. Raises `IncompleteReadError` at the end."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    message = Message(head, b"", b"")
    coding, length = message.get("transfer-encoding"), message.get("content-length")
    interim = message.start[:5] == b"HTTP/" and (message.status < 200 or message.status in (204, 304))
    if bodiless or interim:
        return message
    if coding == "chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            message.raw_body += line
            size = int(line.split(b";")[0], 16)
            if not size:
                while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                    message.raw_body += line
                message.raw_body += b"\r\n"
                return message
            data = await reader.readexactly(size + 2)
            message.raw_body += data
            message.body += data[:-2]
    if length is not None:
        message.body = message.raw_body = await reader.readexactly(int(length))
    elif message.start[:5] == b"HTTP/":
        message.body = message.raw_body = await reader.read(-1)
    return message


class Backend:
    """A server that answers as `answer` says: bytes, or a coroutine function of the request, the writer and reader."""

    def __init__(self, answer=OK):
        self.answer = answer
        self.seen = []
        self.bytes = []
        self.connections = 0
        self.open = set()
        self.arrived = asyncio.Event()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in list(self.open):
            writer.transport.abort()
        await self.server.wait_closed()

    def abort(self):
        """Reset all connections that are open."""
        for writer in list(self.open):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self.connections += 1
        self.open.add(writer)
        taken = bytearray()
        self.bytes.append(taken)
        feed = reader.feed_data
        reader.feed_data = lambda data: (taken.extend(data), feed(data))[1]
        try:
            while True:
                request = await read_message(reader)
                self.seen.append(request)
                self.arrived.set()
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                elif (await self.answer(request, writer, reader)) is False:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()


def toml(*pools, gateway="", pool="", route="", more=""):
    """A configuration of one route to one pool of these urls."""
    urls = ", ".join(f'"{url}"' for url in pools)
    return f"""
[gateway]
listen = "127.0.0.1:0"
{gateway}
[[pool]]
name = "app"
endpoints = [{urls}]
{pool}
[[route]]
name = "all"
pool = "app"
{route}
{more}
"""


class Peer:
    """A client connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self, **how):
        return await asyncio.wait_for(read_message(self.reader, **how), WITHIN)

    async def ask(self, data, **how):
        self.send(data)
        return await self.answer(**how)

    async def rest(self):
        return await asyncio.wait_for(self.reader.read(-1), WITHIN)

    def close(self):
        self.writer.close()

    def abort(self):
        self.writer.transport.abort()


class Running:
    """A gateway that runs."""

    def __init__(self, gateway):
        self.gateway = gateway
        self._peers = []

    @property
    def counters(self):
        return self.gateway.state()["counters"]

    @property
    def in_flight(self):
        return sum(
            endpoint["in_flight"]
            for pool in self.gateway.state()["pools"].values()
            for endpoint in pool["endpoints"].values()
        )

    async def connect(self):
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.gateway.addresses[0].port))
        self._peers.append(peer)
        return peer

    async def ask(self, data, **how):
        peer = await self.connect()
        try:
            return await peer.ask(data, **how)
        finally:
            peer.abort()

    async def until(self, condition):
        """Wait until something is so; fails where it never is."""
        async with asyncio.timeout(WITHIN):
            while not condition():  # noqa: ASYNC110 - it may be anything, in another process too
                await asyncio.sleep(0.005)

    async def at_rest(self):
        """Wait until nothing is under way, and say what is left open."""
        await self.until(lambda: self.counters["in_flight"] == 0 and self.in_flight == 0)


@contextlib.asynccontextmanager
async def running(text):
    """A gateway of that configuration."""
    async with Gateway(read_config(text, environ={})) as gateway:
        run = Running(gateway)
        try:
            yield run
        finally:
            for peer in run._peers:
                peer.abort()


def get(path="/", *lines, method="GET"):
    """The bytes of a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: shop.example", *lines, "", ""]).encode()


def post(body, *lines, path="/"):
    """The bytes of a request with one."""
    return get(path, f"Content-Length: {len(body)}", *lines, method="POST") + body


def chunks_of(raw):
    """The data of a chunked body."""
    return b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", raw, re.DOTALL))


@pytest.fixture
def wire():
    """The tools."""
    return SimpleNamespace(
        Backend=Backend, OK=OK, chunks_of=chunks_of, get=get, post=post, read=read_message, running=running, toml=toml
    )


class Driven:
    """An HAProxy that runs a configuration, and what a test asks of it."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.keeper = gateway.keeper

    async def connect(self, number=0):
        return await asyncio.open_connection("127.0.0.1", self.gateway.addresses[number].port)

    async def ask(self, data, **how):
        reader, writer = await self.connect()
        try:
            writer.write(data)
            return await asyncio.wait_for(read_message(reader, **how), WITHIN)
        finally:
            writer.transport.abort()

    async def call(self, method, **params):
        return (await self.gateway.call_all(method, params, timeout=WITHIN))[0]

    async def pids(self):
        present, old = await self.keeper.process.workers()
        return [self.gateway.pid, *present, *old]

    async def until(self, condition):
        """Wait until something is so; fails where it never is. It is in another process, so it is asked again."""
        async with asyncio.timeout(WITHIN):
            while not (found := await condition()):  # noqa: ASYNC110 - there is no event between processes
                await asyncio.sleep(0.02)
            return found

    async def endpoint(self, id, pool="app"):
        """What is told of an endpoint now."""
        return (await self.call("state"))["pools"][pool]["endpoints"][id]


@contextlib.asynccontextmanager
async def driven(text, file=None):
    """An HAProxy of that configuration; nothing of it is left afterwards."""
    gateway = HAProxyGateway(read_config(text, environ={}, engine="haproxy"))
    gateway.file = file
    async with gateway:
        run = Driven(gateway)
        left = [gateway.keeper.process.directory, *(f"/proc/{pid}/exe" for pid in await run.pids())]
        yield run
    assert [each for each in left if await asyncio.to_thread(os.path.exists, each)] == []


@pytest.fixture
def haproxy():
    """`driven`, where there is an HAProxy."""
    try:
        find_binary()
    except MisuseError:
        pytest.skip("there is no HAProxy")
    return driven


def pytest_asyncio_loop_factories(config, item):
    """Everything holds on both loops; a gateway in a process of its own has a loop of its own."""
    if "haproxy" in item.fixturenames:
        return {"asyncio": asyncio.new_event_loop}
    if "process" in item.fixturenames:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
