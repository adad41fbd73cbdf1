"""Little servers that misbehave on command, and an engine driven inside the test's own loop."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

from tenfold.load import Constant, Counts, Journey, RunResult, Scenario, Schedule
from tenfold.load.engine import Engine
from tenfold.load.result import ClientHealth

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool | None]]


@dataclass
class Server:
    """Hands every request's head to ``handler``; True from it keeps the connection."""

    handler: Handler
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if not await self.handler(head, reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Server]]]:
    """``await serve(handler)`` starts a server on a free port."""
    running: list[tuple[asyncio.Server, Server]] = []

    async def start(handler: Handler) -> Server:
        made = Server(handler)
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        running.append((server, made))
        return made

    yield start
    for server, made in running:
        server.close()
        for task in list(made.tasks):
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


def answering(raw: bytes) -> Handler:
    """A handler that answers every request with these bytes and keeps the connection."""

    async def handle(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        await writer.drain()
        return True

    return handle


@pytest.fixture
def raw() -> Callable[[bytes], Handler]:
    return answering


@dataclass
class Driven:
    """What an engine measured."""

    result: RunResult
    health: ClientHealth
    engine: Engine

    @property
    def total(self) -> Counts:
        return self.result.totals


@pytest.fixture
def drive() -> Callable[..., Awaitable[Driven]]:
    """``await drive(journey, server.url)`` runs the engine in this process, without a child."""

    async def run(
        function: Callable[..., object],
        target: str,
        schedule: Schedule | None = None,
        *,
        timeout: float = 2.0,
        drain: float = 3.0,
        max_connections: int = 100,
        warmup: float = 0.0,
        hosts: frozenset[str] = frozenset(),
    ) -> Driven:
        schedule = schedule or Constant(100, 0.05)
        journey = Journey(function, "j", 1.0, "here")  # type: ignore[arg-type]
        scenario = Scenario("test", False, (journey,), target, hosts)
        engine = Engine(scenario, schedule, seed=1, warmup=warmup, timeout=timeout, max_connections=max_connections)
        try:
            await engine.prepare(1)
            await engine.run(monotonic() + 0.02, drain)
            steps, intervals = engine.recorder.take()
            result = RunResult(
                scenario="test",
                target=target,
                schedule=schedule.to_dict(),
                steps=steps,
                intervals=sorted(intervals, key=lambda each: each.at),
                tracebacks=engine.tracebacks,
                started=engine.started,
            )
            return Driven(result, engine.health(), engine)
        finally:
            await engine.close()

    return run


@pytest.fixture
def scenario_file(tmp_path: Path) -> Callable[[str, str], Path]:
    """``scenario_file(url, body)`` writes a scenario; ``body`` may be indented."""

    def write(url: str, body: str) -> Path:
        path = tmp_path / "scenario.py"
        head = f"from tenfold.load import check, feed, journey, step, target\ntarget({url!r})\n"
        path.write_text(head + textwrap.dedent(body))
        return path

    return write
