"""The map in the database, and the fence: no statement takes effect under a map that is no longer the shard's.

The current map is one row on the *home* shard; each shard has one row with its epoch. A transaction that writes first
reads that row FOR SHARE, in itself. Two things follow. If the row's epoch is not the map's, the transaction has done
nothing yet and can be sent elsewhere. If it is, whoever changes the row waits until the transaction has ended; and one
that waited for the change sees the new row (READ COMMITTED reads it again; REPEATABLE READ fails with 40001).

A change fences first and publishes last: (1) lock the home row, which orders changes; (2) raise every shard's epoch,
after which nobody's old map passes; (3) store the map with that epoch. Interrupted between 2 and 3, writes are refused,
never misplaced, and `repair` publishes the stored map anew under a still higher epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import ShardError, StaleMap
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.own_tables import made
from tenfold.db.shards.parallel import together

EPOCH: Final = "tenfold_shard_epoch"
MAP: Final = "tenfold_shard_map"
EXPECTED: Final = "tenfold_epoch"
SHARD: Final = "tenfold_shard"
_epoch: Final = sa.table("tenfold_shard_epoch", sa.column("epoch", sa.BigInteger))
EPOCH_COLUMN: Final[Any] = sa.select(_epoch.c.epoch).scalar_subquery().label("tenfold_epoch")
_READ_EPOCH: Final = sa.select(_epoch.c.epoch)
_FENCE: Final = "SELECT epoch FROM tenfold_shard_epoch FOR SHARE"
_CREATE: Final = (
    "SELECT pg_advisory_xact_lock(7233172)",
    "CREATE TABLE IF NOT EXISTS tenfold_shard_epoch (one bool PRIMARY KEY DEFAULT true CHECK (one), "
    "epoch bigint NOT NULL, shard text NOT NULL)",
)
_CREATE_MAP: Final = (
    "CREATE TABLE IF NOT EXISTS tenfold_shard_map (one bool PRIMARY KEY DEFAULT true CHECK (one), "
    "epoch bigint NOT NULL, map text NOT NULL, changed_at timestamptz NOT NULL DEFAULT now())"
)


def fence(connection: Connection) -> None:
    """A listener for an engine's ``begin``: checks the epoch in the transaction that begins.

    Connections without the execution option ``tenfold_epoch`` are left alone. Raises `StaleMap`.
    """
    options = connection.get_execution_options()
    expected = options.get(EXPECTED)
    if expected is None:
        return
    cursor: Any = connection.connection.cursor()  # the Connection itself cannot execute before it has begun
    try:
        cursor.execute(_FENCE)
        row = cursor.fetchone()
    except BaseException as error:  # noqa: BLE001 - raised again
        # As SQLAlchemy's own statements do it: a lost connection, or one in the midst of an answer because the caller
        # was cancelled, must not go back to the pool.
        connection._handle_dbapi_exception(error, _FENCE, None, cursor, None)
    finally:
        cursor.close()
    check_epoch(str(options[SHARD]), int(expected), row[0] if row else 0)


def check_epoch(shard: str, expected: int, found: int) -> None:
    """Raises `StaleMap` unless they are the same."""
    if found != expected:
        raise StaleMap(shard, expected, found)


async def epoch_of(connection: AsyncConnection) -> int:
    """The shard's epoch as of now."""
    return await connection.run_sync(read_epoch)


def read_epoch(connection: Connection) -> int:
    """The same, in SQLAlchemy's greenlet."""
    return int(connection.execute(_READ_EPOCH).scalar_one_or_none() or 0)


async def prepare(engines: Mapping[str, AsyncEngine], home: str, wanted: ShardMap | None) -> ShardMap:
    """Make the tables where they are missing and return the stored map; store ``wanted`` where there is none."""
    async with engines[home].begin() as connection:
        await made(connection, "ShardedCluster", (*_CREATE, _CREATE_MAP), (EPOCH, MAP))
        stored = await _stored(connection)
        if stored is None:
            if wanted is None:
                raise MisuseError("map: expected one, because the home shard stores none yet: ShardMap.hash([…])")
            await together([partial(_has_no_map, name, engines[name], home) for name in engines.keys() - {home}], 16)
            stored = wanted
            await connection.execute(
                sa.text("INSERT INTO tenfold_shard_map (epoch, map) VALUES (:epoch, :map)"),
                {"epoch": stored.epoch, "map": stored.dumps()},
            )
    unknown = set(stored.names) - engines.keys()
    if unknown:
        raise MisuseError(f"shards: the stored map names {', '.join(sorted(unknown))}, of which no URL was given")

    async def one(name: str) -> None:
        async with engines[name].begin() as connection:
            await made(connection, f"ShardedCluster, shard {name}", _CREATE, (EPOCH,))
            await connection.execute(
                sa.text(
                    "INSERT INTO tenfold_shard_epoch (epoch, shard) VALUES (:epoch, :shard) ON CONFLICT DO NOTHING"
                ),
                {"epoch": stored.epoch, "shard": name},
            )
            found = (await connection.execute(sa.text("SELECT shard FROM tenfold_shard_epoch"))).scalar_one()
            if found != name:
                raise MisuseError(f"shards: the database given as {name} says that it is shard {found}: check the URLs")

    await together([partial(one, name) for name in engines], len(engines))
    return stored


async def _has_no_map(name: str, engine: AsyncEngine, home: str) -> None:
    """Raises `MisuseError` where there is a map already: two homes would have two maps and two logs of decisions."""
    async with engine.connect() as connection:
        if (await connection.execute(sa.text("SELECT to_regclass('tenfold_shard_map')"))).scalar_one() is None:
            return
        if await _stored(connection) is not None:
            raise MisuseError(
                f"shards: {name} stores the map, and {home} was given first: give {name} first, in every process "
                "(if the map is not of this cluster any more, drop tenfold_shard_map there)"
            )


async def load(home: AsyncEngine) -> ShardMap:
    """The stored map."""
    async with home.connect() as connection:
        stored = await _stored(connection)
    if stored is None:
        raise ShardError("the home shard has lost its map: restore tenfold_shard_map")
    return stored


async def install(engines: Mapping[str, AsyncEngine], home: str, new: ShardMap, *, lock_timeout: float) -> ShardMap:
    """Make ``new`` the map; its epoch must be the stored one's successor. Returns it.

    Waits at most ``lock_timeout`` seconds for the transactions under way on each shard. Raises `MisuseError` when
    another change came first.
    """
    return await _change(engines, home, new, lock_timeout)


async def repair(engines: Mapping[str, AsyncEngine], home: str, *, lock_timeout: float) -> ShardMap:
    """Publish the stored map anew, above every shard's epoch. Ends a change that was interrupted."""
    return await _change(engines, home, None, lock_timeout)


async def _change(engines: Mapping[str, AsyncEngine], home: str, new: ShardMap | None, lock_timeout: float) -> ShardMap:
    limit = sa.text(f"SET LOCAL lock_timeout = {max(1, round(lock_timeout * 1000))}")
    async with engines[home].begin() as connection:
        await connection.execute(limit)
        stored = await _stored(connection, "FOR UPDATE")
        if stored is None:
            raise ShardError("the home shard has lost its map: restore tenfold_shard_map")
        await _heed_reshard(connection, repairing=new is None)
        epochs = await together([partial(_epoch_on, engine) for engine in engines.values()], len(engines))
        if new is None:
            new = stored.at(max(stored.epoch, *epochs) + 1)
        elif new.epoch != stored.epoch + 1:
            raise MisuseError(
                f"map: expected epoch {stored.epoch + 1}, the stored one's successor, got {new.epoch}: "
                "another change came first; refresh and derive the change anew"
            )
        elif max(epochs) > stored.epoch:
            raise ShardError("a change of the map was interrupted: `await cluster.repair()` first")
        if missing := set(new.names) - engines.keys():
            raise MisuseError(f"map: it names {', '.join(sorted(missing))}, of which no URL was given")

        async def raise_epoch(engine: AsyncEngine, epoch: int) -> None:
            async with engine.begin() as one:
                await one.execute(limit)
                await one.execute(
                    sa.text("UPDATE tenfold_shard_epoch SET epoch = :epoch WHERE epoch < :epoch"), {"epoch": epoch}
                )

        await together([partial(raise_epoch, engine, new.epoch) for engine in engines.values()], len(engines))
        await connection.execute(
            sa.text("UPDATE tenfold_shard_map SET epoch = :epoch, map = :map, changed_at = now()"),
            {"epoch": new.epoch, "map": new.dumps()},
        )
    return new


async def _heed_reshard(connection: AsyncConnection, *, repairing: bool) -> None:
    """Raises `ShardError` when a reshard (`tenfold.db.reshard`) is open that this change would lead astray."""
    if (await connection.execute(sa.text("SELECT to_regclass('tenfold_reshard')"))).scalar_one() is None:
        return
    busy = (await connection.execute(sa.text("SELECT busy FROM tenfold_reshard"))).scalar_one_or_none()
    if busy == "switching" or (busy == "open" and not repairing):
        raise ShardError(
            "a reshard is under way, and another change of the map would lead its rows astray: "
            "`tenfold reshard run` or `tenfold reshard rollback` first"
        )


async def _epoch_on(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await epoch_of(connection)


async def _stored(connection: AsyncConnection, lock: str = "") -> ShardMap | None:
    found = (await connection.execute(sa.text(f"SELECT map FROM tenfold_shard_map {lock}"))).scalar_one_or_none()
    return None if found is None else ShardMap.loads(found)
