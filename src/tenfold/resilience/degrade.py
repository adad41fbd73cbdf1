"""Doing less on purpose: named levels that follow a pressure, and switches that follow the level.

Theory. A feature that is switched off under load frees capacity, which lowers the load, which would switch it on
again: a thermostat without *hysteresis* flaps. So each level has two thresholds, ``up[n]`` to enter level n + 1
and a lower ``down[n]`` to leave it, and a *dwell*, the least time in a level before it is left downwards. Going up
does not wait, because overload does not either, but takes one level at a time and ``step`` between two of them:
each level needs a moment to show its effect before the next is judged necessary. The pressure is smoothed first::

    pressure = signal + (pressure - signal) * 2 ** (-dt / smooth)

with the *time* since the last signal, one half-life at most, so that neither a burst of signals in one moment nor
a single one counts for more than half. Silence counts as calm: when nothing was observed for a dwell, nothing
pressed.

Reading a switch must cost nothing, as it stands in the middle of every request: the answers for all switches are
computed when the level changes, into a new dictionary that is then put in the place of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event
from tenfold._core.units import Duration, duration, whole_number

LEVELS: Final = ("normal", "reduced", "limited", "essential", "emergency")


@dataclass(frozen=True, slots=True)
class LevelChanged(Event):
    """One line of the audit trail: who set which level, when and why.

    ``at`` is Unix time. ``who`` is "pressure" for the automatic, and ``before`` equals ``after`` where a pin
    changed nothing for the moment.
    """

    name: str
    at: float
    who: str
    before: int
    after: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrade:
    """When a `Degradation` goes up and down.

    ``up`` are the pressures at which levels 1, 2, … are entered (default 0.9, 1.05, 1.2, 1.5) and ``down``
    those below which they are left (0.7, 0.9, 1.05, 1.2); the defaults fit `Shedder.pressure`, where 1 is full
    and 1.2 means that a fifth is turned away. ``names`` name the levels from 0 on, one more than thresholds.
    ``dwell`` (10 s) is the least time in a level before going down, ``step`` (1 s) the least time between two
    steps up, ``smooth`` (1 s; 0: not at all) the half-life of the smoothing. Observe more often than once a
    dwell. ``switches`` declares switches: the name and the last level at which it is on. ``history`` (100)
    bounds the audit trail.
    """

    up: Sequence[float] = (0.9, 1.05, 1.2, 1.5)
    down: Sequence[float] = (0.7, 0.9, 1.05, 1.2)
    names: Sequence[str] = LEVELS
    dwell: Duration = 10.0
    step: Duration = 1.0
    smooth: Duration = 1.0
    switches: Mapping[str, int | str] = field(default_factory=dict)
    history: int = 100

    def __post_init__(self) -> None:
        for name in ("dwell", "step", "smooth"):
            object.__setattr__(self, name, duration(getattr(self, name), f"Degrade.{name}"))
        whole_number(self.history, "Degrade.history", least=1)
        if not isinstance(self.names, list | tuple) or len(self.names) < 2 or not all(map(_is_name, self.names)):
            raise MisuseError(f"Degrade.names: expected two names of levels or more, got {self.names!r}")
        if len(set(self.names)) != len(self.names):
            raise MisuseError(f"Degrade.names: expected different names, got {tuple(self.names)!r}; rename one")
        object.__setattr__(self, "names", tuple(self.names))
        for side in ("up", "down"):
            object.__setattr__(self, side, _thresholds(getattr(self, side), f"Degrade.{side}", len(self.names) - 1))
        for level, (enter, leave) in enumerate(zip(self.up, self.down, strict=True), start=1):
            if leave >= enter:
                raise MisuseError(
                    f"Degrade.down: expected less than up for level {level} ({enter:g}), got {leave:g}; "
                    "without a gap between the two the level would flap"
                )
        if not isinstance(self.switches, Mapping):
            raise MisuseError(
                f'Degrade.switches: expected names with levels such as {{"search": 2}}, got {self.switches!r}'
            )
        switches = {name: self.level_of(level, f"switch {name!r}") for name, level in self.switches.items()}
        object.__setattr__(self, "switches", switches)

    def level_of(self, level: int | str, what: str) -> int:
        """The number of a level that is given by number or name. Raises `MisuseError` for one there is not."""
        if isinstance(level, str) and level in self.names:
            return tuple(self.names).index(level)
        if isinstance(level, int) and not isinstance(level, bool) and 0 <= level < len(self.names):
            return level
        raise MisuseError(
            f"{what}: expected a level of 0 … {len(self.names) - 1} or one of {', '.join(self.names)}, got {level!r}"
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _thresholds(values: object, name: str, count: int) -> tuple[float, ...]:
    numbers = [v for v in values if isinstance(v, int | float) and v > 0] if isinstance(values, list | tuple) else []
    if not isinstance(values, list | tuple) or not len(numbers) == len(values) == count:
        raise MisuseError(f"{name}: expected {count} pressures above 0, one for each level above 0, got {values!r}")
    if sorted(set(numbers)) != numbers:
        raise MisuseError(f"{name}: expected rising pressures, got {values!r}; each level needs more than the last")
    return tuple(map(float, numbers))
