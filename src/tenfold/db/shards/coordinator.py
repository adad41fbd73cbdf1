"""A process's name in the decision log, and the connection whose lock says that the process lives.

The name is good for as long as that connection: if it breaks, others take the coordinator for dead (`decisions`), so a
new one is registered for the transactions that come after.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold._core.tasks import shielded
from tenfold.db.refusals import NOT_THERE
from tenfold.db.shards import decisions
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.resilience.deadline import Deadline

_log: Final = logging.getLogger("tenfold.db.shards")
_MOST_DONE: Final = 1000
_WITHIN: Final = 10.0


class Coordinator:
    """``id`` in the log, None before `ensure`; ``tag`` in the names of its parts; ``done``: transactions that every
    shard has carried out, to be forgotten with the next decision.
    """

    __slots__ = ("_cluster", "_keeper", "_registering", "done", "id", "tag")

    def __init__(self, cluster: ShardedCluster) -> None:
        self._cluster = cluster
        self._registering = asyncio.Lock()
        self._keeper: AsyncConnection | None = None
        self.id: int | None = None
        self.tag = ""
        self.done: set[int] = set()

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as this end knows."""
        return self._keeper is not None and not driver_of(self._keeper).is_closed()

    async def ensure(self) -> None:
        """Register anew unless `is_alive`. Raises `DeadlineExceeded` where the home shard does not answer."""
        if self.is_alive():
            return
        async with Deadline(_WITHIN), self._registering:
            if self.is_alive():
                return
            await self.leave()
            connection = await self._cluster.member(self._cluster.home).connect()
            try:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                found = await decisions.register(connection)
            except BaseException:
                await shielded(_drop(connection))
                raise
            self.done.clear()
            self._keeper, self.id, self.tag = connection, found, secrets.token_hex(4)

    def carried_out(self, number: int) -> None:
        """Every part of ``number`` is committed. Beyond a bound it is recovery that forgets."""
        if len(self.done) < _MOST_DONE:
            self.done.add(number)

    def give_up(self) -> None:
        """Others have ended this coordinator: the next `ensure` registers another."""
        if self._keeper is not None:
            driver_of(self._keeper).terminate()

    async def leave(self) -> None:
        """Forget what is settled and let go of the lock; what is not settled is recovery's."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        try:
            if self.done and self.id is not None and not driver_of(keeper).is_closed():
                async with asyncio.timeout(_WITHIN):
                    await decisions.forget(keeper, self.id, list(self.done))
        except NOT_THERE as error:
            _log.warning("two-phase: the log was not tidied up (%s: %s)", type(error).__name__, error)
        finally:
            await _drop(keeper)


def driver_of(connection: AsyncConnection) -> Any:
    """asyncpg's connection beneath."""
    inner: Any = connection.sync_connection
    return inner.connection.driver_connection


async def _drop(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()
