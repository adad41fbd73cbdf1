"""Doing something once, however often it is asked for: a key in the same transaction as the effect.

Theory. "Exactly once" is "at least once" plus recognising repetitions (Helland, "Idempotence Is Not a Medical
Condition", 2012). The key and the effect must stand or fall together, so the key is a row written by the same
transaction. Whoever inserts it does the work; whoever finds it gets the earlier result. Two at once are put in order by
the primary key's index: the second insert waits until the first transaction ends, and then finds the row (if it was
committed) or takes its place (if it was rolled back).

::

    async def order(session):
        return await once(session, f"order:{request_id}", lambda: place(session, request))

    await cluster.run(order)            # after CommitUnknown, the same again: placed once
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.db.begin import must_be_in_transaction
from tenfold.db.cluster_errors import DatabaseClusterError

T = TypeVar("T")
TABLE: Final = "tenfold_once"
_LONGEST_KEY: Final = 255

_CREATE: Final = text(
    f"CREATE TABLE IF NOT EXISTS {TABLE} (key text PRIMARY KEY, request text, result jsonb,"
    " at timestamptz NOT NULL DEFAULT now())"
)
_CREATE_INDEX: Final = text(f"CREATE INDEX IF NOT EXISTS {TABLE}_at ON {TABLE} (at)")
_INSERT: Final = text(
    f"INSERT INTO {TABLE} (key, request) VALUES (:key, :request) ON CONFLICT DO NOTHING RETURNING true"
)
_RESULT: Final = text(f"UPDATE {TABLE} SET result = CAST(:result AS jsonb) WHERE key = :key")
_FIND: Final = text(f"SELECT request, result::text FROM {TABLE} WHERE key = :key")
_CLAIM: Final = text(f"SELECT result::text FROM {TABLE} WHERE key = :key FOR UPDATE")
_PRUNE: Final = text(
    f"DELETE FROM {TABLE} WHERE key IN (SELECT key FROM {TABLE}"
    " WHERE at < now() - make_interval(secs => :age) ORDER BY at LIMIT :most FOR UPDATE SKIP LOCKED)"
)


class KeyReused(DatabaseClusterError):
    """The same key came with another request than the first time."""


async def create_table(connection: AsyncConnection | AsyncSession) -> None:
    """Create the table of keys where it is not there. Run it once, with the other migrations."""
    await connection.execute(_CREATE)
    await connection.execute(_CREATE_INDEX)


async def once(
    session: AsyncSession, key: str, fn: Callable[[], Awaitable[T]], *, request: str | None = None
) -> T | Any:
    """Run ``fn`` unless a committed transaction has done so under ``key``; then return that one's result.

    ``fn`` does its work in ``session``'s transaction and returns something that JSON can hold. ``request`` (say, a hash
    of the request's body) is compared with the first one's. ``key`` has 1 to 255 characters and is the caller's to make
    unique for each wish, not for each try.

    Under REPEATABLE READ and SERIALIZABLE a key that was committed meanwhile ends in 40001, after which
    `AsyncCluster.run` finds it. Raises `KeyReused` for another request, `MisuseError` for a key that makes no sense,
    a session in autocommit, or a result that JSON cannot hold. Where ``fn`` raises and the transaction is committed all
    the same, the wish is still open: the next one with that key runs ``fn``.
    """
    if not 1 <= len(key) <= _LONGEST_KEY:
        raise MisuseError(f"once: expected a key of 1 to {_LONGEST_KEY} characters, got {key!r:.80}")
    await must_be_in_transaction(session, "once")
    first = (await session.execute(_INSERT, {"key": key, "request": request})).scalar_one_or_none()
    if first is None:
        row = (await session.execute(_FIND, {"key": key})).one()
        if row[0] != request:
            raise KeyReused(
                f"once: the key {key!r} was used for another request; expected the same request with the same key, "
                "make a new key for a new wish"
            )
        # NULL: ``fn`` failed then, and its transaction was committed all the same. One at a time may try again.
        found = row[1] if row[1] is not None else (await session.execute(_CLAIM, {"key": key})).scalar_one()
        if found is not None:
            return json.loads(found)
    result = await fn()
    try:
        told = json.dumps(result)
    except (TypeError, ValueError) as error:
        raise MisuseError(
            f"once: expected a result that JSON can hold, got {type(result).__name__}: {error}"
        ) from error
    await session.execute(_RESULT, {"key": key, "result": told})
    return result


async def prune(session: AsyncSession | AsyncConnection, older: Duration, *, most: int = 1000) -> int:
    """Forget keys older than ``older``, ``most`` (1000) of them at a time; how many it were.

    Keep them for longer than any caller may try again, a day for instance.
    """
    found: Any = await session.execute(_PRUNE, {"age": duration(older, "older"), "most": most})
    return int(found.rowcount)
