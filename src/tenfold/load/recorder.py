"""Samples in, sums out: what a process measured since it last told the parent.

Steps append the times of good samples to one list a step; folding them into histograms happens a few hundred
at a time, so that neither a request pays for it nor a soak of hours grows. `Recorder.take` hands over the
sums and starts from nothing, which makes the parent's merge the whole memory of a run, and everything up to a
process's death survives it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import msgspec

from tenfold._core.histogram import Histogram
from tenfold.load.fold import WORTH_ARRAYS, Folded, best_fold, fold_lateness
from tenfold.load.result import Counts, Interval, StepResult

MAX_NAMES: Final = 500
MAX_KINDS: Final = 200
OTHER: Final = "(other)"


class Delta(msgspec.Struct, kw_only=True):
    """What one process measured since the last one."""

    steps: list[StepResult]
    intervals: list[Interval]
    started: int
    in_flight: int
    most: int
    """The most samples that any one journey has made so far."""


class Recorder:
    """Folds samples by step and by second. ``start`` is the monotonic start of the schedule, ``warmup``
    seconds.
    """

    def __init__(self, start: float, warmup: float) -> None:
        self._start = start
        self._warm_until = start + warmup
        self._steps: dict[str, StepResult] = {}
        self._intervals: dict[int, Interval] = {}
        self._folded: dict[str, Folded] = {}
        self._names: set[str] = set()
        self._kinds: set[str] = set()
        self._fold, self._batch = best_fold()
        self.good: defaultdict[str, list[float]] = defaultdict(list)
        """Good samples that wait to be folded, by step: intended, sent, answered, intended, … (monotonic
        seconds).
        """
        self.late: list[float] = []
        """Seconds by which journeys started late; they wait to be folded too."""
        self._slip = Histogram()
        self.lag = Histogram()

    def fold(self, everything: bool = False) -> None:
        """Take the samples that wait, or those of steps where it is worth it by now."""
        enough = 3 if everything else 3 * self._batch
        if len(self.late) >= WORTH_ARRAYS:
            self._fold_lateness()
        for name, flat in list(self.good.items()):
            if len(flat) < enough:
                continue
            known = self._admit(name)
            folded = self._folded.get(known)
            if folded is None:
                folded = self._folded[known] = Folded()
            self._fold(folded, flat, self._start, self._warm_until)
            if known == name:
                flat.clear()
            else:
                del self.good[name]

    @property
    def slip(self) -> Histogram:
        """By how much journeys started late."""
        self._fold_lateness()
        return self._slip

    def _fold_lateness(self) -> None:
        fold_lateness(self._slip, self.late, self._batch > 1)
        self.late.clear()

    def failed(self, name: str, intended: float, sent: float, answered: float, kind: str) -> None:
        """Take a failed sample."""
        name = self._admit(name)
        if kind not in self._kinds:
            if len(self._kinds) < MAX_KINDS:
                self._kinds.add(kind)
            else:
                kind = OTHER
        counts = self._counts(name, intended < self._warm_until)
        counts.attempts += 1
        counts.errors[kind] = counts.errors.get(kind, 0) + 1
        counts.failed.record(int((answered - intended) * 1e6))
        self._interval(int(sent - self._start)).sent += 1
        self._interval(int(answered - self._start)).answered += 1
        interval = self._interval(int(intended - self._start))
        interval.intended += 1
        interval.errors += 1
        interval.kinds[kind] = interval.kinds.get(kind, 0) + 1
        interval.step_errors[name] = interval.step_errors.get(name, 0) + 1

    def in_flight(self, now: float, count: int) -> None:
        """Note how many journeys are under way at ``now``."""
        if count and now >= self._start:
            interval = self._interval(int(now - self._start))
            interval.in_flight_max = max(interval.in_flight_max, count)

    def take(self) -> tuple[list[StepResult], list[Interval]]:
        """The sums since the last call, samples that wait included."""
        self.fold(everything=True)
        for name, folded in self._folded.items():
            self._add(name, folded)
        steps, intervals = list(self._steps.values()), list(self._intervals.values())
        self._steps, self._intervals, self._folded = {}, {}, {}
        return steps, intervals

    def _add(self, name: str, folded: Folded) -> None:
        for second, count in folded.sent.items():
            self._interval(second).sent += count
        for second, count in folded.answered.items():
            self._interval(second).answered += count
        for (second, warm), corrected in folded.corrected.items():
            counts, interval = self._counts(name, warm), self._interval(second)
            counts.attempts += corrected.count
            counts.corrected.merge(corrected)
            interval.intended += corrected.count
            interval.corrected.merge(corrected)
            of_step = interval.steps.get(name)
            if of_step is None:
                of_step = interval.steps[name] = Histogram()
            of_step.merge(corrected)
        for warm, uncorrected in folded.uncorrected.items():
            self._counts(name, warm).uncorrected.merge(uncorrected)

    def _admit(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= MAX_NAMES:
                return OTHER
            self._names.add(name)
        return name

    def _counts(self, name: str, warm: bool) -> Counts:
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = StepResult(name=name)
        return step.warmup if warm else step

    def _interval(self, second: int) -> Interval:
        interval = self._intervals.get(second)
        if interval is None:
            interval = self._intervals[second] = Interval(at=max(0, second))
        return interval
