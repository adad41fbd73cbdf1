"""The map that a process goes by: taken over when it is found old, changed for all, and the loop that tries again.

A statement that meets another epoch has done nothing yet (`store`), so the map is read anew and the statement planned
anew. While a change is under way the epochs are ahead of the stored map; then it waits, a little longer each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from tenfold._core.events import EVENTS, Event, Hub
from tenfold.db.shards import store
from tenfold.db.shards.errors import StaleMap
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.members import Engines
from tenfold.db.shards.parallel import together

T = TypeVar("T")
_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.5
_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class MapChanged(Event):
    """This process has taken over another version of the map."""

    old: int
    new: int


class CurrentMap:
    """``map`` is this process's version; ``stale`` counts how often a statement met a shard under another."""

    __slots__ = ("_engines", "_home", "_hub", "_members", "_random", "map", "stale")

    def __init__(
        self, first: ShardMap, members: Mapping[str, Member], home: str, random: Random, hub: Hub = EVENTS
    ) -> None:
        self.map = first
        self.stale = 0
        self._members, self._engines, self._home = members, Engines(members), home
        self._random, self._hub = random, hub

    async def prepare(self) -> None:
        """Make the tables where they are missing; the stored map wins over ours."""
        await self._settled()
        self.map = await store.prepare(self._engines, self._home, self.map)

    async def refresh(self, stale: StaleMap | None = None, attempt: int = 1) -> None:
        """Take over the stored map. See `ShardedCluster.refresh`."""
        if stale is not None:
            self.stale += 1
            if attempt > _ATTEMPTS:
                raise stale
            if attempt > 1:
                most = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
                await asyncio.sleep(most * (0.5 + self._random.random() / 2))
        await self._members[self._home].settle()
        self._take(await store.load(self._engines[self._home]))

    async def install(self, new: ShardMap, lock_timeout: float) -> None:
        """Make ``new`` everybody's."""
        await self._settled()
        self._take(await store.install(self._engines, self._home, new, lock_timeout=lock_timeout))

    async def repair(self, lock_timeout: float) -> None:
        """Publish the stored map anew."""
        await self._settled()
        self._take(await store.repair(self._engines, self._home, lock_timeout=lock_timeout))

    async def fenced(self, once: Callable[[], Awaitable[T]]) -> T:
        """What ``once()`` returns, called again with a newer map while it meets a shard under another."""
        attempt = 0
        while True:
            try:
                return await once()
            except StaleMap as stale:
                attempt += 1
                await self.refresh(stale, attempt)

    async def _settled(self) -> None:
        await together([member.settle for member in self._members.values()], len(self._members))

    def _take(self, new: ShardMap) -> None:
        if new.epoch > self.map.epoch:
            old, self.map = self.map, new
            self._hub.emit(MapChanged(old.epoch, new.epoch))
