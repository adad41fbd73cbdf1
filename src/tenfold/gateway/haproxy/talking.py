"""Questions to HAProxy's sockets, and the session that keeps a leaving worker's numbers."""

from __future__ import annotations

import asyncio
from typing import Final

from tenfold.gateway.haproxy.binary import HAProxyError

WITHIN: Final = 10.0
_MOST: Final = 64 * 1024 * 1024


async def _connected(path: str, patient: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect. A master that executes itself anew has no ear for a moment: the patient try again."""
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except (ConnectionRefusedError, FileNotFoundError):
            if not patient:
                raise
        await asyncio.sleep(0.01)


async def ask(path: str, command: str, *, timeout: float = WITHIN, patient: bool = False) -> str:
    """The answer to a command on one of HAProxy's sockets. Raises `HAProxyError`."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _connected(path, patient)
            try:
                writer.write(command.encode() + b"\n")
                if patient:
                    writer.write_eof()  # the master goes on listening else
                found = bytearray()
                while data := await reader.read(256 * 1024):
                    found += data
                    if len(found) > _MOST:
                        raise HAProxyError(f"haproxy: expected an answer of {_MOST} bytes at most to {command!r}")
            finally:
                writer.close()
    except (OSError, TimeoutError) as exc:
        raise HAProxyError(f"haproxy does not answer {command!r}: {str(exc) or type(exc).__name__}") from exc
    return found.decode("utf-8", "replace").strip("\n")


class Leaving:
    """A worker that is about to be replaced. The open session keeps it alive when its last request has ended, so that
    what it has counted at the end can be read; without it the last numbers would be lost with each reload.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.pid = 0

    @classmethod
    async def of(cls, directory: str) -> Leaving:
        """The present worker. Raises `HAProxyError`."""
        try:
            found = cls(*await _connected(f"{directory}/stats.sock", False))
        except OSError as exc:
            raise HAProxyError(f"haproxy does not answer: {exc}") from exc
        try:
            await found.ask("prompt")
            info = await found.ask("show info")
            found.pid = next(int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:"))
        except BaseException:
            found.close()
            raise
        return found

    async def ask(self, command: str) -> str:
        """The answer to a command. Raises `HAProxyError`."""
        try:
            async with asyncio.timeout(WITHIN):
                self._writer.write(command.encode() + b"\n")
                found = bytearray()
                while not found.endswith(b"\n> "):
                    data = await self._reader.read(256 * 1024)
                    if not data or len(found) > _MOST:
                        raise HAProxyError(f"haproxy: worker {self.pid} has ended")
                    found += data
        except (OSError, TimeoutError) as exc:
            raise HAProxyError(f"haproxy: worker {self.pid} does not answer {command!r}") from exc
        return found[:-3].decode("utf-8", "replace").strip("\n")

    def close(self) -> None:
        """Let it go."""
        self._writer.close()
