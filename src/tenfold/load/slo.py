"""The gate: what a run has to hold, whether it held it, and whether the run proves anything at all.

Three verdicts, not two. A run in which the client fell behind its own schedule, was saturated or had a
lagging loop measured the client; it is *invalid*, neither passed nor missed. Validity is judged on 99th
percentiles: one late timer in a minute says nothing, one in a hundred does. A failed sample counts as
infinitely slow, so that refusing quickly never improves a percentile.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold.load.result import Counts, ObjectiveResult, RunResult

QUANTILES: Final = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


class Verdict(Enum):
    """The end of a gated run; the value is the exit code."""

    PASSED = 0
    MISSED = 1
    INVALID = 2

    @property
    def exit_code(self) -> int:
        return int(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What one step, several steps (each on its own) or all samples together (``"*"``, the default) have to
    hold.

    Percentiles are corrected latencies: a duration such as ``"100ms"`` or seconds. ``errors`` is the share of
    failed samples that is allowed. Fewer than ``min_samples`` (default 0) make the run invalid. Raises
    `MisuseError` for an objective without any limit.
    """

    step: str | Sequence[str] = "*"
    p50: units.Duration | None = None
    p75: units.Duration | None = None
    p90: units.Duration | None = None
    p95: units.Duration | None = None
    p99: units.Duration | None = None
    p999: units.Duration | None = None
    errors: str | float | None = None
    min_samples: int = 0

    def __post_init__(self) -> None:
        if not self.latencies and self.allowed_errors is None:
            raise MisuseError(
                f"objective for {self.step!r}: expected one of {', '.join(QUANTILES)} or errors, got none"
            )
        for name, _, limit in self.latencies:
            if limit <= 0:
                raise MisuseError(f"objective {name}: expected a duration above 0, got {getattr(self, name)!r}")
        fewest: object = self.min_samples  # a TOML file may bring anything
        if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 0:
            raise MisuseError(f"objective min_samples: expected a whole number >= 0, got {self.min_samples!r}")
        if not self.steps or not all(type(name) is str and name for name in self.steps):
            raise MisuseError(f'objective step: expected "*", a name or a list of names, got {self.step!r}')

    @property
    def steps(self) -> tuple[str, ...]:
        return (self.step,) if isinstance(self.step, str) else tuple(self.step)

    @property
    def latencies(self) -> list[tuple[str, float, float]]:
        """``(name, quantile, limit in seconds)`` for every percentile that is limited."""
        found = []
        for name, q in QUANTILES.items():
            limit = getattr(self, name)
            if limit is not None:
                found.append((name, q, units.duration(limit, f"objective {name}")))
        return found

    @property
    def allowed_errors(self) -> float | None:
        return None if self.errors is None else units.share(self.errors, "objective errors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """When a run says nothing about its target.

    ``floor`` seconds (10 ms) or ``share`` (10 %) of the tightest latency objective, whichever is more, is
    what the 99th percentile of schedule slip and of loop lag may reach; ``cpu`` (80 %) is what a client
    process may use of its core.
    """

    floor: float = 0.010
    share: float = 0.10
    cpu: float = 0.80

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < math.inf:
                raise MisuseError(f"validity {item.name}: expected a number above 0, got {value!r}")

    def lateness(self, objectives: Iterable[Objective]) -> float:
        """The bound on slip and lag, in seconds."""
        limits = [limit for objective in objectives for _, _, limit in objective.latencies]
        return max(self.floor, self.share * min(limits)) if limits else self.floor


DEFAULT_VALIDITY: Final = Validity()


def reasons_invalid(
    result: RunResult, objectives: Sequence[Objective] = (), validity: Validity = DEFAULT_VALIDITY
) -> list[str]:
    """Why the run proves nothing, one sentence each; empty for a valid run."""
    found: list[str] = []
    if not result.complete:
        found.append(f"the run is partial: {result.stopped_because or 'it was stopped before its end'}")
    elif result.started < result.planned:
        found.append(f"the schedule was not sent in full: {result.started:,} of {result.planned:,} arrivals started")
    if not any(step.attempts for step in result.steps):
        found.append("there is no sample after the warm-up")
    bound = validity.lateness(objectives)
    shown = units.format_duration(bound)
    for client in result.clients:
        if client.schedule_slip.p99 > bound:
            slip = units.format_duration(client.schedule_slip.p99)
            found.append(f"client {client.pid} fell behind its schedule: slip p99 {slip}, at most {shown} allowed")
        if client.loop_lag.p99 > bound:
            lag = units.format_duration(client.loop_lag.p99)
            found.append(f"the loop of client {client.pid} lagged: p99 {lag}, at most {shown} allowed")
        if client.cpu_share > validity.cpu:
            found.append(
                f"client {client.pid} was saturated: {client.cpu_share:.0%} of a core, "
                f"at most {validity.cpu:.0%} allowed; use more processes"
            )
    for objective in objectives:
        for name in objective.steps:
            attempts = _counts(result, name).attempts
            if attempts < max(1, objective.min_samples):
                needed = f"at least {max(1, objective.min_samples):,}"
                found.append(f"objective for step {name!r} needs {needed} samples, the run has {attempts:,}")
    return found


def evaluate(result: RunResult, objectives: Sequence[Objective]) -> list[ObjectiveResult]:
    """Every limit of every objective against what was seen. A step without a sample holds nothing."""
    found: list[ObjectiveResult] = []
    for objective in objectives:
        for name in objective.steps:
            counts = _counts(result, name)
            n = counts.attempts
            for metric, q, limit in objective.latencies:
                seen = counts.latency(q)
                passed = n > 0 and seen <= limit
                note = "" if math.isfinite(seen) else "no sample" if not n else "falls among the failed samples"
                kept = seen if math.isfinite(seen) else None
                found.append(
                    ObjectiveResult(
                        step=name, metric=metric, limit=limit, seen=kept, passed=passed, samples=n, note=note
                    )
                )
            if (allowed := objective.allowed_errors) is not None:
                share = counts.error_share if n else None
                passed = share is not None and share <= allowed
                note = "" if n else "no sample"
                found.append(
                    ObjectiveResult(
                        step=name,
                        metric="errors",
                        limit=allowed,
                        seen=share,
                        passed=passed,
                        samples=n,
                        note=note,
                    )
                )
    return found


def judge(result: RunResult, objectives: Sequence[Objective] = (), validity: Validity = DEFAULT_VALIDITY) -> Verdict:
    """Write ``objectives`` and ``invalid`` of the result and return its verdict."""
    result.objectives = evaluate(result, objectives)
    result.invalid = reasons_invalid(result, objectives, validity)
    return verdict(result)


def verdict(result: RunResult) -> Verdict:
    """The verdict of a judged result. A valid run without objectives has passed: nothing was asked of it."""
    if result.invalid or not result.complete:
        return Verdict.INVALID
    return Verdict.PASSED if all(line.passed for line in result.objectives) else Verdict.MISSED


def certainly_missed(objective: Objective, counts: Counts, at_most: int) -> str:
    """Why ``objective`` can no longer be held by a run that ends with at most ``at_most`` samples; empty
    while it can.

    Exact, not heuristic. With n samples the percentile q is the ⌈q·n⌉-th smallest, so it exceeds its limit
    once more than n − ⌈q·n⌉ samples do; that bound does not shrink with n, and a sample over the limit never
    comes back. ``counts`` are those of the step of the objective.
    """
    failures = counts.failures
    for name, q, limit in objective.latencies:
        over = counts.corrected.above(_micros(limit)) + failures
        spare = at_most - max(1, math.ceil(q * at_most - 1e-9))
        if over > spare:
            shown = units.format_duration(limit)
            return f"{name}: {over:,} of {at_most:,} samples are over {shown}, {spare:,} may be"
    allowed = objective.allowed_errors
    if allowed is not None and failures > allowed * at_most:
        return f"errors: {failures:,} of {at_most:,} samples failed, {allowed:.3%} may"
    return ""


def load_objectives(path: str | Path) -> list[Objective]:
    """The ``[[objective]]`` tables of a TOML file. Raises `MisuseError` with the file and the table for
    anything else."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise MisuseError(f"slo: cannot read {path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise MisuseError(f"{path}: expected TOML, got: {exc}") from exc
    tables = data.pop("objective", None)
    if data or not isinstance(tables, list) or not tables:
        got = ", ".join(sorted(data)) or "none"
        raise MisuseError(f"{path}: expected one or more [[objective]] tables and nothing else, got {got}")
    return [_objective(path, number, table) for number, table in enumerate(tables, start=1)]


def _objective(path: str | Path, number: int, table: Any) -> Objective:
    known = {item.name for item in fields(Objective)}
    if not isinstance(table, dict) or set(table) - known:
        odd = ", ".join(sorted(set(table) - known)) if isinstance(table, dict) else repr(table)
        raise MisuseError(f"{path}, objective {number}: expected {', '.join(sorted(known))}, got {odd}")
    try:
        return Objective(**table)
    except MisuseError as exc:
        raise MisuseError(f"{path}, objective {number}: {exc}") from exc


def _counts(result: RunResult, name: str) -> Counts:
    """The step, or empty counts where it never ran: a rare step of a short run is no misuse."""
    if name == "*":
        return result.totals
    return next((step for step in result.steps if step.name == name), Counts())


def _micros(seconds: float) -> int:
    # The quantile in seconds is an integer of microseconds over 1e6, so "> limit" is "> floor(limit · 1e6)".
    return math.floor(seconds * 1e6 + 1e-6)
