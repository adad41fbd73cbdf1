"""A worker's process: a fresh interpreter that leads its own group, what it says, its signs of life, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tenfold._core.tasks import shielded

_READ: Final = 64 * 1024
_LINES: Final = 30
"""Lines of its output that are kept."""
_LONGEST: Final = 1000
"""Characters of a line that are kept; longer ones are passed on in pieces."""
_REST: Final = 1.0
"""Seconds for the rest of what a dead process wrote to be read; its own children may hold the pipe open."""


class Words:
    """The output of worker ``id``: passed on line by line, and its last lines kept."""

    __slots__ = ("_id", "_lines", "_part", "_pass_on")

    def __init__(self, id: str, pass_on: Callable[[str], object]) -> None:
        self._id = id
        self._pass_on = pass_on
        self._part = b""
        self._lines: deque[str] = deque(maxlen=_LINES)

    def feed(self, data: bytes) -> None:
        """It has written this."""
        *lines, self._part = (self._part + data).split(b"\n")
        while len(self._part) > _LONGEST:
            lines.append(self._part[:_LONGEST])
            self._part = self._part[_LONGEST:]
        said = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        if said:
            self._lines.extend(line[:_LONGEST] for line in said if line.strip())
            self._pass_on("".join(f"[{self._id}] {line}\n" for line in said))

    def end(self) -> None:
        """It writes no more."""
        if self._part:
            self.feed(b"\n")

    @property
    def last(self) -> str:
        """Its last lines."""
        return "\n".join(self._lines)


def to_stderr(text: str) -> None:
    """Write to the standard error of this process."""
    sys.stderr.write(text)
    sys.stderr.flush()


class Process:
    """Made by `spawn`. It ends by itself, by `stop` or `kill`, or when this process does."""

    __slots__ = ("_beat", "_line", "_output", "_process", "_silent", "_words", "exit")

    def __init__(
        self, process: asyncio.subprocess.Process, line: socket.socket, output: int, words: Words,
        beat: Callable[[float], object],
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self._process = process
        self._line = line
        self._output = output
        self._words = words
        self._beat = beat
        self._silent = asyncio.Event()
        self.exit: Final = loop.create_task(process.wait(), name=f"exit of {process.pid}")
        """Ends with its exit code, negative for a signal."""
        loop.add_reader(line, self._on_line)
        loop.add_reader(output, self._on_output)

    @classmethod
    async def spawn(
        cls, arguments: Sequence[str], env: Mapping[str, str], words: Words, beat: Callable[[float], object]
    ) -> Process:
        """Start `worker` with these arguments, which do not yet say where its line to us is; ``beat`` is called with
        the time at each sign of life. Raises `OSError` where the system lets no process be started.
        """
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        try:
            ours.setblocking(False)
            os.set_blocking(read, False)
            command = [*_interpreter(), "-m", "tenfold.autoscale.supervisor.worker", *arguments]
            process = await asyncio.create_subprocess_exec(
                *command, "--line", str(theirs.fileno()), "--parent", str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL, stdout=write, stderr=write, pass_fds=[theirs.fileno()],
                start_new_session=True, env=env,
            )  # fmt: skip
        except BaseException:
            ours.close()  # a worker that was started all the same ends by this
            os.close(read)
            raise
        finally:
            theirs.close()
            os.close(write)
        return cls(process, ours, read, words, beat)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _on_line(self) -> None:
        try:
            data = self._line.recv(_READ)
        except BlockingIOError:
            return
        except OSError:  # reset: it has ended
            data = b""
        if data:
            self._beat(time.monotonic())
        else:
            self._hang_up()

    def _on_output(self) -> None:
        try:
            data = os.read(self._output, _READ)
        except BlockingIOError:
            return
        if data:
            self._words.feed(data)
        else:
            self._close_output()

    def _hang_up(self) -> None:
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()

    def _close_output(self) -> None:
        if not self._silent.is_set():
            asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._words.end()
            self._silent.set()

    def kill(self) -> None:
        """End it and all of its group by force, at once."""
        if not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self, grace: float) -> None:
        """Tell it to end, and after ``grace`` seconds end it by force."""
        if not self.exit.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait((self.exit,), timeout=grace)
            self.kill()

    async def close(self) -> int:
        """Its exit code, once it and those that it left behind in its group have ended and all it said is here. It is
        killed if it runs still. Goes on to its end when the caller is cancelled.
        """
        return await shielded(self._close())

    async def _close(self) -> int:
        self.kill()
        code = await self.exit
        # The group keeps its number while somebody is in it; when nobody is, there is nobody to signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST):
                await self._silent.wait()
        self._close_output()
        return code

    def __repr__(self) -> str:
        return f"<Process {self.pid}{f' ended={self.exit.result()}' if self.exit.done() else ''}>"


def how(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _interpreter() -> list[str]:
    # `-P`: the app's directory comes first on the path, and nothing of this process's working directory before it.
    return [sys.executable, "-u", "-P", *(f"-W{each}" for each in sys.warnoptions)]
