"""The shell around `BreakpointSearch`: runs its probes against the target, ramped in and drained in between.

A probe climbs to its rate in four stairs of half a second, which is its warm-up: a target met by the full
rate at once shows its cold start, not its capacity. It ends early as soon as an objective can no longer be
held: with ``left`` journeys to come and at most ``most`` samples each (the most that any journey has made so
far), no more than
``attempts + left · most`` samples can be counted, and when too many of those are over the limit already, the
rest cannot bring the percentile back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

import msgspec

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive_seed
from tenfold.load.errors import LoadError
from tenfold.load.progress import Outcome, Progress, Snapshot
from tenfold.load.result import Counts, RunResult
from tenfold.load.run import DEFAULT_OPTIONS, RunOptions, execute, run
from tenfold.load.scenario import Scenario
from tenfold.load.schedule import Constant, Steps
from tenfold.load.search import Ask, BreakpointSearch, Probe, SearchOptions, SearchResult, Vote
from tenfold.load.slo import Objective, certainly_missed, evaluate, reasons_invalid

_STAIR: Final = 0.5
_STAIRS: Final = (0.25, 0.5, 0.75, 1.0)
RAMP_IN: Final = _STAIR * len(_STAIRS)
"""Seconds of a probe before it counts."""
_SETTLE: Final = 20.0


@dataclass(frozen=True, slots=True)
class ProbeProgress:
    """How a search stands: the probe under way and those before it."""

    ask: Ask
    number: int
    run: Progress | None
    """Of the probe under way; None before its start."""
    probes: tuple[Probe, ...]


async def find_breakpoint(
    scenario: Scenario,
    *,
    objectives: Sequence[Objective],
    start: float = 20.0,
    ceiling: float = 5000.0,
    precision: float = 0.05,
    samples: int = 1000,
    budget: units.Duration | None = None,
    processes: int = 1,
    seed: int = 1,
    poisson: bool = True,
    on_progress: Callable[[ProbeProgress], object] | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    search: SearchOptions | None = None,
) -> SearchResult:
    """The highest rate of arrivals a second at which ``objectives`` hold.

    ``start``, ``ceiling`` (arrivals a second), ``precision`` (share), ``samples`` (arrivals a probe) and
    ``budget`` (of time) are those of `SearchOptions`; ``search`` replaces them all. Each probe has its own
    seed, derived from
    ``seed``.

    Raises what `run` raises, and `LoadError` where the search was interrupted before the first probe ended.
    """
    if not objectives:
        raise MisuseError("breakpoint: expected at least one objective, got none; without one no rate is too high")
    chosen = search or SearchOptions(
        start=start,
        ceiling=ceiling,
        precision=precision,
        samples=samples,
        budget=math.inf if budget is None else units.duration(budget, "budget"),
    )
    finder = BreakpointSearch(chosen)
    began = monotonic()
    while (ask := finder.next(monotonic() - began)) is not None:
        number = len(finder.probes) + 1
        report = _reporter(on_progress, ask, number, tuple(finder.probes))
        report(None)
        outcome = await execute(
            scenario,
            _schedule(ask, poisson),
            warmup=RAMP_IN,
            processes=processes,
            seed=derive_seed(seed, "probe", number) >> 1,
            objectives=objectives,
            on_progress=report,
            stop_early=_stop_early(objectives),
            options=options,
        )
        if outcome.interrupted:
            break
        finder.record(_probe(ask, outcome, objectives, options))
        if outcome.unfinished:
            await _settle(scenario, objectives, options)
    if not finder.probes:
        raise LoadError("the search was interrupted before its first probe ended")
    return finder.result


def _reporter(
    on_progress: Callable[[ProbeProgress], object] | None, ask: Ask, number: int, probes: tuple[Probe, ...]
) -> Callable[[Progress | None], None]:
    def report(progress: Progress | None) -> None:
        if on_progress is not None:
            on_progress(ProbeProgress(ask, number, progress, probes))

    return report


def _schedule(ask: Ask, poisson: bool) -> Steps:
    stairs = math.ceil(ask.seconds / _STAIR - 1e-9)
    rates = [share * ask.rate for share in _STAIRS] + [ask.rate] * stairs
    return Steps(rates, _STAIR, poisson=poisson)


def _stop_early(objectives: Sequence[Objective]) -> Callable[[Snapshot], str | None]:
    def decide(seen: Snapshot) -> str | None:
        if not seen.most_samples:
            return None
        left = (seen.result.planned - seen.result.started + seen.in_flight) * seen.most_samples
        for objective in objectives:
            for counts in (_named(seen.result, name) for name in objective.steps):
                if counts.attempts and (why := certainly_missed(objective, counts, counts.attempts + left)):
                    return f"the verdict is certain: {why}"
        return None

    return decide


def _probe(ask: Ask, outcome: Outcome, objectives: Sequence[Objective], options: RunOptions) -> Probe:
    result = outcome.result
    totals = result.totals
    p50, p95, p99 = totals.latencies((0.5, 0.95, 0.99))
    vote, note = _vote(result, outcome.early, objectives, options)
    return Probe(
        rate=ask.rate,
        vote=vote,
        p50=_finite(p50),
        p95=_finite(p95),
        p99=_finite(p99),
        error_share=totals.error_share,
        in_flight=result.mean_in_flight,
        samples=totals.attempts,
        seconds=result.elapsed,
        early=outcome.early,
        note=note,
    )


def _vote(result: RunResult, early: bool, objectives: Sequence[Objective], options: RunOptions) -> tuple[Vote, str]:
    judged = msgspec.structs.replace(result)
    asked = list(objectives)
    if early:
        # What a certain verdict cut short is neither partial nor short of samples.
        judged.complete, judged.planned = True, judged.started
        asked = [replace(objective, min_samples=0) for objective in objectives]
    invalid = reasons_invalid(judged, asked, options.validity)
    missed = [line for line in evaluate(result, objectives) if not line.passed]
    if invalid:
        # Slip can only add to a latency: a miss that is more than the slip explains is the target's own.
        slip = max((client.schedule_slip.p99 for client in result.clients), default=math.inf)
        own = [line for line in missed if line.metric != "errors" and line.samples]
        if not (judged.complete and any(line.seen is None or line.seen - slip > line.limit for line in own)):
            return "invalid", "; ".join(invalid)
    if early:
        return "fail", result.stopped_because
    if missed:
        return "fail", ", ".join(f"{line.step} {line.metric}" for line in missed)
    return "pass", ""


async def _settle(scenario: Scenario, objectives: Sequence[Objective], options: RunOptions) -> None:
    """Wait until the target has worked off what the last probe left behind: a trickle answers within the
    limits.
    """
    limits = [limit for objective in objectives for _, _, limit in objective.latencies]
    limit = min(limits, default=1.0)
    until = monotonic() + _SETTLE
    while monotonic() < until:
        result = await run(scenario, Constant(5, 1.0), seed=1, options=options)
        totals = result.totals
        if result.complete is False or (totals.attempts and totals.latency(0.5) <= limit):
            return
        await asyncio.sleep(0.2)


def _named(result: RunResult, name: str) -> Counts:
    if name == "*":
        return result.totals
    return next((step for step in result.steps if step.name == name), Counts())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
