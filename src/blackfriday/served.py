"""The shop under ``tenfold serve``: one worker at first, more when there is more to do."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from blackfriday.processes import Child, NotReady, free_port, import_path, python

TOKEN: Final = "TENFOLD_ADMIN_TOKEN"
NAME: Final = "shop"
DRAIN: Final = 2.0
"""What requests under way get at the end; less than a child has to end."""
_SAMPLE: Final = re.compile(rf'^(tenfold_[a-z_]+)\{{app="{NAME}"(?:,state="(\w+)")?\}} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the metrics say at one moment."""

    workers: int
    """That are ready."""
    wished: int
    in_flight: float
    """The mean of the last second, at the workers and waiting."""


class Served:
    """``tenfold serve`` in front of 1 to ``most`` workers of ``app`` on a port of loopback.

    ``async with Served("blackfriday.asgi:app", settings.to_environment(), most=2, cpu=0.4) as served: served.url``

    environment: what the workers are told. app_dir: where the module is looked for. cpu: the share of a core in each
    worker that it scales to; in_flight: the requests in each, so that it scales also where the cores are taken by
    others. within: seconds until the first ``/health``.

    Raises :class:`NotReady` with its last words if it does not come up. At the end of the block it drains; `code` is
    then its exit code, 0 if no request was cut. Cancellation at any point leaves no process behind.
    """

    def __init__(
        self,
        app: str,
        environment: Mapping[str, str],
        *,
        most: int,
        cpu: float,
        in_flight: float = 20.0,
        app_dir: str = ".",
        within: float = 30.0,
    ) -> None:
        self.most = most
        self.cpu = cpu
        self.in_flight = in_flight
        self.port = free_port()
        self.code: int | None = None
        self._admin = free_port()
        self._within = within
        command = python(
            "-m", "tenfold", "serve", app, "--app-dir", app_dir, "--name", NAME,
            "--workers", f"1..{most}", "--target-cpu", f"{cpu:.0%}", "--target-inflight", f"{in_flight:g}",
            "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self._admin}",
            "--server", "granian", "--drain-timeout", f"{DRAIN:g}s",  # as in the other rungs
        )  # fmt: skip
        self._child = Child("tenfold serve", command, {**environment, TOKEN: secrets.token_hex(16), **import_path()})

    def __repr__(self) -> str:
        return f"<Served 1..{self.most}, port {self.port}, {self._child!r}>"

    @property
    def url(self) -> str:
        """Where clients come in."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of ``tenfold serve``; its workers are other processes."""
        return self._child.pid

    @property
    def words(self) -> str:
        """The last lines that it said."""
        return self._child.words()

    async def __aenter__(self) -> Served:
        try:
            await self._child.start()
            await self._child.ready(self.port, within=self._within)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        stopping = asyncio.ensure_future(self._child.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await asyncio.wait({stopping})
            raise
        finally:
            self.code = self._child.code

    async def look(self) -> Seen:
        """What its metrics say now; NotReady if they cannot be had within five seconds."""
        try:
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._admin)
                try:
                    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    text = (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise NotReady(f"the metrics of tenfold serve cannot be read: {error!r}: {self.words}") from error
        found = {(name, state): float(value) for name, state, value in _SAMPLE.findall(text)}
        try:
            return Seen(
                workers=int(found["tenfold_serve_workers", "ready"]),
                wished=int(found["tenfold_serve_workers_wished", ""]),
                in_flight=found["tenfold_in_flight", ""],
            )
        except KeyError as error:
            raise NotReady(f"the metrics of tenfold serve lack {error}: {text[:200]!r}") from error
