"""The way of a load: ask level 2, take its lease there, or follow whoever has it; call the loader; keep the value.

Several keys travel together as far as they can. What this process loads itself never waits for what others load: two
processes that each hold a lease the other one wants would wait for each other until one of them is given up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tenfold.cache.codec import Undecodable, fresh_nonce, lease_of, value_of
from tenfold.cache.context import enter
from tenfold.cache.errors import LoadCancelled
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.follow import Taken, follow
from tenfold.cache.freshness import Life
from tenfold.cache.keep import Keeper, Load, within
from tenfold.cache.level_two import Level2
from tenfold.cache.lookup import Found, Spec, decode, names, read
from tenfold.cache.shared import Shared
from tenfold.cache.stale import Stale
from tenfold.cache.tasks import Tasks
from tenfold.cache.turns import overtaken, take

MAX_REFRESHES: Final = 1000  # loads that nobody waits for, under way at once


class Loads:
    """Brings the flights of one engine home."""

    def __init__(self, shared: Shared, stale: Stale, flights: dict[Hashable, Flight], tasks: Tasks) -> None:
        self._shared = shared
        self._stale = stale
        self._keeper = Keeper(shared, flights)
        self._tasks = tasks
        self._refreshing = 0
        self.level2: Level2 | None = None

    def may_refresh(self) -> bool:
        """Whether another load may begin that nobody waits for."""
        if self._refreshing < MAX_REFRESHES:
            return True
        self._shared.counters.refreshes_skipped += 1
        return False

    def go_background(self, flight: Flight) -> None:
        """Nobody waits for it."""
        flight.background = True
        self._refreshing += 1
        self._shared.counters.refreshes += 1

    async def run(self, spec: Spec, flights: Sequence[Flight], load: Load, mode: str | None) -> None:
        """Bring every flight home. ``mode`` is that of `scripts.OPEN`; None: level 2 was asked already."""
        try:
            with self._answerable(spec, flights):
                missing, queued = (flights, []) if mode is None else await self._probe(spec, flights, mode)
                foreign = self._begin(missing)
                if foreign or queued:
                    elsewhere = set(foreign)
                    own = [flight for flight in missing if flight not in elsewhere]
                    await self._fill_and_follow(spec, own, foreign, queued, load)
                elif missing:
                    await self._fill(spec, missing, load)
        finally:
            self._refreshing -= sum(flight.background for flight in flights)

    @contextmanager
    def _answerable(self, spec: Spec, flights: Sequence[Flight]) -> Iterator[None]:
        """Whatever happens inside: these flights land, leave the books and give up their leases."""
        try:
            yield
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
                if self.level2 is not None:
                    self.level2.leases.release(flight.lease)
                    self.level2.leases.release(flight.turn)

    def _begin(self, flights: Sequence[Flight]) -> list[Flight]:
        """The loads begin under their leases. Answers with those whose lease another process has."""
        if self.level2 is None:
            return []
        begin = self.level2.leases.begin
        return [flight for flight in flights if flight.lease is not None and not begin(flight.lease)]

    async def _fill_and_follow(
        self, spec: Spec, own: Sequence[Flight], foreign: Sequence[Flight], queued: Sequence[Flight], load: Load
    ) -> None:
        """Load ``own`` at once, and each of the others that comes to nothing elsewhere as soon as that is known."""
        level2, spawn = self.level2, self._tasks.spawn_load
        assert level2 is not None
        following = {spawn(follow(level2, spec, flight)): flight for flight in foreign}
        following |= {spawn(self._wait_for_turn(level2, spec, flight)): flight for flight in queued}
        loading: list[asyncio.Task[None]] = []
        try:
            while own or following:
                if own:
                    loading.append(spawn(self._fill_answerable(spec, own, load)))
                    own = []
                elif done := (await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED))[0]:
                    own = [flight for task in done if not self._followed(spec, flight := following.pop(task), task)]
            if loading:
                await asyncio.wait(loading)
        finally:
            for task in (*following, *loading):
                task.cancel()

    async def _fill_answerable(self, spec: Spec, flights: Sequence[Flight], load: Load) -> None:
        with self._answerable(spec, flights):
            await self._fill(spec, flights, load)

    def _followed(self, spec: Spec, flight: Flight, task: asyncio.Task[Taken | None]) -> bool:
        """False if the flight has to load after all."""
        if flight.landed:
            return True
        if not task.cancelled() and task.exception() is None and task.result() is None:
            return False
        with self._answerable(spec, [flight]):
            taken = task.result()
            assert taken is not None
            self._take(spec, flight, taken)
        return True

    async def _wait_for_turn(self, level2: Level2, spec: Spec, flight: Flight) -> Taken | None:
        taken = await overtaken(level2, spec, flight, self._shared.clock.monotonic(), self._shared.counters)
        if taken is None and await self.lease(spec, [(flight, Found(None, [], 0), "renew")]) and self._begin([flight]):
            return await follow(level2, spec, flight)
        return taken

    def _take(self, spec: Spec, flight: Flight, taken: Taken) -> None:
        """A value that another process loaded."""
        self._shared.counters.l2_hits += not flight.background
        if spec.memory and taken.left > 0:
            now = self._shared.clock.monotonic()
            self._keeper.remember(flight, taken.value, spec.fresh.found(now, taken.fresh, taken.left, taken.etag))
        self._keeper.land(flight, taken.value)

    async def _probe(
        self, spec: Spec, flights: Sequence[Flight], mode: str
    ) -> tuple[Sequence[Flight], Sequence[Flight]]:
        """Land what level 2 knows; give the others their leases. While level 2 is down they have none.

        Answers with those that must load, and with those that another process is renewing.
        """
        if self.level2 is None:
            return flights, []
        if mode != "read":
            return await self.lease(spec, [(flight, Found(None, [], 0), mode) for flight in flights]), []
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
        stale = [flight for flight, _, how in missing if how == "renew"]
        lives = await asyncio.gather(*[take(self.level2, flight) for flight in stale]) if stale else []
        queued = {flight for flight, life in zip(stale, lives, strict=True) if life is not None}
        return await self.lease(spec, [one for one in missing if one[0] not in queued]), list(queued)

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
        if not self.may_refresh():
            self._keeper.land(flight, value)
            return False
        self.go_background(flight)
        flight.relieve(value)
        return True

    async def lease(self, spec: Spec, asked: Sequence[tuple[Flight, Found | None, str]]) -> list[Flight]:
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
            value, _, _ = spec.codec.open(good[1])
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
            values = await within(spec, load, flights, self._tasks.spawn_load, counters)
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
