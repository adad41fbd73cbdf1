"""The schedules a user writes. All but `Replay` are piecewise linear rates; the theory stands in
`tenfold.load.arrivals`."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold.load.accesslog import read_times
from tenfold.load.arrivals import CHUNK, Choosing, Schedule, Segment, Segmented, checked_chunk

__all__ = [
    "CHUNK",
    "KINDS",
    "Constant",
    "Poisson",
    "Ramp",
    "Replay",
    "Schedule",
    "Segment",
    "Soak",
    "Spike",
    "Steps",
    "from_dict",
]


@dataclass(frozen=True, init=False)
class Constant(Segmented):
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
        return f"{self.rate:g}/s {self.manner()} for {units.format_duration(self.duration)}"


@dataclass(frozen=True, init=False)
class Poisson(Constant):
    """``rate`` arrivals a second on average with exponential gaps, as independent users make them."""

    kind: ClassVar[str] = "poisson"
    _random: ClassVar[bool] = True


@dataclass(frozen=True, init=False)
class Soak(Choosing):
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
        return f"soak at {self.rate:g}/s {self.manner()} for {units.format_duration(self.duration)}"


@dataclass(frozen=True, init=False)
class Ramp(Choosing):
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
        return f"ramp {self.start:g} to {self.end:g}/s {self.manner()} over {span}"


@dataclass(frozen=True, init=False)
class Steps(Choosing):
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
        return f"steps {rates}/s {self.manner()}, {units.format_duration(self.each)} each"


@dataclass(frozen=True, init=False)
class Spike(Choosing):
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
        return f"spike {self.base:g} to {self.peak:g}/s {self.manner()} at {when} for {wide}, {span} in all"


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
        size = checked_chunk(chunk)
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
