"""Hedged calls: when the first attempt is slower than most, a second one races it and the first success wins.

Theory. The slow tail of a service is mostly bad luck with one request (a queue, a pause, a lost packet), not a
property of the question, so asking again is likely to be fast (Dean and Barroso, "The tail at scale", CACM 2013).
Waiting for the p-quantile before asking again bounds the extra work to the share 1 − p, and the retry budget
bounds it once more when *everything* has become slow: hedges must not be what finishes an overloaded service off.

The delay is the quantile of the first attempts, and only of those: a hedge is sent when the service is slow, so
its latency is no fair sample. A first attempt that loses is cancelled and its latency never known, but it was at
least the time it had run, which is above the delay. Counting it with that time keeps every rank up to the delay
right (the estimate is one of a right-censored sample). Counting winners alone would pull the quantile down with
each hedge until everything is hedged.

Latencies go into two log-linear histograms that take turns, so that the quantile is over the last half to whole
``window`` and memory is bounded. Nothing is hedged before ``min_samples`` have been seen in it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold._core.histogram import Histogram
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, format_duration, share, whole_number

T = TypeVar("T")

_GRACE: Final = 1.0
"""Seconds that a cancelled loser gets to clean up before the winner's answer is returned without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """When to race a slow call with another one. Only for calls that may safely be made twice.

    ``delay`` is how long the first attempt may take before a second is started. By default it is observed: the
    ``quantile`` (95 %) of recent successful attempts over ``window`` (1 min), between ``min_delay`` (1 ms) and
    ``max_delay`` (10 s), and nothing is hedged before ``min_samples`` (100) of them. ``max_hedges`` (1, at most 5)
    is how many further attempts a call may have, each ``delay`` after the one before.

    Durations are seconds or strings such as ``"50ms"``. Raises `MisuseError` for what makes no sense.
    """

    delay: Duration | None = field(default=None, kw_only=False)
    quantile: str | float = 0.95
    min_delay: Duration = 0.001
    max_delay: Duration = 10.0
    max_hedges: int = 1
    window: Duration = 60.0
    min_samples: int = 100

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.delay is not None:
            put(self, "delay", duration(self.delay, "delay"))
        for name in ("min_delay", "max_delay", "window"):
            put(self, name, duration(getattr(self, name), name))
        put(self, "quantile", share(self.quantile, "quantile"))
        whole_number(self.max_hedges, "max_hedges", least=1)
        whole_number(self.min_samples, "min_samples", least=1)
        if self.max_hedges > 5:
            raise MisuseError(
                f"max_hedges: expected 1 … 5, got {self.max_hedges}; what five do not answer, six will not either"
            )
        if not 0.5 <= float(self.quantile) < 1:
            raise MisuseError(
                f'quantile: expected 0.5 or more and less than 1, such as "95%", got {self.quantile!r}; '
                "1 − quantile is the share of calls that are made twice"
            )
        if float(self.min_delay) > float(self.max_delay):
            raise MisuseError(f"min_delay: expected max_delay ({self.max_delay:g} s) or less, got {self.min_delay:g} s")
        if not self.window:
            raise MisuseError('window: expected a duration longer than zero, such as "1m", got 0')


@dataclass(frozen=True, slots=True)
class Hedged(Event):
    """A call was slow and another attempt was started. ``delay`` is how long it had been waited for, in seconds;
    ``hedge`` counts from 1.
    """

    policy: str
    delay: float
    hedge: int


class Payer(Protocol):
    """What pays for hedges: the retry budget."""

    def reserve(self, now: float) -> Any: ...

    def confirm(self, reservation: Any, now: float) -> bool: ...


class Latencies:
    """A quantile over the last half to whole ``window`` seconds. Pure, and under its owner's lock."""

    __slots__ = ("_cached", "_due", "_new", "_old", "_since", "_span", "quantile")

    def __init__(self, window: float, quantile: float) -> None:
        self.quantile = quantile
        self._span = window / 2
        self._new = Histogram()
        self._old = Histogram()
        self._since: float | None = None
        self._cached = 0.0
        self._due = 0  # the number of samples from which the cached quantile is too old

    def record(self, now: float, seconds: float) -> None:
        """Count one latency."""
        self._turn(now)
        self._new.record(max(0, round(seconds * 1e6)))

    def count(self, now: float) -> int:
        """Samples in the window."""
        self._turn(now)
        return len(self._new) + len(self._old)

    def value(self, now: float) -> float:
        """The quantile in seconds, of a sixteenth fewer samples at worst; NaN without any."""
        count = self.count(now)
        if count >= self._due:
            merged = self._old.copy().merge(self._new)
            self._cached = merged.quantile(self.quantile) / 1e6
            self._due = count + 1 + count // 16
        return self._cached

    def resize(self, window: float, quantile: float) -> None:
        """Go on with another window and quantile and the samples there are."""
        self._span, self.quantile, self._due = window / 2, quantile, 0

    def _turn(self, now: float) -> None:
        since = self._since
        if since is None:
            self._since = now
        elif now - since >= self._span:
            late = now - since >= 2 * self._span
            self._old = Histogram() if late else self._new
            self._new = Histogram()
            self._since = now if late else since + self._span
            self._due = 0


class Hedger:
    """The live part of `Hedge`: knows how slow the calls of one policy are, and races them.

    ``budget`` pays for the hedges (None: nobody does). Thread-safe, for several event loops.
    """

    __slots__ = (
        "_budget",
        "_hub",
        "_latencies",
        "_lock",
        "_monotonic",
        "_stuck",
        "calls",
        "denied",
        "hedges",
        "options",
        "policy",
        "stuck",
        "won",
    )

    def __init__(
        self,
        options: Hedge,
        budget: Payer | None = None,
        *,
        policy: str = "",
        clock: Clock = SYSTEM_CLOCK,
        hub: Hub = EVENTS,
    ) -> None:
        self.options = options
        self.policy: Final = policy
        self.calls = 0
        self.hedges = 0
        """Further attempts started."""
        self.won = 0
        """Calls that a hedge answered."""
        self.denied = 0
        """Hedges that the budget did not pay for."""
        self.stuck = 0
        """Losers that went on for a second after they were cancelled."""
        self._budget = budget
        self._monotonic = clock.monotonic
        self._hub = hub
        self._lock = threading.Lock()
        self._latencies = Latencies(float(options.window), float(options.quantile))
        self._stuck: set[asyncio.Task[Any]] = set()  # held until they end, so that none is lost from sight

    def reconfigure(self, options: Hedge) -> None:
        """Go by other options; the latencies seen and the counters stay."""
        with self._lock:
            self.options = options
            self._latencies.resize(float(options.window), float(options.quantile))

    def delay(self, now: float) -> float | None:
        """How long a call that starts now may take before it is hedged, in seconds; None: it will not be."""
        options = self.options
        if options.delay is not None:
            return float(options.delay)
        with self._lock:
            if self._latencies.count(now) < options.min_samples:
                return None
            observed = self._latencies.value(now)
        return min(max(observed, float(options.min_delay)), float(options.max_delay))

    def observe(self, now: float, seconds: float) -> None:
        """A first attempt has succeeded after ``seconds``, or lost after so long."""
        with self._lock:
            self._latencies.record(now, seconds)

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await ``attempt()``, and further ones when it is slow; the first success.

        An error waits for the attempts that still run; when all have failed, the one of the attempt that was
        started first is raised, with a note for each other. Losers are cancelled and awaited, and so are all when
        the caller is cancelled. Where a hedge is possible the attempts run as tasks of their own, so that context
        variables they set stay in them.
        """
        began = self._monotonic()
        with self._lock:
            self.calls += 1
        delay = self.delay(began)
        if delay is not None:
            return await self._race(attempt, began, delay)
        value = await attempt()
        now = self._monotonic()
        self.observe(now, now - began)
        return value

    async def _race(self, attempt: Callable[[], Awaitable[T]], began: float, delay: float) -> T:
        create = asyncio.get_running_loop().create_task
        name = self.policy or "policy"
        tasks = [create(_run(attempt), name=f"{name}/attempt")]
        waiting, done = {tasks[0]}, set[asyncio.Task[T]]()
        left = self.options.max_hedges
        errors: dict[int, BaseException] = {}
        error: BaseException | None = None
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=delay if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                for number, task in enumerate(tasks):
                    if task not in done:
                        continue
                    error = _error(task)
                    if error is None:
                        self._won(number, began, first_failed=0 in errors)
                        return task.result()
                    if not isinstance(error, Exception | asyncio.CancelledError):
                        raise error
                    errors[number] = error
                if not done:
                    if self._may_hedge(len(tasks), delay):
                        left -= 1
                        tasks.append(create(_run(attempt), name=f"{name}/hedge-{len(tasks)}"))
                        waiting.add(tasks[-1])
                    else:
                        left = 0
            raise _first(errors)
        finally:
            try:
                await self._settle(tasks)
            finally:  # a traceback refers to this frame, and this frame must not refer back
                error = None
                for held in (errors, tasks, done, waiting):
                    held.clear()

    def _may_hedge(self, hedge: int, delay: float) -> bool:
        budget = self._budget
        if budget is not None:
            now = self._monotonic()
            reservation = budget.reserve(now)
            if reservation is None or not budget.confirm(reservation, now):
                with self._lock:
                    self.denied += 1
                return False
        with self._lock:
            self.hedges += 1
        if self._hub.wants(Hedged):
            self._hub.emit(Hedged(self.policy, delay, hedge))
        return True

    def _won(self, number: int, began: float, *, first_failed: bool) -> None:
        now = self._monotonic()
        with self._lock:
            if number:
                self.won += 1
            if not first_failed:
                self._latencies.record(now, now - began)

    async def _settle(self, tasks: list[asyncio.Task[T]]) -> None:
        """Cancel what still runs and wait for it. Nothing of what it raises is of interest any more."""
        losers = [task for task in tasks if not task.done()]
        for task in losers:
            task.cancel()
        try:
            if losers:
                await shielded(_wait(losers))
        finally:
            for task in tasks:
                if task.done():
                    _error(task)
                    continue
                with self._lock:
                    self.stuck += 1
                    self._stuck.add(task)
                task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        _error(task)
        with self._lock:
            self._stuck.discard(task)

    def state(self) -> dict[str, object]:
        """Counters, and the delay as of now in seconds (None: not hedging), ready for JSON."""
        now = self._monotonic()
        delay = self.delay(now)
        with self._lock:
            return {
                "calls": self.calls,
                "hedges": self.hedges,
                "won": self.won,
                "denied": self.denied,
                "stuck": self.stuck,
                "samples": self._latencies.count(now),
                "delay": delay,
            }

    def __repr__(self) -> str:
        delay = self.delay(self._monotonic())
        after = "waiting for samples" if delay is None else f"after {format_duration(delay)}"
        return f"<Hedger {self.policy!r} {after} hedges={self.hedges}/{self.calls} won={self.won} denied={self.denied}>"


async def _run(attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()


async def _wait(losers: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.wait(losers, timeout=_GRACE)


def _error(task: asyncio.Task[Any]) -> BaseException | None:
    """How a task that is done failed; asking also tells asyncio that somebody has seen the exception."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _first(errors: dict[int, BaseException]) -> BaseException:
    """The error of the attempt started first, with a note for each other."""
    error, *others = (errors[number] for number in sorted(errors))
    for number, other in enumerate(others, start=1):
        note = f"hedge {number} failed as well: {type(other).__name__}: {other}"
        if other is not error and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return error
