"""What is forgotten when something is invalidated, here and in all processes, and in which order.

*Here:* first the loads under way are let go, then what they may have kept is dropped. The other way round, a load could
land in between and keep the old value.

*Everywhere:* here, then in level 2, which tells the other processes, then here once more: a look-up between the first
time and level 2's answer may have fetched the old value from there. What level 2 did not confirm it makes up for by
itself (see `redis`).

A process that hears of it forgets here alone. One that may have missed something, because its subscription was
interrupted, forgets everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tenfold._core.events import EVENTS
from tenfold.cache.batch import MAX_KEYS_A_BATCH
from tenfold.cache.happenings import CacheInvalidated
from tenfold.cache.homes import Homes
from tenfold.cache.level_two import EVERYTHING
from tenfold.cache.shared import Shared
from tenfold.cache.threads import Threads

MEMORIES: Final = 10_000
ALL: Final = EVERYTHING.removeprefix("t:")  # the tag that everything carries


class Invalidated:
    """When each key (``e:…``) and tag (``t:…``) was last invalidated, as far as this process knows. Unix time."""

    __slots__ = ("_limit", "_when")

    def __init__(self, limit: int = MEMORIES) -> None:
        self._limit = limit
        self._when: dict[str, float] = {}

    def note(self, keys: Sequence[str], tags: Sequence[str], now: float) -> None:
        """Remember these; the oldest are forgotten beyond the limit."""
        for name in _names(keys, tags):
            self._when.pop(name, None)
            self._when[name] = now
        while len(self._when) > self._limit:
            del self._when[next(iter(self._when))]

    def when(self, name: str) -> float | None:
        return self._when.get(name)

    def newest(self, key: str, tags: Sequence[str]) -> tuple[str, float] | None:
        """What of this was invalidated last: ``"key"``, ``"tag 'catalog'"`` or ``"clear"``, and when."""
        names = {f"e:{key}": "key", EVERYTHING: "clear", **{f"t:{tag}": f"tag {tag!r}" for tag in tags}}
        found = [(when, text) for name, text in names.items() if (when := self._when.get(name)) is not None]
        if not found:
            return None
        when, text = max(found)
        return text, when


class Forgetting:
    """The invalidations of one cache, whose loads under way are those of ``homes`` and of ``threads``."""

    def __init__(self, name: str, shared: Shared, homes: Homes, threads: Threads) -> None:
        self._name = name
        self._memory = shared.memory
        self._barriers = shared.barriers
        self._counters = shared.counters
        self._clock = shared.clock
        self._homes = homes
        self._threads = threads
        self.invalidated = Invalidated()
        homes.listen(self._heard, self._gap)

    async def everywhere(self, keys: list[str], tags: list[str]) -> bool:
        """Forget these, in all processes. False if level 2 did not confirm it; then it is repeated until it does."""
        self._counters.invalidations += 1
        # Shielded: a caller that goes away must not leave half an invalidation behind.
        return await asyncio.shield(self._homes.engine().tasks.spawn_load(self._everywhere(keys, tags)))

    async def _everywhere(self, keys: list[str], tags: list[str]) -> bool:
        self._drop(keys, tags)
        level2 = self._homes.engine().level2
        if level2 is None:
            return True
        names = _names(keys, tags)
        confirmed = True
        for start in range(0, len(names), MAX_KEYS_A_BATCH):
            confirmed &= await level2.invalidate(names[start : start + MAX_KEYS_A_BATCH])
        self._drop(keys, tags)
        return confirmed

    def here(self, keys: list[str], tags: list[str]) -> None:
        """Forget these, in this process alone: enough for what no other has. Any thread."""
        self._counters.invalidations += 1
        self._drop(keys, tags)

    def _drop(self, keys: list[str], tags: list[str]) -> None:
        self.invalidated.note(keys, tags, self._clock.time())
        if ALL in tags:
            self._barriers.invalidate_all()
            self._memory.clear()
            self._tell((), (), everything=True)
            return
        self._homes.detach(keys)
        self._threads.detach(keys)
        for key in keys:
            self._memory.delete(key)
        if tags:
            self._barriers.invalidate(tags)
        self._tell(tuple(keys), tuple(tags))

    def _tell(self, keys: tuple[str, ...], tags: tuple[str, ...], *, everything: bool = False) -> None:
        if EVENTS.wants(CacheInvalidated):
            EVENTS.emit(CacheInvalidated(self._name, keys, tags, everything))

    def _heard(self, names: list[str]) -> None:
        self._counters.remote_invalidations += 1
        tags = [name[2:] for name in names if name.startswith("t:")]
        self._drop([name[2:] for name in names if name.startswith("e:")], tags)

    def _gap(self) -> None:
        self._counters.backplane_gaps += 1
        self._drop([], [ALL])


def _names(keys: Sequence[str], tags: Sequence[str]) -> list[str]:
    return [f"e:{key}" for key in keys] + [f"t:{tag}" for tag in tags]
