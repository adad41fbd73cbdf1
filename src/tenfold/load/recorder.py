"""Samples in, sums out: what a process measured since it last told the parent.

Journeys append tuples; folding them into histograms happens a few hundred at a time, so that neither a
request pays for it nor a soak of hours grows. `Recorder.take` hands over the sums and starts from nothing,
which makes the parent's merge the whole memory of a run, and everything up to a process's death survives it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tenfold._core.histogram import Histogram
from tenfold.load.result import Counts, Interval, StepResult

Sample = tuple[str, float, float, float, str | None]
"""Step, intended, sent, answered (monotonic seconds) and error kind or None."""

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
        self._names: set[str] = set()
        self._kinds: set[str] = set()
        self.slip = Histogram()
        self.lag = Histogram()

    def fold(self, samples: list[Sample]) -> None:
        """Take the samples and leave the list empty."""
        if not samples:
            return
        taken = samples[:]
        samples.clear()
        start, warm_until = self._start, self._warm_until
        # Keyed by name for the measured part and the warm-up: two lists each, corrected and uncorrected.
        good: tuple[dict[str, tuple[list[int], list[int]]], ...] = ({}, {})
        seconds: dict[tuple[int, str], list[int]] = {}
        last = int(taken[0][1] - start)
        interval = self._interval(last)
        for name, intended, sent, answered, kind in taken:
            if name not in self._names:
                name = self._admit(name)
            warm = intended < warm_until
            second = int(intended - start)
            if second != last:
                last, interval = second, self._interval(second)
            interval.intended += 1
            at = int(sent - start)
            (interval if at == second else self._interval(at)).sent += 1
            at = int(answered - start)
            (interval if at == second else self._interval(at)).answered += 1
            corrected = int((answered - intended) * 1e6)
            if kind is None:
                lists = good[warm].get(name)
                if lists is None:
                    lists = good[warm][name] = ([], [])
                lists[0].append(corrected)
                lists[1].append(int((answered - sent) * 1e6))
                key = (second, name)
                if key in seconds:
                    seconds[key].append(corrected)
                else:
                    seconds[key] = [corrected]
            else:
                self._failed(name, warm, interval, kind, corrected)
        for warm in (False, True):
            for name, (corrected_all, uncorrected_all) in good[warm].items():
                counts = self._counts(name, warm)
                counts.attempts += len(corrected_all)
                counts.corrected.record_many(corrected_all)
                counts.uncorrected.record_many(uncorrected_all)
        for (second, name), values in seconds.items():
            interval = self._interval(second)
            interval.corrected.record_many(values)
            histogram = interval.steps.get(name)
            if histogram is None:
                histogram = interval.steps[name] = Histogram()
            histogram.record_many(values)

    def in_flight(self, now: float, count: int) -> None:
        """Note how many journeys are under way at ``now``."""
        if count and now >= self._start:
            interval = self._interval(int(now - self._start))
            interval.in_flight_max = max(interval.in_flight_max, count)

    def take(self) -> tuple[list[StepResult], list[Interval]]:
        """The sums since the last call."""
        steps, intervals = list(self._steps.values()), list(self._intervals.values())
        self._steps, self._intervals = {}, {}
        return steps, intervals

    def _failed(self, name: str, warm: bool, interval: Interval, kind: str, corrected: int) -> None:
        if kind not in self._kinds:
            if len(self._kinds) < MAX_KINDS:
                self._kinds.add(kind)
            else:
                kind = OTHER
        counts = self._counts(name, warm)
        counts.attempts += 1
        counts.errors[kind] = counts.errors.get(kind, 0) + 1
        counts.failed.record(corrected)
        interval.errors += 1
        interval.kinds[kind] = interval.kinds.get(kind, 0) + 1
        interval.step_errors[name] = interval.step_errors.get(name, 0) + 1

    def _admit(self, name: str) -> str:
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
