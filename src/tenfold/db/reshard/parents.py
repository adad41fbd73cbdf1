"""Rows that others refer to: are they there where the others go?

The rows that move pass foreign keys unchecked (`links`). Those of sharded tables to one another travel together. But a
table that stands on every shard is nobody's to move, and where it lacks a row, those that refer to it would point
nowhere, which PostgreSQL would not notice ever after. So that is looked up before they go live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tenfold.db.reshard.capture import Place
from tenfold.db.reshard.errors import ReshardError
from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.tables import BUCKET, Tab, quoted

_FIND: Final = """
SELECT conname, confrelid::regclass::text AS parent, array_agg(a.attname::text) AS ours, array_agg(b.attname::text)
FROM pg_constraint, unnest(conkey, confkey) k(our, their), pg_attribute a, pg_attribute b
WHERE contype = 'f' AND convalidated AND conparentid = 0 AND conrelid = $1::text::regclass
AND confrelid <> ALL($2::text[]::regclass[]) AND a.attrelid = conrelid AND a.attnum = our
AND b.attrelid = confrelid AND b.attnum = their GROUP BY 1, 2 ORDER BY 1"""


async def present(taker: Connection, name: str, place: Place, tabs: Sequence[Tab], buckets: Sequence[int]) -> None:
    """Raises `ReshardError` where rows of ``buckets`` in the copies refer to some that the shard ``name`` lacks."""
    for table, tab in enumerate(tabs):
        for constraint, parent, ours, theirs in await taker.fetch(_FIND, tab.sql, [one.sql for one in tabs]):
            if not {*ours} <= {*tab.columns}:
                continue  # computed there
            given = " AND ".join(f"c.{quoted(our)} IS NOT NULL" for our in ours)
            same = " AND ".join(f"p.{quoted(their)} = c.{quoted(our)}" for our, their in zip(ours, theirs, strict=True))
            lacking = await taker.fetchval(
                f"SELECT count(*) FROM {place.copy(table)} c WHERE {BUCKET} = ANY($1::int[]) AND {given} "
                f"AND NOT EXISTS (SELECT FROM {parent} p WHERE {same})",
                buckets,
            )
            if lacking:
                raise ReshardError(
                    f"{lacking} rows of {tab.sql} refer to rows of {parent} ({constraint}) that {name} does not have, "
                    "and a table that is not sharded does not move: bring them there. Nothing was switched; then run "
                    "again, or roll back"
                )
