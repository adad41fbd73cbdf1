"""The master behind Sentinels: who is asked for it, who follows it, and who notices that it is another one now.

The Sentinels are asked anew for each connection, since a connection is made because the last one was lost, and often it
was lost because there is another master. That is not enough: in an ordered failover, and for who is cut off with the
old master, the old one goes on answering for some seconds. So the Sentinels are asked once a second as well, and when
they name another master, all connections to the old one are given up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.clock import Clock
from tenfold.cache.link import Link
from tenfold.cache.places import Address, Parsed, Single, Where
from tenfold.cache.redis import OneServer
from tenfold.cache.route import FAST, SURE
from tenfold.cache.vetted import Vetted

if TYPE_CHECKING:
    from redis.asyncio.client import Redis
    from redis.asyncio.connection import AbstractConnection

_PATIENCE: Final = 0.3  # for each Sentinel: the second one is asked well within a connection's time-out
LOOK: Final = 1.0  # seconds between two questions whether the master is the same


class Behind(Where):
    """At the address of the master that the Sentinels know."""

    def __init__(self, url: Parsed, credentials: Any = None) -> None:
        self._url = url
        self._credentials = credentials
        self._sentinels: dict[Address, Redis] = {}
        self._answered: Address | None = None  # the Sentinel that did, last
        # At once, so that what is wrong with the URL is said at once.
        self._server = Single(url.at(url.addresses[0]), credentials)
        self.address: Address | None = None
        """Of the master to which the last connection was made."""

    def __repr__(self) -> str:
        return f"{self._url.shown}, last seen at {self.address}"

    async def connection(self) -> AbstractConnection:
        address = await self.master()
        if self.address != address:
            self._server = Single(self._url.at(address), self._credentials)
            self.address = address
        return await self._server.connection()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return self._server.failures

    async def master(self) -> Address:
        """As the first Sentinel says that answers and knows it; it is asked first the next time as well. Raises what
        redis-py raises: `MasterNotFoundError` if none of them knows it.
        """
        # Not redis-py's `discover_master`: of two that run at the same time, it may lose a Sentinel from its list.
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import TimeoutError as RedisTimeoutError
        from redis.sentinel import MasterNotFoundError

        if not self._sentinels:
            self._sentinels = self._connect()
        said: list[str] = []
        for address in sorted(self._sentinels, key=lambda one: one != self._answered):
            host, port = address
            try:
                masters: Any = await self._sentinels[address].sentinel_masters()
            except (RedisConnectionError, RedisTimeoutError) as error:
                said.append(f"{host}:{port}: {error}")
                continue
            state = masters.get(self._url.master)
            if state is None or not state["is_master"] or state["is_sdown"] or state["is_odown"]:
                said.append(f"{host}:{port}: {'does not know it' if state is None else 'it is down'}")
                continue
            self._answered = address
            return str(state["ip"]), int(state["port"])
        raise MasterNotFoundError(f"no Sentinel tells the master {self._url.master!r}: {'; '.join(said)}")

    async def aclose(self) -> None:
        await asyncio.gather(*[one.aclose() for one in self._sentinels.values()])

    def _connect(self) -> dict[Address, Redis]:
        from redis.asyncio.client import Redis
        from redis.asyncio.connection import parse_url
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = dict(parse_url(self._url.at(self._url.addresses[0])))
        options = {name: value for name, value in options.items() if name.startswith("ssl_")}
        options |= dict(self._url.sentinel_options) | {"ssl": self._url.tls}
        options |= {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        return {
            (host, port): Redis(host=host, port=port, retry=Retry(NoBackoff(), 0), **options)
            for host, port in self._url.addresses
        }


class ToMaster(Vetted):
    """Over a link that finds its server anew each time, and that is closed with this way."""

    def __init__(self, link: Link, prefix: str) -> None:
        super().__init__(prefix)
        self._link = link

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """As `Link.failures`."""
        return self._link.failures

    async def dedicated(self) -> AbstractConnection:
        """As `Link.dedicated`."""
        return await self._link.dedicated()

    async def hang_up(self) -> None:
        """Leave the server to which this way leads now, with every connection."""
        await self.drop(FAST, SURE)
        await self._link.hang_up()

    async def aclose(self) -> None:
        await super().aclose()
        await self._link.aclose()

    async def drop(self, *which_ones: int) -> None:
        for which in which_ones:
            self._lanes[which] = None
        await self._link.drop(*which_ones)

    async def _locate(self) -> Link:
        return self._link


async def watch(behind: Behind, way: ToMaster, level2: OneServer, clock: Clock) -> None:
    """Leave a master that is none any more; for ever. Sentinels that do not answer change nothing."""
    while True:
        await clock.sleep(LOOK)
        if behind.address is None:
            continue
        try:
            address = await behind.master()
        except behind.failures:
            continue
        if address != behind.address:
            level2.leave()
            await way.hang_up()
