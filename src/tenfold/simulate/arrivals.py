"""When requests come: at random, in step with a clock, or at a rate that changes.

Theory. Independent users make a Poisson process: the gaps are exponential. Where the rate is a step function, the gap
is drawn in units of *expected arrivals* and then walked through the steps (inversion of the integrated rate; Çinlar,
"Introduction to Stochastic Processes", 1975), which is exact at every edge, whatever rates meet there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Annotated

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, rate

Gap = Callable[[float], float]
"""The moment of the next arrival after the one at ``now``; infinity: there is none."""


class Poisson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="poisson", tag_field="kind"):
    """Independent arrivals, ``rate`` a second (``"500/s"``)."""

    rate: str | int | float

    def __post_init__(self) -> None:
        _positive(self.rate)

    def gaps(self, random: Random) -> Gap:
        """The moments, drawn from ``random``."""
        expo, mean_rate = random.expovariate, rate(self.rate)
        return lambda now: now + expo(mean_rate)


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="constant", tag_field="kind"):
    """One arrival every ``1 / rate`` seconds."""

    rate: str | int | float

    def __post_init__(self) -> None:
        _positive(self.rate)

    def gaps(self, random: Random) -> Gap:
        """The moments; nothing is drawn."""
        gap = 1 / rate(self.rate)
        return lambda now: now + gap


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From ``at`` on, ``rate`` a second. 0 is silence."""

    at: Duration
    rate: str | int | float

    def __post_init__(self) -> None:
        duration(self.at, "at")
        rate(self.rate, "rate")


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="steps", tag_field="kind"):
    """A Poisson process whose rate changes at given moments; the first step is at 0."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        moments = [duration(step.at) for step in self.steps]
        if moments[0] != 0 or any(a >= b for a, b in pairwise(moments)):
            raise MisuseError(f"steps: expected moments that begin at 0 and rise, got {[s.at for s in self.steps]}")
        if not any(rate(step.rate) for step in self.steps):
            raise MisuseError("steps: expected a rate above 0 in one step at least, got 0 in all")

    def gaps(self, random: Random) -> Gap:
        """The moments, drawn from ``random``."""
        expo = random.expovariate
        edges = [*(duration(step.at) for step in self.steps[1:]), math.inf]
        rates = [rate(step.rate) for step in self.steps]
        at = 0

        def following(now: float) -> float:
            nonlocal at
            left = expo(1.0)
            while True:
                while now >= edges[at]:
                    at += 1
                here = rates[at]
                if here and left <= here * (edges[at] - now):
                    return now + left / here
                if edges[at] == math.inf:
                    return math.inf
                left -= here * (edges[at] - now)
                now = edges[at]

        return following


Arrivals = Poisson | Constant | Steps


def _positive(value: str | float) -> None:
    if rate(value, "rate") == 0:
        raise MisuseError('rate: expected more than 0 arrivals a second such as "500/s", got 0')
