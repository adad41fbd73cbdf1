"""One probe of a server: its role, system, timeline and position in a single statement.

The timeline of a primary is read from the name of the file that it writes, because after a promotion
``pg_control_checkpoint()`` still tells the old one until the next checkpoint. That of a replica is the highest of what
it receives, what it replayed up to its last restart point, and what it must reach to be consistent.

What a primary has written may end in the middle of a record. Nobody waits for the end of a record without a commit (a
page's image, that a mere SELECT in a transaction which is rolled back may write), so the log writer stops at the last
full page and the rest lies in memory until the next commit or the next snapshot for standbys, 15 s later. A replica
cannot replay half a record and seems to fall behind all the time, although it lacks nothing that it could show. Such a
position (`Found.half`) that stays is ended by `push`: a transaction without effect, whose commit the log writer takes
along.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import asyncpg

from tenfold.db.position import Position
from tenfold.db.seen import Role

APPLICATION: Final = "tenfold watch"

# The inner select asks once whether it is a replica: asked twice, a promotion in between would mix two answers.
STATEMENT: Final = """
SELECT replica, system, current_database() AS database,
       CASE WHEN replica THEN false
            ELSE (pg_current_wal_lsn() - '0/0') % current_setting('wal_block_size')::int = 0
             AND pg_current_wal_insert_lsn() - pg_current_wal_lsn() > 40  -- the header of a page, which is no record
       END AS half,
       CASE WHEN replica THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn,
       CASE WHEN replica THEN greatest(
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       replica AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL AND status IS NULL) AS hidden,
       current_setting('default_transaction_read_only')::bool AS read_only
FROM (SELECT pg_is_in_recovery() AS replica, system_identifier AS system FROM pg_control_system() OFFSET 0) AS now
"""


class Found(NamedTuple):
    """What a server answered."""

    role: Role
    position: Position | None
    half: bool = False
    """Whether the position of a primary lies in the middle of a record."""
    database: str | None = None
    hidden: bool = False
    """Whether this role may not see which timeline a replica receives: the position's may be an earlier one."""
    read_only: bool = False
    """Whether transactions of this role are read-only unless they say otherwise, on a primary too."""


async def probe(connection: asyncpg.Connection[Any]) -> Found:
    """Ask. Raises what asyncpg raises."""
    row = await connection.fetchrow(STATEMENT)
    if row is None:
        return Found("unknown", None)
    role: Role = "replica" if row["replica"] else "primary"
    hidden, read_only = row["hidden"], row["read_only"]
    if row["lsn"] is None or row["timeline"] is None:
        return Found(role, None, hidden=hidden, read_only=read_only)  # a replica that has replayed nothing yet
    position = Position(row["system"] % 2**64, row["timeline"], row["lsn"])
    return Found(role, position, row["half"], row["database"], hidden, read_only)


async def push(connection: asyncpg.Connection[Any]) -> None:
    """Have the log written up to the end of a record. Costs a transaction id. Raises what asyncpg raises."""
    await connection.execute("SELECT pg_current_xact_id()")
