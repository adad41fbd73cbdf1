"""What is measured of the workers between two decisions, as the readings that the policy takes.

Theory. The number of requests in flight at one moment is a coin thrown once; what decides is its mean over the period,
which is the time integral divided by the time. It is sampled about twenty times a period by adding plain integers: for
requests that last longer than a twentieth of it that is the integral itself, for shorter ones an unbiased estimate.
Requests that wait in the front for a place count as well, in equal parts for the workers that are ready: they are in
flight as far as the client is concerned, and without them a fleet at its limit would look exactly full, never too
small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenfold.autoscale import PerWorker, Reading, Sample, Total, Unavailable
from tenfold.serve.latency import Window, quantile

SAMPLES: Final = 20
"""Looks at what is in flight, in each period."""


class Meter:
    """Adds up samples; `in_flight`, `cpu` and `p95` make readings of them."""

    __slots__ = ("_cpu", "_sums", "_taken", "_waiting", "_window", "total", "waiting")

    def __init__(self) -> None:
        self._sums: dict[str, list[int]] = {}
        self._waiting = 0
        self._taken = 0
        self._cpu: dict[str, tuple[float, float]] = {}
        self._window = Window()
        self.total = 0.0
        """Mean number of requests under way and waiting, in the last period."""
        self.waiting = 0.0
        """Of those, waiting."""

    def add(self, in_flight: Mapping[str, int], waiting: int) -> None:
        """One look: requests at each worker, and those that wait."""
        for name, count in in_flight.items():
            sums = self._sums.setdefault(name, [0, 0])
            sums[0] += count
            sums[1] += 1
        self._waiting += waiting
        self._taken += 1

    def in_flight(self, ready: frozenset[str]) -> PerWorker:
        """The mean of each worker since the last call, with its part of those that wait."""
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self.waiting = self._waiting / self._taken if self._taken else 0.0
        self.total = sum(total for total, _ in self._sums.values()) / max(1, self._taken) + self.waiting
        share = self.waiting / len(ready) if ready else 0.0
        self._sums.clear()
        self._waiting = self._taken = 0
        return PerWorker({name: Sample(mean + share) for name, mean in means.items() if name in ready})

    def cpu(self, seconds: Mapping[str, float | None], now: float) -> PerWorker:
        """Cores that each worker used since the last call, from its CPU ``seconds`` until now."""
        found = {}
        for name, used in seconds.items():
            if used is None:
                continue
            before = self._cpu.get(name)
            self._cpu[name] = (now, used)
            if before is not None and now > before[0]:
                window = now - before[0]
                found[name] = Sample(max(0.0, used - before[1]) / window, at=now, window=window)
        self._cpu = {name: each for name, each in self._cpu.items() if name in seconds}
        return PerWorker(found)

    def p95(self, fine: list[int], seconds: float) -> Reading:
        """The 95th percentile of the last three periods of ``seconds`` each, with the mean wait for a place; after
        `in_flight` of the same period. Zero where nothing was asked for.
        """
        counts = self._window.look(fine)
        found = quantile(counts, 0.95)
        if found is None:
            return Unavailable("no request was answered") if self.total > 0 else Total(0.0)
        rate = sum(counts) / (self._window.periods * seconds)
        wait = self.waiting / rate if self.waiting else 0.0
        return Total(found + wait)

    def __repr__(self) -> str:
        return f"<Meter in flight {self.total:.1f}, waiting {self.waiting:.1f}>"
