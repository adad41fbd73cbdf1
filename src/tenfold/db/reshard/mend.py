"""Ending what was interrupted, on servers that may have forgotten some of it.

Each side of a switch marks it in the transaction in which it moves its rows, so the marks on a server say which rows
are live on *that* server, whatever it has lost. Where both sides have the same last mark for a bucket, its taker holds
it. Where one side lacks marks of the other, a switch was interrupted between its two commits, or a promotion to a
replica that lagged (asynchronous replication) has undone one of them, and the fence with it:

=====================  ==========================================================================================
rows are live          and the bucket goes to
=====================  ==========================================================================================
nowhere                the side that has the later mark: it gave last, and its copy is what the rows were then
                       (presumed abort)
on that side           that side
on the other, or both  that side, if the other has not been written to since the switch that it forgot; else the other,
                       if that side has not been written to since
=====================  ==========================================================================================

The marks have the sums of what moved, and the logs the time of each write, by which "not written to since" is seen. The
other's sums alone do not say so: it may have forgotten writes as well. Those it has forgotten for good when it is the
owner, as in any failover to a replica that lagged. Where both have been written to, nobody can merge them here, and it
says so. Whoever does not get a bucket drops what it has live of it. Both epochs are
locked meanwhile, and the owner commits first; interrupted after that, it comes out the same. Copies are not trusted
after a promotion: see `drive`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tenfold.db.reshard import record, sequences
from tenfold.db.reshard.capture import LOG_AT, Place
from tenfold.db.reshard.errors import ReshardError
from tenfold.db.reshard.links import Connection, Links
from tenfold.db.reshard.marks import Mark, Sums, by_bucket, note, read
from tenfold.db.reshard.refresh import Flow, live_sums
from tenfold.db.reshard.steps import OVER, Leg, Reshard
from tenfold.db.reshard.switch import LOCK_EPOCH, RAISE, current, limit, publish, to_live
from tenfold.db.reshard.tables import Tab, quoted
from tenfold.db.shards.map import ShardMap

_PREFETCH: Final = 5000
_SHOWN: Final = 20
_LOG_BEGAN: Final = -1
Known = Mapping[int, Sequence[Mark]]
"""The marks that a side has, by bucket."""
Live = Callable[[str, int], Sums]
"""The sums of the rows of a bucket that are live on a shard."""
Written = Callable[[str, int, dt.datetime], bool]
"""Whether the log of a shard has a write to a bucket since then."""


@dataclass(frozen=True, slots=True)
class Fate:
    """Who is to hold a bucket; "" where nobody can say. ``mend``: the two sides disagree; ``from_copy``: the owner has
    its rows in its copy; ``drop``: the other side has rows of it live.
    """

    owner: str
    mend: bool = False
    from_copy: bool = False
    drop: bool = False


def apart(leg: Leg, source: Known, target: Known) -> list[int]:
    """The buckets of whose switches one side lacks the last. Pure."""
    return [one for one in leg.buckets if _last(source.get(one)) != _last(target.get(one))]


def fate(leg: Leg, bucket: int, source: Known, target: Known, live: Live, written: Written) -> Fate:
    """What becomes of a bucket, by its marks on the two sides and what is live there. Pure."""
    known = {leg.source: source.get(bucket, ()), leg.target: target.get(bucket, ())}
    last = {name: _last(marks) for name, marks in known.items()}
    holds = {name: (marks[-1].taker if marks else leg.source) == name for name, marks in known.items()}
    if last[leg.source] == last[leg.target]:
        return Fate(leg.source if holds[leg.source] else leg.target)
    later, other = sorted(last, key=lambda name: -last[name])
    if not holds[other]:
        return Fate(later, mend=True, from_copy=not holds[later])
    forgotten = next(mark for mark in known[later] if mark.number > last[other])
    before, given = forgotten.sums.get(bucket, {}), known[later][-1].sums.get(bucket, {})
    if live(other, bucket) in (before, {}) or not written(other, bucket, forgotten.at):
        return Fate(later, mend=True, from_copy=not holds[later], drop=True)
    now = live(later, bucket) if holds[later] else given
    if now == {} or now == given == before:
        return Fate(other, mend=True, drop=holds[later])
    return Fate("", mend=True)


def _last(marks: Sequence[Mark] | None) -> int:
    return marks[-1].number if marks else 0


async def mend(links: Links, state: Reshard, tabs: Sequence[Tab], *, wait: float) -> Reshard:
    """Bring shards and map to one view. Returns the state without an intent.

    Every leg that is under way must have its marks on both sides (`capture.make`). Also gives every shard the map's
    epoch, which one that is new, or a change that was interrupted, may lack. Raises `ReshardError` where both sides of
    a leg have been written to.
    """
    async with links.home.transaction():
        old = new = await current(links.home, "FOR UPDATE")
        epochs = [int(await one.fetchval("SELECT epoch FROM tenfold_shard_epoch")) for one in links.shards.values()]
        epoch, mended = max(*epochs, old.epoch) + 1, False
        for number, leg in enumerate(state.legs):
            place = Place(number)
            if leg.phase in OVER:
                continue
            if not all([await _has_marks(links.shards[name], place) for name in (leg.source, leg.target)]):
                continue  # its tables were not made yet, or not all of them, so nothing was switched
            while True:
                source, target = [by_bucket(await read(links.shards[name], place)) for name in (leg.source, leg.target)]
                numbers = [mark.number for side in (source, target) for marks in side.values() for mark in marks]
                state = replace(state, switches=max([state.switches, *numbers]))
                if not (differing := apart(leg, source, target)):
                    break
                state, mended = replace(state, switches=state.switches + 1), True
                side = _Sides(links, leg, place, tabs, old, wait)
                await side.agree(differing, source, target, state.switches, epoch)
            for bucket in leg.buckets:
                owner = fate(leg, bucket, source, target, _nothing, _never).owner
                if old.shards[bucket] in (leg.source, leg.target) and old.shards[bucket] != owner:
                    new = new.moved([bucket], owner)
        if mended or new is not old or any(one != old.epoch for one in epochs):
            return await publish(links, state, new.at(epoch), wait)
        state = replace(state, intent=None)
        await record.store(links.home, state)
        return state


@dataclass(frozen=True, slots=True)
class _Sides:
    """The two ends of one leg."""

    links: Links
    leg: Leg
    place: Place
    tabs: Sequence[Tab]
    map: ShardMap
    wait: float

    async def agree(self, buckets: Sequence[int], source: Known, target: Known, number: int, epoch: int) -> None:
        """Bring both sides to agree on those of ``buckets`` that go to one owner, by the mark ``number``."""
        ends = {name: self.links.shards[name] for name in (self.leg.source, self.leg.target)}
        open_ = {name: connection.transaction() for name, connection in ends.items()}
        try:
            for name, connection in ends.items():
                await open_[name].start()
                await limit(connection, self.wait)
                await connection.execute(LOCK_EPOCH)
                await connection.execute(RAISE, epoch)
            sums = {name: await self._sums(connection, frozenset(buckets)) for name, connection in ends.items()}

            def live(name: str, bucket: int) -> Sums:
                return sums[name].get(bucket, {})

            writes = {name: await self._writes(connection, frozenset(buckets)) for name, connection in ends.items()}

            def written(name: str, bucket: int, since: dt.datetime) -> bool:
                return any(one in writes[name] and writes[name][one] > since for one in (bucket, _LOG_BEGAN))

            fates = {bucket: fate(self.leg, bucket, source, target, live, written) for bucket in buckets}
            owner = self._owner(fates)
            other = self.leg.target if owner == self.leg.source else self.leg.source
            mine = {bucket: what for bucket, what in fates.items() if what.owner == owner}
            dropped = [bucket for bucket, what in mine.items() if what.drop]
            copied = [bucket for bucket, what in mine.items() if what.from_copy]
            await sequences.advance(ends[owner], await sequences.behind(ends[owner], self.place, self.tabs, copied))
            for table, tab in enumerate(self.tabs):
                await self._drop_live(ends[other], tab, frozenset(dropped))
                await ends[owner].execute(to_live(tab, self.place.copy(table)), copied)
            at = await ends[other].fetchval("SELECT clock_timestamp()")
            mark = Mark(number, at, other, owner, tuple(mine), {bucket: live(other, bucket) for bucket in dropped})
            for connection in ends.values():
                await note(connection, self.place, mark)
            for name in (owner, other):
                await open_[name].commit()
        except Exception:
            for name, connection in ends.items():
                if not connection.is_closed() and connection.is_in_transaction():
                    await open_[name].rollback()
            raise

    def _owner(self, fates: Mapping[int, Fate]) -> str:
        """The one of the first bucket. Raises `ReshardError` when nobody can say for one of them."""
        if lost := [str(bucket) for bucket, what in fates.items() if not what.owner]:
            raise ReshardError(
                f"{self.leg.source} and {self.leg.target} have both been written to in buckets "
                f"{', '.join(lost[:_SHOWN])}{' …' if len(lost) > _SHOWN else ''}: a failover to a replica that lagged "
                "has undone a switch, and its fence. Bring what is missing on one of the two over to it by hand, "
                "delete these buckets' rows on the other, then run it again"
            )
        return next(iter(fates.values())).owner

    async def _sums(self, connection: Connection, buckets: frozenset[int]) -> dict[int, dict[int, tuple[int, int]]]:
        numbers = {tab.sql: number for number, tab in enumerate(self.tabs)}
        found: dict[int, dict[int, tuple[int, int]]] = {}
        flow = Flow(connection, connection, self.place, self.tabs, self.map, buckets)
        for (table, bucket), sums in (await live_sums(connection, flow)).items():
            found.setdefault(bucket, {})[numbers[table]] = sums
        return found

    async def _writes(self, connection: Connection, buckets: frozenset[int]) -> dict[int, dt.datetime]:
        """The last write in the log, by bucket. Of what was before a log began that was lost, it can say nothing."""
        found: dict[int, dt.datetime] = {}
        for table, tab in enumerate(self.tabs):
            key = quoted(tab.key)
            statement = f"SELECT {key}, max({LOG_AT}) FROM {self.place.log(table)} GROUP BY 1"
            async for value, at in connection.cursor(statement, prefetch=_PREFETCH):
                bucket = _LOG_BEGAN if value is None else self.map.bucket_of(value)
                if bucket in buckets or bucket == _LOG_BEGAN:
                    found[bucket] = max(at, found.get(bucket, at))
        return found

    async def _drop_live(self, connection: Connection, tab: Tab, buckets: frozenset[int]) -> None:
        if not buckets:
            return
        found: list[tuple[Any, ...]] = []
        statement = f"SELECT t.{quoted(tab.key)}, {tab.text_pk} FROM {tab.sql} t WHERE t.{quoted(tab.key)} IS NOT NULL"
        async for key, *pk in connection.cursor(statement, prefetch=_PREFETCH):
            if self.map.bucket_of(key) in buckets:
                found.append(tuple(pk))
        if found:
            columns = [list(column) for column in zip(*found, strict=True)]
            await connection.execute(f"DELETE FROM {tab.sql} t USING {tab.unnested()} WHERE {tab.same_pk}", *columns)


async def _has_marks(connection: Connection, place: Place) -> bool:
    return bool(await connection.fetchval(f"SELECT to_regclass('{place.mark}') IS NOT NULL"))


def _nothing(name: str, bucket: int) -> Sums:
    return {}


def _never(name: str, bucket: int, since: dt.datetime) -> bool:
    return False
