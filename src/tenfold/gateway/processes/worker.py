"""A worker: one gateway on sockets that it was given, told what to do by its supervisor.

It lives as long as the line to its supervisor. When that closes, whatever the reason, it drains and leaves. The signals
that the supervisor acts on do nothing here, SIGTERM included: a terminal or a service manager may send them to the
whole group, and the supervisor has the sockets accepted on by others before one leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.admin import Control
from tenfold.gateway.config import Address, read_config
from tenfold.gateway.engine import Gateway
from tenfold.gateway.processes.channel import answer
from tenfold.gateway.processes.telling import OF_ENDPOINTS, Telling

CUT: Final = 1
"""The exit code of a worker that cut requests at the end of its drain."""


class Worker:
    """The methods that a supervisor calls; all others are `admin.Control`'s.

    ``start`` ``{"number", "toml", "file", "sockets": [[descriptor, host, port, path], …], "accept": [index, …]}`` makes
    the gateway; ``accept`` ``{"accept"}`` deals it other sockets; ``reload`` ``{"toml", "file"}``; ``reopen`` begins
    the access log's file anew; ``drain`` answers ``{"whole"}`` at the end, and the process ends.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.gateway: Gateway | None = None
        self.whole = True
        self._control: Control | None = None
        self._entered = False
        self._telling = contextlib.ExitStack()
        self._draining: asyncio.Task[bool] | None = None

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to one call. Raises what the method does."""
        if method == "start":
            return await self._start(params)
        gateway, control = self.gateway, self._control
        if gateway is None or control is None:
            raise MisuseError(f"worker: expected start before {method!r}")
        if method == "accept":
            gateway.accept_on(params["accept"])
        elif method == "reload":
            await gateway.reload(read_config(params["toml"], params["file"]))
        elif method == "reopen":
            gateway.reopen_log()
        elif method == "drain":
            return {"whole": await self.drain()}
        else:
            return await control.call(method, params)
        return {}

    async def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.gateway is not None:
            raise MisuseError("worker: it was started before")
        bound = [
            (Address(host, port, path), socket.socket(fileno=descriptor))
            for descriptor, host, port, path in params["sockets"]
        ]
        for _, made in bound:
            made.set_inheritable(False)
        self._telling.enter_context(Telling(OF_ENDPOINTS, f"worker {params['number']}"))
        config = read_config(params["toml"], params["file"])
        gateway = self.gateway = Gateway(config, sockets=bound, accept=params["accept"])
        await gateway.__aenter__()
        self._entered = True
        self._control = Control(gateway)
        return {"addresses": list(map(str, gateway.addresses))}

    async def drain(self) -> bool:
        """Let requests under way end, once, and leave."""
        gateway = self.gateway
        if gateway is None or not self._entered:
            self.over.set()
            return True
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(gateway.drain())
        self.whole = await asyncio.shield(self._draining)
        self.over.set()
        return self.whole

    async def close(self) -> None:
        """Close what is left."""
        self._telling.close()
        if self._control is not None:
            self._control.close()
        if self.gateway is not None and self._entered:
            await self.gateway.__aexit__(None, None, None)


async def _serve(line: int) -> int:
    loop = asyncio.get_running_loop()
    worker = Worker()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=line))
    answering = loop.create_task(answer(reader, writer, worker.call))
    over = loop.create_task(worker.over.wait())
    try:
        await asyncio.wait((answering, over), return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            await worker.drain()
        await asyncio.sleep(0)
    finally:
        try:
            await worker.close()
        finally:
            for task in (over, answering):
                task.cancel()
            await asyncio.wait((over, answering))
            writer.close()
    if not answering.cancelled():
        answering.result()
    return 0 if worker.whole else CUT


def main(line: int) -> int:
    """Serve until told to stop, or the supervisor is gone. The exit code: 0, or `CUT`."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_serve(line))
    return int(uvloop.run(_serve(line)))
