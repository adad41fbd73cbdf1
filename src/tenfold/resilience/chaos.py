"""Faults on purpose, to see whether the rest of the policy holds: errors, latency, wrong answers.

Chaos is the one part that makes things worse, so it is built to be hard to leave on:

- it does nothing unless it is enabled, by ``enabled=True`` or by ``TENFOLD_CHAOS=1`` in the environment;
- ``TENFOLD_CHAOS=0`` turns it off everywhere, whatever the code and the files say;
- it has to have a time box of 24 hours at most, and ends with it. ``for_`` counts from the start of the process;
  ``until`` is a moment, so that a process that crashes and comes back does not begin anew;
- a scope (``where``) that itself raises injects nothing.

The plan is pure: the time, the arguments and three random streams (faults, latency, outcomes), each derived from
the seed by name. Every call in scope draws from all three, so changing one share does not change which calls the
others hit, and the seed in `Injector.state` replays a run.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold._core.rng import derive
from tenfold._core.units import Duration, duration, format_duration, share, whole_number
from tenfold.resilience.errors import ChaosFault
from tenfold.resilience.fallback import NOTHING, exceptions, fresh

SWITCH: Final = "TENFOLD_CHAOS"
LONGEST: Final = 86_400.0
"""Seconds that a time box may last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """What to inject, into which calls, until when.

    ``fault`` is the share of calls (``"5%"`` or 0.05) that raise ``error``: an exception class, the name of one
    (``"TimeoutError"``) or a function without arguments that makes one; default `ChaosFault`. ``latency`` is how
    long calls are held up before they go on, and ``latency_share`` how many (default: all). ``outcome`` is what
    ``outcome_share`` of the calls (default: all) return without being made; a list, dictionary or set is copied
    for each. A fault wins over an outcome, latency comes on top of either.

    ``where(*args, **kwargs)`` picks the calls (default: all). ``seed`` makes the same choice each time (default:
    drawn). Exactly one of ``for_`` (``"10m"``, from the start; the key in a file may be ``for``) and ``until`` (a
    `datetime` with a time zone) is needed, 24 hours ahead at most. ``enabled=None`` leaves it to the environment
    variable ``TENFOLD_CHAOS`` (``1``: on). Raises `MisuseError` for what makes no sense.
    """

    fault: str | float = 0.0
    error: Any = ChaosFault
    latency: Duration = 0.0
    latency_share: str | float | None = None
    outcome: Any = NOTHING
    outcome_share: str | float | None = None
    where: Callable[..., object] | None = None
    seed: int | None = None
    for_: Duration | None = None
    until: datetime | None = None
    enabled: bool | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "fault", share(self.fault, "fault"))
        put(self, "latency", duration(self.latency, "latency"))
        if self.latency_share and not self.latency:
            raise MisuseError('latency_share: expected latency with it, such as "200ms", got none')
        if self.outcome_share and self.outcome is NOTHING:
            raise MisuseError("outcome_share: expected outcome with it, got none")
        put(self, "latency_share", _share(self.latency_share, bool(self.latency), "latency_share"))
        put(self, "outcome_share", _share(self.outcome_share, self.outcome is not NOTHING, "outcome_share"))
        put(self, "error", _maker(self.error))
        if not (self.fault or self.latency_share or self.outcome_share):
            raise MisuseError(
                'Chaos: expected fault, latency or outcome, got none of them; say fault="5%" for instance'
            )
        if self.where is not None and not callable(self.where):
            raise MisuseError(f"where: expected a function of the call's arguments, got {self.where!r}")
        if self.seed is not None:
            whole_number(self.seed, "seed")
        if self.enabled not in (None, True, False):
            raise MisuseError(f"enabled: expected true, false or nothing, got {self.enabled!r}")
        if (self.for_ is None) == (self.until is None):
            raise MisuseError('Chaos: expected exactly one of for_="10m" and until=<datetime>; it has to end by itself')
        if self.for_ is not None:
            put(self, "for_", duration(self.for_, "for_"))
            if not 0 < float(self.for_) <= LONGEST:
                raise MisuseError(f'for_: expected more than 0 and "24h" at most, got {float(self.for_):g} s')
        if self.until is not None:
            _check_until(self.until)


def _share(given: str | float | None, wanted: bool, name: str) -> float:
    return float(wanted) if given is None else share(given, name)


def _check_until(until: object) -> None:
    if not isinstance(until, datetime) or until.tzinfo is None:
        raise MisuseError(f"until: expected a date and time with a time zone, got {until!r}")
    if (until - datetime.now(UTC)).total_seconds() > LONGEST:
        raise MisuseError(f"until: expected 24 hours from now at most, got {until.isoformat()}")


def _maker(given: object) -> Callable[[], BaseException]:
    """A function that makes the error, from whatever ``error`` may be."""
    if isinstance(given, BaseException):
        raise MisuseError(
            f"error: expected an exception class or a function that makes one, got the instance {given!r}; "
            "one instance raised many times would collect their tracebacks"
        )
    if isinstance(given, str | type):
        kind = exceptions(given, "error")[0]
        return Maker(kind)
    if not callable(given):
        raise MisuseError(f"error: expected an exception class or a function that makes one, got {given!r}")
    return given


class Maker:
    """Makes errors of one class."""

    __slots__ = ("kind",)

    def __init__(self, kind: type[Exception]) -> None:
        try:
            kind("a try")
        except Exception as exc:
            raise MisuseError(
                f"error: {kind.__name__} cannot be made of a message alone ({exc}); give a function that makes one"
            ) from exc
        self.kind: Final = kind

    def __call__(self) -> BaseException:
        return self.kind("injected by Chaos")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Maker) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return self.kind.__name__


@dataclass(frozen=True, slots=True)
class ChaosStarted(Event):
    """A policy injects from now on, ``seconds`` long. ``seed`` replays it."""

    policy: str
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class ChaosEnded(Event):
    """The time box of a policy's chaos is over, or somebody stopped it."""

    policy: str
    injected: int


@dataclass(frozen=True, slots=True)
class Injection:
    """What happens to one call: wait ``delay`` seconds, then raise ``error``, return ``outcome`` or go on."""

    delay: float = 0.0
    error: BaseException | None = None
    outcome: Any = NOTHING

    @property
    def replaces(self) -> bool:
        """Whether ``outcome`` is returned instead of the call being made."""
        return self.outcome is not NOTHING


class Injector:
    """The live part of `Chaos`. Thread-safe; the time box starts when it is made."""

    __slots__ = (
        "_clock",
        "_ends",
        "_environment",
        "_hub",
        "_lock",
        "_streams",
        "delays",
        "faults",
        "options",
        "outcomes",
        "policy",
        "scope_errors",
        "seed",
        "seen",
    )

    def __init__(
        self,
        options: Chaos,
        *,
        policy: str = "",
        clock: Clock = SYSTEM_CLOCK,
        hub: Hub = EVENTS,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.policy: Final = policy
        self.seen = 0
        """Calls that came while it was on, out of scope included."""
        self.faults = 0
        self.delays = 0
        self.outcomes = 0
        self.scope_errors = 0
        """Calls left alone because ``where`` raised."""
        self._hub = hub
        self._clock = clock
        self._environment = environment
        self._lock = threading.Lock()
        self._ends = -math.inf
        self._start(options)

    def _start(self, options: Chaos) -> None:
        self.options = options
        self.seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
        self._streams = tuple(derive(self.seed, "chaos", name) for name in ("fault", "latency", "outcome"))
        switch = self._environment.get(SWITCH, "").strip()
        on = switch == "1" if options.enabled is None else options.enabled
        if switch == "0" or not on:
            return
        if options.until is not None:
            seconds = min(options.until.timestamp() - self._clock.time(), LONGEST)
        else:
            seconds = float(options.for_ or 0.0)
        if seconds > 0:
            self._ends = self._clock.monotonic() + seconds
            self._hub.emit(ChaosStarted(self.policy, seconds, self.seed))

    def reconfigure(self, options: Chaos) -> None:
        """Inject by other options, in a new time box. The same options again change nothing: reading a file anew
        does not prolong chaos.
        """
        if options == self.options:
            return
        self.stop()
        self._start(options)

    def stop(self) -> None:
        """End it now."""
        with self._lock:
            ran, self._ends = self._ends > -math.inf, -math.inf
        if ran:
            self._hub.emit(ChaosEnded(self.policy, self.faults + self.delays + self.outcomes))

    def plan(self, now: float, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Injection | None:
        """What happens to the call that starts now; None: nothing."""
        ends = self._ends
        if now >= ends:
            if ends > -math.inf:
                self.stop()
            return None
        options = self.options
        in_scope = options.where is None or self._in_scope(options.where, args, kwargs)
        with self._lock:
            self.seen += 1
            if not in_scope:
                return None
            fault, latency, outcome = (stream.random() for stream in self._streams)
            failed = fault < float(options.fault)
            delayed = latency < float(options.latency_share or 0.0)
            replaced = not failed and outcome < float(options.outcome_share or 0.0)
            self.faults += failed
            self.delays += delayed
            self.outcomes += replaced
        if not (failed or delayed or replaced):
            return None
        error = options.error() if failed else None
        if isinstance(error, ChaosFault) and not error.policy:
            error.policy = self.policy
        return Injection(
            delay=float(options.latency) if delayed else 0.0,
            error=error,
            outcome=fresh(options.outcome) if replaced else NOTHING,
        )

    def _in_scope(self, where: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        try:
            return bool(where(*args, **kwargs))
        except Exception:  # noqa: BLE001 - a broken scope must not break calls: it picks none of them
            with self._lock:
                self.scope_errors += 1
            return False

    def left(self, now: float) -> float:
        """Seconds until it ends; 0 while it is off."""
        return max(0.0, self._ends - now)

    def state(self) -> dict[str, object]:
        """Counters, the seed and the seconds left, ready for JSON."""
        left = self.left(self._clock.monotonic())
        return {
            "active": left > 0,
            "left": left,
            "seed": self.seed,
            "seen": self.seen,
            "faults": self.faults,
            "delays": self.delays,
            "outcomes": self.outcomes,
            "scope_errors": self.scope_errors,
        }

    def __repr__(self) -> str:
        on = self._ends > -math.inf
        until = self.options.until
        box = f"until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if until else f"for {format_duration(_seconds(self))}"
        injected = f"faults={self.faults} delays={self.delays} outcomes={self.outcomes} of {self.seen}"
        return f"<Injector {self.policy!r} {'on ' + box if on else 'off'} seed={self.seed} {injected}>"


def _seconds(injector: Injector) -> float:
    return float(injector.options.for_ or 0.0)
