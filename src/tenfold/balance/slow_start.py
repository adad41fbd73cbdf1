"""How a server that has just come back is given its share: little at first, all of it after a while.

Theory. A server that has just started has cold caches, empty pools and, on many runtimes, code that is not compiled
yet; its full share at once makes it fail again. Worse, policies that go by load (least request, peak-EWMA) see an
idle server and send it more than its share. Envoy's slow start multiplies the weight by::

    max(floor, (time since the start / window) ** (1 / aggression))

With an aggression of 1 the weight grows in a straight line, above 1 it grows fast at first, below 1 late. The window
starts anew at every recovery: after checks that failed, and after an ejection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share


@dataclass(frozen=True, slots=True)
class SlowStart:
    """Raise the weight of an endpoint that has come back over ``window`` (30 s), from ``floor`` (0.1) of it.

    ``aggression`` (1.0) bends the line: 2 has half of the weight after a quarter of the window, 0.5 a quarter after
    half of it.

    Raises `MisuseError` for what makes no sense.
    """

    window: Duration = 30.0
    floor: str | float = 0.1
    aggression: float = 1.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "window", duration(self.window, "slow start window"))
        put(self, "floor", share(self.floor, "slow start floor"))
        if self.window == 0:
            raise MisuseError("slow start window: expected more than 0; to do without, leave the slow start out")
        if self.floor == 0:
            raise MisuseError("slow start floor: expected more than 0, because without work an endpoint cannot warm up")
        if type(self.aggression) not in (int, float) or not 0 < self.aggression < math.inf:
            raise MisuseError(f"slow start aggression: expected more than 0, got {self.aggression!r}")

    def factor(self, since: float, now: float) -> float:
        """What to multiply the weight by at ``now``, in (0, 1], for an endpoint that came back at ``since``.

        ``since`` of minus infinity: it has always been there, 1.
        """
        window, floor = float(self.window), float(self.floor)
        age = now - since
        if age >= window:
            return 1.0
        if age <= 0:
            return floor
        return max(floor, float((age / window) ** (1.0 / self.aggression)))

    def over(self, since: float, now: float) -> bool:
        """Whether the whole weight counts again, so that nobody need ask any more."""
        return now - since >= float(self.window)
