"""`SharedMeter`: one rate limit for all processes, kept in a Valkey.

A call is decided in this order, the first three without asking anybody: the process's lease pays for it; a refusal
of the store still holds; the store is known to be down; the store decides, in one round trip.

*Bounds.* The store debits a lease when it is taken, the process spends it later. So in a window of t seconds at most
``burst + rate * t`` cells are admitted, and on top of that what was held when the window began: ``lease`` for each
process. What a process holds and does not use is missing to the others for ``lease_time`` at most.

*Failure.* The first time-out or broken connection marks the store as down for ``store_pause``; then one call tries
it again while the others still do without. So a frozen store costs one time-out a pause, not one a call. Leases go
on being served.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.gcra import Meter
from tenfold.resilience.leases import Leases
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.ratelimit_link import AsyncLink, Question, StoreDown, SyncLink
from tenfold.resilience.ratelimit_script import record_name


@dataclass(frozen=True, slots=True)
class RateStoreDown(Event):
    """The store of a shared rate limit does not answer; ``on_store_error`` decides from now on."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class RateStoreUp(Event):
    """The store of a shared rate limit answers again."""

    policy: str


class SharedMeter:
    """A `RateLimit` with a store at work. Thread-safe; serves several event loops, each over its own connection.

    Raises `MisuseError` without a name, and where the redis package is missing.
    """

    local: Final = False
    """`admit` may wait for the network: asynchronous code calls `admit_async`."""

    def __init__(self, options: RateLimit, *, name: str = "", hub: Hub = EVENTS) -> None:
        self._lock = threading.Lock()
        self._policy = name
        self._hub = hub
        self._async: dict[asyncio.AbstractEventLoop, AsyncLink] = {}
        self._leases = Leases(options.lease, float(options.lease_time), options.max_keys)
        self._down = False
        self._down_until = -math.inf
        self._own: Meter | None = None
        self.admitted = self.leased = self.refused = self.unmetered = self.asked = self.failures = 0
        self._take(options)

    def _take(self, options: RateLimit) -> None:
        if options.store is None:
            raise MisuseError("shared rate limit: expected options with a store; without one use a Meter")
        self._name = options.name or self._policy
        if not self._name:
            raise MisuseError(
                "rate limit: store= needs a name, by which all processes find the same limit; "
                "give the policy one or say name="
            )
        self._sync = SyncLink(options.store, float(options.store_timeout))
        self._options = options
        self._store = options.store
        self._rate, self._burst = options.cells_a_second, float(options.cells)
        self._message = f"the shared rate of {self._rate:g}/s (burst {self._burst:g}) is used up"

    # -- calls

    def admit(self, now: float, key: Hashable = None, cost: float = 1) -> None:
        """Count a call of ``cost`` cells, or raise `RateLimited`. Waits at most ``store_timeout`` for the store.

        Raises `MisuseError` for a cost that can never be admitted and for a key that other processes cannot know.
        """
        wanted = self._at_once(now, key, cost)
        if not wanted:
            return
        try:
            answer = self._sync.ask(self._question(key, cost, wanted))
        except StoreDown as error:
            self._failed(now, key, wanted, str(error))
            self._without(now, key, cost)
        except BaseException:
            with self._lock:
                self._leases.fail(key, wanted)
            raise
        else:
            self._answered(now, key, cost, wanted, answer)

    async def admit_async(self, now: float, key: Hashable = None, cost: float = 1) -> None:
        """`admit` for asynchronous code: the event loop is never blocked."""
        wanted = self._at_once(now, key, cost)
        if not wanted:
            return
        try:
            answer = await self._link().ask(self._question(key, cost, wanted))
        except StoreDown as error:
            self._failed(now, key, wanted, str(error))
            self._without(now, key, cost)
        except BaseException:
            with self._lock:
                self._leases.fail(key, wanted)
            raise
        else:
            self._answered(now, key, cost, wanted, answer)

    def _at_once(self, now: float, key: Hashable, cost: float) -> float:
        """0: admitted. Otherwise how many cells to ask the store for. Raises `RateLimited`."""
        lock = self._lock
        lock.acquire()
        try:
            if not 0 < cost <= self._burst:
                raise self._misuse(cost)
            if self._leases.spend(now, key, cost):
                self.admitted += 1
                self.leased += 1
                return 0
            wait = self._leases.refused(now, key, cost)
            if wait > 0:
                self.refused += 1
            elif now >= self._down_until:
                if self._down:
                    self._down_until = now + float(self._options.store_pause)  # this call tries, the others wait
                self.asked += 1
                return self._leases.want(now, key, cost)
        finally:
            lock.release()
        if wait > 0:
            raise RateLimited(self._message, policy=self._policy, retry_after=wait)
        self._without(now, key, cost)
        return 0

    def _misuse(self, cost: float) -> MisuseError:
        return MisuseError(
            f"rate limit: expected a cost above 0 and up to the burst of {self._burst:g}, got {cost!r}; "
            "raise burst= or split the call"
        )

    def _answered(self, now: float, key: Hashable, cost: float, wanted: float, answer: list[int]) -> None:
        granted, extra, wait, taken_at = answer
        with self._lock:
            back, self._down = self._down, False
            self._down_until = -math.inf
            if granted:
                self._leases.grant(now, key, wanted, cost, cost + extra, taken_at)
                self.admitted += 1
            else:
                self._leases.refuse(now, key, wanted, cost, wait / 1e6)
                self.refused += 1
        if back:
            self._hub.emit(RateStoreUp(self._policy))
        if not granted:
            raise RateLimited(self._message, policy=self._policy, retry_after=wait / 1e6)

    def _failed(self, now: float, key: Hashable, wanted: float, why: str) -> None:
        options = self._options
        with self._lock:
            self._leases.fail(key, wanted)
            self.failures += 1
            news, self._down = not self._down, True
            self._down_until = now + float(options.store_timeout) + float(options.store_pause)
        if news:
            self._hub.emit(RateStoreDown(self._policy, why))

    def _without(self, now: float, key: Hashable, cost: float) -> None:
        """The store is down: do as ``on_store_error`` says."""
        options = self._options
        if options.on_store_error == "open":
            with self._lock:
                self.unmetered += 1
        elif options.on_store_error == "closed":
            with self._lock:
                self.refused += 1
            wait = max(self._down_until - now, 0.0)
            raise RateLimited("the store of the rate limit does not answer", policy=self._policy, retry_after=wait)
        else:
            own = self._own_meter()
            if cost > own.burst:
                with self._lock:
                    self.refused += 1
                raise RateLimited("the call costs more than this process's share", policy=self._policy)
            own.admit(now, key, cost)

    def _own_meter(self) -> Meter:
        with self._lock:
            if self._own is None:
                self._own = Meter(_share_of(self._options), name=self._policy)
            return self._own

    # -- the store

    def _question(self, key: Hashable, need: float, wanted: float) -> Question:
        return record_name(self._name, key), (
            repr(self._rate),
            repr(self._burst),
            repr(float(need)),
            repr(float(wanted)),
        )

    def _link(self) -> AsyncLink:
        loop = asyncio.get_running_loop()
        link = self._async.get(loop)
        if link is None:
            with self._lock:
                for old in [each for each in self._async if each.is_closed()]:
                    del self._async[old]
                link = self._async[loop] = AsyncLink(self._store, float(self._options.store_timeout))
        return link

    # -- for its owner

    @property
    def options(self) -> RateLimit:
        """The options in force."""
        return self._options

    def close(self) -> None:
        """Give unused leases back and close the connections of threads. It may be used again afterwards."""
        with self._lock:
            held = [] if self._down else list(self._leases.surrender(-math.inf))
        try:
            for key, cells, taken_at in held:
                self._sync.ask(self._question(key, -cells, taken_at))
        except StoreDown:
            pass  # they end by themselves
        self._sync.close()

    async def aclose(self) -> None:
        """`close`, and the connection of this event loop too."""
        with self._lock:
            held = [] if self._down else list(self._leases.surrender(-math.inf))
        link = self._link()
        try:
            if held:
                await asyncio.gather(
                    *(link.ask(self._question(key, -cells, taken_at)) for key, cells, taken_at in held)
                )
        except StoreDown:
            pass  # they end by themselves
        await link.aclose()
        self._async.pop(asyncio.get_running_loop(), None)
        self._sync.close()

    def reconfigure(self, options: RateLimit, now: float) -> None:
        """Go on with other options. What has been used stays used, unless ``store`` or ``name`` are others."""
        with self._lock:
            before = self._options
            old_links, old_sync = list(self._async.values()), self._sync
            self._take(options)
            self._leases.resize(options.lease, float(options.lease_time), options.max_keys)
            if (options.store, options.store_timeout) == (before.store, before.store_timeout):
                old_links = []
            else:
                self._async = {}
                self._down, self._down_until = False, -math.inf
            if (options.store, options.name) != (before.store, before.name):
                list(self._leases.surrender(math.inf))
            if options.on_store_error == "local" and self._own is not None:
                self._own.reconfigure(_share_of(options), now)
        for link in old_links:
            link.abandon()
        old_sync.close()

    def state(self) -> dict[str, object]:
        """Options in force, counters, and whether the store is up."""
        return {
            "rate": self._rate,
            "burst": self._burst,
            "store_up": not self._down,
            "held": self._leases.held,
            "admitted": self.admitted,
            "leased": self.leased,
            "refused": self.refused,
            "unmetered": self.unmetered,
            "asked": self.asked,
            "failures": self.failures,
            "forfeited": self._leases.forfeited,
            "local": None if self._own is None else self._own.state(),
        }

    def __repr__(self) -> str:
        state = "down" if self._down else "up"
        counts = f"admitted={self.admitted} refused={self.refused} unmetered={self.unmetered}"
        return f"<SharedMeter {self._name!r} {self._rate:g}/s burst={self._burst:g} store {state} {counts}>"


def _share_of(options: RateLimit) -> RateLimit:
    part = float(options.local_share or 1.0)
    burst = max(1, math.floor(options.cells * part))
    return RateLimit(options.cells_a_second * part, burst=burst, max_keys=options.max_keys)
