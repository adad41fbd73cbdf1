"""Logs and copies on a leg's two shards: made, filled by triggers, dropped.

A leg has a schema of its own on both shards, the same on each: for each table a *log* of primary keys whose rows have
changed, and a *copy* for the rows whose live place is on the other side; and *marks*, one for each switch (`mend`). A
trigger notes the primary key and the shard
key of every row that is written, in the writer's own transaction: what is committed is in the log, and nothing else is.

The bucket of a key cannot be computed in SQL (BLAKE2b), so rows of all buckets are noted and the reader leaves out
what is not his.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.tables import BUCKET, Tab, listed, quoted

LOG_ID: Final = "tenfold_id"
LOG_AT: Final = "tenfold_at"
_MARK: Final = (
    "number bigint PRIMARY KEY, at timestamptz NOT NULL, giver text NOT NULL, taker text NOT NULL, "
    "buckets int[] NOT NULL, sums text NOT NULL, epoch bigint NOT NULL"
)
_SHAPE: Final = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::text::regclass "
    "AND attnum > 0 AND NOT attisdropped"
)
_LEFT: Final = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^tenfold_reshard_[0-9]+$'"


class Place:
    """The names in a leg's schema."""

    __slots__ = ("schema",)

    def __init__(self, leg: int) -> None:
        self.schema: Final = f"tenfold_reshard_{leg}"

    def log(self, table: int) -> str:
        return f"{self.schema}.log_{table}"

    def copy(self, table: int) -> str:
        return f"{self.schema}.copy_{table}"

    @property
    def mark(self) -> str:
        return f"{self.schema}.mark"


def noted(tab: Tab) -> tuple[str, ...]:
    """The columns that the log has: primary key and shard key."""
    return tab.pk if tab.key in tab.pk else (*tab.pk, tab.key)


async def make(connection: Connection, place: Place, tabs: Sequence[Tab], lock_wait: float) -> None:
    """Make log, copy and triggers, or leave them as they are.

    CREATE TRIGGER waits for the transactions that have written to the table, at most ``lock_wait`` seconds, so every
    change that the log lacks was committed before this returns. A transaction for each table: two locks at a time could
    meet a writer's two in the other order.
    """
    async with connection.transaction():
        await connection.execute("SET client_min_messages = warning")
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {place.schema}")
        if not await connection.fetchval(f"SELECT to_regclass('{place.mark}') IS NOT NULL"):
            await connection.execute(f"CREATE TABLE {place.mark} ({_MARK})")
            await connection.execute(_REFUSE.format(schema=place.schema))
    for number, tab in enumerate(tabs):
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {round(lock_wait * 1000)}")
            if not await connection.fetchval(f"SELECT to_regclass('{place.log(number)}') IS NOT NULL"):
                for statement in _statements(place, number, tab):
                    await connection.execute(statement)


async def stands(connection: Connection, place: Place, tabs: Sequence[Tab]) -> bool:
    """Whether all of it is there. A failover to a replica that lags may have lost some of it."""
    names = [place.mark, *(name(n) for n in range(len(tabs)) for name in (place.log, place.copy))]
    return bool(
        await connection.fetchval(
            "SELECT (SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) name) AND "
            "$2 = (SELECT count(*) FROM pg_trigger WHERE tgname = ANY($3::text[]) AND "
            "tgrelid = ANY($4::text[]::regclass[]))",
            names,
            2 * len(tabs),
            [place.schema, f"{place.schema}_truncate"],
            [tab.sql for tab in tabs],
        )
    )


async def outgrown(connection: Connection, place: Place, tabs: Sequence[Tab]) -> list[int]:
    """The tables that were altered since their copies were made."""
    found = []
    for number, tab in enumerate(tabs):
        shape = dict(await connection.fetch(_SHAPE, place.copy(number)))
        if shape != {BUCKET: "integer", **{name: tab.types[name] for name in tab.columns}}:
            found.append(number)
    return found


async def empty(connection: Connection, place: Place, tabs: Sequence[Tab]) -> None:
    """Forget the copies, to copy anew. The logs stay: what is in them twice is refreshed twice."""
    for number in await outgrown(connection, place, tabs):
        async with connection.transaction():
            for statement in (f"DROP TABLE {place.copy(number)}", *_copy(place.copy(number), tabs[number])):
                await connection.execute(statement)
    for number in range(len(tabs)):
        await connection.execute(f"TRUNCATE {place.copy(number)}")


async def left(connection: Connection) -> list[Place]:
    """What reshards have left on a shard."""
    return [Place(int(name.rpartition("_")[2])) for (name,) in await connection.fetch(_LEFT)]


async def drop(connection: Connection, place: Place, tabs: Sequence[Tab], lock_wait: float) -> None:
    """Remove all of it. No error where it is gone already."""
    await connection.execute("SET client_min_messages = error")
    for tab in tabs:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {round(lock_wait * 1000)}")
            for trigger in (place.schema, f"{place.schema}_truncate"):
                await connection.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {tab.sql}")
    await connection.execute(f"DROP SCHEMA IF EXISTS {place.schema} CASCADE")


def _statements(place: Place, number: int, tab: Tab) -> list[str]:
    columns = noted(tab)
    log, copy, function = place.log(number), place.copy(number), f"{place.schema}.note_{number}"
    insert = f"INSERT INTO {log} ({listed(columns)}) VALUES"
    return [
        f"CREATE TABLE {log} AS SELECT 0::bigint AS {LOG_ID}, {listed(columns)} FROM {tab.sql} WITH NO DATA",
        f"ALTER TABLE {log} ADD PRIMARY KEY ({LOG_ID})",
        f"ALTER TABLE {log} ALTER {LOG_ID} ADD GENERATED ALWAYS AS IDENTITY, "
        f"ADD {LOG_AT} timestamptz NOT NULL DEFAULT clock_timestamp()",
        # An entry without a key says since when the log has been kept, which is of use only before it is worked off.
        f"INSERT INTO {log} DEFAULT VALUES",
        *_copy(copy, tab),
        # The writer needs no right to the schema, and the search path is not his: SECURITY DEFINER. ``*<>`` compares
        # bytes, so it needs no operator of the type's, and sees 'a' become 'A' in citext.
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS $note$ BEGIN "
        f"IF TG_OP <> 'INSERT' THEN {insert} ({listed(columns, 'OLD.')}); END IF; "
        f"IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND ROW({listed(columns, 'OLD.')})::record *<> "
        f"ROW({listed(columns, 'NEW.')})::record) THEN {insert} ({listed(columns, 'NEW.')}); END IF; "
        f"RETURN NULL; END $note$",
        f"CREATE TRIGGER {quoted(place.schema)} AFTER INSERT OR UPDATE OR DELETE ON {tab.sql} "
        f"FOR EACH ROW EXECUTE FUNCTION {function}()",
        f"CREATE TRIGGER {quoted(place.schema + '_truncate')} BEFORE TRUNCATE ON {tab.sql} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {place.schema}.refuse()",
    ]


def _copy(copy: str, tab: Tab) -> tuple[str, ...]:
    return (
        f"CREATE TABLE {copy} AS SELECT 0::int AS {BUCKET}, {listed(tab.columns)} FROM {tab.sql} WITH NO DATA",
        f"ALTER TABLE {copy} ADD PRIMARY KEY ({listed(tab.pk)})",
        f"CREATE INDEX ON {copy} ({BUCKET})",
    )


_REFUSE: Final = (
    "CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $refuse$ BEGIN RAISE EXCEPTION "
    "'TRUNCATE while rows move to another shard: DELETE them, or end the reshard first'; END $refuse$"
)
