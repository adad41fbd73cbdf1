"""What is counted while a simulation runs. Latencies go into the log-linear histogram that load tests use too."""

from __future__ import annotations

import math
from typing import Final

from tenfold._core.histogram import Histogram
from tenfold.simulate.events import Timeline
from tenfold.simulate.result import Change, Latency, Moment

MAX_CHANGES: Final = 256
_QUANTILES: Final = (0.5, 0.95, 0.99, 0.999)


class Recorder:
    """Counters of requests. Percentiles leave out what arrived before ``warmup`` seconds; counters do not."""

    __slots__ = (
        "_counted",
        "_early",
        "_fresh",
        "_fresh_failed",
        "_histogram",
        "_lost",
        "_peak",
        "_sum",
        "_timeline",
        "_warmup",
        "answers",
        "arrivals",
        "changes",
        "closing",
        "crossed",
        "failures",
        "faults",
        "open",
        "refusals",
        "retries",
        "series",
        "skipped_changes",
    )

    def __init__(self, timeline: Timeline, warmup: float = 0.0) -> None:
        self.arrivals = self.answers = self.retries = self.open = self.crossed = 0
        self.failures: Final[dict[str, int]] = {}
        self.refusals: Final[dict[str, int]] = {}
        self.faults: Final[dict[str, int]] = {}
        self.series: Final[list[Moment]] = []
        self.changes: Final[list[Change]] = []
        self.skipped_changes = 0
        self.closing = False
        """No request will arrive any more: the run ends with the last one that is open."""
        self._timeline = timeline
        self._warmup = warmup
        self._histogram = Histogram()
        self._fresh: list[int] = []
        self._early: list[int] = []
        self._fresh_failed = 0
        self._lost = 0
        self._counted = 0
        self._sum = 0.0
        self._peak = 0

    def arrived(self, now: float) -> None:
        """A request has come."""
        self.arrivals += 1
        here = self.open = self.open + 1
        if here > self._peak:
            self._peak = here

    def answered(self, now: float, began: float) -> None:
        """It was answered."""
        self.answers += 1
        elapsed = now - began
        if began >= self._warmup:
            self._counted += 1
            self._sum += elapsed
            self._fresh.append(int(elapsed * 1e6))
        else:
            self._early.append(int(elapsed * 1e6))
        self.open -= 1
        if self.closing and not self.open:
            self._timeline.stop()

    def failed(self, now: float, began: float, fault: str) -> None:
        """All its tries have failed, the last one by ``fault``."""
        self.failures[fault] = self.failures.get(fault, 0) + 1
        self._lose(began)

    def refused(self, now: float, began: float, why: str) -> None:
        """It was never sent."""
        self.refusals[why] = self.refusals.get(why, 0) + 1
        self._lose(began)

    def _lose(self, began: float) -> None:
        self._fresh_failed += 1
        if began >= self._warmup:
            self._lost += 1
        self.open -= 1
        if self.closing and not self.open:
            self._timeline.stop()

    def fault(self, kind: str) -> None:
        """One try has failed."""
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def changed(self, now: float, client: int, endpoint: str, what: str) -> None:
        """A client began to see an endpoint in another way. The first `MAX_CHANGES` are kept."""
        if len(self.changes) < MAX_CHANGES:
            self.changes.append(Change(at=now, client=client, endpoint=endpoint, what=what))
        else:
            self.skipped_changes += 1

    def tick(self, now: float, width: float) -> None:
        """Close an interval of ``width`` seconds: one point of every curve."""
        fresh = Histogram(self._fresh)
        self._histogram.merge(fresh)
        fresh.record_many(self._early)
        p50, p95, p99 = (_seconds(value) for value in fresh.quantiles((0.5, 0.95, 0.99), beyond=self._fresh_failed))
        self.series.append(
            Moment(
                at=now,
                answered=fresh.count / width,
                errors=self._fresh_failed / width,
                in_flight=self._peak,
                p50=p50,
                p95=p95,
                p99=p99,
            )
        )
        self._fresh = []
        self._early = []
        self._fresh_failed = 0
        self._peak = self.open

    def latency(self) -> Latency:
        """Percentiles after the warm-up with failures infinitely slow, mean and maximum of what was answered."""
        found = self._histogram.copy()
        found.record_many(self._fresh)
        p50, p95, p99, p999 = (_seconds(value) for value in found.quantiles(_QUANTILES, beyond=self._lost))
        mean = self._sum / self._counted if self._counted else None
        top = None if found.max is None else found.max / 1e6
        return Latency(samples=self._counted + self._lost, p50=p50, p95=p95, p99=p99, p999=p999, mean=mean, max=top)


def _seconds(microseconds: float) -> float | None:
    return microseconds / 1e6 if math.isfinite(microseconds) else None
