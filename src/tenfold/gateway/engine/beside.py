"""What runs beside the traffic of one gateway: its admin API, its administrator's orders, and word of what an app's
cache has invalidated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenfold.gateway.engine.overrides import Overrides

if TYPE_CHECKING:
    import socket

    from tenfold.gateway.admin import AdminServer, Control
    from tenfold.gateway.config import Address, Config
    from tenfold.gateway.edge import Edge
    from tenfold.gateway.edge.invalidation import Invalidation
    from tenfold.gateway.engine.gateway import Gateway
    from tenfold.gateway.engine.site import Site


class Beside:
    """Starts and stops it. Imports what is asked for alone, so that a gateway without it pays nothing."""

    __slots__ = ("_control", "_given", "_heard", "_invalidation", "_server", "overrides")

    def __init__(self, admin: tuple[Address, socket.socket] | None) -> None:
        self.overrides = Overrides()
        self._given = admin
        self._control: Control | None = None
        self._server: AdminServer | None = None
        self._invalidation: Invalidation | None = None
        self._heard: tuple[Edge | None, str | None, str] = (None, None, "")

    @property
    def admin(self) -> Address | None:
        """Where the admin API listens."""
        return None if self._server is None else self._server.address

    async def start(self, gateway: Gateway, site: Site) -> None:
        """Start what the configuration asks for. Several processes have one admin API, which is not theirs."""
        config = gateway.config
        self.overrides.watch(lambda: site.plan)
        await self._listen(config, site)
        if config.admin is not None and config.gateway.processes == 1:
            from tenfold.gateway.admin import AdminServer, Control, Here

            self._control = Control(gateway)
            server = AdminServer(config.admin, Here(self._control), bound=self._given)
            await server.__aenter__()
            self._server = server

    async def renew(self, config: Config, site: Site) -> None:
        """Another configuration is in force."""
        if self._server is not None and config.admin is not None:
            self._server.options = config.admin
        await self._listen(config, site)

    async def stop(self) -> None:
        """End all of it. May be called twice."""
        self.overrides.close()
        server, self._server = self._server, None
        control, self._control = self._control, None
        try:
            if server is not None:
                await server.__aexit__(None, None, None)
        finally:
            if control is not None:
                control.close()
            await self._deafen()

    async def _listen(self, config: Config, site: Site) -> None:
        """Purge the edge by what is invalidated in `edge.invalidate_from`."""
        options = config.edge
        wanted = (site.edge, options.invalidate_from, options.cache)
        if wanted == self._heard:
            return
        await self._deafen()
        if site.edge is not None and options.invalidate_from is not None:
            from tenfold.gateway.edge.invalidation import Invalidation

            made = Invalidation(site.edge, options.invalidate_from, options.cache)
            await made.start()
            self._invalidation = made
        self._heard = wanted

    async def _deafen(self) -> None:
        invalidation, self._invalidation = self._invalidation, None
        self._heard = (None, None, "")
        if invalidation is not None:
            await invalidation.aclose()

    def __repr__(self) -> str:
        return f"<Beside admin={self._server!r} {self._invalidation!r} {self.overrides!r}>"
