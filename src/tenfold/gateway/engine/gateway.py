"""`Gateway`: a configuration that is running, replaced while it runs, and drained at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.gateway.config import Address, Changes, Config, ConfigFile, diff
from tenfold.gateway.edge import Edge
from tenfold.gateway.engine.beside import Beside
from tenfold.gateway.engine.certificates import certificates_of, certify
from tenfold.gateway.engine.edge_keys import keys_of
from tenfold.gateway.engine.listener import Listener
from tenfold.gateway.engine.log import log_of
from tenfold.gateway.engine.plan import Plan
from tenfold.gateway.engine.policies import close_limits
from tenfold.gateway.engine.site import Site, edge_of, store_of
from tenfold.gateway.engine.state import state_of

_QUIET: Final = 1.0
"""Seconds for which idle connections may still bring a request when the gateway drains."""
_LOOK: Final = 0.02


class Gateway:
    """A reverse proxy in this process, in the running event loop::

        async with Gateway(load_config("gateway.toml")) as gateway:
            print(gateway.addresses)
            ...
            await gateway.reload(load_config("gateway.toml"))
            await gateway.drain()

    Leaving the block closes everything at once; `drain` first lets requests under way end. Runs on uvloop where the
    loop is one, and on asyncio's else; HTTP/1.1 over TCP, TLS and unix sockets.

    ``sockets`` are some that listen already, each with its address; they are closed as its own would be. ``accept`` is
    on which of them, by index, clients are accepted (default: all); see `accept_on`. ``admin`` is one for the admin
    API; it stays the caller's.

    Raises `MisuseError` for a configuration of another engine, with what this engine does not do, or with certificates
    that cannot be read; and `OSError` where it cannot listen.
    """

    def __init__(
        self,
        config: Config,
        *,
        sockets: Sequence[tuple[Address, socket.socket]] | None = None,
        accept: Iterable[int] | None = None,
        admin: tuple[Address, socket.socket] | None = None,
    ) -> None:
        _expect_ours(config)
        if sockets is None and config.gateway.processes != 1:
            raise MisuseError(
                f"gateway: expected processes = 1 for the engine embedded in one event loop, got "
                f"{config.gateway.processes}; `tenfold gateway run` starts several"
            )
        self.config = config
        self._sockets = sockets
        self._accept = accept
        self._site: Site | None = None
        self._listeners: list[Listener] = []
        self._lock = asyncio.Lock()
        self._beside = Beside(admin)
        self.file: ConfigFile | None = None
        """Where the configuration is from, for the admin API's reload; whoever watches a file says so."""
        self.overrides: Final = self._beside.overrides
        """What an administrator has changed of endpoints, which reloads leave in force."""
        self.stopping: Final = asyncio.Event()
        """Set when an administrator has told it to drain: whoever runs the gateway ends then."""
        self.more_samples: Callable[[], Iterable[dict[str, Any]]] = tuple
        """Metrics that whoever runs the gateway adds to its own, under names of `admin.names`."""

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Gateway:
        if self._site is not None:
            raise MisuseError("gateway: it was entered before; make one gateway for each block")
        site = self._site = Site(self.config)
        await site.tasks.__aenter__()
        entered = []
        try:
            certify(site, await certificates_of(self.config))
            for pool in site.plan.pools.values():
                await pool.balancer.__aenter__()
                entered.append(pool)
            if self._sockets is None:
                for address in self.config.gateway.listen:
                    self._listeners.append(Listener(site, address))
            else:
                self._listeners += [Listener(site, address, made) for address, made in self._sockets]
                if self._accept is not None:
                    self.accept_on(self._accept)
            site.left = self._client_left
            site.tasks.spawn(site.sweep_for_ever(), name="sweep")
            await self._beside.start(self, site)
            for listener in self._listeners:
                listener.start()
        except BaseException:
            await self._beside.stop()
            for listener in self._listeners:
                listener.close()
            for pool in entered:
                await pool.balancer.__aexit__(None, None, None)
            await site.tasks.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._beside.stop()
        finally:
            await self._end(kind, error, trace)

    async def _end(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        site = self._running()
        for listener in self._listeners:
            listener.close()
        site.cut()
        pools = [*site.plan.pools.values(), *site.retired]
        for pool in pools:
            pool.retire()
            for upstream in pool.upstreams.values():
                for connection in list(upstream.connections):
                    connection.drop()
        await asyncio.sleep(0)
        try:
            for plan in site.plan.pools.values():
                await plan.balancer.__aexit__(None, None, None)
        finally:
            await site.tasks.__aexit__(kind, error, trace)
            site.cut()  # who came meanwhile
            await close_limits(site.plan)
            if site.log is not None:
                await asyncio.to_thread(site.log.close)

    def _running(self) -> Site:
        if self._site is None:
            raise MisuseError("gateway: it is not running; use it as `async with Gateway(config) as gateway:`")
        return self._site

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the ports that the system chose."""
        return tuple(dict.fromkeys(listener.address for listener in self._listeners))

    @property
    def admin(self) -> Address | None:
        """Where the admin API listens; None where there is none."""
        return self._beside.admin

    @property
    def site(self) -> Site:
        """Its parts, for the admin API. Raises `MisuseError` outside of the block."""
        return self._running()

    @property
    def edge(self) -> Edge | None:
        """The HTTP cache, for purges; None where no route has one. A reload may replace it."""
        return self._running().edge

    def state(self) -> dict[str, Any]:
        """Counters, pools, connections and the edge, as plain values ready for JSON."""
        return state_of(self._running(), self.addresses)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force for all requests that begin from now on; those under way end as they
        began. Pools that stay keep what is known of their endpoints.

        Raises `MisuseError` for a change that needs a restart and for certificates that cannot be read, and what
        discovery raises that finds nobody; the old configuration stays in force then.
        """
        site = self._running()
        async with self._lock:
            _expect_ours(config)
            changes = diff(self.config, config)
            if changes.restart:
                told = "; ".join(map(str, changes.restart))
                raise MisuseError(f"reload: expected changes that a running gateway can make, got {told}; restart it")
            certificates = site.keyring.certificates
            if any(each.key.startswith("gateway.tls") for each in changes.settings):
                certificates = await certificates_of(config)
            old = site.plan
            new = Plan(site, config, old)
            new_log = log_of(site, config, changes)
            fresh = [pool for name, pool in new.pools.items() if old.pools.get(name) is not pool]
            entered = []
            try:
                for pool in fresh:
                    await pool.balancer.__aenter__()
                    entered.append(pool)
            except BaseException:
                for pool in entered:
                    await pool.balancer.__aexit__(None, None, None)
                if new_log is not site.log and new_log is not None:
                    new_log.close()
                raise
            self.overrides.forget(changes)
            for options in config.pools:
                if new.pools[options.name] not in fresh:
                    new.pools[options.name].reconfigure(options)
            self.overrides.apply(new)
            site.plan = new
            certify(site, certificates)
            rekeyed = keys_of(self.config) != keys_of(config)
            self.config = config
            site.counters.reloads += 1
            if rekeyed or store_of(edge_of(config)) != store_of(site.edge):
                site.edge = edge_of(config)
            if new_log is not site.log:
                old_log, site.log = site.log, new_log
                if old_log is not None:
                    await asyncio.to_thread(old_log.close)
            kept = set(map(id, new.pools.values()))
            for pool in [each for each in old.pools.values() if id(each) not in kept]:
                pool.retire()
                site.retired.append(pool)
                await pool.balancer.__aexit__(None, None, None)
            await self._beside.renew(config, site)
            await close_limits(old, new)
            return changes

    def reopen_log(self) -> None:
        """Begin the access log's file anew, under the same name: for who has moved it away (logrotate)."""
        site = self._running()
        if site.log is not None:
            site.log.reopen()

    def accept_on(self, sockets: Iterable[int]) -> None:
        """Accept clients on these of the sockets that it was given, by index, and leave the others to other processes
        that hold them too.
        """
        chosen = set(sockets)
        for number, listener in enumerate(self._listeners):
            if self._running().draining:
                return
            listener.deal(number in chosen)

    async def drain(self, deadline: Duration | None = None) -> bool:
        """Take no more connections, and let requests under way end, for ``deadline`` (the configuration's
        ``drain_timeout``) at most; what is left then is cut. True if nothing was.

        Answers say that the connection closes. Idle connections stay open for up to a second, because a request may
        be on its way.
        """
        site = self._running()
        given = self.config.gateway.drain_timeout if deadline is None else duration(deadline, "deadline")
        for listener in self._listeners:
            listener.accept()  # those who are connected already, as far as the system is concerned
            listener.close()
        site.draining = True
        began = site.clock()
        until = began + given
        quiet = min(_QUIET, given / 2)
        while (now := site.clock()) < until and (site.clients or (site.arrivals and now - began < quiet)):
            if now - began >= quiet:
                for client in [each for each in site.clients if each.quiet]:
                    client.shut()
            await asyncio.sleep(_LOOK)
        left = [client for client in site.clients if client.exchange is not None]
        site.cut()
        return not left

    def _client_left(self) -> None:
        for listener in self._listeners:
            if listener.paused:
                listener.start()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses)) or "not running"
        return f"<Gateway {where}>"


def _expect_ours(config: Config) -> None:
    if config.engine.name != "embedded":
        raise MisuseError(
            f'gateway: expected a configuration for the engine "embedded", got {config.engine.name!r}, '
            "which is `tenfold.gateway.haproxy.HAProxyGateway`'s"
        )
