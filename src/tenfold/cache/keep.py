"""The end of a load: the hard time-out of its loader, and what of its value is kept, where, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration
from tenfold.cache.context import LoadContext
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LoadTimeout
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.freshness import Life
from tenfold.cache.level_two import Level2
from tenfold.cache.lookup import Spec, names
from tenfold.cache.shared import Shared

Load = Callable[[Sequence[Flight]], Awaitable[Sequence[Any]]]


async def within(
    spec: Spec, load: Load, flights: Sequence[Flight], spawn: Callable[..., asyncio.Task[Any]], counters: Counters
) -> Sequence[Any]:
    """The loader's answer within the hard time-out. The loader is a task of its own, so that one that does not
    heed its cancellation holds up nobody but `aclose`.
    """
    if spec.fresh.hard is None:
        return await load(flights)

    async def run() -> Sequence[Any]:
        return await load(flights)

    task: asyncio.Task[Sequence[Any]] = spawn(run())
    try:
        done, _ = await asyncio.wait((task,), timeout=spec.fresh.hard)
        if done:
            return task.result()
    finally:
        if not task.done():
            task.add_done_callback(_seen)
            task.cancel()
    counters.load_timeouts += 1
    raise LoadTimeout(
        f"{spec.name}: the loader took longer than its hard time-out of {format_duration(spec.fresh.hard)}"
    )


def _seen(task: asyncio.Task[Any]) -> None:
    """A loader that fails after its hard time-out has been counted already; nobody is left to tell."""
    if not task.cancelled():
        task.exception()


class Keeper:
    """Stores what was loaded, and takes flights out of an engine's books."""

    def __init__(self, shared: Shared, flights: dict[Hashable, Flight]) -> None:
        self._shared = shared
        self._flights = flights

    def leave(self, flight: Flight) -> None:
        """Nobody joins it any more."""
        if self._flights.get(flight.slot) is flight:
            del self._flights[flight.slot]

    def land(self, flight: Flight, value: Any) -> None:
        # First out of the books: a waiter may ask again before the task that loads comes to its end.
        self.leave(flight)
        flight.land(value)

    async def keep(self, level2: Level2 | None, spec: Spec, flight: Flight, value: Any, context: LoadContext) -> None:
        life = None
        if value is not ABSENT:
            now, draw = self._shared.clock.monotonic(), self._shared.random.random()
            life = spec.fresh.life(now, draw, none=value is None, ttl=context.ttl, etag=context.etag)
        if life is None:
            await self._drop(level2, flight)
        elif context.tags:
            await self._keep_late(level2, spec, flight, value, life, context.tags)
        else:
            stored: bool | None = None
            if level2 is not None and flight.lease is not None:
                payload = spec.codec.encode(value, life.stale_until - life.fresh_until, life.etag)
                stored = await level2.store(
                    names(flight), flight.lease, flight.tag_nonces, int((life.stale_until - now) * 1000), payload
                )
            if stored is False:
                self._shared.counters.refused += 1
            elif spec.memory:
                self.remember(flight, value, life)
        self.land(flight, value)

    async def _keep_late(
        self, level2: Level2 | None, spec: Spec, flight: Flight, value: Any, life: Life, tags: tuple[str, ...]
    ) -> None:
        """A value whose loader named further tags: level 1 alone, under the epoch from before the load."""
        if not spec.memory:
            raise MisuseError(f"{spec.name}: ctx.tags needs level 1; leave out memory=False or declare the tags")
        if level2 is not None and flight.renewed:
            await level2.invalidate([f"e:{flight.key}"])  # an older value, without these tags
        flight.tags = tuple(dict.fromkeys((*flight.tags, *tags)))
        self.remember(flight, value, life)

    async def _drop(self, level2: Level2 | None, flight: Flight) -> None:
        """There is nothing to keep, and what was kept is over as well."""
        if self._flights.get(flight.slot) is flight:
            self._shared.memory.delete(flight.key)
        if level2 is not None and flight.renewed:
            await level2.invalidate([f"e:{flight.key}"])

    def remember(self, flight: Flight, value: Any, life: Life) -> None:
        """Level 1, unless something was invalidated since the load began or another load has taken this one's
        place.
        """
        shared = self._shared
        with shared.memory.lock:  # one step: another loop's thread may be invalidating
            if self._flights.get(flight.slot) is not flight or not shared.barriers.good(flight.epoch, flight.tags):
                shared.counters.refused += 1
                return
            kept = None if life.plain else life
            shared.memory.put(flight.key, value, life.until, flight.tags, flight.epoch, kept)
