"""The old value while its successor is on the way: when it is served, to whom, and what is counted.

`freshness` decides by age; here the entry is looked up, at the moment of serving and never earlier, because it may have
been invalidated since the load began. An entry that is gone, or that carries an invalidated tag, is served to nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.cache.context import LoadContext
from tenfold.cache.entry import Entry
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.freshness import NEVER, OLD, WITHOUT_LOAD, Decision, rest
from tenfold.cache.lookup import Spec
from tenfold.cache.shared import Shared

_log: Final = logging.getLogger("tenfold.cache")


class Stale:
    """Old values of level 1, for one engine."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def look_up(self, spec: Spec, key: str, now: float) -> tuple[Decision, Entry | None]:
        """What to do about ``key``, which the hit path did not answer."""
        entry = self._good(key)
        if entry is None or entry.life is None:
            return Decision.LOAD, None
        return spec.fresh.look_up(entry.life, now), entry

    def served(self, entry: Entry, decision: Decision) -> None:
        """Count an answer that was given at once."""
        memory = self._shared.memory
        if decision in OLD:
            self._shared.counters.stale_hits += 1
        else:
            entry.n += 1.0
        if memory.touch is not None:
            memory.touch(entry)

    def refreshing(self, entry: Entry) -> None:
        """An eager refresh begins once in an entry's life; after it the short way is open again."""
        entry.life.eager_at = NEVER
        entry.until = entry.life.until

    def rescue(self, flight: Flight) -> Any:
        """What can be served in place of a load that is slow; `ABSENT` if there is nothing."""
        entry = self._good(flight.key)
        if flight.insist or entry is None or entry.life is None:
            return ABSENT
        decision = WITHOUT_LOAD[entry.life.phase(self._shared.clock.monotonic())]
        return ABSENT if decision is Decision.LOAD else entry.value

    def relieve(self, flight: Flight) -> None:
        """The soft time-out: who waits is served stale, if there is something; the load goes on."""
        value = self.rescue(flight)
        if value is not ABSENT:
            self._shared.counters.stale_rescues += flight.waiting
            flight.relieve(value)

    def fail(self, spec: Spec, flight: Flight, error: BaseException) -> None:
        """A load came to nothing: serve stale and let the loader rest, or hand on the error."""
        if flight.landed:
            return
        counters, now = self._shared.counters, self._shared.clock.monotonic()
        if flight.background:
            counters.refresh_errors += 1
        value, entry = self.rescue(flight), self._good(flight.key)
        if value is ABSENT or entry is None:
            flight.crash(error)
            return
        rest(entry.life, now, spec.fresh.throttle)
        _log.warning("%s: the load of %s failed; its old value is served", spec.name, flight.key, exc_info=error)
        if isinstance(error, MisuseError):  # a fault of the program is not smoothed over
            flight.crash(error)
            return
        if entry.life.fresh_until <= now:
            counters.stale_rescues += flight.waiting
        flight.land(value)

    def context(self, spec: Spec, flights: Sequence[Flight]) -> LoadContext:
        """What the loader is told of the value it replaces."""
        if len(flights) > 1 or flights[0].subject is not None:
            return LoadContext(spec.name, many=True)
        entry = self._good(flights[0].key)
        if entry is None:
            return LoadContext(spec.name)
        return LoadContext(spec.name, old=entry.value, etag=entry.life.etag if entry.life is not None else None)

    def _good(self, key: str) -> Entry | None:
        entry = self._shared.memory._index.get(key)
        if entry is None or not self._shared.barriers.good(entry.epoch, entry.tags):
            return None
        return entry
