"""HAProxy as a process: started as master and worker, reloaded without a gap, ended.

Theory. The master holds the sockets that it was started with (``bind fd@N``) and one worker serves them. A reload makes
the master execute itself anew with the file as it is now; the new worker takes the same sockets, the old one ends when
its requests have ended, and a connection that waits to be accepted is taken by whoever is there. A file that is bad
leaves the old worker serving, and the master says so on its socket.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tenfold.gateway.haproxy.binary import HAProxyError
from tenfold.gateway.haproxy.talking import WITHIN, ask

_PR_SET_PDEATHSIG: Final = 1


class Process:
    """A master and its workers, in ``directory``, which has ``haproxy.cfg``."""

    def __init__(self, binary: str, directory: str, sockets: Sequence[int], output: int) -> None:
        self.binary: Final = binary
        self.directory: Final = directory
        self._sockets = tuple(sockets)
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> str:
        """The configuration."""
        return f"{self.directory}/haproxy.cfg"

    @property
    def pid(self) -> int:
        """Of the master."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the master is alive."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start, and wait until it serves. Raises `HAProxyError`."""
        self._process = self._begin()
        async with asyncio.timeout(WITHIN):
            while True:
                if not self.running:
                    raise HAProxyError(f"haproxy did not start: {self.messages()}")
                try:
                    await ask(f"{self.directory}/stats.sock", "show info", timeout=1.0)
                    await self.workers()
                    return
                except HAProxyError:
                    await asyncio.sleep(0.01)

    def _begin(self) -> subprocess.Popen[bytes]:
        master = f"{self.directory}/master.sock"
        for stale in (master, f"{self.directory}/stats.sock"):
            Path(stale).unlink(missing_ok=True)
        with open(f"{self.directory}/messages", "ab") as messages:
            return subprocess.Popen(
                [self.binary, "-W", "-S", f"unix@{master},mode,600", "-f", self.file],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=messages,
                pass_fds=self._sockets,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def messages(self) -> str:
        """The last of what it has said of itself."""
        text = Path(f"{self.directory}/messages").read_bytes()[-2000:].decode("utf-8", "replace")
        return " ".join(text.split())

    async def command(self, command: str) -> str:
        """Ask the newest worker."""
        return await ask(f"{self.directory}/stats.sock", command)

    async def master(self, command: str) -> str:
        """Ask the master; again where it executed itself anew meanwhile, which cuts its connections."""
        until = asyncio.get_running_loop().time() + WITHIN
        while True:
            try:
                said = await ask(f"{self.directory}/master.sock", command, patient=True)
            except HAProxyError:
                if command == "reload" or not self.running or asyncio.get_running_loop().time() > until:
                    raise
            else:
                if said or command != "show proc":
                    return said
                if asyncio.get_running_loop().time() > until:
                    raise HAProxyError(f"haproxy: expected an answer of the master to {command!r}, got none")
            await asyncio.sleep(0.01)

    async def workers(self) -> tuple[list[int], list[int]]:
        """The processes of the present workers and of the old ones, as ``show proc`` has them."""
        present: list[int] = []
        old: list[int] = []
        into: list[int] | None = None
        for line in (await self.master("show proc")).splitlines():
            if line.startswith("#"):
                into = {"# workers": present, "# old workers": old}.get(line.strip().lower())
            elif into is not None and (fields := line.split()) and fields[0].isdigit() and "worker" in fields[1]:
                into.append(int(fields[0]))
        return present, old

    async def worker(self) -> int:
        """The process of the newest worker. Raises `HAProxyError`."""
        info = await self.command("show info")
        return next((int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:")), 0)

    async def idle(self) -> bool:
        """Whether no worker has a request under way."""
        try:
            present, old = await self.workers()
            for pid in (*present, *old):
                streams = await self.master(f"@!{pid} show sess")
                if any("fe=in " in f"{line} " for line in streams.splitlines()):
                    return False
        except HAProxyError:
            return not self.running
        return True

    async def reload(self) -> None:
        """Put the file into force. Raises `HAProxyError` where HAProxy could not; the old worker serves on then."""
        said = await self.master("reload")
        if "Success=1" not in said:
            raise HAProxyError(f"haproxy did not reload: {' '.join(said.split())[-1500:]}")

    def signal(self, number: int) -> None:
        """To the master, which passes it on."""
        if self.running and self._process is not None:
            self._process.send_signal(number)

    async def ended(self, seconds: float) -> bool:
        """Wait for the end, for so long at most."""
        process = self._process
        if process is None:
            return True
        until = asyncio.get_running_loop().time() + seconds
        while process.poll() is None:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.01)
        return True

    async def stop(self) -> None:
        """End it at once, workers too."""
        workers: list[int] = []
        if self.running:
            try:
                workers = [pid for several in await self.workers() for pid in several]
            except HAProxyError:
                workers = []
        self.signal(signal.SIGTERM)
        if not await self.ended(3.0):
            self.signal(signal.SIGKILL)
            for pid in workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            await self.ended(3.0)

    def __repr__(self) -> str:
        return f"<Process haproxy {self.pid if self.running else 'not running'}>"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
