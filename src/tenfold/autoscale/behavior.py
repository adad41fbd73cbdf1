"""How fast the number of workers may change: stabilisation windows and rates, as the HPA's ``behavior`` has them.

Theory (Kubernetes documentation, "Configurable scaling behavior"; enhancement proposal 853). Two brakes.

*Stabilisation.* Every wish is remembered. Upwards only the lowest wish of the last ``window`` seconds counts, downwards
only the highest: a short dip removes nobody, and a short peak, if a window is set for it, adds nobody. So the number
moves to the nearest point between the two, and stays where it already lies between them.

*Rates.* A rule says by how many workers, or by how many percent of them, the number may change within ``period``
seconds. It is reckoned from where the number stood a period ago: what was added since then is subtracted and what was
removed is added back. Of several rules the one that permits most counts (``select`` ``"max"``), or the one that permits
least (``"min"``); ``"disabled"`` forbids the direction.

The memory is exact: an event is forgotten when no rule of either direction looks back so far. (The controller forgets
upward events by the upward rules alone, so with much longer downward periods it may allow a little more.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share, whole_number
from tenfold.autoscale.metrics import Tolerance

Unit = Literal["pods", "percent"]
Select = Literal["max", "min", "disabled"]


def _seconds(value: Duration, name: str, least: int, most: int) -> int:
    seconds = duration(value, name)
    if seconds != int(seconds) or not least <= seconds <= most:
        raise MisuseError(f"{name}: expected whole seconds from {least} to {most}, got {value!r}")
    return int(seconds)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``value`` workers (``"pods"``) or percent of them (``"percent"``) within ``period``.

    ``period`` is whole seconds, 1 to 1800. Percent round so that something may change upwards.

    Raises `MisuseError` for what makes no sense.
    """

    unit: Unit
    value: int
    period: Duration = 15

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise MisuseError(f"rate unit: expected pods or percent, got {self.unit!r}")
        whole_number(self.value, "rate value", least=1)
        object.__setattr__(self, "period", _seconds(self.period, "rate period", 1, 1800))

    def upper(self, start: int) -> int:
        """The most there may be, from ``start`` workers at the beginning of the period."""
        return start + self.value if self.unit == "pods" else math.ceil(start * (1 + self.value / 100))

    def lower(self, start: int) -> int:
        """The fewest there may be, from ``start`` workers at the beginning of the period."""
        return start - self.value if self.unit == "pods" else math.trunc(start * (1 - self.value / 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One direction: the stabilisation ``window`` (whole seconds, up to 3600), ``rates``, which of them to ``select``,
    and the ``tolerance`` (0.1) of measured / target.

    Raises `MisuseError` for what makes no sense.
    """

    window: Duration = 0
    rates: tuple[Rate, ...] = (Rate("percent", 100),)
    select: Select = "max"
    tolerance: str | float = 0.1

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "window", _seconds(self.window, "stabilisation window", 0, 3600))
        put(self, "rates", tuple(self.rates))
        put(self, "tolerance", share(self.tolerance, "tolerance"))
        if not self.rates or not all(isinstance(rate, Rate) for rate in self.rates):
            raise MisuseError(
                f'rates: expected one Rate(...) at least, got {self.rates!r}; to forbid select="disabled"'
            )
        if self.select not in get_args(Select):
            raise MisuseError(f"select: expected max, min or disabled, got {self.select!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """Both directions. The default is that of Kubernetes: up at once, by 4 workers or doubled every 15 s, whichever
    is more; down to the highest wish of the last 300 s, without a rate.
    """

    up: Rules = field(default_factory=lambda: Rules(rates=(Rate("percent", 100), Rate("pods", 4))))
    down: Rules = field(default_factory=lambda: Rules(window=300))

    @classmethod
    def local(cls) -> Behavior:
        """For worker processes of one machine, which are ready in a second or two and cost nothing to keep for a
        minute: up at once, by 4 workers or doubled every second; down to the highest wish of the last 60 s, by one
        worker every 5 s, so that drains do not pile up.
        """
        return cls(
            up=Rules(rates=(Rate("percent", 100, 1), Rate("pods", 4, 1))),
            down=Rules(window=60, rates=(Rate("pods", 1, 5),)),
        )

    @property
    def tolerance(self) -> Tolerance:
        """Of both directions."""
        return Tolerance(float(self.up.tolerance), float(self.down.tolerance))


class History:
    """What was wished and what was done, as far back as ``behavior`` looks. Times never go back."""

    __slots__ = ("_behavior", "_changes", "_longest_period", "_longest_window", "_wishes")

    def __init__(self, behavior: Behavior) -> None:
        self._behavior = behavior
        self._wishes: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()
        self._longest_window = max(float(behavior.up.window), float(behavior.down.window))
        self._longest_period = max(float(rate.period) for rate in (*behavior.up.rates, *behavior.down.rates))

    def begin(self, current: int, now: float) -> None:
        """The number that was found counts as the first wish, so that a new controller removes nobody at once."""
        if not self._wishes:
            self._wishes.append((now, current))

    def stabilised(self, wish: int, current: int, now: float) -> int:
        """Where to go for ``wish``, with what was wished before; ``wish`` is remembered."""
        up_since = now - float(self._behavior.up.window)
        down_since = now - float(self._behavior.down.window)
        lowest = min((n for at, n in self._wishes if at > up_since), default=wish)
        highest = max((n for at, n in self._wishes if at > down_since), default=wish)
        while len(self._wishes) > 1 and self._wishes[0][0] < now - self._longest_window:
            self._wishes.popleft()
        self._wishes.append((now, wish))
        return min(max(current, min(lowest, wish)), max(highest, wish))

    def ceiling(self, current: int, now: float) -> int:
        """The most workers that the upward rates permit."""
        rules = self._behavior.up
        if rules.select == "disabled":
            return current
        limits = [rate.upper(self._start(current, float(rate.period), now)) for rate in rules.rates]
        return max(current, min(limits) if rules.select == "min" else max(limits))

    def floor(self, current: int, now: float) -> int:
        """The fewest workers that the downward rates permit."""
        rules = self._behavior.down
        if rules.select == "disabled":
            return current
        limits = [rate.lower(self._start(current, float(rate.period), now)) for rate in rules.rates]
        return min(current, max(limits) if rules.select == "min" else min(limits))

    def changed(self, by: int, now: float) -> None:
        """The number was changed ``by`` so many."""
        while self._changes and self._changes[0][0] <= now - self._longest_period:
            self._changes.popleft()
        if by:
            self._changes.append((now, by))

    def _start(self, current: int, period: float, now: float) -> int:
        return current - sum(_since(self._changes, now - period))


def _since(changes: Iterable[tuple[float, int]], when: float) -> Iterable[int]:
    return (by for at, by in changes if at > when)
