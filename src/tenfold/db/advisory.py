"""Advisory locks by name: one worker at a time for a job, in a database that you have anyway.

PostgreSQL's advisory locks are keyed by 64 bits; a name is hashed to them (BLAKE2b), so two names meet by accident once
in 2^64 pairs, and what meets is only made to wait. Other users of advisory locks in the same database (migration tools)
have keys of their own choice: ``space`` keeps names of two programs apart.

*Session level* (`advisory_lock`): held by a connection of its own until the block ends, across transactions. What must
not happen is that a connection goes back into the pool with the lock in its hands, where it would stay for days. So a
connection whose lock was not given out for certain (an error, a time-out, a cancellation between the server's yes and
ours) or not given back for certain is not reused but closed, and the server frees what a closed session held.
A server-side pooler in transaction mode breaks session-level locks, so it is refused: use the other kind there.

*Transaction level* (`lock_in_transaction`): held until the transaction ends; nothing can leak.

Both wait on the server, with ``lock_timeout`` set in the same statement and set back, so that they cost one round trip.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from sqlalchemy import BigInteger, TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import TenfoldError
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, format_duration
from tenfold.db.begin import must_be_in_transaction
from tenfold.db.pool_policy import must_be_direct
from tenfold.db.timeouts import LONGEST_WAIT
from tenfold.resilience.deadline import remaining

_LOCK_NOT_AVAILABLE: Final = "55P03"
_QUERY_CANCELED: Final = "57014"
_GIVE_BACK_WITHIN: Final = "5s"


class Connects(Protocol):
    """An `AsyncEngine` or an `AsyncCluster`: what makes connections to the primary."""

    def connect(self) -> AbstractAsyncContextManager[AsyncConnection]: ...


class LockBusy(TenfoldError, TimeoutError):
    """Somebody else held the lock for the whole ``wait``. ``name`` is the lock's."""

    def __init__(self, name: str, wait: float) -> None:
        super().__init__(f"advisory lock {name!r}: held by another session for {format_duration(wait)}")
        self.name: Final = name


class LockLost(TenfoldError):
    """The session that held the lock is gone (a failover, a killed backend): another may hold it by now."""


class Held:
    """A session-level lock that this block holds."""

    __slots__ = ("_connection", "_shared", "key", "name")

    def __init__(self, connection: AsyncConnection, name: str, key: int, shared: bool) -> None:
        self._connection = connection
        self._shared = shared
        self.name: Final = name
        self.key: Final = key

    async def check(self) -> None:
        """Ask the server whether the lock is still held: before a step that must not be done twice.

        One round trip. Raises `LockLost`.
        """
        try:
            found = (await self._connection.execute(_HELD, {"key": self.key, "mode": _mode(self._shared)})).scalar_one()
        except (SQLAlchemyError, OSError) as error:
            raise LockLost(f"advisory lock {self.name!r}: its connection broke: {error}") from error
        if not found:
            raise LockLost(f"advisory lock {self.name!r}: the server says that this session does not hold it")

    def __repr__(self) -> str:
        return f"<Held {self.name!r} key={self.key}{' shared' if self._shared else ''}>"


def lock_key(name: str, *, space: str = "tenfold") -> int:
    """The signed 64-bit key of ``name``, the same in every process and version: for looking into ``pg_locks``."""
    digest = hashlib.blake2b(f"{len(space)}:{space}{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@asynccontextmanager
async def advisory_lock(
    engine: Connects, name: str, *, wait: Duration = "5s", shared: bool = False, space: str = "tenfold"
) -> AsyncIterator[Held]:
    """Hold the lock ``name`` in the block, on a connection of its own (count it in the pool's size)::

        async with advisory_lock(engine, "nightly-invoices", wait="0s"):
            ...

    ``wait`` (5 s, or what the deadline leaves, if that is less; 0: not at all) bounds the wait for other holders; so
    does a time-out of statements that is shorter.
    ``shared`` (False) admits others that ask for it shared. The lock is not reentrant: each block has a session of its
    own, so asking for it again inside of the block waits for itself.

    Raises `LockBusy`, and `MisuseError` where a pooler stands between. The block's connection is in autocommit and
    holds no transaction open.
    """
    limit, key = _limit(wait), lock_key(name, space=space)
    async with engine.connect() as connection:
        held = False
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await must_be_direct(connection, "advisory_lock", instead="use lock_in_transaction")
            try:
                held = await _acquire(connection, name, key, limit, shared)
            except LockBusy:
                raise  # certainly not given out: the connection is as good as before
            except BaseException:
                await shielded(connection.invalidate(), timeout=_GIVE_BACK_WITHIN)
                raise
            yield Held(connection, name, key, shared)
        finally:
            if held:
                await shielded(_give_back(connection, key, shared), timeout=_GIVE_BACK_WITHIN)


async def lock_in_transaction(
    connection: AsyncConnection | AsyncSession,
    name: str,
    *,
    wait: Duration = "5s",
    shared: bool = False,
    space: str = "tenfold",
) -> None:
    """Hold the lock ``name`` until the transaction of ``connection`` ends. ``wait`` and ``shared`` as `advisory_lock`.

    Reentrant. Raises `LockBusy`; with a ``wait`` above 0 the transaction is over then: roll it back. `MisuseError` in
    autocommit, where nothing would be held.
    """
    limit, key = _limit(wait), lock_key(name, space=space)
    await must_be_in_transaction(connection, "lock_in_transaction")
    if limit < 0.001:
        statement = _TRY_XACT_SHARED if shared else _TRY_XACT
        if not (await connection.execute(statement, {"key": key})).scalar_one():
            raise LockBusy(name, 0.0)
        return
    began = time.monotonic()
    try:
        await connection.execute(_XACT_SHARED if shared else _XACT, {"key": key, "wait": f"{int(limit * 1000)}ms"})
    except (DBAPIError, TimeoutError) as error:
        if _ended_waiting(error):
            raise LockBusy(name, time.monotonic() - began) from error
        raise


async def _acquire(connection: AsyncConnection, name: str, key: int, limit: float, shared: bool) -> bool:
    if limit < 0.001:
        if (await connection.execute(_TRY_SHARED if shared else _TRY, {"key": key})).scalar_one():
            return True
        raise LockBusy(name, 0.0)
    began = time.monotonic()
    try:
        await connection.execute(_LOCK_SHARED if shared else _LOCK, {"key": key, "wait": f"{int(limit * 1000)}ms"})
    except (DBAPIError, TimeoutError) as error:
        if _ended_waiting(error):
            raise LockBusy(name, time.monotonic() - began) from error
        raise
    return True


def _ended_waiting(error: BaseException) -> bool:
    """Whether the server or the driver gave up: for ``lock_timeout``, or for a shorter time-out of statements."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return isinstance(error, TimeoutError) or state in (_LOCK_NOT_AVAILABLE, _QUERY_CANCELED)


async def _give_back(connection: AsyncConnection, key: int, shared: bool) -> None:
    certain = False
    try:
        certain = bool((await connection.execute(_UNLOCK_SHARED if shared else _UNLOCK, {"key": key})).scalar_one())
    except (SQLAlchemyError, OSError):
        certain = False  # the session is gone or sick; either way it must not be used again
    finally:
        if not certain:
            await connection.invalidate()


def _limit(wait: Duration) -> float:
    limit, left = min(duration(wait, "wait"), LONGEST_WAIT), remaining()
    return limit if left is None else min(limit, left)


def _mode(shared: bool) -> str:
    return "ShareLock" if shared else "ExclusiveLock"


# The CTE is evaluated before the select list and the list from left to right. "true": for this transaction only, which
# in autocommit is this statement.
_WAIT: Final = (
    "WITH was AS MATERIALIZED (SELECT current_setting('lock_timeout') AS old) "
    "SELECT set_config('lock_timeout', :wait, true), {call}(:key), set_config('lock_timeout', was.old, true) FROM was"
)


def _waiting(call: str) -> TextClause:
    return text(_WAIT.replace("{call}", call)).bindparams(bindparam("key", type_=BigInteger))


def _asking(call: str) -> TextClause:
    return text(f"SELECT {call}(:key)").bindparams(bindparam("key", type_=BigInteger))


_LOCK: Final = _waiting("pg_advisory_lock")
_LOCK_SHARED: Final = _waiting("pg_advisory_lock_shared")
_XACT: Final = _waiting("pg_advisory_xact_lock")
_XACT_SHARED: Final = _waiting("pg_advisory_xact_lock_shared")
_TRY: Final = _asking("pg_try_advisory_lock")
_TRY_SHARED: Final = _asking("pg_try_advisory_lock_shared")
_TRY_XACT: Final = _asking("pg_try_advisory_xact_lock")
_TRY_XACT_SHARED: Final = _asking("pg_try_advisory_xact_lock_shared")
_UNLOCK: Final = _asking("pg_advisory_unlock")
_UNLOCK_SHARED: Final = _asking("pg_advisory_unlock_shared")
_HELD: Final = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted "
    "AND mode = :mode AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = :key)"
).bindparams(bindparam("key", type_=BigInteger))
