"""Switching buckets over: fence the writers, exchange live rows and copies, change the map.

*The fence.* Every writer reads ``tenfold_shard_epoch`` FOR SHARE in its own transaction, for which it takes the table
in mode ROW SHARE. ``LOCK TABLE … IN EXCLUSIVE MODE`` is what that conflicts with and plain reads do not. A lock on the
*table* is queued fairly: writers that come later wait behind it, where a lock on the row could be passed for ever by
writers that share it. They wait as long as the switch takes, then see the new epoch and go where the map says. If the
tool dies, its connection does, and with it the lock.

*The order.* (1) Lock the map and store the intent. (2) Lock the giver's epoch; all is committed that ever will be
under the old map. (3) Work off the log: the copy is the live rows. (4) On the taker copy → live, on the giver live →
copy, each in an open transaction; counts and checksums of what moved must be equal, and the tables what they were; the
taker's sequences are raised. (5) Raise all epochs, for which transactions under way are waited for while nothing is
decided yet; commit the giver, then the taker, then the others. (6) Publish the map and forget the intent in one
transaction.
Reads between (5) and (6) meet an epoch that is not their map's, and come again. A part of a scattered read is one
statement and selects the epoch beside its rows, so it sees rows and epoch of one moment: no row twice, none missing.

*Interrupted* between (4) and (6): see `mend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import asyncpg

from tenfold.db.reshard import parents, record, sequences
from tenfold.db.reshard.errors import Behind, Different, ReshardError
from tenfold.db.reshard.links import Connection, Links
from tenfold.db.reshard.marks import Mark, note
from tenfold.db.reshard.refresh import Flow, drain
from tenfold.db.reshard.steps import Intent, Reshard
from tenfold.db.reshard.tables import BUCKET, Tab, altered, listed
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.parallel import together

Tell = Callable[[str], object]
LOCK_EPOCH: Final = "LOCK TABLE tenfold_shard_epoch IN EXCLUSIVE MODE"
_PUBLISH_WAIT: Final = 10.0
_MOST_BATCHES: Final = 20
"""Of entries that are worked off while writers wait."""
RAISE: Final = "UPDATE tenfold_shard_epoch SET epoch = $1 WHERE epoch < $1"


async def current(home: Connection, lock: str = "") -> ShardMap:
    """The stored map."""
    text = await home.fetchval(f"SELECT map FROM tenfold_shard_map {lock}")
    if text is None:
        raise ReshardError("the home shard has lost its map: restore tenfold_shard_map")
    return ShardMap.loads(text)


async def switch(links: Links, state: Reshard, flow: Flow, *, batch: int, wait: float, tell: Tell) -> Reshard:
    """Do what ``state.intent`` says. Returns the state without it.

    Whatever it raises, `mend` comes next: `asyncpg.LockNotAvailableError` when a transaction on a shard lasted longer
    than ``wait`` seconds, `Behind`, `Different`, `ReshardError` for rows that the taker cannot hold.
    """
    intent = state.intent
    assert intent is not None
    await record.store(links.home, state)
    tell("intent")
    async with links.home.transaction():
        old = await current(links.home, "FOR UPDATE")
        new = old.moved(intent.buckets, intent.taker)
        giving, taking = flow.giver.transaction(), flow.taker.transaction()
        others = [(one.transaction(), one) for one in links.others(intent.giver, intent.taker)]
        await giving.start()
        try:
            await limit(flow.giver, wait)
            await flow.giver.execute(LOCK_EPOCH)
            tell("fenced")
            worked_off = 0
            while seen := await drain(flow, batch):
                worked_off += seen
                if worked_off > _MOST_BATCHES * batch:
                    raise Behind(worked_off)
            tell("drained")
            await taking.start()
            await limit(flow.taker, wait)
            await parents.present(flow.taker, intent.taker, flow.place, flow.tabs, intent.buckets)
            counters = await sequences.behind(flow.taker, flow.place, flow.tabs, intent.buckets)
            at = await flow.giver.fetchval("SELECT clock_timestamp()")
            sums = await _exchange(flow, intent)
            if any(await together([partial(altered, one, flow.tabs) for one in (flow.giver, flow.taker)], 2)):
                raise ReshardError(
                    "a table was altered while its rows were moving, so their copies lack something; nothing was "
                    "switched. Run it again, or roll back, when it is the same on all shards: it copies anew"
                )
            mark = Mark(intent.number, at, intent.giver, intent.taker, intent.buckets, sums, new.epoch)
            await flow.taker.execute(LOCK_EPOCH)
            await sequences.advance(flow.taker, counters)
            for connection in (flow.giver, flow.taker):
                await connection.execute(RAISE, new.epoch)
                await note(connection, flow.place, mark)
            for one, _ in others:
                await one.start()
            await together([partial(_raise, connection, new.epoch, wait) for _, connection in others], len(others))
            tell("exchanged")
        except Exception:
            for one, connection in ((taking, flow.taker), (giving, flow.giver), *others):
                if not connection.is_closed() and connection.is_in_transaction():
                    await one.rollback()
            raise
        await giving.commit()
        tell("giver committed")
        await taking.commit()
        tell("taker committed")
        await together([one.commit for one, _ in others], len(others))
        state = await publish(links, state, new, wait)
    tell("published")
    return state


async def publish(links: Links, state: Reshard, new: ShardMap, wait: float) -> Reshard:
    """Within the transaction on the home, `mend` too: raise the epochs that are lower, store the map, forget the
    intent.
    """

    async def raise_on(connection: Connection) -> None:
        if await connection.fetchval("SELECT epoch FROM tenfold_shard_epoch") >= new.epoch:
            return  # by the switch itself, and without it nobody's transaction is waited for
        async with connection.transaction():
            await _raise(connection, new.epoch, max(wait, _PUBLISH_WAIT))

    await together([partial(raise_on, one) for one in links.shards.values()], len(links.shards))
    state = replace(state, intent=None)
    await links.home.execute(
        "UPDATE tenfold_shard_map SET epoch = $1, map = $2, changed_at = now()", new.epoch, new.dumps()
    )
    await record.store(links.home, state)
    return state


async def _raise(connection: Connection, epoch: int, wait: float) -> None:
    await limit(connection, wait)
    await connection.execute(LOCK_EPOCH)
    await connection.execute(RAISE, epoch)


async def _exchange(flow: Flow, intent: Intent) -> dict[int, dict[int, tuple[int, int]]]:
    """Live rows to the copy, and the copy to live rows. Returns rows and checksum by bucket and table."""
    buckets = list(intent.buckets)
    sums: dict[int, dict[int, tuple[int, int]]] = {}
    for table, tab in enumerate(flow.tabs):
        copy = flow.place.copy(table)
        keys = await flow.taker.fetch(
            f"SELECT t.{BUCKET}, t.{listed([tab.key])}::text, {tab.text_pk} FROM {copy} t "
            f"WHERE t.{BUCKET} = ANY($1::int[])",
            buckets,
        )
        if not keys:
            continue
        columns = [list(column) for column in zip(*(tuple(row) for row in keys), strict=True)]
        taken, given = await together(
            [partial(_take, flow, tab, copy, intent), partial(flow.giver.fetch, _to_copy(tab, copy), *columns)], 2
        )
        if taken != given:
            raise Different(
                (f"{tab.sql}: {_count(given)} rows were live on {intent.giver}, {_count(taken)} in the copy",)
            )
        for bucket, count, sum_ in given:
            sums.setdefault(bucket, {})[table] = (count, int(sum_))
    return sums


async def _take(flow: Flow, tab: Tab, copy: str, intent: Intent) -> Any:
    try:
        return await flow.taker.fetch(to_live(tab, copy), list(intent.buckets))
    except asyncpg.IntegrityConstraintViolationError as error:
        why = f"{error.detail or error} Make room for them there."
        if isinstance(error, asyncpg.UniqueViolationError | asyncpg.ExclusionViolationError):
            why = (
                f"{error.detail or error} Unique constraints hold within a shard only, so both have a row of that "
                "value: change one of the two."
            )
        raise ReshardError(
            f"{intent.taker} cannot hold the rows of {tab.sql} that come from {intent.giver}: {why} "
            "Nothing was switched; then run again, or roll back"
        ) from error


def to_live(tab: Tab, copy: str) -> str:
    columns = listed(tab.columns)
    return (
        f"WITH gone AS (DELETE FROM {copy} WHERE {BUCKET} = ANY($1::int[]) RETURNING {BUCKET}, {columns}), "
        f"kept AS (INSERT INTO {tab.sql} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM gone) "
        f"SELECT {BUCKET}, {tab.checksum('gone')} FROM gone GROUP BY 1 ORDER BY 1"
    )


def _to_copy(tab: Tab, copy: str) -> str:
    columns = listed(tab.columns)
    return (
        f"WITH gone AS (DELETE FROM {tab.sql} t USING {tab.unnested(tagged=True)} WHERE {tab.same_pk} "
        f"RETURNING d.b AS {BUCKET}, {listed(tab.columns, 't.')}), "
        f"kept AS (INSERT INTO {copy} ({BUCKET}, {columns}) SELECT {BUCKET}, {columns} FROM gone) "
        f"SELECT {BUCKET}, {tab.checksum('gone')} FROM gone GROUP BY 1 ORDER BY 1"
    )


async def limit(connection: Connection, wait: float) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = {max(1, round(wait * 1000))}")


def _count(rows: Any) -> int:
    return sum(row[1] for row in rows)
