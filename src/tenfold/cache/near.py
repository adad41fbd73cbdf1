"""Level 1 as it is asked by whoever has no compiled wrapper, or one that could not answer by itself.

The wrappers of `hit` answer nearly all calls. Here come the first call of a key, the first after an invalidation, keys
of `get_or_load`, and the ids that a loader of many did not find at home.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenfold.cache.flight import ABSENT
from tenfold.cache.freshness import Phase
from tenfold.cache.hit import HitPath
from tenfold.cache.shared import Shared


class Near:
    """Look-ups in level 1. ``missed`` is told, under its lock, each key that was not there or not good. Any thread."""

    def __init__(self, shared: Shared, missed: Callable[[str], None]) -> None:
        self._memory = shared.memory
        self._barriers = shared.barriers
        self._now = shared.clock.monotonic
        self._missed = missed

    def hit_path(self, namespace: dict[str, Any]) -> HitPath:
        """What a wrapper that is compiled in ``namespace`` needs to answer from level 1."""
        self._barriers.show(namespace)
        return HitPath(self._memory, self._now)

    def look(self, key: str) -> Any:
        """Level 1's answer, counted as a hit, or `ABSENT`."""
        now = self._now()
        try:
            entry = self._memory._index[key]
        except KeyError:
            with self._memory.lock:
                self._missed(key)
            return ABSENT
        # As in `Memory.get`: up to here from the look-up nothing at which threads switch.
        if entry.epoch is self._barriers.epoch and entry.until > now and self._memory.touch is None:
            entry.n += 1.0
            return entry.value
        return self._revalidate(key)

    def _revalidate(self, key: str) -> Any:
        """As `look`, for an entry that met an invalidation since it was last seen, or whose time is over."""
        with self._memory.lock:
            entry = self._memory._index.get(key)
            if entry is None:
                self._missed(key)
                return ABSENT
            now = self._now()
            if entry.until <= now:
                self._missed(key)
                if entry.life is None or entry.life.phase(now) is Phase.DEAD:
                    self._memory.expire(entry)
                return ABSENT  # the engine knows what may still be done with it
            epoch = self._barriers.epoch  # before the look at the barriers: see `tags`
            if not self._barriers.good(entry.epoch, entry.tags):
                self._missed(key)
                self._memory.delete(key)
                return ABSENT
            entry.epoch = epoch
            entry.n += 1.0
            if self._memory.touch is not None:
                self._memory.touch(entry)
            return entry.value
