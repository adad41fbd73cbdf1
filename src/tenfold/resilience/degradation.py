"""The live `Degradation`: the level, what holds it, and one dictionary with the answers."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, duration
from tenfold.resilience.degrade import Degrade, LevelChanged


@dataclass(frozen=True, slots=True)
class Pin:
    """A level held by hand until ``until`` (monotonic seconds)."""

    level: int
    until: float
    who: str


class Degradation:
    """The level at which a service works at present, 0 (normal) to 4 (emergency), and the switches that follow
    it.

    ::

        degradation = Degradation()
        degradation.switch("recommendations", until_level=1)    # once, at start
        …
        if degradation["recommendations"]:                      # one look-up in a dictionary
            …

    `observe` feeds it with a pressure; `ResilienceMiddleware` does so when it has a shedder. `pin` holds a
    level by hand, in either direction, and always for a limited time: a pin that is forgotten must not outlive
    the incident. Under a pin the automatic level is followed further, and counts again when the pin ends.
    Thread-safe.
    """

    __slots__ = (
        "_automatic",
        "_clock",
        "_hub",
        "_lock",
        "_observed",
        "_pin",
        "_since",
        "_table",
        "_until_level",
        "history",
        "level",
        "name",
        "options",
        "pressure",
    )

    def __init__(
        self, options: Degrade | None = None, *, name: str = "", hub: Hub = EVENTS, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if options is not None and not isinstance(options, Degrade):
            raise MisuseError(f"Degradation: expected Degrade options such as Degrade(dwell='30s'), got {options!r}")
        self.options = options or Degrade()
        self.name: Final = name
        self.level = 0
        """The level in force."""
        self.pressure = 0.0
        """The pressure last observed, smoothed."""
        self.history: deque[LevelChanged] = deque(maxlen=self.options.history)
        """The audit trail, the newest last."""
        self._hub = hub
        self._clock = clock
        self._lock = threading.Lock()
        self._automatic = 0
        self._since = float("-inf")  # when the automatic level was entered
        self._observed = float("-inf")
        self._pin: Pin | None = None
        self._until_level: dict[str, int] = {}
        self._table: dict[str, bool] = {}
        self._switch_on_and_off(self.options)

    # Reading

    def on(self, name: str) -> bool:
        """Whether that switch is on at the present level. Raises `MisuseError` for one that was not declared."""
        try:
            return self._table[name]
        except KeyError:
            raise MisuseError(
                f"degradation switch: expected one of {sorted(self._table)}, got {name!r}; "
                f"declare it once with degradation.switch({name!r}, until_level=…)"
            ) from None

    __getitem__ = on

    @property
    def level_name(self) -> str:
        """The name of the level in force."""
        return self.options.names[self.level]

    # Declaring

    def switch(self, name: str, *, until_level: int | str) -> None:
        """Declare a switch that is on up to and including ``until_level``.

        Raises `MisuseError` for a level there is not, and when the name was declared with another one.
        """
        level = self.options.level_of(until_level, f"switch {name!r}")
        with self._lock:
            if self._until_level.get(name, level) != level:
                raise MisuseError(
                    f"switch {name!r}: expected one declaration, got a second one with another level "
                    f"({self._until_level[name]} and {level}); declare it in one place"
                )
            self._until_level[name] = level
            self._table = {**self._table, name: self.level <= level}

    # Moving

    def observe(self, signal: float, now: float) -> int:
        """Take in one pressure (0: idle, 1: full, more: overload); the level in force afterwards.

        May be called as often as wanted, from any thread. Raises `MisuseError` for what is not finite.
        """
        if not math.isfinite(signal):
            raise MisuseError(f"observe: expected a finite pressure, got {signal!r}")
        with self._lock:
            changes = self._end_of_pin(now)
            before = self.level
            self._silence(now)
            self._smooth(signal, now)
            self._follow(now)
            changes += self._settle(before, "pressure", f"pressure {self.pressure:.3g}")
        self._announce(changes)
        return self.level

    def tick(self, now: float) -> int:
        """Let time pass without a pressure, for one that is only pinned by hand; the level in force."""
        if self._pin is not None:
            with self._lock:
                changes = self._end_of_pin(now)
            self._announce(changes)
        return self.level

    def pin(self, level: int | str, expires: Duration, *, who: str, why: str, now: float | None = None) -> None:
        """Hold a level for ``expires``, whatever the pressure. ``who`` and ``why`` go into the audit trail.

        The end takes effect at the next `observe` or `tick`. Raises `MisuseError` for a level there is not and
        for an end that is not above zero.
        """
        number = self.options.level_of(level, "pin")
        seconds = duration(expires, "pin expires")
        if seconds == 0:
            raise MisuseError('pin expires: expected a duration above zero such as "15m", got 0; use unpin to end one')
        moment = self._clock.monotonic() if now is None else now
        with self._lock:
            before = self.level
            self._pin = Pin(number, moment + seconds, who)
            changes = self._settle(before, who, f"pinned for {seconds:g} s: {why}", always=True)
        self._announce(changes)

    def unpin(self, *, who: str, why: str) -> None:
        """End a pin before its time. Harmless without one."""
        changes: list[LevelChanged] = []
        with self._lock:
            if self._pin is not None:
                before, self._pin = self.level, None
                changes = self._settle(before, who, f"unpinned: {why}", always=True)
        self._announce(changes)

    def reconfigure(self, options: Degrade) -> None:
        """Other thresholds and times from now on. Level, pin, trail and the declared switches stay."""
        with self._lock:
            highest = len(options.names) - 1
            before = self.level
            if options.history != self.options.history:
                self.history = deque(self.history, maxlen=options.history)
            self._automatic = min(self._automatic, highest)
            if self._pin is not None and self._pin.level > highest:
                self._pin = Pin(highest, self._pin.until, self._pin.who)
            changes = self._settle(before, "configuration", "fewer levels")
            self.options = options  # not before the level fits them
            self._switch_on_and_off(options)
        self._announce(changes)

    def state(self) -> dict[str, object]:
        """Level, pin, switches and trail as plain values."""
        with self._lock:
            pin = self._pin
            return {
                "name": self.name,
                "level": self.level,
                "level_name": self.level_name,
                "automatic": self._automatic,
                "pressure": self.pressure,
                "pin": None if pin is None else {"level": pin.level, "until": pin.until, "who": pin.who},
                "switches": dict(self._table),
                "history": [
                    {"at": c.at, "who": c.who, "before": c.before, "after": c.after, "why": c.why} for c in self.history
                ],
            }

    def __repr__(self) -> str:
        pin = "" if self._pin is None else f" pinned by {self._pin.who}"
        off = ", ".join(name for name, on in self._table.items() if not on)
        return f"<Degradation {self.name!r} level={self.level} ({self.level_name}){pin} off=[{off}]>"

    # How; all under the lock but the last

    def _silence(self, now: float) -> None:
        dwell = float(self.options.dwell)
        gap = now - self._observed
        if self._automatic and dwell and gap > dwell:
            self._automatic = max(0, self._automatic - int(gap / dwell))
            self._since = now
        if gap > dwell:
            self.pressure = 0.0

    def _smooth(self, signal: float, now: float) -> None:
        half_life = float(self.options.smooth)
        passed = min(max(0.0, now - self._observed), half_life)
        keep = 0.5 ** (passed / half_life) if half_life else 0.0
        self.pressure = signal + (self.pressure - signal) * keep
        self._observed = max(self._observed, now)

    def _follow(self, now: float) -> None:
        level, options = self._automatic, self.options
        if level < len(options.up) and self.pressure >= options.up[level]:
            if now - self._since >= float(options.step):
                self._automatic, self._since = level + 1, now
        elif level and self.pressure < options.down[level - 1] and now - self._since >= float(options.dwell):
            self._automatic, self._since = level - 1, now

    def _end_of_pin(self, now: float) -> list[LevelChanged]:
        if self._pin is None or now < self._pin.until:
            return []
        before, who = self.level, self._pin.who
        self._pin = None
        return self._settle(before, who, "the pin has expired", always=True)

    def _settle(self, before: int, who: str, why: str, *, always: bool = False) -> list[LevelChanged]:
        after = self._pin.level if self._pin is not None else self._automatic
        if after != before:
            self.level = after
            self._table = {name: after <= until for name, until in self._until_level.items()}
        elif not always:
            return []
        change = LevelChanged(self.name, self._clock.time(), who, before, after, why)
        self.history.append(change)
        return [change]

    def _switch_on_and_off(self, options: Degrade) -> None:
        for name, until in options.switches.items():
            self._until_level[name] = options.level_of(until, name)
        self._table = {name: self.level <= until for name, until in self._until_level.items()}

    def _announce(self, changes: list[LevelChanged]) -> None:
        for change in changes:
            self._hub.emit(change)
