"""The connections to one Valkey: two lanes that everybody shares, and one for the subscription.

redis-py sets a connection up (URL, credentials or a credentials provider, TLS, database); a `Lane` then takes over its
transport, because pool, streams, retries and command objects cost several times the exchange itself. Where the server
is, a `Where` knows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakSet

from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.lane import Command, Lane
from tenfold.cache.places import Single, Where
from tenfold.cache.route import CONNECT_PATIENCE, FAST, SURE, Route, into

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["CONNECT_PATIENCE", "FAST", "SURE", "Command", "Link", "into"]

_LOST: Final = "the connection is being closed"


class Link(Route):
    """Connections to ``url``, or to wherever a `Where` says, made when needed."""

    def __init__(self, url: str | Where, *, credentials: Any = None) -> None:
        super().__init__()
        self._where = Single(url, credentials) if isinstance(url, str) else url
        self._owners: dict[Lane, AbstractConnection] = {}
        self._given: WeakSet[AbstractConnection] = WeakSet()
        self.connections = 0

    def __repr__(self) -> str:
        return f"<Link {self._where!r} connections={self.connections}>"

    async def dedicated(self) -> AbstractConnection:
        """A connection of the caller's own, connected. Raises `LevelTwoDown`."""
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_PATIENCE):
                connection = await self._where.connection()
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            if connection is not None:
                await connection.disconnect(nowait=True)
            if isinstance(error, Exception):  # whatever it is, a credentials provider's own errors too
                raise LevelTwoDown(f"no connection: {type(error).__qualname__}: {error}") from error
            raise
        self._given.add(connection)
        return connection

    async def hang_up(self) -> None:
        """Close every connection, those that were given away as well: their owners will want new ones."""
        await self.drop(FAST, SURE)
        for connection in list(self._given):
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        await super().aclose()
        await self._where.aclose()

    async def drop(self, *which_ones: int) -> None:
        """Close these lanes."""
        for which in which_ones:
            lane = self._lanes[which]
            self._lanes[which] = None
            if lane is not None:
                await self._close(lane)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions by which a connection fails."""
        return self._where.failures

    async def _set_up(self, which: int) -> Lane:
        old = self._lanes[which]
        if old is not None:
            await self._close(old)
        connection = await self.dedicated()
        self._given.discard(connection)
        lane = Lane()
        # redis-py has no public way to its transport; tests/integration/cache/test_lanes.py would notice a change.
        writer = cast("asyncio.StreamWriter", connection._writer)
        self._owners[lane] = connection
        self.connections += 1
        self._lanes[which] = lane
        lane.take_over(writer.transport)
        return lane

    async def _close(self, lane: Lane) -> None:
        lane.give_up(_LOST)
        connection = self._owners.pop(lane, None)
        if connection is not None:
            self.connections -= 1
            await connection.disconnect(nowait=True)
