"""Sequences behind serial and identity columns: raised past the rows that come, before the shard may insert again.

A sequence counts on its own shard and knows nothing of rows that were numbered elsewhere, so an INSERT that leaves the
number to it would meet one of them some day. Only what the sequence can reach matters: numbers within its MINVALUE and
MAXVALUE; and it goes on in its own steps, so that shards which share the numbers out by ``INCREMENT BY`` stay apart.
What comes of it is unique on the shard and no further.

It is read and set under the lock of the taker's epoch, when no writer draws from it: ``setval`` knows no transaction.
One that was rolled back has left a gap, as sequences do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenfold.db.reshard.capture import Place
from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.tables import BUCKET, Tab, quoted

# Owned by the column (serial, identity), or drawn from by its default.
_FIND: Final = """
SELECT DISTINCT a.attname AS column, s.seqrelid::regclass::text AS name, s.seqincrement, s.seqmin, s.seqmax
FROM pg_sequence s JOIN pg_depend d ON d.objid = s.seqrelid OR d.refobjid = s.seqrelid
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_attribute a ON a.attrelid = $1::text::regclass AND NOT a.attisdropped AND (
    (f.adrelid = a.attrelid AND f.adnum = a.attnum)
    OR (d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')))"""


@dataclass(frozen=True, slots=True)
class Counter:
    """A sequence, and the least and greatest number within its bounds among the rows that come."""

    name: str
    increment: int
    lowest: int
    highest: int


def raised(counter: Counter, last: int, called: bool) -> int | None:
    """What the sequence is to have drawn last; None where it is past the rows. Pure."""
    sign = 1 if counter.increment > 0 else -1
    step, last = abs(counter.increment), sign * last
    highest = counter.highest if sign > 0 else -counter.lowest
    if highest < last or (called and highest < last + step):
        return None
    return sign * (last + (highest - last) // step * step)


async def behind(connection: Connection, place: Place, tabs: Sequence[Tab], buckets: Sequence[int]) -> list[Counter]:
    """The sequences of the tables that may be behind the rows of ``buckets`` in the copies."""
    found = []
    for table, tab in enumerate(tabs):
        for column, name, increment, least, most in await connection.fetch(_FIND, tab.sql):
            ends = await connection.fetchrow(
                f"SELECT min(n)::bigint, max(n)::bigint FROM (SELECT {quoted(column)} AS n FROM {place.copy(table)} "
                f"WHERE {BUCKET} = ANY($1::int[])) c WHERE n BETWEEN $2 AND $3",
                buckets, least, most,
            )  # fmt: skip
            if ends is not None and ends[0] is not None:
                found.append(Counter(name, increment, ends[0], ends[1]))
    return found


async def advance(connection: Connection, counters: Sequence[Counter]) -> None:
    """Raise those that are behind."""
    for counter in counters:
        now = await connection.fetchrow(f"SELECT last_value, is_called FROM {counter.name}")
        assert now is not None
        last = raised(counter, now[0], now[1])
        if last is not None:
            await connection.execute("SELECT setval($1::text::regclass, $2)", counter.name, last)
