"""What HAProxy's workers have counted, the leaving ones too, and what its checks have found."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from tenfold._core.events import EVENTS, Hub
from tenfold.balance.happenings import EndpointDown, EndpointUp
from tenfold.gateway.haproxy import runtime
from tenfold.gateway.haproxy.binary import HAProxyError
from tenfold.gateway.haproxy.process import Process
from tenfold.gateway.haproxy.servers import Server
from tenfold.gateway.haproxy.talking import Leaving

_LEAVING: Final = 16
"""Workers that end, whose last numbers are waited for."""

Row = dict[str, str]


class Numbers:
    """Gathers them from ``process``, and tells of endpoints that go up or down."""

    def __init__(self, process: Process, hub: Hub = EVENTS) -> None:
        self._process = process
        self._hub = hub
        self._lock = asyncio.Lock()
        self._leaving: list[Leaving] = []
        self._well: dict[tuple[str, str], bool] = {}
        self.totals: Final = runtime.Totals()
        self.rows: dict[tuple[str, str], Row] = {}
        """The present worker's, by proxy and server."""

    async def collect(self, servers: Mapping[str, Sequence[Server]]) -> None:
        """Take what all workers have counted. Raises `HAProxyError`."""
        async with self._lock:  # one at a time on the sessions with leaving workers
            said = await self._process.command("show info; show stat")
            info, _, rows = said.partition("\n\n")
            pid = next((int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:")), 0)
            if not pid:
                raise HAProxyError(f"haproxy: expected its numbers, got {said[:100]!r}")
            found = runtime.table(rows)
            self.rows = {(row["pxname"], row["svname"]): row for row in found}
            self.totals.feed(pid, found)
            await self._last(pid)
            self.totals.keep([pid, *(each.pid for each in self._leaving)])
        self._tell(servers)

    async def _last(self, present: int) -> None:
        """What leaving workers have counted; those that are done are let go."""
        for leaving in list(self._leaving):
            if leaving.pid == present:
                continue
            try:
                last = runtime.table(await leaving.ask("show stat"))
            except HAProxyError:
                over = True  # cut at the end of its time
            else:
                self.totals.feed(leaving.pid, last)
                over = all(row["scur"] == "0" for row in last if (row["pxname"], row["svname"]) == ("in", "FRONTEND"))
            if over:
                leaving.close()
                self._leaving.remove(leaving)

    def _tell(self, servers: Mapping[str, Sequence[Server]]) -> None:
        """Of endpoints whose checks say otherwise than before. One in maintenance has no checks."""
        well: dict[tuple[str, str], bool] = {}
        for pool, several in servers.items():
            for server in several:
                row = self.rows.get((f"pool.{pool}", server.name), {})
                status = row.get("status", "")
                key = pool, server.id
                if not status.startswith(("UP", "DOWN")):
                    continue
                well[key] = status.startswith("UP")
                if self._well.get(key, True) is not well[key]:
                    kind = EndpointUp if well[key] else EndpointDown
                    self._hub.emit(kind(pool, server.id, runtime.why(row)))
        self._well = well

    def keep(self, leaving: Leaving) -> None:
        """Wait for the last numbers of a worker that was replaced."""
        self._leaving.append(leaving)
        while len(self._leaving) > _LEAVING:
            self._leaving.pop(0).close()

    def release(self) -> None:
        """Wait for nobody's."""
        for leaving in self._leaving:
            leaving.close()
        self._leaving.clear()

    def now(self, proxy: str, name: str, column: str) -> int:
        """A gauge of the present worker; 0 where it is not known."""
        return int(self.rows.get((proxy, name), {}).get(column) or 0)
