"""The way of a look-up that level 1 could not answer: serve stale, join a load under way, or begin one. One a
loop.

Everything that is bound to an event loop lives here (connections, tasks, loads under way), so that one
`Cache` serves several loops one after another. What is shared (level 1, barriers, counters) is handed in.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

from tenfold.cache.backplane import Backplane
from tenfold.cache.codec import fresh_nonce
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.freshness import REFRESHED, SERVED, Decision, Life
from tenfold.cache.keep import Load
from tenfold.cache.level_two import Level2
from tenfold.cache.loads import Loads
from tenfold.cache.lookup import Found, Spec, Wanted, decode, found_of, names, read
from tenfold.cache.request import DOWN, Raw
from tenfold.cache.shared import Shared
from tenfold.cache.stale import Stale
from tenfold.cache.tasks import Tasks

_NEWER: Final = 0.1  # by that share of the TTL a copy in level 2 must outlive ours to save the refresh


class Engine:
    """Look-ups, loads and level 2 of one event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._stale = Stale(shared)
        self._flights: dict[Hashable, Flight] = {}
        self.tasks = Tasks()
        self._loads = Loads(shared, self._stale, self._flights, self.tasks)
        self.level2: Level2 | None = None
        self.backplane: Backplane | None = None

    def attach(self, level2: Level2, backplane: Backplane) -> None:
        """From now on there is a level 2, and a subscription to what other processes invalidate."""
        self.level2 = self._loads.level2 = level2
        self.backplane = backplane
        self.tasks.spawn(backplane.run())

    # -- look-ups

    async def fetch(self, spec: Spec, wanted: Sequence[Wanted], load: Load, asked: Any = None) -> list[Any]:
        """The values, in order; `ABSENT` for what a loader of many did not know. ``asked`` is what
        `Level2.get` said, if it was asked already. Raises what the loader raises.
        """
        if not spec.memory:
            if asked is None and self.level2 is not None and len(wanted) == 1:
                record, *tags = names(wanted[0])
                asked = await self.level2.get(record, tuple(tags), spec.codec)
                if type(asked) is not Raw and asked is not DOWN:
                    return [asked]
            return await self._fetch_shared_only(spec, wanted, load, asked)
        now = self._shared.clock.monotonic()
        answers: list[Any] = []
        fresh: list[Flight] = []
        refreshed: list[Flight] = []
        for one in wanted:
            decision, entry = self._stale.look_up(spec, one.key, now)
            flight = self._flights.get(one.key)
            if flight is not None and not self._shared.barriers.good(flight.epoch, flight.tags):
                flight = None
            if (
                decision is Decision.REFRESH_OR_STALE
                and flight is not None
                and (flight.insist or flight.soft_at <= now)
            ):
                decision = Decision.STALE  # its time is over, or it is none of ours to cut short
            if entry is not None and decision in SERVED:
                answers.append(entry.value)
                self._stale.served(entry, decision)
                if decision in REFRESHED:
                    if flight is None and self._loads.may_refresh():
                        flight = self._replace(spec, one, entry.life, now)
                        self._loads.go_background(flight)
                        refreshed.append(flight)
                    if flight is not None:
                        self._stale.refreshing(entry)
                continue
            if flight is not None:
                self._shared.counters.coalesced += 1
            elif entry is not None and decision is Decision.REFRESH_OR_STALE:
                flight = self._replace(spec, one, entry.life, now)
                flight.later(spec.fresh.soft, self._stale.relieve)
                fresh.append(flight)
            else:
                flight = self._take_off(one.key, one)
                flight.soft_at = now + spec.fresh.soft
                fresh.append(flight)
            answers.append(flight)
        for some in (fresh, refreshed):
            if some:
                self.tasks.spawn_load(self._loads.run(spec, some, load, "read"))
        return [await self._wait(answer) if isinstance(answer, Flight) else answer for answer in answers]

    async def _wait(self, flight: Flight) -> Any:
        """For a caller of many, who may come to this flight only after its soft time-out."""
        if not flight.landed and flight.soft_at <= self._shared.clock.monotonic():
            value = self._stale.rescue(flight)
            if value is not ABSENT:
                self._shared.counters.stale_rescues += 1
                return value
        return await flight.wait()

    def _replace(self, spec: Spec, one: Wanted, life: Life, now: float) -> Flight:
        """A load for a key whose old value is here."""
        flight = self._take_off(one.key, one)
        flight.beyond = life.fresh_until + spec.ttl * _NEWER
        flight.soft_at = now + spec.fresh.soft
        return flight

    async def refresh(self, spec: Spec, wanted: Sequence[Wanted], load: Load) -> list[Any]:
        """Load anew and replace, whatever is cached. A load already under way will not be kept."""
        flights = [self._take_off(one.key if spec.memory else (one.key, fresh_nonce()), one) for one in wanted]
        for flight in flights:
            flight.insist = True
        self.tasks.spawn_load(self._loads.run(spec, flights, load, "renew"))
        values = [await flight.wait() for flight in flights]
        if self.level2 is not None:
            await self.level2.announce([f"e:{one.key}" for one in wanted])
        return values

    def detach(self, keys: Sequence[str]) -> None:
        """Nobody joins the loads of these keys any more, and their values are not kept in level 1."""
        for key in keys:
            self._flights.pop(key, None)

    async def _fetch_shared_only(self, spec: Spec, wanted: Sequence[Wanted], load: Load, asked: Any) -> list[Any]:
        """For values that live in level 2 alone. A load is joined only under the lease that it began with.

        Whoever begins to look after an invalidation was acknowledged finds another lease, and so never joins
        a load that began before it, whichever process invalidated. Without level 2 there is no lease, and
        nobody joins anybody.
        """
        values: list[Any] = [ABSENT] * len(wanted)
        joined: list[tuple[int, Flight]] = []
        fresh: list[Flight] = []
        missing = list(range(len(wanted)))
        how: dict[int, str] = {}
        found: list[Found | None] = [None] * len(wanted)
        if self.level2 is not None:
            found = await read(self.level2, wanted) if asked is None else [found_of(asked)]
            missing = []
            for place, record in enumerate(found):
                if record is None:
                    missing.append(place)
                    continue
                value, mode = decode(spec, record, self._shared.counters)
                if mode is None and record.fresh <= 0 < record.left - record.fresh:
                    mode = "renew"  # stale: somebody declared it otherwise
                if mode is None:
                    self._shared.counters.l2_hits += 1
                    values[place] = value
                else:
                    how[place] = mode
                    missing.append(place)
        if not missing:
            return values
        probes: list[Flight] = []
        for place in missing:
            one = wanted[place]
            probe = Flight(None, one.key, one.tags, self._shared.barriers.epoch, one.subject)
            joined.append((place, probe))
            probes.append(probe)
        leases = [(probe, found[place], how.get(place, "read")) for place, probe in joined]
        try:
            unknown = {id(probe) for probe in await self._loads.lease(spec, leases)}
        except BaseException:
            if self.level2 is not None:
                self.level2.leases.abandon([f"e:{probe.key}" for probe in probes])
            raise
        for at, (place, probe) in enumerate(joined):
            if id(probe) not in unknown:
                continue
            probe.slot = (probe.key, probe.lease or fresh_nonce(), *probe.tag_nonces)
            under_way = self._flights.setdefault(probe.slot, probe)
            if under_way is probe:
                fresh.append(probe)
            else:
                self._shared.counters.coalesced += 1
                joined[at] = (place, under_way)
        if fresh:
            self.tasks.spawn_load(self._loads.run(spec, fresh, load, None))
        for place, flight in joined:
            values[place] = await flight.wait()
        return values

    def _take_off(self, slot: Hashable, one: Wanted) -> Flight:
        flight = Flight(slot, one.key, one.tags, self._shared.barriers.epoch, one.subject)
        self._flights[slot] = flight
        return flight
