"""The load processes, seen from the parent: started, listened to, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.load import frames
from tenfold.load.errors import LoadError, TargetDownError, WorkerError
from tenfold.load.frames import Done, Ready, Refused, Report, Spec
from tenfold.load.recorder import Delta

_KEPT_STDERR: Final = 16 * 1024
_KILL_AFTER: Final = 2.0


class LoadProcess:
    """One child. ``on_delta`` gets its number and what it measured."""

    def __init__(self, number: int, on_delta: Callable[[int, Delta], None]) -> None:
        self.number = number
        self.done: Done | None = None
        self.failure = ""
        """Why it ended without a last word; empty while it lives or when it said `Done`."""
        self._on_delta = on_delta
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = bytearray()
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def start(self, spec: Spec) -> None:
        """Spawn it and wait until it is connected to the target. Raises what it refuses with."""
        # Its own session: a terminal's ^C reaches the parent alone, which then stops the children in order.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tenfold.load.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_stderr())]
        self.say(spec)
        await self._ready

    def say(self, order: frames.Order) -> None:
        """Send an order; one to a process that is gone is dropped, its end is noticed elsewhere."""
        stdin = self._process.stdin if self._process is not None else None
        if stdin is not None and not stdin.is_closing():
            stdin.write(frames.pack(order))

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout
        try:
            while True:
                size = int.from_bytes(await stream.readexactly(4), "big")
                if size > frames.MAX_FRAME:
                    raise WorkerError(f"load process {self.number} sent a frame of {size} bytes")
                self._take(frames.word(await stream.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._note_end()
        finally:
            self.ended.set()

    def _take(self, word: frames.Word) -> None:
        if isinstance(word, Report):
            self._on_delta(self.number, word.delta)
        elif isinstance(word, Done):
            self.done = word
            self.ended.set()
        elif isinstance(word, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif not self._ready.done():
            self._ready.set_exception(_refusal(word))

    async def _note_end(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        if self.done is None:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            said = self.said
            self.failure = (
                f"load process {self.number} (pid {self._process.pid}) was {how}"
                if code < 0
                else (f"load process {self.number} (pid {self._process.pid}) {how}")
            )
            if said:
                self.failure += f"; it said: {said[-2000:]}"
            if not self._ready.done():
                self._ready.set_exception(WorkerError(self.failure))

    async def _keep_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(4096):
            self._stderr += data
            if len(self._stderr) > _KEPT_STDERR:
                del self._stderr[:-_KEPT_STDERR]

    @property
    def said(self) -> str:
        """What it wrote to stderr, the last 16 KiB."""
        return self._stderr.decode("utf-8", "replace").strip()

    @property
    def pid(self) -> int:
        """Of the child; 0 before it was spawned."""
        return self._process.pid if self._process is not None else 0

    async def close(self) -> None:
        """Close its stdin, wait two seconds, then kill it; reap it in any case."""
        process = self._process
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # seen here, so that a refusal nobody waited for is no warning
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_KILL_AFTER if self.done is not None else 0.2):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The pipe transports close in the next turns of the loop; a caller's loop may end right after us.
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()


def _refusal(word: Refused) -> Exception:
    kinds: dict[str, type[MisuseError] | type[LoadError]] = {"misuse": MisuseError, "target": TargetDownError}
    return kinds.get(word.kind, WorkerError)(word.message)
