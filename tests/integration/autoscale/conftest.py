"""A small ASGI app in a directory of its own, a front that writes down what it hears, and fleets that are closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

import pytest

from tenfold._core.events import Event, Hub
from tenfold.autoscale.supervisor import Fleet, FleetOptions

WITHIN = 60.0
"""Seconds that anything may take on a loaded machine."""

APP = """
import asyncio, os, signal, sys, time
from pathlib import Path

HERE = Path(__file__).parent
held, arrived = [], []
together = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                (HERE / "starting").touch()
                while "STARTS" in os.environ and not (HERE / "go-on").exists():
                    await asyncio.sleep(0.01)
                await send({"type": "lifespan.startup.complete"})
            else:
                with (HERE / "shut-down").open("a") as file:
                    file.write(f"{os.getpid()}\\n")
                await send({"type": "lifespan.shutdown.complete"})
                return
    path, status = scope["path"], 200
    body = str(os.getpid())
    if path == "/wait":
        (HERE / f"waiting-{os.getpid()}").touch()
        while not (HERE / "go-on").exists():
            await asyncio.sleep(0.01)
    elif path == "/grow":
        held.append(b"x" * 64_000_000)
    elif path == "/client":
        body = f"{scope['client'][0]} {scope['scheme']}"
    elif path == "/say":
        print("the app says something", flush=True)
    elif path == "/busy":  # the last of twelve lets all go on, each of which blocks the loop
        arrived.append(path)
        if len(arrived) == 12:
            together.set()
        await together.wait()
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass
    body = body.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

def make():
    return app
"""


async def get(url: str, path: str = "/", headers: str = "") -> str:
    """The body of an answer with status 200; anything else raises `OSError` or `AssertionError`."""
    async with asyncio.timeout(WITHIN):
        if url.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        else:
            host, _, port = url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if not answer:
        raise ConnectionResetError("no answer")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return body.decode()


async def until(true, what: str = "it"):
    """Wait for what becomes true by itself."""
    end = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < end, f"{what} did not come"
        await asyncio.sleep(0.01)


class Front:
    """A listener that knows who is in service, and keeps count of the requests as a gateway does."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.why: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.serving: dict[str, object] = {}
        self.least = 0
        self._idle: dict[str, asyncio.Event] = {}

    async def ready(self, member):
        self.heard.append(("ready", member.id))
        self.serving[member.id] = member

    async def leaving(self, member):
        self.heard.append(("leaving", member.id))
        self.serving.pop(member.id)
        self.least = min(self.least, len(self.serving))
        while member.in_flight:
            event = self._idle[member.id] = asyncio.Event()
            await event.wait()

    async def gone(self, member, why, last_words):
        self.heard.append(("gone", member.id))
        self.serving.pop(member.id, None)
        self.why[member.id], self.words[member.id] = why, last_words

    async def request(self, path: str = "/") -> str:
        member = random.choice(list(self.serving.values()))
        member.in_flight += 1
        try:
            return await get(member.url, path)
        finally:
            member.in_flight -= 1
            member.requests += 1
            if not member.in_flight and member.id in self._idle:
                self._idle[member.id].set()

    def of(self, id: str) -> list[str]:
        return [what for what, whose in self.heard if whose == id]


class Run:
    """A fleet with its front, its events and the directory of its app."""

    def __init__(self, folder: Path, **options) -> None:
        self.folder = folder
        (folder / "simple.py").write_text(APP)
        self.front = Front()
        self.hub = Hub()
        self.events: list[Event] = []
        self.hub.subscribe(Event, self.events.append)
        options = {"app": "simple:app", "server": "uvicorn", "app_dir": str(folder), **options}
        self.fleet = Fleet(FleetOptions(**options), self.front, hub=self.hub, random=random.Random(1))
        self.pids: set[int] = set()

    def told(self, kind: type[Event]) -> list:
        return [event for event in self.events if type(event) is kind]

    @property
    def sockets(self) -> list[Path]:
        return list(self.fleet._place.path.iterdir())

    @property
    def ready(self):
        return [member for member in self.fleet.members if member.state == "ready"]


def living(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
async def run(tmp_path):
    """A function that makes a `Run`; all are closed, and nothing of them is left."""
    made: list[Run] = []

    def make(**options) -> Run:
        folder = tmp_path / f"app{len(made)}"
        folder.mkdir()
        made.append(Run(folder, **options))
        return made[-1]

    yield make
    for each in made:
        pids = {member.pid for member in each.fleet.members if member.pid}
        async with asyncio.timeout(WITHIN):
            await each.fleet.aclose()
        assert each.fleet.members == ()
        assert [pid for pid in pids if living(pid)] == []
        assert each.fleet._place is None or not each.fleet._place.path.exists()
        assert each.front.serving == {}


@pytest.fixture
def tools():
    """The helpers of this file."""
    import types

    return types.SimpleNamespace(get=get, until=until, living=living, WITHIN=WITHIN, Front=Front, APP=APP)
