"""The way of a look-up that level 1 could not answer: join a load under way, ask level 2, load, store. One a
loop.

Everything that is bound to an event loop lives here (connections, tasks, loads under way), so that one
`Cache` serves several loops one after another. What is shared (level 1, barriers, counters) is handed in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Hashable, Sequence
from typing import Any, Final

from tenfold.cache.backplane import Backplane
from tenfold.cache.batch import DOWN
from tenfold.cache.codec import Undecodable, fresh_nonce, lease_of, value_of
from tenfold.cache.context import enter
from tenfold.cache.envelope import unseal
from tenfold.cache.errors import LoadCancelled
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.follow import Taken, follow_all
from tenfold.cache.freshness import REFRESHED, SERVED, Decision, Life
from tenfold.cache.keep import Keeper, Load, within
from tenfold.cache.lookup import Found, Spec, Wanted, decode, found_of, names, read
from tenfold.cache.redis import Level2, Raw
from tenfold.cache.stale import Shared, Stale

CLOSE_PATIENCE: Final = 5.0
MAX_REFRESHES: Final = 1000  # loads that nobody waits for, under way at once
_NEWER: Final = 0.1  # by that share of the TTL a copy in level 2 must outlive ours to save the refresh


class Engine:
    """Look-ups, loads and level 2 of one event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._stale = Stale(shared)
        self._refreshing = 0
        self._flights: dict[Hashable, Flight] = {}
        self._keeper = Keeper(shared, self._flights)
        self._loads: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self.level2: Level2 | None = None
        self.backplane: Backplane | None = None

    # -- tasks

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that `aclose` cancels."""
        return self._start(work, self._background)

    def spawn_load(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that `aclose` waits for."""
        return self._start(work, self._loads)

    def _start(self, work: Coroutine[Any, Any, Any], owner: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        owner.add(task)
        task.add_done_callback(owner.discard)
        return task

    async def aclose(self) -> None:
        """Wait for the loads under way (5 s at most, then cancel them) and end everything else."""
        if self._loads:
            await asyncio.wait(self._loads, timeout=CLOSE_PATIENCE)
        if late := list(self._loads):
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=CLOSE_PATIENCE)
        others = list(self._background)
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_PATIENCE)

    # -- look-ups

    async def fetch(self, spec: Spec, wanted: Sequence[Wanted], load: Load) -> list[Any]:
        """The values, in order; `ABSENT` for what a loader of many did not know. Raises what the loader
        raises.
        """
        if not spec.memory:
            found: Any = None
            if self.level2 is not None and len(wanted) == 1:
                found = await self.level2.get(wanted[0].key, wanted[0].tags, spec)
                if type(found) is not Raw and found is not DOWN:
                    self._shared.counters.l2_hits += 1
                    return [found]
            return await self._fetch_shared_only(spec, wanted, load, found)
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
                    if flight is None and self._may_refresh():
                        flight = self._replace(spec, one, entry.life, now)
                        self._go_background(flight)
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
                self.spawn_load(self._run(spec, some, load, "read"))
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

    def _may_refresh(self) -> bool:
        if self._refreshing < MAX_REFRESHES:
            return True
        self._shared.counters.refreshes_skipped += 1
        return False

    def _go_background(self, flight: Flight) -> None:
        flight.background = True
        self._refreshing += 1
        self._shared.counters.refreshes += 1

    async def refresh(self, spec: Spec, wanted: Sequence[Wanted], load: Load) -> list[Any]:
        """Load anew and replace, whatever is cached. A load already under way will not be kept."""
        flights = [self._take_off(one.key if spec.memory else (one.key, fresh_nonce()), one) for one in wanted]
        for flight in flights:
            flight.insist = True
        self.spawn_load(self._run(spec, flights, load, "renew"))
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
            unknown = {id(probe) for probe in await self._lease(spec, leases)}
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
            self.spawn_load(self._run(spec, fresh, load, None))
        for place, flight in joined:
            values[place] = await flight.wait()
        return values

    def _take_off(self, slot: Hashable, one: Wanted) -> Flight:
        flight = Flight(slot, one.key, one.tags, self._shared.barriers.epoch, one.subject)
        self._flights[slot] = flight
        return flight

    # -- loads

    async def _run(self, spec: Spec, flights: Sequence[Flight], load: Load, mode: str | None) -> None:
        """Bring every flight home. ``mode`` None: level 2 was asked already."""
        try:
            missing = flights if mode is None else await self._probe(spec, flights, mode)
            missing, elsewhere = await follow_all(self.level2, spec, missing)
            for flight, taken in elsewhere:
                self._take(spec, flight, taken)
            if missing:
                await self._fill(spec, missing, load)
        except asyncio.CancelledError:
            for flight in flights:
                self._keeper.leave(flight)
                self._stale.fail(
                    spec, flight, LoadCancelled(f"{spec.name}: the load of {flight.key} was cancelled; ask again")
                )
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        except Exception as error:  # noqa: BLE001 - the loader's own error belongs to those who wait for it
            for flight in flights:
                self._keeper.leave(flight)
                self._stale.fail(spec, flight, error)
        finally:
            for flight in flights:
                self._keeper.leave(flight)
                self._refreshing -= flight.background
                if self.level2 is not None:
                    self.level2.leases.release(flight.lease)

    def _take(self, spec: Spec, flight: Flight, taken: Taken) -> None:
        """A value that another process loaded."""
        self._shared.counters.l2_hits += not flight.background
        if spec.memory and taken.left > 0:
            now = self._shared.clock.monotonic()
            self._keeper.remember(flight, taken.value, spec.fresh.found(now, taken.fresh, taken.left, taken.etag))
        self._keeper.land(flight, taken.value)

    async def _probe(self, spec: Spec, flights: Sequence[Flight], mode: str) -> list[Flight]:
        """Land what level 2 knows; give the others their leases. While level 2 is down they have none."""
        if self.level2 is None:
            return list(flights)
        if mode != "read":
            return await self._lease(spec, [(flight, Found(None, [], 0), mode) for flight in flights])
        sent = self._shared.clock.monotonic()
        missing: list[tuple[Flight, Found | None, str]] = []
        for flight, found in zip(flights, await read(self.level2, flights), strict=True):
            value, how = (None, "read") if found is None else decode(spec, found, self._shared.counters)
            if found is None or how is not None:
                missing.append((flight, found, how or "read"))
                continue
            life = spec.fresh.found(sent, found.fresh, found.left, found.etag)
            ageless = not spec.fresh.stale and found.left <= found.fresh  # then what the server still has is good
            if life.fresh_until > max(sent, flight.beyond) or (ageless and flight.beyond == -math.inf):
                self._shared.counters.l2_hits += not flight.background
                if life.fresh_until > sent:
                    self._keeper.remember(flight, value, life)
                self._keeper.land(flight, value)
            elif life.stale_until <= sent or flight.beyond > -math.inf or self._found_stale(spec, flight, value, life):
                missing.append((flight, found, "renew"))
        return await self._lease(spec, missing)

    def _found_stale(self, spec: Spec, flight: Flight, value: Any, life: Life) -> bool:
        """Level 2 has an old value, and level 1 none. Whether its load is still to be done."""
        self._keeper.remember(flight, value, life)
        now = self._shared.clock.monotonic()
        if flight.soft_at > now:
            flight.later(flight.soft_at - now, self._stale.relieve)
            return True
        if self._stale.rescue(flight) is ABSENT:
            return True  # invalidated just now
        self._shared.counters.stale_hits += 1
        if not self._may_refresh():
            self._keeper.land(flight, value)
            return False
        self._go_background(flight)
        flight.relieve(value)
        return True

    async def _lease(self, spec: Spec, asked: Sequence[tuple[Flight, Found | None, str]]) -> list[Flight]:
        """Give each flight the lease under which its value may be stored; land those that somebody was
        quicker with.

        ``None`` for what was found means that level 2 is down: no lease. Answers with the flights that must
        load.
        """
        level2, missing = self.level2, list[Flight]()
        closed: list[tuple[Flight, str]] = []
        for flight, found, how in asked:
            flight.renewed = how == "renew"
            if found is None or level2 is None:
                missing.append(flight)
                continue
            lease = lease_of(found.record)
            if lease is not None and all(found.nonces):
                flight.lease, flight.tag_nonces = (
                    lease,
                    [nonce for nonce in found.nonces if nonce is not None],
                )
                missing.append(flight)
            else:
                closed.append((flight, how))
        if level2 is None or not closed:
            return missing
        ttl_ms = int(spec.keep * 1000)
        opened = await asyncio.gather(
            *[level2.open(names(flight), fresh_nonce(), ttl_ms, how) for flight, how in closed]
        )
        for (flight, _), reply in zip(closed, opened, strict=True):
            if reply is not None:
                record, *tag_nonces = reply
                flight.lease, flight.tag_nonces = lease_of(record), tag_nonces
                if flight.lease is None and self._land_late(spec, flight, record):
                    continue
            missing.append(flight)
        return missing

    def _land_late(self, spec: Spec, flight: Flight, record: bytes) -> bool:
        """Somebody stored a good value between our look and our lease. Its age is unknown: level 1 gets no
        copy.
        """
        try:
            good = value_of(record, list(flight.tag_nonces))
            if good is None:
                return False
            value = spec.codec.decode(unseal(good[1])[0])
        except Undecodable:
            self._shared.counters.undecodable += 1
            return False
        self._shared.counters.l2_hits += not flight.background
        self._keeper.land(flight, value)
        return True

    async def _fill(self, spec: Spec, flights: Sequence[Flight], load: Load) -> None:
        counters, clock = self._shared.counters, self._shared.clock
        counters.misses += sum(not flight.background for flight in flights)
        counters.loads += 1
        began = clock.monotonic()
        context = self._stale.context(spec, flights)
        enter(context)
        try:
            values = await within(spec, load, flights, self.spawn_load, counters)
        except BaseException:
            counters.load_errors += 1
            raise
        finally:
            counters.load_seconds += clock.monotonic() - began
        if len(flights) == 1:
            await self._keeper.keep(self.level2, spec, flights[0], values[0], context)
            return
        pairs = zip(flights, values, strict=True)
        await asyncio.gather(*[self._keeper.keep(self.level2, spec, *pair, context) for pair in pairs])
