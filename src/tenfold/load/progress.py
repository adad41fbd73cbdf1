"""A run so far: the sums of all processes, and what is shown of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tenfold._core.histogram import Histogram
from tenfold.load.recorder import Delta
from tenfold.load.result import Interval, RunResult, StepResult


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands; handed to ``on_progress`` about five times a second. Seconds and counts since the
    start.
    """

    elapsed: float
    planned: float
    """Seconds of the schedule."""
    sent: int
    """Journeys started."""
    answered: int
    """Samples that ended, good or bad."""
    errors: int
    in_flight: int
    """Journeys under way."""
    p95: float
    """Corrected, of everything so far, warm-up included; NaN before the first answer."""
    rate: float
    """Samples that ended in the last whole second."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run so far, for whoever decides about its early end."""

    result: RunResult
    """With the steps so far; the rest stands when the run is over."""
    in_flight: int
    most_samples: int
    """The most samples that any one journey has made."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result and how the run came to its end."""

    result: RunResult
    unfinished: int
    """Journeys still under way when the drain time-out ended."""
    early: bool = False
    """``stop_early`` ended it."""
    interrupted: bool = False


class Merged:
    """The sums of all processes so far."""

    def __init__(self, processes: int) -> None:
        self.steps: dict[str, StepResult] = {}
        self.intervals: dict[int, Interval] = {}
        self.started = [0] * processes
        self.in_flight = [0] * processes
        self.most = 0
        self.everything = Histogram()
        self._highest: dict[tuple[int, int], int] = {}

    def add(self, process: int, delta: Delta) -> None:
        self.started[process] = delta.started
        self.in_flight[process] = delta.in_flight
        self.most = max(self.most, delta.most)
        for step in delta.steps:
            known = self.steps.get(step.name)
            if known is None:
                self.steps[step.name] = step
            else:
                known.add(step)
                known.warmup.add(step.warmup)
        for interval in delta.intervals:
            # Deltas of one process within a second: the maximum; of several processes: the sum.
            key = (process, interval.at)
            self._highest[key] = max(self._highest.get(key, 0), interval.in_flight_max)
            interval.in_flight_max = 0
            self.everything.merge(interval.corrected)
            seen = self.intervals.get(interval.at)
            if seen is None:
                self.intervals[interval.at] = interval
            else:
                seen.add(interval)

    def timeline(self) -> list[Interval]:
        for (_, at), count in self._highest.items():
            self.intervals[at].in_flight_max += count
        self._highest.clear()
        return [self.intervals[at] for at in sorted(self.intervals)]


def progress(merged: Merged, elapsed: float, planned: float) -> Progress:
    answered = errors = 0
    for step in merged.steps.values():
        answered += step.attempts + step.warmup.attempts
        errors += step.failures + step.warmup.failures
    last = merged.intervals.get(int(elapsed) - 1)
    p95 = merged.everything.quantile(0.95, beyond=errors) / 1e6 if answered else math.nan
    return Progress(
        elapsed=elapsed,
        planned=planned,
        sent=sum(merged.started),
        answered=answered,
        errors=errors,
        in_flight=sum(merged.in_flight),
        p95=p95,
        rate=float(last.answered) if last is not None else 0.0,
    )
