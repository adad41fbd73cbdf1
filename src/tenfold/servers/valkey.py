"""A throwaway Valkey: nothing on disk, loopback only."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from tenfold._core.units import Duration
from tenfold.servers import locate
from tenfold.servers.home import Home
from tenfold.servers.locate import Binaries
from tenfold.servers.ports import HOST
from tenfold.servers.run import Run
from tenfold.servers.server import Server

_PROBE: Final = 1.0
_THROWAWAY: Final[Mapping[str, str]] = {
    "save": "",
    "appendonly": "no",
    # A replica that asks for its first copy would otherwise wait 5 s for others to ask too.
    "repl-diskless-sync-delay": "0",
}


class Valkey(Server):
    """A Valkey server: ``async with Valkey() as v: v.url``.

    ``settings`` are directives of valkey.conf (``{"maxmemory": "64mb", "maxmemory-policy": "allkeys-lfu"}``)
    and win over the throwaway ones. It holds its data in memory only: after `kill` and `restart` it is empty.
    Raises `ServersError` and its kind.
    """

    kind: ClassVar[str] = "valkey"

    def __init__(
        self,
        *,
        settings: Mapping[str, str | int] | None = None,
        name: str = "valkey",
        within: Duration = "30s",
        state: Path | str | None = None,
        run: Run | None = None,
        home: Home | None = None,
    ) -> None:
        super().__init__(name=name, within=within, state=state, run=run, home=home)
        self.settings = {**_THROWAWAY, **{key: str(value) for key, value in (settings or {}).items()}}

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT/0``"""
        return f"redis://{HOST}:{self.port}/0"

    def _binaries(self) -> Binaries:
        return self.home.staged(locate.valkey())

    async def _prepare(self, binaries: Binaries) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.home.give(self.folder)

    def _configure(self, port: int) -> None:
        """Everything is on the command line."""

    def _command(self, binaries: Binaries, port: int) -> list[str | Path]:
        command: list[str | Path] = [
            binaries.program,
            "--port",
            str(port),
            "--bind",
            HOST,
            "--dir",
            self.folder,
        ]
        # The title would overwrite the arguments, by which the run knows its servers again.
        command += ["--set-proc-title", "no", "--daemonize", "no", "--logfile", ""]
        for key, value in self.settings.items():
            command += [f"--{key}", value]
        return command

    async def _answers(self, port: int, pid: int) -> bool:
        """Whether this very process answers: another server may have taken the port a moment before it."""
        try:
            async with asyncio.timeout(_PROBE):
                reader, writer = await asyncio.open_connection(HOST, port)
                try:
                    writer.write(b"INFO server\r\n")
                    text = b""
                    while b"process_id:" not in text or b"\n" not in text.split(b"process_id:")[1]:
                        piece = await reader.read(65_536)
                        if not piece:
                            return False
                        text += piece
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return int(text.split(b"process_id:")[1].split(b"\r\n")[0]) == pid

    def _stop_signal(self) -> int:
        return signal.SIGTERM
