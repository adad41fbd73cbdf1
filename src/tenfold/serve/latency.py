"""Response times finely enough to scale by, and a percentile of what came between two looks at them.

Theory. The gateway's own buckets are Prometheus', with a factor of 2 to 2.5 between bounds: with every request taking
51 ms, a 95th percentile interpolated between 50 and 100 ms is 97 ms, and a target of 70 ms would add workers for ever.
Here bounds lie 5 % apart from 0.5 ms to 60 s, so that the interpolated percentile is off by less than 5 %, within the
tolerance of 10 % that the policy has anyway. Counts only ever grow; a window is the difference of two copies.

A response time counts from the choice of a worker on. What a request waited for that choice is added by Little's law
(mean wait = requests waiting / requests answered a second), because a wait is no less slow for the client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from tenfold.gateway.engine.tally import Times

_FIRST, _LAST, _STEP = 0.0005, 60.0, 1.05


def _bounds() -> tuple[float, ...]:
    found = [_FIRST]
    while found[-1] < _LAST:
        found.append(found[-1] * _STEP)
    return tuple(found)


BOUNDS: Final = _bounds()


class FineTimes(Times):
    """Response times of a pool as ever, and besides in fine buckets."""

    __slots__ = ("fine",)

    def __init__(self) -> None:
        super().__init__()
        self.fine = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """One response."""
        super().add(seconds)
        self.fine[bisect_left(BOUNDS, seconds)] += 1


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The ``q``-quantile in seconds of so many responses in each bucket; None where there are none."""
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            if number >= len(BOUNDS):
                return BOUNDS[-1]
            lower = BOUNDS[number - 1] if number else 0.0
            return lower + (BOUNDS[number] - lower) * (rank - below) / count
        below += count
    return BOUNDS[-1]


class Window:
    """The responses of the last ``periods`` (3) looks."""

    __slots__ = ("_looks", "_periods", "periods")

    def __init__(self, periods: int = 3) -> None:
        self._periods = periods
        self._looks: list[list[int]] = []
        self.periods = 1
        """How many periods the last answer was about."""

    def look(self, fine: Sequence[int]) -> list[int]:
        """How many came in each bucket since ``periods`` looks ago."""
        self._looks.append(list(fine))
        del self._looks[: -self._periods - 1]
        self.periods = max(1, len(self._looks) - 1)
        return [new - old for old, new in zip(self._looks[0], fine, strict=True)]
