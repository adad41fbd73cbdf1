"""What a run leaves behind: plain records, JSON on disk, and the sums that everybody who judges or draws
needs.

Durations are seconds, histograms integer microseconds (`Histogram`). *Corrected* latency counts from the
moment the schedule asked for the request, *uncorrected* from the moment it was sent (see
docs/concepts/coordinated-omission.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import Histogram

FORMAT: Final = 1


class Counts(msgspec.Struct, kw_only=True):
    """Samples of one step. ``attempts`` counts all, ``corrected`` and ``uncorrected`` hold the good,
    ``failed`` the rest."""

    attempts: int = 0
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    """Failed samples by kind: ``"status 503"``, ``"timeout"``, ``"check: has id"``. One kind a sample."""
    corrected: Histogram = msgspec.field(default_factory=Histogram)
    uncorrected: Histogram = msgspec.field(default_factory=Histogram)
    failed: Histogram = msgspec.field(default_factory=Histogram)
    """Corrected time that failed samples took until they failed. Not part of any percentile."""

    @property
    def failures(self) -> int:
        return sum(self.errors.values())

    @property
    def error_share(self) -> float:
        """Failed samples as a share of attempts, 0 … 1; 0 while there are none."""
        return self.failures / self.attempts if self.attempts else 0.0

    def latency(self, q: float) -> float:
        """Corrected quantile in seconds with failures taken as infinitely slow; NaN while empty."""
        return self.corrected.quantile(q, beyond=self.failures) / 1e6

    def latencies(self, qs: Iterable[float]) -> list[float]:
        """`latency` for several shares in one pass."""
        return [value / 1e6 for value in self.corrected.quantiles(qs, beyond=self.failures)]

    def add(self, other: Counts) -> None:
        """Add the samples of ``other`` to these; ``other`` stays as it is."""
        self.attempts += other.attempts
        for kind, n in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + n
        self.corrected.merge(other.corrected)
        self.uncorrected.merge(other.uncorrected)
        self.failed.merge(other.failed)


class StepResult(Counts, kw_only=True):
    """One named step. Its own numbers exclude the warm-up, which stands apart in ``warmup``."""

    name: str
    warmup: Counts = msgspec.field(default_factory=Counts)


class Interval(msgspec.Struct, kw_only=True):
    """One second of the run, warm-up included.

    ``intended``, ``errors``, ``kinds``, ``corrected`` and ``steps`` count under the second in which the sample was
    *intended*, ``sent`` and ``answered`` under the one in which that happened. ``corrected`` holds the good
    samples of all steps, ``steps`` and ``step_errors`` the same for each step.
    """

    at: int
    """Whole seconds since the start of the schedule."""
    intended: int = 0
    sent: int = 0
    answered: int = 0
    errors: int = 0
    in_flight_max: int = 0
    kinds: dict[str, int] = msgspec.field(default_factory=dict)
    corrected: Histogram = msgspec.field(default_factory=Histogram)
    steps: dict[str, Histogram] = msgspec.field(default_factory=dict)
    step_errors: dict[str, int] = msgspec.field(default_factory=dict)

    def only(self, names: Sequence[str]) -> Interval:
        """The samples of these steps alone: ``errors``, ``corrected`` and ``intended`` of a new interval."""
        found = Interval(at=self.at, errors=sum(self.step_errors.get(name, 0) for name in names))
        for name in names:
            if name in self.steps:
                found.corrected.merge(self.steps[name])
        found.intended = found.corrected.count + found.errors
        return found

    def add(self, other: Interval) -> None:
        """Add the same second of another process. In-flight maxima add up, which is an upper bound."""
        self.intended += other.intended
        self.sent += other.sent
        self.answered += other.answered
        self.errors += other.errors
        self.in_flight_max += other.in_flight_max
        for kind, n in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + n
        self.corrected.merge(other.corrected)
        for name, n in other.step_errors.items():
            self.step_errors[name] = self.step_errors.get(name, 0) + n
        for name, histogram in other.steps.items():
            known = self.steps.get(name)
            if known is None:
                self.steps[name] = known = Histogram()
            known.merge(histogram)


class Spread(msgspec.Struct, kw_only=True, frozen=True):
    """Median, 99th percentile and maximum of something, in seconds."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, histogram: Histogram) -> Spread:
        """The spread of a histogram; zeros while it is empty."""
        if not histogram:
            return cls()
        p50, p99 = histogram.quantiles((0.5, 0.99))
        return cls(p50=p50 / 1e6, p99=p99 / 1e6, max=(histogram.max or 0) / 1e6)


class ClientHealth(msgspec.Struct, kw_only=True):
    """How one load-generating process fared, over the measured part of the run."""

    pid: int
    cpu_seconds: float = 0.0
    cpu_share: float = 0.0
    """CPU time over wall time, of one core: 1.0 is saturated."""
    loop_lag: Spread = Spread()
    """How late the event loop ran a timer."""
    schedule_slip: Spread = Spread()
    """Actual minus intended start of a journey."""
    connections_opened: int = 0
    requests: int = 0
    bytes_in: int = 0


class ObjectiveResult(msgspec.Struct, kw_only=True):
    """One line of the gate: what was asked, what was seen, whether it holds."""

    step: str
    metric: str
    """``"p95"``, ``"errors"`` or ``"samples"``."""
    limit: float
    """Seconds for a percentile, a share for ``errors``, a count for ``samples``."""
    seen: float | None
    """In the unit of ``limit``; ``None`` stands for infinitely slow (the percentile falls among the failures)
    or no sample."""
    passed: bool
    samples: int = 0
    note: str = ""


class RunResult(msgspec.Struct, kw_only=True):
    """One run. `save` and `load` are the way to disk and back."""

    scenario: str
    target: str
    schedule: dict[str, Any]
    format: int = FORMAT
    tool_version: str = ""
    started_at: str = ""
    """ISO 8601, UTC."""
    seed: int = 0
    warmup: float = 0.0
    duration: float = 0.0
    """Planned, warm-up included."""
    elapsed: float = 0.0
    complete: bool = True
    stopped_because: str = ""
    planned: int = 0
    """Arrivals of the schedule, exact."""
    started: int = 0
    """Arrivals whose journey was started; equal to ``planned`` where the schedule was sent in full."""
    steps: list[StepResult] = msgspec.field(default_factory=list)
    intervals: list[Interval] = msgspec.field(default_factory=list)
    clients: list[ClientHealth] = msgspec.field(default_factory=list)
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    invalid: list[str] = msgspec.field(default_factory=list)
    """Why the run proves nothing, one sentence each; empty for a valid run."""
    objectives: list[ObjectiveResult] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    tracebacks: dict[str, str] = msgspec.field(default_factory=dict)
    """The first traceback of each kind of exception that a journey raised."""

    @property
    def totals(self) -> Counts:
        """All steps together, warm-up excluded. A new object each time."""
        return self.merged(self.steps)

    @property
    def warmup_totals(self) -> Counts:
        """All steps together during the warm-up."""
        return self.merged([step.warmup for step in self.steps])

    @property
    def measured(self) -> float:
        """Seconds of the run that count: elapsed at most as planned, less the warm-up."""
        return max(0.0, (min(self.elapsed, self.duration) if self.duration else self.elapsed) - self.warmup)

    @property
    def goodput(self) -> float:
        """Good samples a second of the measured part."""
        totals = self.totals
        return (totals.attempts - totals.failures) / self.measured if self.measured else math.nan

    @property
    def mean_in_flight(self) -> float | None:
        """Mean number of good samples under way in the measured part: their times from *sent* to *answered* over its
        seconds (Little's law). ``None`` without a sample.
        """
        seen = self.totals.uncorrected
        return seen.sum / 1e6 / self.measured if seen and self.measured else None

    @staticmethod
    def merged(parts: Iterable[Counts]) -> Counts:
        """The sum of the parts, as a new object."""
        total = Counts()
        for part in parts:
            total.add(part)
        return total

    def named(self, name: str) -> Counts:
        """The step of that name, or all of them for ``"*"``. Raises `MisuseError` for an unknown one."""
        if name == "*":
            return self.totals
        for step in self.steps:
            if step.name == name:
                return step
        known = ", ".join(step.name for step in self.steps) or "none"
        raise MisuseError(f'step: expected "*" or one of {known}, got {name!r}')

    def to_json(self) -> bytes:
        """The bytes that `from_json` reads. NaN and infinity never occur in them."""
        return msgspec.json.encode(self, enc_hook=_encode)

    @classmethod
    def from_json(cls, data: bytes | str) -> RunResult:
        """Raises `MisuseError` where ``data`` is no result of this format."""
        try:
            found = msgspec.json.decode(data, type=cls, dec_hook=_decode)
        except msgspec.DecodeError as exc:
            raise MisuseError(f"result: expected JSON of a load run, format {FORMAT}, got: {exc}") from exc
        if found.format != FORMAT:
            raise MisuseError(
                f"result: expected format {FORMAT}, got {found.format}; "
                f"use the tenfold version that wrote it ({found.tool_version or 'unknown'})"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write the JSON to ``path`` in one rename, so that a crash never leaves half a file."""
        goal = Path(path)
        try:
            goal.parent.mkdir(parents=True, exist_ok=True)
            scratch = goal.with_name(f".{goal.name}.part")
            scratch.write_bytes(self.to_json())
            scratch.replace(goal)
        except OSError as exc:
            raise MisuseError(f"result: cannot write {goal}: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, path: str | Path) -> RunResult:
        """Read what `save` wrote. Raises `MisuseError` with the path for a missing or foreign file."""
        try:
            data = Path(path).read_bytes()
        except OSError as exc:
            raise MisuseError(f"result: cannot read {path}: {exc.strerror or exc}") from exc
        try:
            return cls.from_json(data)
        except MisuseError as exc:
            raise MisuseError(f"{path}: {exc}") from exc

    def __repr__(self) -> str:
        totals = self.totals
        p95 = totals.latency(0.95) * 1e3
        state = "invalid" if self.invalid else "valid" if self.complete else "partial"
        seen = f"{totals.attempts} samples, {totals.failures} errors, p95={p95:.3g}ms"
        return f"RunResult({self.scenario!r}, {seen}, {state})"


def _encode(value: Any) -> Any:
    if isinstance(value, Histogram):
        return value.to_sparse()
    raise NotImplementedError(f"cannot write a {type(value).__name__} into a result")


def _decode(kind: type, value: Any) -> Any:
    if kind is Histogram:
        return Histogram.from_sparse(value)
    raise NotImplementedError(f"cannot read a {kind.__name__} from a result")
