"""What a connection can tell about its server's log: who it is, where it writes, how far it has replayed.

All functions take the driver's connection and its ``info`` (SQLAlchemy's dictionary that lives as long as that
connection), and speak outside of transactions. Whatever cannot change while a connection lives is asked once on it: the
system's identifier, when the server was started, the log's geometry, and a primary's timeline (a primary becomes a
replica only by a restart, which ends the connection).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold.db.lineage import History
from tenfold.db.pool_policy import POOLED
from tenfold.db.position import Position, normalised

Info = MutableMapping[Any, Any]

_IDENTITY: Final = "tenfold.db.identity"
_TIMELINE: Final = "tenfold.db.timeline"

_IDENTIFY: Final = (
    "SELECT system_identifier, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,"
    " current_setting('wal_block_size')::bigint, pg_size_bytes(current_setting('wal_segment_size'))"
    " FROM pg_control_system()"
)
_INSERT: Final = "SELECT pg_current_wal_insert_lsn()"
_INSERT_AND_TIMELINE: Final = (
    # The control file names the old timeline for a while after a promotion; the name of the current file does not.
    "SELECT pg_current_wal_insert_lsn(), left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
)
# The receiver's timeline is known to superusers and pg_read_all_stats; the control file's is public and lags. Both are
# timelines that this replica's history contains, so the greater one counts: too small a number leads to "unknown", and
# never to a wrong yes.
_REPLAYED: Final = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver),"
    " (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) FROM pg_control_checkpoint() c,"
    " pg_control_recovery() r)) END, pg_last_wal_replay_lsn()"
)
# The form that PostgreSQL before 16 has too.
_HISTORY: Final = "SELECT pg_read_file('pg_wal/' || $1::text || '.history', 0, 1000000, true)"


@dataclass(frozen=True, slots=True)
class Identity:
    """The server behind a connection. ``started`` (µs since 1970) tells one start of one server from every other;
    ``at`` is the monotonic time from which on this connection is known to speak to it.
    """

    system: int
    started: int
    page: int
    segment: int
    at: float


def driver_of(connection: AsyncConnection | Connection) -> tuple[Any, Info]:
    """The asyncpg connection under an open SQLAlchemy connection, and its ``info``."""
    open_one = connection.sync_connection if isinstance(connection, AsyncConnection) else connection
    if open_one is None:
        raise asyncpg.InterfaceError("the connection is not open")
    pooled = open_one.connection
    return pooled.driver_connection, pooled.info


def known_identity(info: Info) -> Identity | None:
    """What `identify` found on this connection before; None: it has not been asked, or a pooler stands between."""
    known: Identity | None = None if POOLED in info else info.get(_IDENTITY)
    return known


async def identify(driver: Any, info: Info, *, clock: Clock = SYSTEM_CLOCK, timeout: float | None = None) -> Identity:
    """Who the server is: a round trip the first time, nothing afterwards, unless a pooler stands between."""
    known = known_identity(info)
    if known is None:
        system, started, page, segment = await driver.fetchrow(_IDENTIFY, timeout=timeout)
        known = Identity(system % 2**64, started, page, segment, clock.monotonic())
        info[_IDENTITY] = known
    return known


async def insert_position(driver: Any, info: Info, *, timeout: float | None = None) -> Position:
    """Where a primary's next record will go, normalised: not before anything that has been committed by now, whichever
    ``synchronous_commit`` it was committed with. One round trip (the first time on a connection: two).

    Raises asyncpg's ``ObjectNotInPrerequisiteStateError`` on a replica.
    """
    who = await identify(driver, info, timeout=timeout)
    timeline: int | None = None if POOLED in info else info.get(_TIMELINE)
    if timeline is None:
        lsn, name = await driver.fetchrow(_INSERT_AND_TIMELINE, timeout=timeout)
        timeline = info[_TIMELINE] = int(name, 16)
    else:
        lsn = await driver.fetchval(_INSERT, timeout=timeout)
    return Position(who.system, timeline, normalised(lsn, page=who.page, segment=who.segment))


async def replayed_position(driver: Any, info: Info, *, timeout: float | None = None) -> Position | None:
    """How far a replica has replayed; None for a server that is no replica (any more), or that cannot tell.

    One round trip (the first time on a connection: two). What is read in a *later* statement shows at least this; the
    snapshot of the same statement may be older.
    """
    who = await identify(driver, info, timeout=timeout)
    timeline, lsn = await driver.fetchrow(_REPLAYED, timeout=timeout)
    if not timeline or lsn is None:
        return None
    return Position(who.system, timeline, normalised(lsn, page=who.page, segment=who.segment))


async def read_history(driver: Any, info: Info, timeline: int, *, timeout: float | None = None) -> History | None:
    """The ancestry of ``timeline``; None where the server has no such file, or this user may not read it (it needs
    EXECUTE on ``pg_read_file(text, bigint, bigint, boolean)``).
    """
    who = await identify(driver, info, timeout=timeout)
    if timeline == 1:
        return History(who.system, 1)
    try:
        text = await driver.fetchval(_HISTORY, f"{timeline:08X}", timeout=timeout)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return None if text is None else History.parse(who.system, timeline, text)
