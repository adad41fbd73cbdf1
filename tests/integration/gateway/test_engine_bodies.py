"""Bodies of nothing to a gigabyte, with a length and in chunks, both ways: whole, in constant memory, at the pace of
whoever is slowest.
"""

import asyncio
import hashlib
import re
import sys
from pathlib import Path

import pytest

SRC = str(Path(__file__).parents[3] / "src")
MIB = 1024 * 1024
PIECE = bytes(range(256)) * 1024  # 256 KiB
ROOM = 12 * MIB
"""What a process may grow by, however much goes through it."""
HELD = 24 * MIB
"""What may be on its way between a writer and a reader that reads nothing: buffers of the kernel's on four sockets,
which grow to a few MiB each, and ours.
"""


def framed(kind, size):
    """The line that announces a body, and its bytes piece by piece."""
    line = f"Content-Length: {size}" if kind == "length" else "Transfer-Encoding: chunked"

    def pieces():
        left = size
        while left:
            piece = PIECE[:left]
            left -= len(piece)
            yield piece if kind == "length" else b"%x\r\n%b\r\n" % (len(piece), piece)
        if kind == "chunks":
            yield b"0\r\n\r\n"

    return line, pieces()


async def consume(reader, kind, size):
    """Read a body without keeping it; its size and hash."""
    found, taken = hashlib.sha256(), 0
    if kind == "length":
        while taken < size:
            if not (data := await reader.read(min(MIB, size - taken))):
                raise ConnectionError("it ended early")
            found.update(data)
            taken += len(data)
        return taken, found.hexdigest()
    while True:
        left = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if not left:
            assert await reader.readexactly(2) == b"\r\n"
            return taken, found.hexdigest()
        taken += left
        while left:
            if not (data := await reader.read(min(MIB, left))):
                raise ConnectionError("it ended early")
            found.update(data)
            left -= len(data)
        assert await reader.readexactly(2) == b"\r\n"


def digest(size):
    found = hashlib.sha256()
    for _ in range(size // len(PIECE)):
        found.update(PIECE)
    found.update(PIECE[: size % len(PIECE)])
    return size, found.hexdigest()


class Both:
    """A backend that takes a body and sends one, and counts what it could write."""

    def __init__(self, kind, size):
        self.kind, self.size = kind, size
        self.got = None
        self.written = 0
        self.wait = asyncio.Event()
        self.wait.set()
        self.over = asyncio.Event()

    async def serve(self, reader, writer):
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side had enough
        finally:
            writer.transport.abort()
            self.over.set()

    async def _serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        await self.wait.wait()
        up = head.startswith(b"POST")
        if up:
            length = re.search(rb"content-length: (\d+)", head.lower())
            self.got = await consume(reader, "length" if length else "chunks", int(length[1]) if length else 0)
        line, pieces = framed(self.kind, 0 if up else self.size)
        writer.write(f"HTTP/1.1 200 OK\r\n{line}\r\nConnection: close\r\n\r\n".encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            self.written += len(piece)
        writer.close()
        await writer.wait_closed()


async def run_through(wire, port, backend, way, kind, size):
    """One body through; what arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MIB)
    if way == "up":
        line, pieces = framed(kind, size)
        writer.write(wire.get("/", line, method="POST"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        assert (await wire.read(reader)).status == 200
        got = backend.got
    else:
        writer.write(wire.get())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        assert (b"chunked" in head) is (kind == "chunks")
        got = await consume(reader, kind, size)
    writer.close()
    return got


@pytest.mark.parametrize("kind", ["length", "chunks"])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_bodies_of_any_size_arrive_as_they_were_sent(wire, way, kind):
    for size in (0, 1, 4095, 65536, 65537, 3 * MIB + 1):
        backend = Both(kind, size)
        server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, limit=MIB)
        async with server, wire.running(wire.toml(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as run:
            got = await run_through(wire, run.gateway.addresses[0].port, backend, way, kind, size)
            assert got == digest(size)
            await run.at_rest()


@pytest.fixture
async def process(tmp_path, marked):
    """`tenfold gateway run` in a process of its own, which is ended afterwards."""
    environment, _ = marked
    started = []

    async def start(text):
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenfold", "gateway", "run", str(path),
            env={**environment, "PYTHONPATH": SRC}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        started.append(child)
        line = (await asyncio.wait_for(child.stdout.readline(), 20)).decode()
        return child, int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])

    yield start
    for child in started:
        if child.returncode is None:
            child.kill()
        await child.wait()
        child._transport.close()


def peak(child):
    """The most memory that the process ever had."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child.pid}/status").read_text())[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(64 * MIB, id="64MiB"),
        pytest.param(1024 * MIB, id="1GiB", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),  # minutes, all ways
    ],
)
@pytest.mark.parametrize("kind", ["length", "chunks"])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_large_body_goes_through_in_constant_memory(wire, process, way, kind, size):
    backend = Both(kind, size)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0, limit=MIB)
    async with server:
        child, port = await process(wire.toml(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        before = peak(child)
        got = await run_through(wire, port, backend, way, kind, size)
        assert got[0] == size
        assert got == digest(size)
        assert peak(child) - before < ROOM


@pytest.mark.parametrize("kind", ["length", "chunks"])
async def test_a_client_that_reads_nothing_stops_the_endpoint(wire, kind):
    size = 256 * MIB
    backend = Both(kind, size)
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as run:
        peer = await run.connect()
        peer.reader._limit = 1  # the transport stops reading at once
        peer.send(wire.get())
        await settled(lambda: backend.written)
        assert 0 < backend.written < HELD
        peer.abort()
        await asyncio.wait_for(backend.over.wait(), 10)
        await run.at_rest()


@pytest.mark.parametrize("kind", ["length", "chunks"])
async def test_an_endpoint_that_reads_nothing_stops_the_client(wire, kind):
    size = 256 * MIB
    backend = Both(kind, size)
    backend.wait.clear()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    async with server, wire.running(wire.toml(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as run:
        peer = await run.connect()
        sent = 0

        async def send():
            nonlocal sent
            line, pieces = framed(kind, size)
            peer.send(wire.get("/", line, method="POST"))
            for piece in pieces:
                peer.send(piece)
                await peer.writer.drain()
                sent += len(piece)

        sender = asyncio.create_task(send())
        await settled(lambda: sent)
        assert 0 < sent < HELD
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        peer.abort()
        backend.wait.set()
        await asyncio.wait_for(backend.over.wait(), 10)
        await run.at_rest()


async def settled(number):
    """Wait until a number has stood still for a while, having moved."""
    async with asyncio.timeout(20):
        still, last = 0, 0
        while still < 6:
            await asyncio.sleep(0.05)
            now = number()
            still = still + 1 if now == last and now else 0
            last = now
