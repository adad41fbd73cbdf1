"""`Gateway`: a configuration that is running, replaced while it runs, and drained at the end."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.gateway.config import Address, Changes, Config, diff
from tenfold.gateway.config.engines import unfinished
from tenfold.gateway.edge import Edge
from tenfold.gateway.engine.edge_keys import keys_of
from tenfold.gateway.engine.listener import Listener
from tenfold.gateway.engine.plan import Plan
from tenfold.gateway.engine.policies import close_limits, limits_state
from tenfold.gateway.engine.site import Site, edge_of

_log: Final = logging.getLogger("tenfold.gateway")
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
    loop is one, and on asyncio's else; HTTP/1.1 over TCP and unix sockets.

    Raises `MisuseError` for a configuration of another engine, or with what this engine does not do; and `OSError`
    where it cannot listen.
    """

    def __init__(self, config: Config) -> None:
        _expect_ours(config)
        self.config = config
        self._site: Site | None = None
        self._listeners: list[Listener] = []
        self._lock = asyncio.Lock()

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Gateway:
        if self._site is not None:
            raise MisuseError("gateway: it was entered before; make one gateway for each block")
        site = self._site = Site(self.config)
        await site.tasks.__aenter__()
        entered = []
        try:
            for pool in site.plan.pools.values():
                await pool.balancer.__aenter__()
                entered.append(pool)
            for address in self.config.gateway.listen:
                self._listeners.append(Listener(site, address))
            site.left = self._client_left
            site.tasks.spawn(site.sweep_for_ever(), name="sweep")
            for listener in self._listeners:
                listener.start()
        except BaseException:
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
        site = self._running()
        for listener in self._listeners:
            listener.close()
        for client in list(site.clients):
            client.cut()
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
        return tuple(listener.address for listener in self._listeners)

    @property
    def edge(self) -> Edge | None:
        """The HTTP cache, for purges; None where no route has one. A reload may replace it."""
        return self._running().edge

    def state(self) -> dict[str, Any]:
        """Counters, pools, connections and the edge, as plain values ready for JSON."""
        site = self._running()
        pools = {
            name: {
                **pool.balancer.state(),
                "queued": pool.queued,
                "connections": {
                    id: {"open": len(each.connections), "idle": len(each.idle)} for id, each in pool.upstreams.items()
                },
            }
            for name, pool in site.plan.pools.items()
        }
        edge = site.edge
        stats = None if edge is None else edge.stats()
        return {
            "listen": [str(address) for address in self.addresses],
            "draining": site.draining,
            "clients": len(site.clients),
            "counters": site.counters.state(),
            "pools": pools,
            "limits": limits_state(site.plan),
            "edge": None if stats is None else {name: getattr(stats, name) for name in stats.__slots__},
            "log": None if site.log is None else {"written": site.log.written, "dropped": site.log.dropped},
        }

    # -- changing -----------------------------------------------------------------------------------------------------

    async def reload(self, config: Config) -> Changes:
        """Put another configuration into force for all requests that begin from now on; those under way end as they
        began. Pools that stay keep what is known of their endpoints.

        Raises `MisuseError` for a change that needs a restart, and what discovery raises that finds nobody; the old
        configuration stays in force then.
        """
        site = self._running()
        async with self._lock:
            _expect_ours(config)
            changes = diff(self.config, config)
            if changes.restart:
                told = "; ".join(map(str, changes.restart))
                raise MisuseError(f"reload: expected changes that a running gateway can make, got {told}; restart it")
            log_changed = [each for each in changes.settings if each.key == "gateway.access_log"]
            if log_changed:
                raise MisuseError("reload: expected the same access_log, got another one; restart the gateway")
            old = site.plan
            new = Plan(site, config, old)
            fresh = [pool for name, pool in new.pools.items() if old.pools.get(name) is not pool]
            entered = []
            try:
                for pool in fresh:
                    await pool.balancer.__aenter__()
                    entered.append(pool)
            except BaseException:
                for pool in entered:
                    await pool.balancer.__aexit__(None, None, None)
                raise
            for options in config.pools:
                if new.pools[options.name] not in fresh:
                    new.pools[options.name].reconfigure(options)
            site.plan = new
            rekeyed = keys_of(self.config) != keys_of(config)
            self.config = config
            site.counters.reloads += 1
            if rekeyed or _store(config) != (None if site.edge is None else _store_of(site.edge)):
                site.edge = edge_of(config)
            kept = set(map(id, new.pools.values()))
            for pool in [each for each in old.pools.values() if id(each) not in kept]:
                pool.retire()
                site.retired.append(pool)
                await pool.balancer.__aexit__(None, None, None)
            await close_limits(old, new)
            return changes

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
        while site.clients and (now := site.clock()) < until:
            if now - began >= quiet:
                for client in [each for each in site.clients if each.quiet]:
                    client.shut()
            await asyncio.sleep(_LOOK)
        left = [client for client in site.clients if client.exchange is not None]
        for client in list(site.clients):
            client.cut()
        return not left

    def _client_left(self) -> None:
        for listener in self._listeners:
            if listener.paused:
                listener.start()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses)) or "not running"
        return f"<Gateway {where}>"


def _store(config: Config) -> tuple[object, ...] | None:
    made = edge_of(config)
    return None if made is None else _store_of(made)


def _store_of(edge: Edge) -> tuple[object, ...]:
    options = edge.options
    return options.name, options.bytes, options.largest


def _expect_ours(config: Config) -> None:
    if config.engine.name != "embedded":
        raise MisuseError(
            f'gateway: expected a configuration for the engine "embedded", got {config.engine.name!r}, '
            "which this release does not run"
        )
    found = unfinished(config)
    if found:
        raise MisuseError("gateway: " + "; ".join(found))
