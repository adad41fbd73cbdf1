"""The sessions of one transaction over several shards, and what bounds their waits.

Deadlocks over shards are seen by nobody, for each server has one half of the circle. So from the second shard on every
wait for a lock is bounded by ``lock_timeout``, a different one for each transaction, so that one of two gives up first
and is run again. Whoever touches keys in one order waits for no one. A deadline in force is told to the servers too,
for the case that the process dies and cannot cancel.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold._core.tasks import shielded
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.errors import CoordinatorLost, LockTimeout, MapMoved
from tenfold.resilience.deadline import remaining

_SLACK: Final = 0.5
"""So that the one who asked is the first to know that its time is over."""
_AGAIN: Final = frozenset({"40001", "40P01"})
_BOUND: Final = sa.text(
    "SELECT set_config('lock_timeout', :lock, true), "
    "CASE WHEN :statement <> '' THEN set_config('statement_timeout', :statement, true) END"
)


class CrossShardTransaction:
    """What `TwoPhase.transaction` gives: one session on each shard that is touched."""

    def __init__(self, cluster: ShardedCluster, lock_timeout: float) -> None:
        self._cluster = cluster
        self._lock_timeout = lock_timeout
        self._opening = asyncio.Lock()
        self.sessions: Final[dict[str, AsyncSession]] = {}

    async def session(self, shard_key: Any) -> AsyncSession:
        """The session on the shard of ``shard_key``; the same for keys of the same shard. Do not commit it."""
        async with self._opening:  # two at once would both find none on their shard
            found = self.sessions.get(self._cluster.map.shard_of(self._cluster.scheme.key(shard_key)))
            return await self._open(shard_key) if found is None else found

    async def _open(self, shard_key: Any) -> AsyncSession:
        session = self._cluster.session(shard_key=shard_key, expire_on_commit=False)
        try:
            await session.connection()
            shard = shard_of(session)
            if shard is None or shard in self.sessions:
                raise MapMoved
            if self.sessions:  # the first one too: it may go on
                unbound = [session] if len(self.sessions) > 1 else [*self.sessions.values(), session]
                for one in unbound:
                    await self._bound(one)
        except BaseException:
            await shielded(session.close())
            raise
        self.sessions[shard] = session
        return session

    async def _bound(self, session: AsyncSession) -> None:
        """Let no statement that follows wait for a lock for ever, nor outlive the deadline should this process die."""
        left = remaining()
        statement = "" if left is None else str(max(1, round((left + _SLACK) * 1000)))
        await session.execute(_BOUND, {"lock": str(max(1, round(self._lock_timeout * 1000))), "statement": statement})


def may_run_again(error: Exception) -> bool:
    """Whether all was rolled back for a reason that another run may not meet."""
    return isinstance(error, (LockTimeout, MapMoved, CoordinatorLost)) or _server_error(error, "sqlstate") in _AGAIN


def waited_too_long(error: Exception) -> bool:
    """Whether it is lock_timeout's error and not NOWAIT's, which has the same code."""
    waited = _server_error(error, "server_source_function") == "ProcessInterrupts"
    return _server_error(error, "sqlstate") == "55P03" and waited


def _server_error(error: BaseException | None, field: str) -> str | None:
    """A field of PostgreSQL's error, as asyncpg has it, or SQLAlchemy that wraps it."""
    while error is not None:
        found = getattr(error, field, None)
        if isinstance(found, str):
            return found
        error = getattr(error, "orig", None) or error.__cause__
    return None


def shard_of(session: AsyncSession) -> str | None:
    inner: Any = session.sync_session
    shard: str | None = inner.shard
    return shard
