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
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive
from tenfold.load.accesslog import read_times

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


class _Segmented(Schedule):
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
        return self._chunks(_poisson_marks(seed) if self._random else _even_marks(), _chunk(chunk))

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

    def _manner(self) -> str:
        return "Poisson" if self._random else "even"


@dataclass(frozen=True, init=False)
class Constant(_Segmented):
    """``rate`` arrivals a second, evenly spaced, for ``duration``."""

    rate: float
    duration: float
    kind: ClassVar[str] = "constant"
    _random: ClassVar[bool] = False

    def __init__(self, rate: float | str, duration: units.Duration) -> None:
        _settle(self, rate=_rate(rate), duration=_span(duration))

    @property
    def segments(self) -> Sequence[Segment]:
        return (Segment(self.duration, self.rate, self.rate),)

    def describe(self) -> str:
        return f"{self.rate:g}/s {self._manner()} for {units.format_duration(self.duration)}"


@dataclass(frozen=True, init=False)
class Poisson(Constant):
    """``rate`` arrivals a second on average with exponential gaps, as independent users make them."""

    kind: ClassVar[str] = "poisson"
    _random: ClassVar[bool] = True


class _Choice(_Segmented):
    """The kinds that leave the manner of arrival to the caller."""

    poisson: bool

    @property
    def _random(self) -> bool:
        return self.poisson


@dataclass(frozen=True, init=False)
class Soak(_Choice):
    """A constant rate for hours; Poisson unless told otherwise. Memory does not grow with the duration."""

    rate: float
    duration: float
    poisson: bool
    kind: ClassVar[str] = "soak"

    def __init__(self, rate: float | str, duration: units.Duration, *, poisson: bool = True) -> None:
        _settle(self, rate=_rate(rate), duration=_span(duration), poisson=poisson)

    @property
    def segments(self) -> Sequence[Segment]:
        return (Segment(self.duration, self.rate, self.rate),)

    def describe(self) -> str:
        return f"soak at {self.rate:g}/s {self._manner()} for {units.format_duration(self.duration)}"


@dataclass(frozen=True, init=False)
class Ramp(_Choice):
    """From ``start`` to ``end`` arrivals a second in a straight line over ``duration``."""

    start: float
    end: float
    duration: float
    poisson: bool
    kind: ClassVar[str] = "ramp"

    def __init__(
        self, start: float | str, end: float | str, duration: units.Duration, *, poisson: bool = False
    ) -> None:
        rates = units.rate(start, "start"), units.rate(end, "end")
        if not any(rates):
            raise MisuseError("ramp: expected a rate above 0 at one end at least, got 0 to 0")
        _settle(self, start=rates[0], end=rates[1], duration=_span(duration), poisson=poisson)

    @property
    def segments(self) -> Sequence[Segment]:
        return (Segment(self.duration, self.start, self.end),)

    def describe(self) -> str:
        span = units.format_duration(self.duration)
        return f"ramp {self.start:g} to {self.end:g}/s {self._manner()} over {span}"


@dataclass(frozen=True, init=False)
class Steps(_Choice):
    """Each of ``rates`` in turn, for ``each`` seconds. A rate of 0 is a pause."""

    rates: tuple[float, ...]
    each: float
    poisson: bool
    kind: ClassVar[str] = "steps"

    def __init__(self, rates: Sequence[float | str], each: units.Duration, *, poisson: bool = False) -> None:
        held = tuple(units.rate(rate, "rates") for rate in rates)
        if not any(held):
            raise MisuseError(f"steps: expected one rate above 0 at least, got {list(rates)!r}")
        _settle(self, rates=held, each=_span(each, "each"), poisson=poisson)

    @property
    def duration(self) -> float:  # type: ignore[override]
        return self.each * len(self.rates)

    @property
    def segments(self) -> Sequence[Segment]:
        return tuple(Segment(self.each, rate, rate) for rate in self.rates)

    def describe(self) -> str:
        rates = " → ".join(f"{rate:g}" for rate in self.rates)
        return f"steps {rates}/s {self._manner()}, {units.format_duration(self.each)} each"


@dataclass(frozen=True, init=False)
class Spike(_Choice):
    """``base`` arrivals a second with one spike to ``peak``, from ``at`` for ``width``.

    ``at`` defaults to 40 % of ``duration`` and ``width`` to 20 %. ``rise`` (default 0) is the time that the
    way up takes, and the way down as well; both lie inside ``width``.
    """

    base: float
    peak: float
    duration: float
    at: float
    width: float
    rise: float
    poisson: bool
    kind: ClassVar[str] = "spike"

    def __init__(
        self,
        base: float | str,
        peak: float | str,
        duration: units.Duration,
        *,
        at: units.Duration | None = None,
        width: units.Duration | None = None,
        rise: units.Duration = 0.0,
        poisson: bool = False,
    ) -> None:
        span = _span(duration)
        begin = 0.4 * span if at is None else units.duration(at, "at")
        wide = 0.2 * span if width is None else _span(width, "width")
        slope = units.duration(rise, "rise")
        if begin + wide > span * (1 + 1e-9) or 2 * slope > wide * (1 + 1e-9):
            raise MisuseError(
                f"spike: expected at + width within the duration and 2 × rise within the width, "
                f"got at {begin:g} s, width {wide:g} s, rise {slope:g} s in {span:g} s"
            )
        low, high = units.rate(base, "base"), _rate(peak, "peak")
        _settle(self, base=low, peak=high, duration=span, at=begin, width=wide, rise=slope, poisson=poisson)

    @property
    def segments(self) -> Sequence[Segment]:
        shape = (
            Segment(self.at, self.base, self.base),
            Segment(self.rise, self.base, self.peak),
            Segment(self.width - 2 * self.rise, self.peak, self.peak),
            Segment(self.rise, self.peak, self.base),
            Segment(self.duration - self.at - self.width, self.base, self.base),
        )
        return tuple(segment for segment in shape if segment.length > 1e-12)

    def describe(self) -> str:
        when, wide = units.format_duration(self.at), units.format_duration(self.width)
        span = units.format_duration(self.duration)
        return f"spike {self.base:g} to {self.peak:g}/s {self._manner()} at {when} for {wide}, {span} in all"


@dataclass(frozen=True, init=False)
class Replay(Schedule):
    """The arrivals of a log: an access log in common or combined format, or a file of one number of seconds a
    line.

    ``speed`` 2 replays twice as fast. Requests of the same whole second are spread evenly over that second,
    because a log that rounds to seconds would otherwise send bursts that never happened. Raises `MisuseError`
    with the line number for a line that is neither; ``skip_malformed=True`` leaves such lines out.
    """

    log: str
    speed: float
    skip_malformed: bool
    kind: ClassVar[str] = "replay"

    def __init__(self, log: str | Path, speed: float = 1.0, *, skip_malformed: bool = False) -> None:
        if not 0 < speed < math.inf:
            raise MisuseError(f"speed: expected a number above 0, got {speed!r}")
        times = read_times(Path(log), skip_malformed=skip_malformed)
        offsets = array("d", ((moment - times[0]) / speed for moment in times))
        _settle(self, log=str(log), speed=float(speed), skip_malformed=skip_malformed, _offsets=offsets)

    @property
    def _times(self) -> array[float]:
        return self.__dict__["_offsets"]  # type: ignore[no-any-return]

    @property
    def duration(self) -> float:  # type: ignore[override]
        # The last arrival is inside the schedule: one mean gap is added, at least a millisecond.
        times = self._times
        return times[-1] + max(1e-3, times[-1] / max(1, len(times) - 1))

    @property
    def count_estimate(self) -> int:
        return len(self._times)

    def rate_at(self, t: float) -> float:
        """Arrivals in the second around ``t``."""
        times = self._times
        return float(bisect_right(times, t + 0.5) - bisect_left(times, t - 0.5))

    def arrivals(self, seed: int, chunk: int = CHUNK) -> Iterator[array[float]]:
        del seed  # a log has no randomness
        size = _chunk(chunk)
        times = self._times
        return (times[at : at + size] for at in range(0, len(times), size))

    def describe(self) -> str:
        span = units.format_duration(self.duration)
        return f"replay of {len(self._times)} arrivals from {self.log} at {self.speed:g} × speed, {span}"


KINDS: Final[dict[str, type[Schedule]]] = {
    kind.kind: kind for kind in (Constant, Poisson, Ramp, Steps, Spike, Soak, Replay)
}


def from_dict(data: Mapping[str, Any]) -> Schedule:
    """The schedule that `Schedule.to_dict` wrote. Raises `MisuseError` for an unknown kind or a wrong
    argument."""
    rest = dict(data)
    kind = KINDS.get(rest.pop("kind", None))
    if kind is None:
        raise MisuseError(f"schedule: expected a kind of {', '.join(KINDS)}, got {data.get('kind')!r}")
    try:
        return kind(**rest)
    except TypeError as exc:
        raise MisuseError(f"schedule {kind.kind}: {exc}") from exc


def _settle(target: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(target, name, value)


def _rate(value: float | str, name: str = "rate") -> float:
    found = units.rate(value, name)
    if found <= 0:
        raise MisuseError(f"{name}: expected more than 0 arrivals a second, got {value!r}")
    return found


def _span(value: units.Duration, name: str = "duration") -> float:
    found = units.duration(value, name)
    if found <= 0:
        raise MisuseError(f'{name}: expected more than 0 seconds, for example "30s", got {value!r}')
    return found


def _chunk(size: int) -> int:
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
