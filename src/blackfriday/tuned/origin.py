"""The way to PostgreSQL: asyncpg on the primary. `replicated` has the same four ways over primary and replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import asyncpg

from blackfriday.settings import Settings


class Row(Protocol):
    """A row, whoever brought it."""

    def __getitem__(self, name: str, /) -> Any: ...


Rows = Sequence[Row]

CONNECTIONS = 10
STATEMENT_TIMEOUT = 10.0
ATTEMPTS = 3  # of a transaction that PostgreSQL chose as the victim of a deadlock


async def _keep(_: asyncpg.Connection) -> None:
    """Leave a returned connection as it is: the shop changes no session state, and a reset costs a round
    trip.
    """


class Origin:
    """Reads and writes of one worker, all of them on the primary.

    A statement says what it bears: ``read`` may be answered by whoever shows what its reader has written, ``fetch``
    wants the primary's word (stock), ``write`` commits, and ``decide`` commits if it likes what it got.
    """

    away: tuple[type[Exception], ...] = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
    """What is raised when a server is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Connect; raises what asyncpg raises if the primary is not there."""
        self._pool = await asyncpg.create_pool(
            self._settings.database,
            min_size=2,
            max_size=CONNECTIONS,
            command_timeout=STATEMENT_TIMEOUT,
            reset=_keep,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.close()

    async def read(self, statement: str, *arguments: Any) -> Rows:
        """Rows that may be as old as a replica is, and never older than what their reader wrote."""
        return await self._connected.fetch(statement, *arguments)

    async def fetch(self, statement: str, *arguments: Any) -> Rows:
        """Rows as the primary has them now, in autocommit: one round trip."""
        return await self._connected.fetch(statement, *arguments)

    async def write(self, statement: str, *arguments: Any) -> Rows:
        """Run and commit."""
        return await self._connected.fetch(statement, *arguments)

    async def decide(self, statement: str, *arguments: Any, good: Callable[[Row], bool]) -> Row | None:
        """The first row of one statement, which is committed if there is one and it is ``good``, else rolled back.

        Run again after a deadlock.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._decide(statement, arguments, good)
            except asyncpg.DeadlockDetectedError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _decide(self, statement: str, arguments: Sequence[Any], good: Callable[[Row], bool]) -> Row | None:
        async with self._connected.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            row = None
            try:
                row = await connection.fetchrow(statement, *arguments)
            finally:
                await (transaction.commit() if row is not None and good(row) else transaction.rollback())
            return row

    @property
    def _connected(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            raise RuntimeError("the origin is not open: await open() first")
        return self._pool
