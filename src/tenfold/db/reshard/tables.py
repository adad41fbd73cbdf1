"""What a table on a shard looks like, whether it can be moved, and the SQL of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenfold.db.reshard.errors import CannotMove
from tenfold.db.reshard.links import Connection

BUCKET: Final = "tenfold_bucket"
_FIND: Final = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text,
    (SELECT array_agg(a.attname ORDER BY k.place) FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(number, place)
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
     WHERE i.indrelid = c.oid AND i.indisprimary)::text[] AS pk,
    (SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = c.oid AND c.relkind = 'r') AS heir
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)"""
_COLUMNS: Final = """
SELECT attname, format_type(atttypid, atttypmod) AS type, attgenerated <> '' AS generated FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attname"""
_NOW: Final = """
SELECT number, attname, format_type(atttypid, atttypmod), attgenerated <> ''
FROM unnest($1::text[]::regclass[]) WITH ORDINALITY t(oid, number)
JOIN pg_attribute ON attrelid = oid WHERE attnum > 0 AND NOT attisdropped"""
_REFERRERS: Final = """
SELECT DISTINCT conrelid, conrelid::regclass::text AS name FROM pg_constraint WHERE contype = 'f' AND confrelid = $1"""


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + quoted(name) for name in names)


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """A sharded table as the models have it. ``name`` is as SQL has it, with its schema if it has one."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Tab:
    """A table as all shards have it. ``columns`` are those that are stored, generated ones left out."""

    schema: str
    name: str
    key: str
    columns: tuple[str, ...]
    pk: tuple[str, ...]
    types: Mapping[str, str]

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def text_pk(self) -> str:
        """The primary key as texts, which `unnested` takes."""
        return ", ".join(f"t.{quoted(name)}::text" for name in self.pk)

    @property
    def texts(self) -> str:
        """What `unnested` has of them."""
        return ", ".join(f"d.p{n}" for n in range(len(self.pk)))

    def unnested(self, *, tagged: bool = False) -> str:
        """``unnest(…) d(p0, p1 …)``: primary keys as parameters, one array of texts for each column.

        ``tagged``: before them an array of buckets and one of shard keys, ``d(b, k, p0 …)``.
        """
        first, kinds = (3, "$1::int[], $2::text[], ") if tagged else (1, "")
        arrays = ", ".join(f"${first + n}::text[]" for n in range(len(self.pk)))
        names = self.texts.replace("d.", "")
        return f"unnest({kinds}{arrays}) d({'b, k, ' if tagged else ''}{names})"

    @property
    def same_pk(self) -> str:
        """The condition that row ``t`` is the one of ``d``."""
        return " AND ".join(f"t.{quoted(name)} = d.p{n}::{self.types[name]}" for n, name in enumerate(self.pk))

    def checksum(self, alias: str) -> str:
        """Rows and a sum over their hashes, the same for the same rows in any order.

        MD5 of the row's text, 64 bits of it, added up: against accidents, not against an enemy. Addition, because XOR
        would not see a row that is there twice. The settings that shape texts are pinned by `links`.
        """
        row = f"ROW({listed(self.columns, alias + '.')})::text"
        return f"count(*), coalesce(sum(('x' || left(md5({row}), 16))::bit(64)::bigint::numeric), 0)"


async def read(shards: Mapping[str, Connection], wanted: Sequence[Wanted]) -> tuple[Tab, ...]:
    """The tables, found alike on all ``shards``. Raises `CannotMove` with what is in the way."""
    if not wanted:
        raise CannotMove("models: expected one model with a __shard_key__ at least, got none")
    found: tuple[Tab, ...] | None = None
    for shard, connection in shards.items():
        here = await _on(shard, connection, wanted)
        if found is not None:
            for one, other in zip(found, here, strict=True):
                if one != other:
                    raise CannotMove(f"table {one.sql} is not the same on all shards: {_difference(one, other, shard)}")
        found = here
    assert found is not None
    return found


async def altered(connection: Connection, tabs: Sequence[Tab]) -> bool:
    """Whether a table has other columns now. Where its rows were written to, ALTER TABLE waits for that transaction."""
    found = await connection.fetch(_NOW, [tab.sql for tab in tabs])
    expected = {
        (number, name, kind, name not in tab.columns)
        for number, tab in enumerate(tabs, start=1)
        for name, kind in tab.types.items()
    }
    return {tuple(row) for row in found} != expected


async def _on(shard: str, connection: Connection, wanted: Sequence[Wanted]) -> tuple[Tab, ...]:
    tabs, oids = [], {}
    for table in wanted:
        row = await connection.fetchrow(_FIND, table.name)
        if row is None:
            raise CannotMove(f"table {table.name} is missing on shard {shard}: create it there as on the others")
        if row["relkind"] not in "rp":
            raise CannotMove(f"{table.name} on shard {shard} is no table, so its rows cannot be moved")
        if not row["pk"]:
            raise CannotMove(
                f"table {table.name} on shard {shard} has no primary key, by which rows are followed while they "
                "move: add one"
            )
        columns: list[Any] = await connection.fetch(_COLUMNS, row["oid"])
        types = {column["attname"]: column["type"] for column in columns}
        if table.key not in types:
            raise CannotMove(f"table {table.name} on shard {shard} has no column {table.key}, its shard key")
        stored = tuple(column["attname"] for column in columns if not column["generated"])
        if computed := {table.key, *row["pk"]} - {*stored}:
            raise CannotMove(
                f"table {table.name} on shard {shard}: {', '.join(sorted(computed))} is computed from other columns; "
                "rows are followed by shard key and primary key, which must be stored as they are"
            )
        if row["heir"]:
            raise CannotMove(
                f"{row['heir']} on shard {shard} inherits from {table.name}: its rows look like rows of that, "
                "and no trigger notes them. Use partitions instead, or no heirs"
            )
        tabs.append(Tab(row["nspname"], row["relname"], table.key, stored, tuple(row["pk"]), types))
        oids[row["oid"]] = table.name
    for oid, name in oids.items():
        for referrer in await connection.fetch(_REFERRERS, oid):
            if referrer["conrelid"] not in oids:
                raise CannotMove(
                    f"{referrer['name']} on shard {shard} has a foreign key to {name}, and its rows would stay "
                    "behind: give its model a __shard_key__ too, or drop the constraint"
                )
    return tuple(tabs)


def _difference(one: Tab, other: Tab, shard: str) -> str:
    if one.pk != other.pk:
        return f"on {shard} the primary key is ({', '.join(other.pk)}), elsewhere ({', '.join(one.pk)})"
    for name in sorted({*one.types, *other.types}):
        if one.types.get(name) != other.types.get(name):
            return (
                f"column {name} is {other.types.get(name, 'missing')} on {shard}, {one.types.get(name, 'missing')} "
                "elsewhere"
            )
    return f"{shard} has it in schema {other.schema}, others in {one.schema}, or its generated columns differ"
