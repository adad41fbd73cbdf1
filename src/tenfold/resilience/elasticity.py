"""What one experiment of `AdaptiveLimit` says, and how far to move for it. The theory is in `adaptive`."""

from __future__ import annotations

import math
from typing import Final

_KEEP: Final = 0.8  # weight of the wishes so far against the next
_SURE: Final = 2.5  # a sum of wishes, squared, above so many times its variance is not noise
_FAR: Final = 1.2
_EAGER: Final = 0.6
_FASTEST: Final = 4.0
_WILD: Final = 1.0  # a wish beyond is noise, or a change of the dependency in the middle of an experiment


class Side:
    """What the calls admitted in one phase have shown."""

    __slots__ = ("crowd", "latency", "open", "samples", "squares")

    def __init__(self) -> None:
        self.samples = 0
        self.latency = self.squares = 0.0
        self.crowd = 0  # sum of the calls in flight at admission
        self.open = 0  # admitted and not back yet

    def add(self, latency: float, crowd: int) -> None:
        """One answer."""
        self.samples += 1
        self.latency += latency
        self.squares += latency * latency
        self.crowd += crowd

    def doubt(self) -> float:
        """The variance of the logarithm of the mean latency (delta method)."""
        return max(0.0, self.squares * self.samples / self.latency**2 - 1) / self.samples


def measure(low: Side, high: Side) -> tuple[float, float] | None:
    """The elasticity of the latency to the calls in flight, and its variance. None if there is nothing to see."""
    if low.samples < 2 or high.samples < 2 or high.crowd * low.samples <= low.crowd * high.samples:
        return None
    crowding = math.log(high.crowd / high.samples) - math.log(low.crowd / low.samples)
    slowing = math.log(high.latency / high.samples) - math.log(low.latency / low.samples)
    return slowing / crowding, (low.doubt() + high.doubt()) / crowding**2


class Pace:
    """Turns wishes (tolerance less elasticity) into moves of ln(limit)."""

    __slots__ = ("_doubt", "_smoothing", "_step", "_sum")

    def __init__(self, smoothing: float) -> None:
        self._smoothing = self._step = smoothing
        self._sum = self._doubt = 0.0  # of the wishes of late, and of their variances

    def rest(self) -> None:
        """Something else has moved the limit: begin again with small steps."""
        self._sum = 0.0

    @property
    def eager(self) -> bool:
        """Whether the limit seems to be too low rather than right."""
        return self._sum > _EAGER

    def move(self, wish: float, doubt: float) -> tuple[float, bool]:
        """By how much, and whether the knee seems to be far away."""
        wish = min(max(wish, -_WILD), _WILD)
        before = self._sum
        self._sum = _KEEP * before + wish
        self._doubt = _KEEP**2 * self._doubt + doubt
        # One experiment alone proves nothing: a jump of the latency between its phases looks like a strong answer.
        if before * wish <= 0:
            self._step = self._smoothing
        elif self._sum**2 > _SURE * self._doubt:
            self._step = min(2 * self._step, _FASTEST * self._smoothing)
        # What is hardly known moves the limit hardly.
        return self._step * wish / (1 + doubt), abs(self._sum) > _FAR
