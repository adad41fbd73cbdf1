"""The asyncio shell of `shed`: it wakes who got a place and lets nobody wait beyond his time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold.resilience.errors import DeadlineTooShort, Overloaded, Rejected
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.shed import Line, Shed, Waiter
from tenfold.resilience.wire import PRIORITY, Priority

_CALM: Final = 1.0  # seconds without a refusal after which shedding counts as over


@dataclass(frozen=True, slots=True)
class SheddingStarted(Event):
    """The first caller is turned away after a calm time. ``reason``: full, evicted, age or deadline."""

    name: str
    running: int
    waiting: int
    reason: str


@dataclass(frozen=True, slots=True)
class SheddingEnded(Event):
    """Nobody has been turned away for a second; ``shed`` were, in ``seconds``. Said at the next arrival."""

    name: str
    shed: int
    seconds: float


class Shedder:
    """Turns callers away when a service has more than it can do: the newest and most important go first, and
    nobody waits longer than makes sense.

    How this differs from a rate limit: a rate limit is a *promise about a client*, so many calls a second
    whatever the service is doing, and it needs a number that somebody chose. A shedder asks *how the service
    is* at this moment: it turns nobody away while there are places, and when there are none it does not matter
    whose they are, but how important the call is and whether its caller still waits. A rate limit without a
    shedder lets a slow day through at the permitted rate; a shedder without a rate limit lets one client take
    all the places. Use both, the rate limit first.

    ::

        shedder = Shedder(Shed(limit=50, queue=100))
        async with shedder.place():                     # raises Overloaded (with retry_after) or DeadlineTooShort
            ...

    The priority comes from `PRIORITY` and the deadline from `SCOPE` unless they are given. For one event loop
    at a time: a place asked for in a second loop while the first has callers here raises `MisuseError`.
    """

    __slots__ = ("_clock", "_hub", "_last_shed", "_line", "_loop", "_shed_now", "_shedding_since", "name")

    def __init__(
        self, options: Shed | None = None, *, name: str = "", hub: Hub = EVENTS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if options is not None and not isinstance(options, Shed):
            raise MisuseError(f"Shedder: expected Shed options such as Shed(limit=50), got {options!r}")
        self.name: Final = name
        self._hub = hub
        self._clock = clock
        self._line = Line(options or Shed())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shedding_since: float | None = None
        self._last_shed = 0.0
        self._shed_now = 0

    @property
    def options(self) -> Shed:
        """The options in force."""
        return self._line.options

    # Taking and giving up a place

    @asynccontextmanager
    async def place(self, priority: Priority | None = None, until: float | None = None) -> AsyncIterator[Waiter]:
        """Hold a place for the block, after waiting for one where that is worth while.

        Raises `Overloaded` when there is none to be had, with ``retry_after``, and `DeadlineTooShort` when the
        caller's deadline passes first.
        """
        waiter = self.ask(priority, until)
        await self.granted(waiter)
        try:
            yield waiter
        finally:
            self.leave(waiter)

    def ask(self, priority: Priority | None = None, until: float | None = None) -> Waiter:
        """Ask for a place without waiting: the waiter runs, or has to be awaited with `granted`.

        Whoever asks must call `leave` in the end, in every case. Raises as `place` does.
        """
        loop = self._own_loop()
        now = self._clock.monotonic()
        line = self._line
        waiter, evicted = line.arrive(
            now, PRIORITY.get() if priority is None else priority, SCOPE.get()[0] if until is None else until
        )
        if evicted is not None:
            self._tell(evicted, now)
        if waiter.state == "shed":
            self._note(waiter, now)
            raise self._refusal(waiter, now)
        if waiter.state == "waiting":
            waiter.future = loop.create_future()
            waiter.timer = loop.call_later(max(0.0, waiter.until - now), self._expire, waiter)
        elif self._shedding_since is not None and now - self._last_shed >= _CALM:
            self._ended()
        return waiter

    async def granted(self, waiter: Waiter) -> None:
        """Wait until the place is there. Whoever is cancelled gives it up, or the place he had just got."""
        if waiter.future is not None:
            try:
                await waiter.future
            except BaseException:
                self.leave(waiter)
                raise
        if waiter.state == "shed":
            raise self._refusal(waiter, self._clock.monotonic())

    def leave(self, waiter: Waiter) -> None:
        """Give up the place, or the wait for it. Harmless the second time."""
        if waiter.timer is not None:
            waiter.timer.cancel()
        now = self._clock.monotonic()
        for changed in waiter.line.leave(waiter, now):
            self._tell(changed, now)

    # Looking and setting

    def pressure(self, now: float) -> float:
        """How hard it is pressed, for `Degradation.observe`: the share of places taken plus the share of
        callers turned away in the last two seconds. 0 is idle, 1 is full, above 1 is overload.
        """
        return self._line.pressure(now)

    def reconfigure(self, options: Shed) -> None:
        """Other bounds from now on; those who run and wait stay, but for whom a shorter queue has no room.

        Call it in the shedder's own loop.
        """
        now = self._clock.monotonic()
        for changed in self._line.reconfigure(options, now):
            self._tell(changed, now)

    def state(self) -> dict[str, object]:
        """Places, queue and counters as plain values."""
        line = self._line
        return {
            "name": self.name,
            "limit": line.options.limit,
            "running": line.running,
            "queue": line.options.queue,
            "waiting": line.waiting,
            "shedding": self._shedding_since is not None,
            "admitted": {each.label: line.admitted[each] for each in Priority},
            "queued": line.queued,
            "gone": line.gone,
            "shed": {reason: {each.label: counts[each] for each in Priority} for reason, counts in line.shed.items()},
        }

    def __repr__(self) -> str:
        line = self._line
        return (
            f"<Shedder {self.name!r} running={line.running}/{line.options.limit} "
            f"waiting={line.waiting}/{line.options.queue} shed={line.turned_away}"
            f"{' shedding' if self._shedding_since is not None else ''}>"
        )

    # How

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            line = self._line
            if self._loop is not None and (line.running or line.waiting):
                if not self._loop.is_closed():
                    raise MisuseError(
                        f"{self!r}: expected one event loop, got a second one while the first has callers here; "
                        "make one Shedder for each loop"
                    )
                # Who was left behind in a closed loop can never leave; their waiters keep the old line.
                self._line = line.successor()
            self._loop = loop
        return loop

    def _tell(self, waiter: Waiter, now: float) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
        if waiter.future is not None and not waiter.future.done():
            waiter.future.set_result(None)
        if waiter.state == "shed":
            self._note(waiter, now)

    def _expire(self, waiter: Waiter) -> None:
        now = self._clock.monotonic()
        if waiter.line.expire(waiter, now):
            self._tell(waiter, now)

    def _refusal(self, waiter: Waiter, now: float) -> Rejected:
        line = waiter.line
        what = f"shedder {self.name!r}" if self.name else "shedder"
        if waiter.reason == "deadline":
            return DeadlineTooShort(f"{what}: the deadline passed before there was a place", policy=self.name)
        why = {
            "full": f"all {line.options.limit} places are taken and {line.waiting} wait",
            "evicted": "callers of a higher priority or newer ones took its place in the queue",
            "age": f"no place became free within {waiter.until - waiter.since:.3g} s",
        }[waiter.reason]
        return Overloaded(
            f"{what}: {why} (priority {waiter.priority.label})",
            policy=self.name,
            retry_after=line.retry_after(now),
        )

    def _note(self, waiter: Waiter, now: float) -> None:
        """Somebody was turned away."""
        if waiter.reason == "deadline" and waiter.since == now:
            return  # came too late by himself
        if self._shedding_since is not None and now - self._last_shed >= _CALM:
            self._ended()
        self._last_shed = now
        self._shed_now += 1
        if self._shedding_since is None:
            self._shedding_since = now
            self._hub.emit(SheddingStarted(self.name, self._line.running, self._line.waiting, waiter.reason))

    def _ended(self) -> None:
        since, self._shedding_since = self._shedding_since, None
        shed, self._shed_now = self._shed_now, 0
        if since is not None:
            self._hub.emit(SheddingEnded(self.name, shed, self._last_shed - since))
