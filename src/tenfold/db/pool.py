"""SQLAlchemy's pool with an account of who holds what.

A pool that is exhausted is nearly always a leak or a transaction that waits for something else while it holds a
connection. "QueuePool limit reached" says neither, so each check-out is noted: since when, by which task, for a writer
with which statement last; and the error tells the longest holders. The wait for a connection ends with the caller's
deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.pool.base import _ConnectionRecord

from tenfold._core.tasks import shielded
from tenfold._core.units import format_duration
from tenfold.db.cluster_errors import PoolExhausted
from tenfold.resilience import remaining

_TOLD: Final = 10
_STATEMENT: Final = 80
_MOMENT: Final = 0.25


class Holder:
    """One check-out."""

    __slots__ = ("error", "since", "statement", "task", "write")

    def __init__(self, since: float, write: bool) -> None:
        self.since = since
        self.write = write
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        self.task = "no task" if task is None else task.get_name()
        self.error: BaseException | None = None
        """A writer's first one in this transaction."""
        self.statement = ""
        """A writer's last one, as it was sent; its values are not in it. Readers' are not noted."""

    def told(self, now: float) -> str:
        """A line for a person."""
        statement = " ".join(self.statement[: 4 * _STATEMENT].split())
        if len(statement) > _STATEMENT:
            statement = statement[: _STATEMENT - 1] + "…"
        last = f"last: {statement or 'nothing yet'}" if self.write else "reading"
        return f"{self.task} for {format_duration(now - self.since)}, {last}"


class Account:
    """Who holds connections of one node. Plain numbers, and as many holders as there are connections."""

    __slots__ = ("checkouts", "coming", "holders", "lost", "readers", "timeouts")

    def __init__(self) -> None:
        self.holders: dict[int, Holder] = {}
        self.readers = 0
        """Connections for reads that are checked out."""
        self.coming = 0
        """Readers who wait for a connection, or for one to be made."""
        self.checkouts = 0
        self.lost = 0
        """Connections that were never given back and that the garbage collector found."""
        self.timeouts = 0
        """Times that somebody waited in vain for a free connection (`PoolExhausted`)."""

    def take(self, record: ConnectionPoolEntry, now: float, write: bool) -> Holder:
        """A connection was checked out."""
        self.give_back(record)
        holder = self.holders[id(record)] = Holder(now, write)
        self.checkouts += 1
        if not write:
            self.readers += 1
        return holder

    def give_back(self, record: ConnectionPoolEntry) -> Holder | None:
        """It came back; None where it was not out."""
        holder = self.holders.pop(id(record), None)
        if holder is not None and not holder.write:
            self.readers -= 1
        return holder

    def report(self, now: float, *, write: bool | None = None, longer: float = 0.0) -> tuple[str, ...]:
        """The ten who have held longest, of those that hold longer than ``longer`` seconds."""
        held: Iterable[Holder] = sorted(self.holders.values(), key=lambda holder: holder.since)
        wanted = [h for h in held if (write is None or h.write is write) and now - h.since >= longer]
        told = [holder.told(now) for holder in wanted[:_TOLD]]
        if len(wanted) > _TOLD:
            told.append(f"and {len(wanted) - _TOLD} more")
        return tuple(told)


class AccountedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's asynchronous pool: waits no longer than the deadline, and says who holds what."""

    account: Account
    label: str
    write: bool
    _longest: float = 0.0

    @property
    def _timeout(self) -> float:  # SQLAlchemy reads it right before it waits
        left = remaining()
        return self._longest if left is None else min(self._longest, left)

    @_timeout.setter
    def _timeout(self, seconds: float) -> None:
        self._longest = seconds

    def connect(self) -> PoolProxiedConnection:
        account, coming = self.account, 0 if self.write else 1
        account.coming += coming
        try:
            return super().connect()
        except InvalidRequestError as error:  # SQLAlchemy's, when it has connected anew twice
            raise ConnectionResetError(
                f"{self.label}: each connection was out of date as soon as it was made"
            ) from error
        finally:
            account.coming -= coming

    def recreate(self) -> AccountedPool:
        fresh = super().recreate()
        assert isinstance(fresh, AccountedPool)
        fresh.account, fresh.label, fresh.write, fresh._longest = self.account, self.label, self.write, self._longest
        return fresh

    def _create_connection(self) -> ConnectionPoolEntry:
        # A place, which connects when it is checked out. If that fails it goes back to the queue, and whoever waits
        # has it; SQLAlchemy would make the connection here, and let them wait for one that nobody makes.
        return _ConnectionRecord(self, connect=False)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        # Whoever comes next takes what was put back last: a place whose connection could not be made goes below those
        # that have one, or a server that refuses new ones (too many, a new password) would seem to serve nobody.
        above = []
        if record.driver_connection is None:
            while self._pool.qsize():
                above.append(self._pool.get_nowait())
        super()._do_return_conn(record)
        for one in reversed(above):
            self._pool.put_nowait(one)

    def _do_get(self) -> ConnectionPoolEntry:
        waited = self._timeout
        try:
            return super()._do_get()
        except PoolTimeoutError as error:
            self.account.timeouts += 1
            holders = self.account.report(time.monotonic(), write=self.write)
            unheld = self.size() - sum(one.write is self.write for one in self.account.holders.values())
            if unheld > 0:
                holders = (*holders, f"{unheld} being connected")
            raise PoolExhausted(
                f"{self.label}: expected a free connection within {format_duration(waited)}, and all {self.size()} are "
                f"in use; give them back sooner, or raise pool_size. Held by: {'; '.join(holders) or 'nobody known'}",
                holders,
            ) from error


def cut_idle(pool: AsyncAdaptedQueuePool) -> int:
    """End the idle connections at once, without a word to a server that may not listen; how many it were.

    Their places stay in the pool and connect anew when they are next used.
    """
    records = []
    while pool._pool.qsize():
        records.append(pool._pool.get_nowait())
    for record in records:
        cut(record)
        pool._pool.put_nowait(record)
    return len(records)


def cut(record: ConnectionPoolEntry) -> None:
    """End a connection at once, from outside of SQLAlchemy's greenlets too."""
    connection: Any = record.driver_connection
    if connection is not None:
        connection.terminate()


def _patience(within: float) -> float:
    """Seconds for a rollback: what the deadline leaves, and a moment where it leaves nothing."""
    left = remaining()
    return within if left is None else min(within, max(left, _MOMENT))


def bound_rollback(dialect: Any, within: float) -> None:
    """A server that has not answered a rollback of this engine's after ``within`` seconds, or at the deadline, loses
    the connection, which rolls back too. Otherwise who gives one back to a frozen server waits for the time-out of
    statements.
    """
    rollback = dialect.do_rollback

    def do_rollback(connection: Any) -> None:
        driver = connection.driver_connection
        if driver is None or not driver.is_in_transaction():
            rollback(connection)
            return
        timer = asyncio.get_running_loop().call_later(_patience(within), driver.terminate)
        try:
            rollback(connection)
        finally:
            timer.cancel()

    dialect.do_rollback = do_rollback


def _is_in_transaction(held: AsyncConnection) -> bool:
    if held.closed or held.invalidated:
        return False
    connection: Any = held.sync_connection
    driver: Any = connection.connection.driver_connection
    return driver is not None and bool(driver.is_in_transaction())


async def release(connection: AsyncConnection, within: float, session: AsyncSession | None = None) -> None:
    """Give a connection back, with the session on it, although the caller may be cancelled meanwhile.

    A server that has not answered the rollback after ``within`` seconds, or at the deadline, loses the connection,
    which rolls back too.
    """
    if not _is_in_transaction(connection):
        await _close(connection, session)  # nothing to say to the server, so nothing to wait for
        return
    driver: Any = connection.sync_connection.connection.driver_connection  # type: ignore[union-attr]
    timer = asyncio.get_running_loop().call_later(_patience(within), driver.terminate)
    try:
        await shielded(_close(connection, session))
    finally:
        timer.cancel()


async def _close(connection: AsyncConnection, session: AsyncSession | None) -> None:
    try:
        if session is not None:
            await session.close()
        await connection.close()
    except (DBAPIError, OSError):
        # The rollback did not get through; the server rolls back when the connection is gone, and so it is now.
        if not connection.closed:
            await connection.invalidate()
            await connection.close()
