"""`AdminServer`: the admin API of a gateway, of one process or of several."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from tenfold.gateway.admin.api import Api
from tenfold.gateway.admin.guard import Denied, denied
from tenfold.gateway.admin.http import HttpServer, Request
from tenfold.gateway.admin.live import Live
from tenfold.gateway.admin.workers import Workers

if TYPE_CHECKING:
    import socket

    from tenfold.gateway.config import Address, Admin


class AdminServer:
    """Serves the admin API and ``/metrics`` for ``workers`` as ``options`` say, within its block::

        async with AdminServer(config.admin, Here(Control(gateway))) as server:
            print(server.address)

    ``options`` may be replaced while it runs (another token); ``listen`` counts at the start alone. Raises `OSError`
    where it cannot listen. ``bound`` is a socket that listens already, and its address; it stays the caller's.
    ``interval`` (1 s) is how often live metrics are asked for. Belongs to one event loop.
    """

    def __init__(
        self,
        options: Admin,
        workers: Workers,
        *,
        bound: tuple[Address, socket.socket] | None = None,
        interval: float = 1.0,
    ) -> None:
        self.options = options
        self._live = Live(workers, time.time, interval=interval)
        self._http = HttpServer(options.listen, self._guard, Api(workers, self._live).handle, bound)

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose."""
        return self._http.address

    def _guard(self, request: Request) -> Denied | None:
        return denied(self.options, request.head, request.path)

    async def __aenter__(self) -> AdminServer:
        await self._live.start()
        try:
            await self._http.start()
        except BaseException:
            await self._live.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._http.close()
        finally:
            await self._live.close()

    def __repr__(self) -> str:
        return f"<AdminServer {self.address}>"
