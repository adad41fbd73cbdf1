"""The gateway before the shop, as a process of its own: ``tenfold gateway run`` with the file of `configuration`.

Public pages have the edge, own data has not; the shop says the same once more with each answer (`tuned.edge`). The shop
purges by the gateway's admin API and waits for the answer: whoever reads after a checkout that was answered reads what
the workers say, not what the edge remembers.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Final

from blackfriday.processes import Child, NotReady, free_port, import_path, python

TOKEN: Final = "BLACKFRIDAY_EDGE_TOKEN"
PUBLIC: Final = ("/products", "/categories", "/search")

_ROUTE: Final = """
[[route]]
name = "{name}"
path = "{path}"
methods = ["GET", "HEAD"]
pool = "workers"
edge = true
"""


def configuration(port: int, admin: int, workers: int) -> str:
    """The gateway's file: one pool, the workers behind ``workers``; a route with the edge for each kind of page."""
    head = f"""[gateway]
listen = "127.0.0.1:{port}"
drain_timeout = "1s"

[admin]
listen = "127.0.0.1:{admin}"
token = "${{{TOKEN}}}"

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
        self._admin_port = free_port()
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
        return f"http://127.0.0.1:{self._admin_port}"

    @property
    def pid(self) -> int:
        """The id of the process."""
        if self._child is None:
            raise NotReady("the gateway is not started: await start() first")
        return self._child.pid

    async def start(self, workers: int) -> None:
        """Start it; ready when the shop behind it answers through it."""
        file = Path(self._folder.name) / "gateway.toml"
        file.write_text(configuration(self.port, self._admin_port, workers), encoding="utf-8")
        command = python("-m", "tenfold", "gateway", "run", str(file))
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
        edges = [each["edge"] for each in state["each"]]
        edge = {name: sum(each[name] for each in edges) for name in edges[0]}
        return {**edge, "requests": state["counters"]["requests"]}
