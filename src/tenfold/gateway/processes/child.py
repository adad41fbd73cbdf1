"""One worker as its supervisor sees it: a fresh interpreter, a line to it, what it last said, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from tenfold._core.tasks import Tasks, shielded
from tenfold.gateway.processes.channel import Channel
from tenfold.gateway.processes.sockets import Bound

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_WORDS: Final = 4096
"""Bytes of standard error that are kept."""
_READ: Final = 64 * 1024
_REST: Final = 1.0
"""Seconds for the rest of what a dead process wrote to be read; its own children may hold the pipe open."""


class Child:
    """A worker process. Made by `spawn`; ends by itself, by `stop`, or when this process does."""

    __slots__ = ("_line", "_process", "_readers", "_words", "channel", "number")

    def __init__(self, number: int, process: asyncio.subprocess.Process, line: Line) -> None:
        self.number: Final = number
        self.channel: Final = Channel(*line, f"worker {number}")
        self._line = line[1]
        self._process = process
        self._words: deque[bytes] = deque()
        self._readers: list[asyncio.Task[None]] = []

    @classmethod
    async def spawn(cls, number: int, bound: Iterable[Bound], tasks: Tasks) -> Child:
        """A fresh interpreter with these sockets open; it waits for calls. ``tasks`` owns what listens to it."""
        ours, theirs = socket.socketpair()
        try:
            sockets = [made.fileno() for _, made in bound]
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *_command(theirs.fileno()), pass_fds=[theirs.fileno(), *sockets],
                    stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
            line = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        child = cls(number, process, line)
        child._readers = [
            tasks.spawn(child._listen(), name=f"worker {number} channel"),
            tasks.spawn(child._relay(), name=f"worker {number} stderr"),
        ]
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def words(self) -> str:
        """What it last wrote to standard error: the last lines."""
        return b"".join(self._words)[-_WORDS:].decode("utf-8", "replace").strip()

    async def _listen(self) -> None:
        try:
            await self.channel.listen()
        finally:
            self._line.close()

    async def _relay(self) -> None:
        """Its standard error is ours; its end is kept."""
        stream = self._process.stderr
        assert stream is not None  # it was asked for as a pipe
        while data := await stream.read(_READ):
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
            self._words.append(data)
            while len(self._words) > 1 and sum(map(len, self._words)) - len(self._words[0]) >= _WORDS:
                self._words.popleft()

    async def ended(self) -> int:
        """Its exit code, negative for a signal, once it has ended and all it said is here."""
        code = await self._process.wait()
        await asyncio.wait(self._readers, timeout=_REST)
        return code

    async def stop(self, grace: float) -> int:
        """End it: by closing the line, on which it drains and leaves, and after ``grace`` seconds by force."""

        async def stop() -> int:
            self._line.close()
            try:
                async with asyncio.timeout(grace):
                    return await self._process.wait()
            except TimeoutError:
                self.kill()
                return await self._process.wait()

        return await shielded(stop())

    def kill(self) -> None:
        """End it by force, at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """See `Channel.call`."""
        return await self.channel.call(method, params, timeout=timeout)

    def __repr__(self) -> str:
        code = self._process.returncode
        return f"<Child {self.number} pid={self.pid}{'' if code is None else f' ended={code}'}>"


def _command(line: int) -> list[str]:
    # `-m` puts the working directory before everything else, which is only right where this process had it there.
    here = os.getcwd()
    safe = [] if any(each in ("", here) for each in sys.path) else ["-P"]
    warn = [f"-W{each}" for each in sys.warnoptions]
    return [sys.executable, *safe, *warn, "-m", "tenfold.gateway.processes", str(line)]
