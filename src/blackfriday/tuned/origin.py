"""The way to PostgreSQL: asyncpg on the primary, and the replicas for what may be a moment old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from blackfriday.settings import Settings

if TYPE_CHECKING:
    from tenfold.db import AsyncCluster

CONNECTIONS = 10
STATEMENT_TIMEOUT = 10.0


async def _keep(_: asyncpg.Connection) -> None:
    """Leave a returned connection as it is: the shop changes no session state, and a reset costs a round
    trip.
    """


class Origin:
    """Reads and writes of one worker.

    ``read`` goes to a replica if there are any (the catalogue, which no customer writes), ``fetch`` and
    ``transaction`` to the primary (stock, carts and orders, which their writer must see at once).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._cluster: AsyncCluster | None = None

    async def open(self) -> None:
        """Connect; raises what asyncpg raises if the primary is not there."""
        self._pool = await asyncpg.create_pool(
            self._settings.database,
            min_size=2,
            max_size=CONNECTIONS,
            command_timeout=STATEMENT_TIMEOUT,
            reset=_keep,
        )
        if self._settings.includes("replicas") and self._settings.replicas:
            from tenfold.db import create_async_cluster  # brings SQLAlchemy, which the lower rungs do without

            self._cluster = create_async_cluster(
                primary=self._settings.database, replicas=list(self._settings.replicas)
            )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._cluster is not None:
            await self._cluster.aclose()
        if self._pool is not None:
            await self._pool.close()

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The connections to the primary."""
        if self._pool is None:
            raise RuntimeError("the origin is not open: await open() first")
        return self._pool

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """Rows from the primary, in autocommit: one round trip."""
        return await self.pool.fetch(statement, *arguments)

    async def read(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """Rows of the catalogue, from a replica if there is one."""
        if self._cluster is None:
            return await self.pool.fetch(statement, *arguments)
        async with self._cluster.connect(read_only=True) as connection:
            raw = await connection.get_raw_connection()
            driver: asyncpg.Connection = raw.driver_connection  # type: ignore[assignment]
            rows: Sequence[asyncpg.Record] = await driver.fetch(statement, *arguments)
            return rows
