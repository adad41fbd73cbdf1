"""Keeping a copy like its live rows: read what is there now, never replay what was done.

The log says which rows have changed, not how. For each of them the row is deleted from the copy and, if it is live
now, put there as it is now. Doing that twice, or for a row that changed again meanwhile, ends in the same place, so an
entry is deleted from the log after its row has been refreshed, in another transaction on another database, and nothing
hangs on whether both commit: an entry that stays is worked off again. An entry of a transaction that has not
committed is not seen, and is not lost: entries are deleted one by one, never up to a number.

The copy itself is the same thing for a page of primary keys. A row that slips through between two pages was written
after the triggers stood, so it is in the log.

Comparing needs no pause: in one snapshot of the live side the log is worked off to its end and the rows are summed,
and what the copy then holds is that very snapshot.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenfold.db.reshard.capture import LOG_ID, Place
from tenfold.db.reshard.errors import Different
from tenfold.db.reshard.links import Connection
from tenfold.db.reshard.tables import BUCKET, Tab, listed, quoted
from tenfold.db.shards.keys import Key
from tenfold.db.shards.map import ShardMap

Sums = dict[tuple[str, int], tuple[int, int]]
"""Rows and checksum by (table, bucket)."""
_NO_KEY: Final = -1
_PREFETCH: Final = 5000


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows of ``buckets`` that are live on ``giver`` and have their copy on ``taker``."""

    giver: Connection
    taker: Connection
    place: Place
    tabs: Sequence[Tab]
    map: ShardMap
    buckets: Collection[int]

    def bucket_of(self, key: Key | None) -> int:
        """The bucket; -1 for a row without a key, which no map places."""
        return _NO_KEY if key is None else self.map.bucket_of(key)


async def copy_page(
    flow: Flow, table: int, after: tuple[str, ...] | None, batch: int
) -> tuple[tuple[str, ...] | None, int]:
    """Copy the next ``batch`` live rows, of which many may be of other buckets.

    Returns the primary key behind which to go on, None at the end, and how many rows were copied.
    """
    tab = flow.tabs[table]
    behind = ""
    if after is not None:
        values = ", ".join(f"${n}::text::{tab.types[name]}" for n, name in enumerate(tab.pk, start=1))
        behind = f"WHERE ({listed(tab.pk, 't.')}) > ({values})"
    rows = await flow.giver.fetch(
        f"SELECT t.{quoted(tab.key)}, t.{quoted(tab.key)}::text, {tab.text_pk} FROM {tab.sql} t {behind} "
        f"ORDER BY {listed(tab.pk, 't.')} LIMIT {batch}",
        *(after or ()),
    )
    wanted = _mine(flow, [tuple(row) for row in rows])
    await _refresh(flow, table, wanted)
    return (tuple(rows[-1].values())[2:] if len(rows) == batch else None), len(wanted)


async def drain(flow: Flow, batch: int) -> int:
    """Work off up to ``batch`` entries of each table's log. Returns how many there were; 0: the log was empty."""
    seen = 0
    for table, tab in enumerate(flow.tabs):
        rows = await flow.giver.fetch(
            f"SELECT {LOG_ID}, t.{quoted(tab.key)}, t.{quoted(tab.key)}::text, {tab.text_pk} "
            f"FROM {flow.place.log(table)} t ORDER BY {LOG_ID} LIMIT {batch}"
        )
        if rows:
            await _refresh(flow, table, _mine(flow, [tuple(row)[1:] for row in rows]))
            await flow.giver.execute(
                f"DELETE FROM {flow.place.log(table)} WHERE {LOG_ID} = ANY($1::bigint[])", [row[0] for row in rows]
            )
            seen += len(rows)
    return seen


async def compare(flow: Flow, batch: int) -> Sums:
    """The sums of the live rows in a snapshot, after the copy was brought to it. Raises `Different`."""
    async with flow.giver.transaction(isolation="repeatable_read"):
        while await drain(flow, batch):
            pass
        live = await live_sums(flow.giver, flow)
    copied: Sums = {}
    for table, tab in enumerate(flow.tabs):
        for bucket, count, sum_ in await flow.taker.fetch(
            f"SELECT c.{BUCKET}, {tab.checksum('c')} FROM {flow.place.copy(table)} c "
            f"WHERE c.{BUCKET} = ANY($1::int[]) GROUP BY 1",
            list(flow.buckets),
        ):
            copied[tab.sql, bucket] = (count, int(sum_))
    different(live, copied)
    return live


async def live_sums(connection: Connection, flow: Flow) -> Sums:
    """Rows and checksums of the live rows of the flow's buckets, within the transaction on ``connection``."""
    sums: Sums = {}
    for tab in flow.tabs:
        statement = f"SELECT t.{quoted(tab.key)}, {tab.checksum('t')} FROM {tab.sql} t GROUP BY t.{quoted(tab.key)}"
        async for key, count, sum_ in connection.cursor(statement, prefetch=_PREFETCH):
            bucket = flow.bucket_of(key)
            if bucket in flow.buckets:
                before = sums.get((tab.sql, bucket), (0, 0))
                sums[tab.sql, bucket] = (before[0] + count, before[1] + int(sum_))
    return sums


def different(live: Sums, copied: Sums) -> None:
    """Raises `Different` unless they are the same."""
    places = tuple(
        f"{table} bucket {bucket}: {live.get((table, bucket), (0, 0))[0]} rows live, "
        f"{copied.get((table, bucket), (0, 0))[0]} in the copy"
        + (", of other content" if live.get((table, bucket), (0,))[0] == copied.get((table, bucket), (0,))[0] else "")
        for table, bucket in sorted({*live, *copied})
        if live.get((table, bucket)) != copied.get((table, bucket))
    )
    if places:
        raise Different(places)


def _mine(flow: Flow, rows: Sequence[tuple[Any, ...]]) -> Mapping[tuple[str, ...], int]:
    """From (key, key as text, primary key …) the ones of the flow's buckets: (key as text, primary key …) → bucket."""
    found = {row[1:]: flow.bucket_of(row[0]) for row in rows}
    return {row: bucket for row, bucket in found.items() if bucket in flow.buckets}


async def _refresh(flow: Flow, table: int, wanted: Mapping[tuple[str, ...], int]) -> None:
    """Bring the copies of the rows ``wanted`` to what is live now.

    A row whose shard key has changed since is not found under the old one; its entry under the new one is on its way.
    So it is with a primary key that has become another text of the same value, as 'a' and 'A' are in citext.
    """
    if not wanted:
        return
    tab, copy = flow.tabs[table], flow.place.copy(table)
    columns = [list(column) for column in zip(*wanted, strict=True)]
    rows = io.BytesIO()
    await flow.giver.copy_from_query(
        f"SELECT d.b, {listed(tab.columns, 't.')} FROM {tab.unnested(tagged=True)} JOIN {tab.sql} t "
        f"ON {tab.same_pk} AND ROW({tab.text_pk}, t.{quoted(tab.key)}::text)::record *= ROW({tab.texts}, d.k)::record",
        list(wanted.values()), *columns, output=rows,
    )  # fmt: skip
    async with flow.taker.transaction():
        await flow.taker.execute(f"DELETE FROM {copy} t USING {tab.unnested()} WHERE {tab.same_pk}", *columns[1:])
        rows.seek(0)
        await flow.taker.copy_to_table(
            copy.rpartition(".")[2], schema_name=flow.place.schema, columns=[BUCKET, *tab.columns], source=rows
        )
