"""The shards of a cluster, open, under their map: entering and closing them, taking in more, changing the map."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, Self, TypeVar

from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration
from tenfold.db.cluster import AsyncCluster
from tenfold.db.shards.current import CurrentMap
from tenfold.db.shards.errors import StaleMap
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.mark import MapMark
from tenfold.db.shards.member import Member, ReplicatedMember
from tenfold.db.shards.members import Members
from tenfold.db.urls import asyncpg_url
from tenfold.resilience.deadline import Deadline

T = TypeVar("T")
Given = URL | AsyncCluster


class OpenShards:
    """What a `ShardedCluster` is, beneath its statements."""

    def __init__(
        self,
        shards: dict[str, Given],
        first: ShardMap,
        *,
        deadline: Duration,
        options: Mapping[str, Any],
        random: Random,
        hub: Hub,
    ) -> None:
        if unknown := set(first.names) - shards.keys():
            raise MisuseError(f"map: it names {', '.join(sorted(unknown))}, of which no URL was given")
        self._given = shards
        self.home: Final = next(iter(shards))
        """The shard that keeps the map."""
        self._deadline = Deadline(deadline)
        self._options = options
        self._members = Members(lambda: self.map)
        self._current = CurrentMap(first, self._members, self.home, random, hub)
        self._mark = MapMark(lambda: self.map.epoch)
        self._ready = False

    async def __aenter__(self) -> Self:
        for name in self._given:
            self._members[name] = self._opened(name)
        try:
            async with self._deadline:
                await self._prepare()
        except BaseException:
            await self.aclose()
            raise
        self._ready = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        members, self._ready = list(self._members.values()), False
        self._members.clear()
        await asyncio.gather(*(member.aclose() for member in members))

    # -- the map

    @property
    def map(self) -> ShardMap:
        """The version of the map that this process goes by."""
        return self._current.map

    @property
    def stale(self) -> int:
        """How often a statement met a shard under another map."""
        return self._current.stale

    async def refresh(self, stale: StaleMap | None = None, attempt: int = 1) -> None:
        """Take over the stored map. After `StaleMap` waits a little first when this is not the first attempt.

        Raises ``stale`` when a map in change has outlasted ten attempts.
        """
        await self._current.refresh(stale, attempt)

    async def install(self, new: ShardMap, *, lock_timeout: Duration = "5s") -> None:
        """Make ``new`` (derived from `map`, see `ShardMap.moved`) the map of all processes. Moves no data.

        Waits up to ``lock_timeout`` for the transactions under way on each shard. Raises `MisuseError` when another
        change came first.
        """
        await self._current.install(new, duration(lock_timeout, "lock_timeout"))

    async def repair(self, *, lock_timeout: Duration = "5s") -> None:
        """End a change of the map that was interrupted: publish the stored map anew, above every shard's epoch."""
        await self._current.repair(duration(lock_timeout, "lock_timeout"))

    # -- the shards

    async def add_shard(self, name: str, shard: str | URL | AsyncCluster) -> None:
        """Take in a shard that was not there when this process started; before buckets move there, in every process.

        Makes the tables of the map there, as entering does. Its own tables, and an outbox's, are the migrations'. An
        `AsyncCluster` is closed with this one. Raises `MisuseError` for a name that is known.
        """
        self._entered()
        if name in self._given:
            raise MisuseError(f"name: expected that of another shard than {', '.join(self._given)}, got {name!r}")
        self._given[name] = given(shard, "shard")
        member = self._members[name] = self._opened(name)
        try:
            async with self._deadline:
                await self.refresh()
                await self._prepare()
        except BaseException:
            del self._given[name], self._members[name]
            await shielded(member.aclose())
            raise

    def engine(self, shard: str) -> Engine:
        """SQLAlchemy's (synchronous) engine of one shard's primary, for tools. Statements through it pass no fence."""
        return self.member(shard).engine.sync_engine

    def async_engine(self, shard: str) -> AsyncEngine:
        """The engine of one shard's present primary, for DDL and tools. Statements through it pass no fence."""
        return self.member(shard).engine

    def member(self, shard: str) -> Member:
        """One shard's servers, for what is built upon the cluster."""
        if shard not in self._members and not (self._ready and shard in self.map.names):
            raise MisuseError(f"shard: expected one of {', '.join(self._given)} of an entered cluster, got {shard!r}")
        return self._members[shard]

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of all shards, those without a bucket too; the first is the home of the map."""
        return tuple(self._given)

    # -- inside

    def _opened(self, name: str) -> Member:
        shard = self._given[name]
        if isinstance(shard, AsyncCluster):
            return ReplicatedMember(name, shard, self._mark)
        engine = create_async_engine(shard, pool_timeout=self._deadline.seconds, **self._options)
        return Member(name, engine, self._mark)

    async def _prepare(self) -> None:
        await self._current.prepare()
        if any(isinstance(member, ReplicatedMember) for member in self._members.values()):
            await self._mark.identify_home(self._members[self.home].engine)

    def _entered(self) -> None:
        if not self._ready:
            raise MisuseError("ShardedCluster: expected to be entered (`async with cluster`), and is not")

    async def fenced(self, once: Callable[[], Awaitable[T]]) -> T:
        """What ``once()`` returns under the cluster's deadline; called again with a newer map after `StaleMap`."""
        self._entered()
        async with self._deadline:
            return await self._current.fenced(once)


def named(shards: Mapping[str, str | URL | AsyncCluster] | Sequence[str | URL | AsyncCluster]) -> dict[str, Given]:
    """The shards by name; those of a list are called s0, s1 … Raises `MisuseError`."""
    if isinstance(shards, str) or not shards:
        raise MisuseError("shards: expected URLs by name or a list of URLs, one at least")
    found = dict(shards) if isinstance(shards, Mapping) else {f"s{n}": one for n, one in enumerate(shards)}
    return {name: given(one, f"shards[{name!r}]") for name, one in found.items()}


def given(shard: str | URL | AsyncCluster, what: str) -> Given:
    """One shard, called ``what`` in the refusal."""
    return shard if isinstance(shard, AsyncCluster) else asyncpg_url(shard, what)
