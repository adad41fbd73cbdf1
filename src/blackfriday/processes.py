"""Child processes that are owned: ready when they answer, gone when their owner is done with them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tenfold import TenfoldError

POLL = 0.02
STOP_PATIENCE = 5.0
SHOWN = 20
PR_SET_PDEATHSIG = 1  # prctl(2); kept over execve(2)


class NotReady(TenfoldError):
    """A child process ended, or did not answer in time; the message says which and shows its last words."""


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def answers(port: int, path: str = "/health", *, within: float = 1.0) -> bool:
    """Whether ``GET path`` on a port of loopback is answered with 200."""
    writer = None
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return (await reader.readline()).startswith(b"HTTP/1.1 200")
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()


class Child:
    """One process in a session of its own, with whatever it starts; its words are kept in an unnamed file."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = list(command)
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._process is None else f"pid {self._process.pid}"
        return f"<Child {self.name}, {state}>"

    @property
    def pid(self) -> int:
        """The process's id, which is also that of its group."""
        if self._process is None:
            raise NotReady(f"{self.name} is not started: await start() first")
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start the process; whoever called owns it and calls :meth:`stop`."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def ready(self, port: int, *, within: float) -> None:
        """Wait until ``/health`` on ``port`` is answered; NotReady if the process ends or ``within`` seconds
        pass.
        """
        try:
            async with asyncio.timeout(within):
                while not await answers(port):
                    if self._process is None or self._process.returncode is not None:
                        raise NotReady(f"{self.name} ended while starting: {self.words()}")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise NotReady(f"{self.name} did not answer /health within {within:g} s: {self.words()}") from None

    def words(self) -> str:
        """The last lines that the process wrote."""
        if self._log is None or self._log.closed:
            return "(nothing written)"
        self._log.flush()
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), 20_000, max(0, size - 20_000)).decode(errors="replace")
        return "\n".join(tail.splitlines()[-SHOWN:]) or "(nothing written)"

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for the whole group when five seconds have passed; returns when nothing is
        left.
        """
        process = self._process
        try:
            if process is not None:
                try:
                    if process.returncode is None:
                        process.terminate()
                        with suppress(TimeoutError):
                            async with asyncio.timeout(STOP_PATIENCE):
                                await process.wait()
                finally:
                    # Workers whose parent was killed are still in the group; without any, the group is gone.
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        finally:
            if self._log is not None:
                self._log.close()


def cpu_seconds(leader: int) -> float:
    """The processor time that the living processes of a group have used; 0.0 where there is no ``/proc``."""
    ticks = 0
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == leader:
            ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / os.sysconf("SC_CLK_TCK")


def python(*arguments: str) -> list[str]:
    """The command that runs this interpreter as a process which does not outlive this one, even if it is
    killed.
    """
    return [sys.executable, "-m", "blackfriday.processes", str(os.getpid()), sys.executable, *arguments]


def import_path() -> dict[str, str]:
    """PYTHONPATH by which a child finds this package, installed or not."""
    here = str(Path(__file__).resolve().parent.parent)
    old = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{old}{os.pathsep}{here}" if old else here}


def become(owner: int, command: list[str]) -> None:
    """Replace this process by ``command``, to be terminated when ``owner`` dies. Where the system cannot
    tell a child of its parent's death (anything but Linux), a killed owner leaves it running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != owner:  # it died before it could be watched
            return
    os.execv(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
