"""An app, `tenfold serve` as a process, and clients that keep asking and count what they get."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

WITHIN = 60.0
APP = """
import asyncio, os, sys

VERSION = 1

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    if path.startswith("/slow/"):
        await asyncio.sleep(float(path[6:]))
    if path == "/die":
        sys.stderr.write("the last words of a worker\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), 9)
    if path == "/warm":
        with open(os.path.join(os.path.dirname(__file__), "warmed"), "a") as file:
            file.write(f"{os.getpid()}\\n")
    body = f"{VERSION} {os.getpid()}".encode()
    status = 418 if path == "/teapot" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


async def eventually(condition):
    """Wait until the function, or the coroutine that it returns, says that it is so."""
    async with asyncio.timeout(WITHIN):
        while not ((await found) if inspect.isawaitable(found := condition()) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ask(address, path="/", method="GET", token=""):
    """One request over a connection of its own: status and body."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        return await _exchange(reader, writer, path, method, f"Authorization: Bearer {token}\r\n" if token else "")
    finally:
        writer.close()


async def _exchange(reader, writer, path, method, headers=""):
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    coded = re.search(rb"transfer-encoding: chunked", head, re.IGNORECASE)
    body = b""
    if length is not None:
        body = await reader.readexactly(int(length[1]))
    elif coded is not None:
        while (size := int((await reader.readuntil(b"\r\n")), 16)) or (await reader.readexactly(2)) != b"\r\n":
            body += (await reader.readexactly(size + 2))[:-2]
    return int(head.split(b" ")[1]), body, b"connection: close" in head.lower()


class Load:
    """So many clients in a closed loop, each on one connection, until the block ends. Every answer is counted by its
    status, every failure by its kind.
    """

    def __init__(self, address, path, clients):
        self.address, self.path, self.clients = address, path, clients
        self.seen = Counter()
        self.bodies = Counter()
        self._stop = False

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), WITHIN)

    async def _client(self):
        while not self._stop:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(*self.address)
                closes = False
                while not self._stop and not closes:
                    status, body, closes = await _exchange(reader, writer, self.path, "GET")
                    self.seen[status] += 1
                    self.bodies[body] += 1
            except (OSError, EOFError) as error:
                self.seen[type(error).__name__] += 1
            finally:
                if writer is not None:
                    writer.close()

    async def more(self, count):
        """Until so many more answers have come."""
        until = self.seen[200] + count
        await eventually(lambda: self.seen[200] >= until)


class Serving:
    """A `tenfold serve` that runs."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self._more = asyncio.Event()

    async def read(self):
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            self._more.set()
        self._more.set()

    @property
    def said(self):
        return "\n".join(self.lines)

    async def until(self, pattern, times=1):
        """Wait until a line has been said so often; the last match."""
        async with asyncio.timeout(WITHIN):
            while len(found := list(re.finditer(pattern, self.said))) < times:
                if self.process.returncode is not None and self.process.stderr.at_eof():
                    raise AssertionError(f"it ended before it said {pattern!r}:\n{self.said}")
                self._more.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._more.wait(), 0.5)
        return found[-1]

    @property
    def workers(self):
        """The processes of workers that are said to serve and not to have ended, by id."""
        alive = dict(re.findall(r"worker (\d+) serves \(process (\d+)", self.said))
        for id in re.findall(r"worker (\d+) (?:has ended|\()", self.said):
            alive.pop(id, None)
        return {id: int(pid) for id, pid in alive.items()}

    async def up(self):
        found = await self.until(r" on http://([\d.]+):(\d+), ")
        self.address = found[1], int(found[2])
        found = await self.until(r"metrics on http://([\d.]+):(\d+)/metrics")
        self.admin = found[1], int(found[2])

    async def metric(self, pattern):
        """The value of the sample whose line begins so."""
        _, body, _ = await ask(self.admin, "/metrics")
        found = re.search(rf"^{pattern} (\S+)$", body.decode(), re.MULTILINE)
        return None if found is None else float(found[1])

    async def ended(self):
        """Its exit code."""
        return await asyncio.wait_for(self.process.wait(), WITHIN)


@contextlib.asynccontextmanager
async def serving(directory, *arguments, app="shop:app", up=True):
    """`tenfold serve` on a free port, with the app of the directory; killed at the end if it still runs."""
    where = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tenfold", "serve", app, *where, *arguments,
        cwd=directory, stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )  # fmt: skip
    run = Serving(process)
    reading = asyncio.create_task(run.read())
    try:
        if up:
            await run.up()
        yield run
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.wait_for(reading, 20)


@pytest.fixture
def shop(tmp_path):
    """A directory with the app `shop:app`, and the tools around it."""
    (tmp_path / "shop.py").write_text(APP)
    return SimpleNamespace(
        directory=tmp_path,
        source=APP,
        serving=lambda *arguments, **more: serving(tmp_path, *arguments, **more),
        load=lambda run, path="/slow/0.01", clients=8: Load(run.address, path, clients),
        ask=ask,
        eventually=eventually,
    )
