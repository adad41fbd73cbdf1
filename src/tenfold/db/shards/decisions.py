"""The decision log of two-phase commits, on the shard that is home: who coordinates, and what was decided.

A coordinator is a number with a row, and a session-level advisory lock that its process holds for as long as it lives.
Who finds the lock free knows that the process is gone, or cut off, which it may not know itself. So the finder first
marks the row as *ended*, and a decision is only written while it is not, with the row locked: either the decision is
there before the mark, or it never will be. From then on the log of that coordinator is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold.db.pool_policy import must_be_direct
from tenfold.db.shards.own_tables import made

Verdict = Literal["commit", "abort"]

_SPACE: Final = 7233175  # the first half of the locks' keys; the second is the coordinator's number
_GID: Final = re.compile(r"tenfold:([0-9]{1,10}):([0-9]{1,19}):([0-9]{1,10}):([0-9a-f]{8})", re.ASCII)
_CREATE: Final = (
    "SELECT pg_advisory_xact_lock(7233177)",
    "CREATE SEQUENCE IF NOT EXISTS tenfold_coordinators AS int CYCLE",
    "CREATE TABLE IF NOT EXISTS tenfold_coordinator (id int PRIMARY KEY, began timestamptz NOT NULL DEFAULT now(), "
    "ended bool NOT NULL DEFAULT false)",
    "CREATE TABLE IF NOT EXISTS tenfold_decision (coordinator int NOT NULL, number bigint NOT NULL, "
    "at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (coordinator, number))",
)
_REGISTER: Final = sa.text(
    "INSERT INTO tenfold_coordinator (id) SELECT id FROM (SELECT nextval('tenfold_coordinators')::int AS id OFFSET 0) "
    f"drawn WHERE pg_try_advisory_lock({_SPACE}, id) ON CONFLICT DO NOTHING RETURNING id"
)
# A database that may lose its last commits in a crash must not lose these.
_DECIDE: Final = sa.text(
    "WITH alive AS MATERIALIZED (SELECT id FROM tenfold_coordinator WHERE id = :coordinator AND NOT ended FOR SHARE), "
    "forgotten AS (DELETE FROM tenfold_decision WHERE coordinator = :coordinator AND number = "
    "ANY (CAST(:done AS bigint[]))) INSERT INTO tenfold_decision (coordinator, number) SELECT id, :number FROM alive "
    "ON CONFLICT (coordinator, number) DO UPDATE SET number = EXCLUDED.number RETURNING number, "
    "CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END"
)
_DECIDED: Final = sa.text(
    "SELECT coordinator, number FROM tenfold_decision WHERE coordinator = ANY (CAST(:coordinators AS int[]))"
)
_FORGET: Final = sa.text(
    "DELETE FROM tenfold_decision WHERE coordinator = :coordinator AND number = ANY (CAST(:done AS bigint[]))"
)
_KNOWN: Final = sa.text("SELECT id, ended FROM tenfold_coordinator")
_FREE: Final = sa.text(f"SELECT pg_try_advisory_xact_lock({_SPACE}, :coordinator)").bindparams(
    sa.bindparam("coordinator", type_=sa.Integer)
)
_END: Final = sa.text("UPDATE tenfold_coordinator SET ended = true WHERE id = :coordinator")
_BURY: Final = sa.text(
    "WITH gone AS (DELETE FROM tenfold_decision WHERE coordinator = :coordinator) "
    "DELETE FROM tenfold_coordinator WHERE id = :coordinator AND ended"
)
_PREPARED: Final = sa.text(
    "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts "
    "WHERE database = current_database() AND starts_with(gid, 'tenfold:')"
)


@dataclass(frozen=True, slots=True)
class Gid:
    """The name of one part of a transaction: whose, which, and the how-manieth part. ``tag`` keeps apart two logs that
    share a server.
    """

    coordinator: int
    number: int
    part: int
    tag: str

    def __str__(self) -> str:
        return f"tenfold:{self.coordinator}:{self.number}:{self.part}:{self.tag}"

    @classmethod
    def parse(cls, text: str) -> Gid | None:
        """The name that ``text`` is; None for anybody else's."""
        match = _GID.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]), int(match[3]), match[4])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A part that waits on a shard for its verdict, for ``age`` seconds."""

    shard: str
    gid: Gid
    age: float


def verdicts(
    found: Iterable[Prepared],
    *,
    own: int | None,
    active: frozenset[int],
    ended: frozenset[int],
    decided: frozenset[tuple[int, int]],
    age: float,
) -> list[tuple[Prepared, Verdict]]:
    """What becomes of each part, as far as that can be said now. Pure.

    Of coordinators that have ``ended`` the log is complete: commit what it holds, abort the rest. So it is with our
    ``own`` transactions that are not ``active`` any more. Whatever is younger than ``age`` is left alone.
    """
    settled: list[tuple[Prepared, Verdict]] = []
    for one in found:
        gid = one.gid
        complete = gid.number not in active if gid.coordinator == own else gid.coordinator in ended
        if complete and (one.age >= age or gid.coordinator == own):
            settled.append((one, "commit" if (gid.coordinator, gid.number) in decided else "abort"))
    return settled


async def create_tables(connection: AsyncConnection) -> None:
    """Where they are not there yet."""
    await made(connection, "TwoPhase", _CREATE, ("tenfold_coordinators", "tenfold_coordinator", "tenfold_decision"))


async def register(connection: AsyncConnection) -> int:
    """A new coordinator, alive for as long as this connection, which must be in autocommit.

    Raises `MisuseError` where a pooler stands between: the lock would outlive the process, or be given to others.
    """
    await must_be_direct(connection, "TwoPhase: the home shard")
    while True:
        found = (await connection.execute(_REGISTER)).scalar_one_or_none()
        if found is not None:
            return int(found)


async def decide(connection: AsyncConnection, coordinator: int, number: int, done: Sequence[int]) -> bool:
    """Decide to commit ``number``, in autocommit and as often as wanted, and forget the ``done``. False: the
    coordinator has ended, and nothing was decided by this.
    """
    values = {"coordinator": coordinator, "number": number, "done": list(done)}
    return (await connection.execute(_DECIDE, values)).first() is not None


async def decided(connection: AsyncConnection, coordinators: Iterable[int]) -> frozenset[tuple[int, int]]:
    """All decisions of these to commit."""
    rows = await connection.execute(_DECIDED, {"coordinators": sorted(coordinators)})
    return frozenset((row[0], row[1]) for row in rows)


async def forget(connection: AsyncConnection, coordinator: int, done: Sequence[int]) -> None:
    """Every part of these has been committed."""
    await connection.execute(_FORGET, {"coordinator": coordinator, "done": list(done)})


async def known(connection: AsyncConnection) -> Mapping[int, bool]:
    """All coordinators, and whether they have ended."""
    return {row[0]: row[1] for row in await connection.execute(_KNOWN)}


async def end(connection: AsyncConnection, coordinator: int) -> bool:
    """In a transaction: whether the coordinator has ended, which it has for good if its process is gone."""
    if not (await connection.execute(_FREE, {"coordinator": coordinator})).scalar_one():
        return False
    await connection.execute(_END, {"coordinator": coordinator})  # waits for a decision that is being written
    return True


async def bury(connection: AsyncConnection, coordinator: int) -> None:
    """Forget a coordinator that has ended and has no part left on any shard."""
    await connection.execute(_BURY, {"coordinator": coordinator})


async def prepared(connection: AsyncConnection, shard: str) -> list[Prepared]:
    """The parts that wait on a shard."""
    found: list[Prepared] = []
    for text, age in await connection.execute(_PREPARED):
        gid = Gid.parse(text)
        if gid is not None:
            found.append(Prepared(shard, gid, age))
    return found


async def resolve(driver: Any, gid: Gid, verdict: Verdict) -> bool:
    """Carry out the verdict on asyncpg's connection to the shard. False: there was no such part (any more)."""
    try:
        await driver.execute(f"{'COMMIT' if verdict == 'commit' else 'ROLLBACK'} PREPARED '{gid}'")
    except Exception as error:
        if getattr(error, "sqlstate", None) == "42704":
            return False
        raise
    return True
