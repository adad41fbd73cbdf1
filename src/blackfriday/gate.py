"""The gateway before the shop, as a process of its own: ``async with Gate(workers=8001) as gate: gate.url``.

Public pages have the edge, own data has not; the shop says the same once more with each answer (`tuned.edge`). The shop
purges over a second port of loopback, ``POST /v1/purge`` with a token, and waits for the answer: whoever reads after a
checkout that was answered reads what the workers say, not what the edge remembers.

``python -m blackfriday.gate FILE PORT`` is that process: the configuration and the port of the purges. The token comes
from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blackfriday.processes import Child, NotReady, free_port, import_path, python

if TYPE_CHECKING:
    from tenfold.gateway import Gateway

TOKEN: Final = "BLACKFRIDAY_EDGE_TOKEN"
PUBLIC: Final = ("/products", "/categories", "/search")
LARGEST: Final = 64 * 1024  # bytes of a purge's body
_PATIENCE: Final = 30.0

_ROUTE: Final = """
[[route]]
name = "{name}"
path = "{path}"
methods = ["GET", "HEAD"]
pool = "workers"
edge = true
"""


def configuration(port: int, workers: int) -> str:
    """The gateway's file: one pool, the workers behind ``workers``; a route with the edge for each kind of page."""
    head = f"""[gateway]
listen = "127.0.0.1:{port}"

[edge]
max_bytes = "256MiB"

[[pool]]
name = "workers"
endpoints = ["http://127.0.0.1:{workers}"]
idle = "4s"

[[route]]
name = "own"
pool = "workers"
"""
    return head + "".join(_ROUTE.format(name=path.strip("/"), path=path) for path in PUBLIC)


class Gate:
    """A gateway in front of the port ``workers`` of loopback.

    port: where clients come in; 0 takes a free one. Raises :class:`NotReady` if it does not come up within ``within``
    seconds. Cancellation at any point leaves no process behind.
    """

    def __init__(self, port: int = 0, *, within: float = 20.0) -> None:
        self.port = port or free_port()
        self.purges = free_port()
        self.token = secrets.token_hex(16)
        self._within = within
        self._child: Child | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="blackfriday-gate-")

    def __repr__(self) -> str:
        return f"<Gate port {self.port}, {self._child!r}>"

    @property
    def url(self) -> str:
        """Where clients come in."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """Where purges are taken and counters told."""
        return f"http://127.0.0.1:{self.purges}"

    @property
    def pid(self) -> int:
        """The id of the process."""
        if self._child is None:
            raise NotReady("the gateway is not started: await start() first")
        return self._child.pid

    async def start(self, workers: int) -> None:
        """Start it; ready when the shop behind it answers through it."""
        file = Path(self._folder.name) / "gateway.toml"
        file.write_text(configuration(self.port, workers), encoding="utf-8")
        command = python("-m", "blackfriday.gate", str(file), str(self.purges))
        self._child = Child("the gateway", command, {TOKEN: self.token, **import_path()})
        await self._child.start()
        await self._child.ready(self.port, within=self._within)

    async def stop(self) -> None:
        """Stop it; returns when nothing is left."""
        try:
            if self._child is not None:
                await self._child.stop()
        finally:
            self._folder.cleanup()

    async def stats(self) -> dict[str, int]:
        """The edge's counters, as `tenfold.gateway.edge.EdgeStats` has them, and the gateway's ``requests``."""
        import httpx2

        async with httpx2.AsyncClient(base_url=self.admin, timeout=10, trust_env=False) as client:
            answer = await client.get("/v1/state", headers={"Authorization": f"Bearer {self.token}"})
            answer.raise_for_status()
        state = answer.json()
        return {**state["edge"], "requests": state["counters"]["requests"]}


# -- the process ------------------------------------------------------------------------------------------------------


async def serve(file: str, port: int, token: str) -> None:
    """Be the gateway until SIGTERM."""
    from tenfold.gateway import Gateway, load_config

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Gateway(load_config(file)) as gateway:

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while await _one(gateway, token, reader, writer):
                    pass
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass  # whoever asked has gone, or asked for nothing
            finally:
                writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", port, limit=LARGEST)
        try:
            await stop.wait()
        finally:
            server.close()


async def _one(gateway: Gateway, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; False at the end of the connection."""
    async with asyncio.timeout(_PATIENCE):
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", "0"))
        if not 0 <= length <= LARGEST:
            return False
        body = await reader.readexactly(length)
    given = fields.get("authorization", "").removeprefix("Bearer ")
    if not secrets.compare_digest(given.encode(), token.encode()):
        status, told = "401 Unauthorized", {}
    elif start.startswith("GET /v1/state "):
        status, told = "200 OK", gateway.state()
    elif start.startswith("POST /v1/purge "):
        status, told = "200 OK", {"purged": _purge(gateway, json.loads(body))}
    else:
        status, told = "404 Not Found", {}
    text = json.dumps(told).encode()
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
    )
    await writer.drain()
    return fields.get("connection", "").lower() != "close"


def _purge(gateway: Gateway, asked: dict[str, Any]) -> int:
    edge = gateway.edge
    if edge is None:
        return 0
    return edge.purge_all() if asked.get("all") else edge.purge_keys(asked["tags"])


def main() -> None:
    """Run on uvloop, as ``tenfold gateway`` does."""
    import uvloop

    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), os.environ[TOKEN]))


if __name__ == "__main__":
    main()
