"""Is B better than A? A verdict for each metric, with the interval it rests on.

- *same*: the whole interval lies within the margin of equivalence (5 % by default).
- *better* or *worse*: the interval excludes zero and the difference itself is beyond the margin.
- *inconclusive*: neither; more seconds or more interleaved runs decide.

The intervals hold together: with m metrics each is a 1 − 5 %/m interval (Bonferroni), so that equal systems
are called better or worse anywhere in the table in at most about 5 % of all comparisons. Failed samples count
as infinitely slow.

One run a side shows how seconds differ within a run, not how runs differ: a cold cache, another CPU clock, a
neighbour. Interleaved runs A B A B … show both, from three pairs on: the interval is then at least Student's
interval of the pairwise differences. numpy is loaded when a comparison is made, not before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from tenfold._core.errors import MisuseError
from tenfold.load import bootstrap
from tenfold.load.comparable import check_comparable
from tenfold.load.result import Interval, RunResult
from tenfold.load.slo import QUANTILES

if TYPE_CHECKING:
    from tenfold.load.bootstrap import Draws, Floats, Seconds

Outcome = Literal["better", "worse", "same", "inconclusive"]

MIN_SECONDS: Final = 10
MIN_TAIL: Final = 10
"""Samples that have to lie beyond a quantile on each side: 200 samples for p95, 1,000 for p99."""
_MIN_ERRORS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """``margin``: relative difference of a latency that does not matter (5 %). ``error_margin``: the same for
    the share of errors, absolute (0.1 percentage points). ``confidence`` (95 %) holds for the whole table.
    ``steps`` narrows the comparison to the samples of these steps; none means all. ``force`` turns refusals (another
    scenario, another schedule, an invalid run) into warnings.
    """

    margin: float = 0.05
    error_margin: float = 0.001
    confidence: float = 0.95
    resamples: int = 4000
    seed: int = 1
    quantiles: tuple[str, ...] = ("p50", "p95", "p99")
    steps: tuple[str, ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        for name in ("margin", "error_margin"):
            if not 0 < getattr(self, name) < 1:
                raise MisuseError(f"compare {name}: expected a share between 0 and 1, got {getattr(self, name)!r}")
        if not 0.5 <= self.confidence < 1:
            raise MisuseError(f"compare confidence: expected 0.5 … 0.999, got {self.confidence!r}")
        if self.resamples < 500:
            raise MisuseError(f"compare resamples: expected at least 500, got {self.resamples!r}")
        if not self.quantiles or set(self.quantiles) - set(QUANTILES):
            raise MisuseError(f"compare quantiles: expected some of {', '.join(QUANTILES)}, got {self.quantiles!r}")


class Metric(msgspec.Struct, kw_only=True):
    """One line: A, B, how much more B is, and the interval of that difference.

    Latencies are seconds and differences relative (0.1: B is 10 % slower); for ``errors`` both are absolute
    shares. ``None`` is infinite, or unknown where there are too few samples.
    """

    name: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    outcome: Outcome
    note: str = ""


class Comparison(msgspec.Struct, kw_only=True):
    """The table and its sum: *worse* if any line is, else *better* if any is, else *inconclusive* if any
    is."""

    outcome: Outcome
    metrics: list[Metric]
    runs: tuple[int, int]
    samples: tuple[int, int]
    seconds: tuple[int, int]
    confidence: float
    warnings: list[str]


Runs = RunResult | Sequence[RunResult]


def compare(a: Runs, b: Runs, options: CompareOptions | None = None) -> Comparison:
    """Compare B with A, one run or several interleaved ones a side.

    Raises `MisuseError` for runs that cannot be compared (see `CompareOptions`) and for an empty side.
    """
    chosen = options or CompareOptions()
    sides = tuple([side] if isinstance(side, RunResult) else list(side) for side in (a, b))
    warnings = check_comparable(sides[0], sides[1], force=chosen.force)
    import numpy as np

    seconds = [[measured_seconds(run, chosen.steps) for run in side] for side in sides]
    middles, tables = bootstrap.tabulate([run for side in seconds for run in side])
    split = len(sides[0])
    parts = tables[:split], tables[split:]
    rng = np.random.default_rng(chosen.seed)
    qs = [QUANTILES[name] for name in chosen.quantiles]
    samples = [sum(round(float(t.counts.sum() + t.errors.sum())) for t in part) for part in parts]
    spans = [sum(len(run) for run in side) for side in seconds]
    frame = _Frame(
        options=chosen,
        middles=middles,
        parts=parts,
        draws=tuple(
            bootstrap.resample(middles, part, qs, chosen.resamples, rng) if n else None
            for part, n in zip(parts, samples, strict=True)
        ),
        samples=samples,
        alpha=(1 - chosen.confidence) / (len(qs) + 1),
        blocks=min(sum(t.effective for t in part) for part in parts),
        spans=spans,
    )
    metrics = [frame.latency(name, at) for at, name in enumerate(chosen.quantiles)] + [frame.errors()]
    outcomes = {metric.outcome for metric in metrics}
    order: tuple[Outcome, ...] = ("worse", "better", "inconclusive", "same")
    return Comparison(
        outcome=next(outcome for outcome in order if outcome in outcomes),
        metrics=metrics,
        runs=(len(sides[0]), len(sides[1])),
        samples=(samples[0], samples[1]),
        seconds=(spans[0], spans[1]),
        confidence=chosen.confidence,
        warnings=warnings,
    )


def measured_seconds(run: RunResult, steps: Sequence[str] = ()) -> list[Interval]:
    """The whole seconds of a run after its warm-up, without the last one of a run that was cut short.

    A run that is complete covers its schedule, also where the last answer came a moment before its end.
    ``steps`` narrows them to the samples of these steps. Raises `MisuseError` for a step that the run does not have.
    """
    end = run.duration if run.duration and run.complete else min(run.elapsed, run.duration or run.elapsed)
    whole = [second for second in run.intervals if second.at >= run.warmup and second.at + 1 <= end + 1e-9]
    for name in steps:
        run.named(name)
    return [second.only(steps) for second in whole] if steps else whole


@dataclass(frozen=True, slots=True)
class _Frame:
    options: CompareOptions
    middles: Floats
    parts: tuple[list[Seconds], list[Seconds]]
    draws: tuple[Draws | None, ...]
    samples: list[int]
    alpha: float
    blocks: float
    spans: list[int]

    def latency(self, name: str, at: int) -> Metric:
        import numpy as np

        q = QUANTILES[name]
        margin = self.options.margin
        seen = [self._pooled(part, q) for part in self.parts]
        metric = Metric(
            name=name, a=_finite(seen[0]), b=_finite(seen[1]), difference=None, low=None, high=None,
            margin=margin, outcome="inconclusive",
        )  # fmt: skip
        needed = math.ceil(MIN_TAIL / (1 - q) - 1e-9)
        if (short := self._short(needed)) or self.draws[0] is None or self.draws[1] is None:
            metric.note = short
            return metric
        with np.errstate(invalid="ignore"):
            logs = np.log(self.draws[1].quantiles[:, at]) - np.log(self.draws[0].quantiles[:, at])
            point = float(np.log(seen[1]) - np.log(seen[0]))
        logs = np.where(np.isnan(logs), 0.0, logs)  # infinitely slow on both sides: no difference
        low, high = bootstrap.interval(logs, self.alpha, self.blocks)
        low, high = self._between(low, high, [self._log(pair, q) for pair in self._pairs()])
        if math.isnan(point):
            metric.note = "both sides fall among the failed samples"
            return metric
        metric.difference, metric.low, metric.high = (_finite(_grown(x)) for x in (point, low, high))
        # In logarithms a margin is as wide downwards as upwards: 5 % slower and 5 % faster cancel.
        metric.outcome = _outcome(point, low, high, math.log1p(margin))
        if math.isinf(point):
            metric.note = ("B" if point > 0 else "A") + " falls among the failed samples"
        elif metric.outcome == "inconclusive":
            metric.note = "the interval is too wide: longer or more interleaved runs decide"
        return metric

    def errors(self) -> Metric:
        totals = [sum(float(t.errors.sum()) for t in part) for part in self.parts]
        shares = [failed / n if n else 0.0 for failed, n in zip(totals, self.samples, strict=True)]
        metric = Metric(
            name="errors", a=shares[0], b=shares[1], difference=shares[1] - shares[0], low=None, high=None,
            margin=self.options.error_margin, outcome="inconclusive",
        )  # fmt: skip
        if (short := self._short(1)) or self.draws[0] is None or self.draws[1] is None:
            metric.note = short
            return metric
        low, high = bootstrap.interval(self.draws[1].errors - self.draws[0].errors, self.alpha, self.blocks)
        metric.low, metric.high = self._between(low, high, [_share(b) - _share(a) for a, b in self._pairs()])
        if not any(totals):
            metric.outcome, metric.note = "same", "no error on either side"
        elif sum(totals) < _MIN_ERRORS:
            metric.note = f"{sum(totals):.0f} errors are too few to tell"
        else:
            metric.outcome = _outcome(shares[1] - shares[0], metric.low, metric.high, self.options.error_margin)
        return metric

    def _short(self, needed: int) -> str:
        if min(self.spans) < MIN_SECONDS:
            return f"too short: {min(self.spans)} measured seconds, at least {MIN_SECONDS} needed"
        if min(self.samples) < needed:
            return f"too few samples: {min(self.samples):,}, at least {needed:,} needed"
        return ""

    def _pooled(self, part: list[Seconds], q: float) -> float:
        counts = sum(t.counts.sum(axis=0) for t in part)
        errors = sum(t.errors.sum() for t in part)
        import numpy as np

        found = bootstrap.quantiles_of(self.middles, np.array([counts]), np.array([errors]), [q])
        return float(found[0, 0]) / 1e6

    def _pairs(self) -> list[tuple[Seconds, Seconds]]:
        first, second = self.parts
        return list(zip(first, second, strict=True)) if len(first) == len(second) >= 3 else []

    def _log(self, pair: tuple[Seconds, Seconds], q: float) -> float:
        first, second = (self._pooled([side], q) for side in pair)
        finite = math.isfinite(first) and math.isfinite(second)
        return math.log(max(second, 1e-9) / max(first, 1e-9)) if finite else math.nan

    def _between(self, low: float, high: float, differences: list[float]) -> tuple[float, float]:
        """Widen the interval to what the pairs of runs show, where there are pairs and all are finite."""
        n = len(differences)
        if n < 3 or not all(map(math.isfinite, differences)):
            return low, high
        mean = math.fsum(differences) / n
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in differences) / (n - 1))
        half = bootstrap.student(1 - self.alpha / 2, n - 1) * deviation / math.sqrt(n)
        return min(low, mean - half), max(high, mean + half)


def _outcome(point: float, low: float, high: float, margin: float) -> Outcome:
    if -margin <= low and high <= margin:
        return "same"
    if low > 0 and point > margin:
        return "worse"
    return "better" if high < 0 and point < -margin else "inconclusive"


def _grown(log: float) -> float:
    return math.inf if log > 700 else math.expm1(log)


def _share(table: Seconds) -> float:
    failed = float(table.errors.sum())
    total = float(table.counts.sum()) + failed
    return failed / total if total else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
