"""The way of a look-up that level 1 could not answer: join a load under way, ask level 2, load, store. One a
loop.

Everything that is bound to an event loop lives here (connections, tasks, loads under way), so that one
`Cache` serves several loops one after another. What is shared (level 1, barriers, counters) is handed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tenfold._core.clock import Clock
from tenfold.cache.backplane import Backplane
from tenfold.cache.batch import DOWN
from tenfold.cache.codec import Undecodable, fresh_nonce, lease_of, value_of
from tenfold.cache.counters import Counters
from tenfold.cache.errors import LoadCancelled
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.follow import Taken, follow_all
from tenfold.cache.lookup import Found, Spec, Wanted, decode, found_of, names, read
from tenfold.cache.memory import Memory
from tenfold.cache.redis import Level2, Raw
from tenfold.cache.tags import Barriers

CLOSE_PATIENCE: Final = 5.0

Load = Callable[[Sequence[Flight]], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all loops of one cache have in common."""

    memory: Memory
    barriers: Barriers
    counters: Counters
    clock: Clock
    jitter: float
    random: Random


class Engine:
    """Look-ups, loads and level 2 of one event loop."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._flights: dict[Hashable, Flight] = {}
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
            _, late = await asyncio.wait(self._loads, timeout=CLOSE_PATIENCE)
            for task in late:
                task.cancel()
            if late:
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
                found = await self.level2.get(wanted[0].key, wanted[0].tags, spec.codec)
                if type(found) is not Raw and found is not DOWN:
                    self._shared.counters.l2_hits += 1
                    return [found]
            return await self._fetch_shared_only(spec, wanted, load, found)
        flights: list[Flight] = []
        fresh: list[Flight] = []
        for one in wanted:
            flight = self._flights.get(one.key)
            if flight is not None and self._shared.barriers.good(flight.epoch, flight.tags):
                self._shared.counters.coalesced += 1
            else:
                flight = self._take_off(one.key, one)
                fresh.append(flight)
            flights.append(flight)
        if fresh:
            self.spawn_load(self._run(spec, fresh, load, "read"))
        return [await flight.wait() for flight in flights]

    async def refresh(self, spec: Spec, wanted: Sequence[Wanted], load: Load) -> list[Any]:
        """Load anew and replace, whatever is cached. A load already under way will not be kept."""
        flights = [self._take_off(one.key if spec.memory else (one.key, fresh_nonce()), one) for one in wanted]
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
                self._take(flight, taken, remember=spec.memory)
            if missing:
                await self._fill(spec, missing, load)
        except asyncio.CancelledError:
            for flight in flights:
                self._leave(flight)
                flight.crash(LoadCancelled(f"{spec.name}: the load of {flight.key} was cancelled; ask again"))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        except Exception as error:  # noqa: BLE001 - the loader's own error belongs to those who wait for it
            for flight in flights:
                self._leave(flight)
                flight.crash(error)
        finally:
            for flight in flights:
                self._leave(flight)
                if self.level2 is not None:
                    self.level2.leases.release(flight.lease)

    def _take(self, flight: Flight, taken: Taken, *, remember: bool) -> None:
        """A value that another process loaded."""
        self._shared.counters.l2_hits += 1
        if remember and taken.left > 0:
            self._remember(flight, taken.value, self._shared.clock.monotonic() + taken.left)
        self._land(flight, taken.value)

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
            self._shared.counters.l2_hits += 1
            # The server's clock may have been set: it never makes a copy live longer than its declaration
            # says.
            left = min(found.left, spec.ttl)
            if left > 0:
                self._remember(flight, value, sent + left)
            self._land(flight, value)
        return await self._lease(spec, missing)

    async def _lease(self, spec: Spec, asked: Sequence[tuple[Flight, Found | None, str]]) -> list[Flight]:
        """Give each flight the lease under which its value may be stored; land those that somebody was
        quicker with.

        ``None`` for what was found means that level 2 is down: no lease. Answers with the flights that must
        load.
        """
        level2, missing = self.level2, list[Flight]()
        closed: list[tuple[Flight, str]] = []
        for flight, found, how in asked:
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
        ttl_ms = int(spec.ttl * 1000)
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
            value = spec.codec.decode(good[1])
        except Undecodable:
            self._shared.counters.undecodable += 1
            return False
        self._shared.counters.l2_hits += 1
        self._land(flight, value)
        return True

    def _leave(self, flight: Flight) -> None:
        """Nobody joins it any more."""
        if self._flights.get(flight.slot) is flight:
            del self._flights[flight.slot]

    def _land(self, flight: Flight, value: Any) -> None:
        # First out of the books: a waiter may ask again before the task that loads comes to its end.
        self._leave(flight)
        flight.land(value)

    async def _fill(self, spec: Spec, flights: Sequence[Flight], load: Load) -> None:
        counters, clock = self._shared.counters, self._shared.clock
        counters.misses += len(flights)
        counters.loads += 1
        began = clock.monotonic()
        try:
            values = await load(flights)
        except BaseException:
            counters.load_errors += 1
            raise
        finally:
            counters.load_seconds += clock.monotonic() - began
        if len(flights) == 1:
            await self._keep(spec, flights[0], values[0])
            return
        await asyncio.gather(*[self._keep(spec, flight, value) for flight, value in zip(flights, values, strict=True)])

    async def _keep(self, spec: Spec, flight: Flight, value: Any) -> None:
        if value is not ABSENT:
            ttl = spec.ttl * (1 - self._shared.jitter * self._shared.random.random())
            until = self._shared.clock.monotonic() + ttl
            stored: bool | None = None
            if self.level2 is not None and flight.lease is not None:
                payload = spec.codec.encode(value)
                stored = await self.level2.store(
                    names(flight), flight.lease, flight.tag_nonces, int(ttl * 1000), payload
                )
            if stored is False:
                self._shared.counters.refused += 1
            elif spec.memory:
                self._remember(flight, value, until)
        self._land(flight, value)

    def _remember(self, flight: Flight, value: Any, until: float) -> None:
        """Level 1, unless something was invalidated since the load began or another load has taken this one's
        place.
        """
        if self._flights.get(flight.slot) is not flight or not self._shared.barriers.good(flight.epoch, flight.tags):
            self._shared.counters.refused += 1
            return
        entry = self._shared.memory.put(flight.key, value, until)
        if entry is not None:
            entry.tags, entry.epoch = flight.tags, flight.epoch
