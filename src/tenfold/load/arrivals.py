"""When requests arrive: open-loop schedules, decided before the run and independent of how the target
behaves.

Theory. Every kind but `Replay` is a *piecewise linear rate* λ(t): a constant is one flat segment, a ramp one
slope, steps and spikes are several. Let Λ(t) be the integral of λ from 0 to t, which is the number of
arrivals due by t.

- Evenly spaced: arrival i happens at Λ⁻¹(i), i = 0, 1, 2 … < Λ(duration).
- Poisson: if u₁ < u₂ < … are the arrivals of a Poisson process of rate 1 (sums of exponential gaps), then
  Λ⁻¹(u₁) < Λ⁻¹(u₂) < … are those of a process of rate λ(t) (inversion; Çinlar 1975, Devroye 1986, VI.1.3).
  Unlike thinning it throws nothing away, and it keeps the stream of random numbers aligned however the rate
  is scaled.

Inside a segment that starts with rate r and changes by a per second, Λ(x) = r·x + a·x²/2. The inverse is
written x = 2n / (r + √(r² + 2·a·n)), which does not cancel for small a and holds for a = 0. Arrivals come in
chunks, so that a soak of hours costs the memory of a second.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import count
from typing import Any, ClassVar, Final, NamedTuple

from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive

CHUNK: Final = 4096
"""Arrivals in a chunk by default: about 2 ms of work, so that a generator making the next one does not
slip."""
_MAX_CHUNK: Final = 65_536


class Segment(NamedTuple):
    """A stretch of a schedule on which the rate is linear. Seconds and arrivals a second."""

    length: float
    start: float
    end: float

    @property
    def arrivals(self) -> float:
        return (self.start + self.end) / 2 * self.length

    def invert(self, n: float) -> float:
        """Seconds into the segment at which ``n`` arrivals are due."""
        if n <= 0:
            return 0.0
        slope = (self.end - self.start) / self.length
        root = math.sqrt(max(0.0, self.start * self.start + 2 * slope * n))
        return min(self.length, 2 * n / (self.start + root))


class Schedule(ABC):
    """Arrival times from 0 to `duration` seconds. Same seed, same arrivals, on every machine."""

    kind: ClassVar[str]
    duration: float

    @property
    @abstractmethod
    def count_estimate(self) -> int:
        """Arrivals to expect: exact for evenly spaced kinds and for `Replay`, the mean for Poisson ones."""

    @abstractmethod
    def rate_at(self, t: float) -> float:
        """Arrivals a second at ``t`` seconds after the start; 0 outside the schedule."""

    @abstractmethod
    def arrivals(self, seed: int, chunk: int = CHUNK) -> Iterator[array[float]]:
        """Ascending offsets in seconds, in arrays of at most ``chunk`` (1 … 65,536). Process k of n takes i %
        n == k."""

    @abstractmethod
    def describe(self) -> str:
        """One line for a person: ``"500/s Poisson for 30.0 s"``."""

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs to make the same schedule again; JSON-ready."""
        found: dict[str, Any] = {"kind": self.kind}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            found[item.name] = list(value) if isinstance(value, tuple) else value
        return found


class Segmented(Schedule):
    """A schedule made of linear segments; the subclass says which, and whether arrivals are Poisson."""

    @property
    @abstractmethod
    def _random(self) -> bool:
        """Whether arrivals are Poisson rather than evenly spaced."""

    @property
    @abstractmethod
    def segments(self) -> Sequence[Segment]: ...

    @property
    def mean_count(self) -> float:
        """Λ(duration), not rounded."""
        return math.fsum(segment.arrivals for segment in self.segments)

    @property
    def count_estimate(self) -> int:
        return round(self.mean_count) if self._random else _whole(self.mean_count)

    def rate_at(self, t: float) -> float:
        if t < 0 or t > self.duration:
            return 0.0
        for segment in self.segments:
            if t < segment.length:
                return segment.start + (segment.end - segment.start) * t / segment.length
            t -= segment.length
        return self.segments[-1].end

    def arrivals(self, seed: int, chunk: int = CHUNK) -> Iterator[array[float]]:
        return self._chunks(_poisson_marks(seed) if self._random else _even_marks(), checked_chunk(chunk))

    def _chunks(self, marks: Iterator[float], size: int) -> Iterator[array[float]]:
        held = array("d")
        mark, before, begin = next(marks), 0.0, 0.0
        # An even schedule ends with arrival ⌈Λ⌉ - 1; the small slack keeps 0.1 * 30 from making a fourth
        # arrival.
        slack = 0.0 if self._random else 1e-9 * max(1.0, self.mean_count)
        last = len(self.segments) - 1
        for number, segment in enumerate(self.segments):
            until = before + segment.arrivals - (slack if number == last else 0.0)
            while mark < until:
                held.append(begin + segment.invert(mark - before))
                if len(held) == size:
                    yield held
                    held = array("d")
                mark = next(marks)
            before += segment.arrivals
            begin += segment.length
        if held:
            yield held

    def manner(self) -> str:
        return "Poisson" if self._random else "even"


class Choosing(Segmented):
    """The kinds that leave the manner of arrival to the caller."""

    poisson: bool

    @property
    def _random(self) -> bool:
        return self.poisson


def checked_chunk(size: int) -> int:
    if not 1 <= size <= _MAX_CHUNK:
        raise MisuseError(f"chunk: expected 1 … {_MAX_CHUNK} arrivals, got {size!r}")
    return size


def _whole(mean: float) -> int:
    return math.ceil(mean - 1e-9 * max(1.0, mean))


def _even_marks() -> Iterator[float]:
    return map(float, count())


def _poisson_marks(seed: int) -> Iterator[float]:
    gap = derive(seed, "arrivals").expovariate
    mark = 0.0
    while True:
        mark += gap(1.0)
        yield mark
