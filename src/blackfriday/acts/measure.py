"""The measure act, also used for every rung: at which rate does a shop stop holding the objective?"""

from __future__ import annotations

import math
from typing import Final

from blackfriday.acts.plan import Plan
from blackfriday.acts.stage import LIMIT, SLO, VALIDITY, Stage, Step
from blackfriday.shop import Shop
from blackfriday.story import Probe, RungOutcome
from blackfriday.view import View
from tenfold.load import (
    Interval,
    Poisson,
    ProbeProgress,
    Progress,
    RunOptions,
    RunResult,
    Scenario,
    SearchOptions,
    Snapshot,
    Steps,
    find_breakpoint,
    run,
)

STAIR: Final = 1.0
STAIRS: Final = tuple(4.0 * 1.35**n for n in range(24))  # 4/s to 4,000/s in 24 s; most shops are done long before
CEILING: Final = 8000.0
OPTIONS: Final = RunOptions(validity=VALIDITY, connections=32, drain=5.0)


async def neighbourhood(scenario: Scenario, seed: int) -> float:
    """About which rate the objective breaks: a staircase of one-second stairs, left where a stair is lost.

    One second is far too short for a verdict; it is enough to know where to look for one.
    """
    result = await run(
        scenario,
        Steps(STAIRS, STAIR, poisson=True),
        seed=seed,
        stop_early=_lost,
        options=OPTIONS,
    )
    lost = next((interval.at for interval in result.intervals if _slow(interval)), len(result.intervals) - 1)
    return STAIRS[max(0, min(lost, len(STAIRS) - 1))]


def _slow(interval: Interval) -> bool:
    return interval.intended > 0 and interval.corrected.quantile(0.9, beyond=interval.errors) > LIMIT * 2 * 1e6


def _lost(so_far: Snapshot) -> str | None:
    # Half a second's worth of journeys under way: the queue grows, the stair is lost.
    at = min(int(so_far.elapsed / STAIR), len(STAIRS) - 1)
    return "the stair is lost" if so_far.in_flight > 10 + STAIRS[at] / 2 else None


async def breakpoint_of(
    stage: Stage, which: Step, shop: Shop, plan: Plan, view: View, seed: int, start: float | None = None
) -> RungOutcome:
    """The highest rate at which ``shop`` holds the objective."""
    scenario = stage.scenario(shop)
    with view.bar(which.title) as bar:
        if start is None:
            bar.update(0.0, "looking for the neighbourhood")
            start = 0.7 * await neighbourhood(scenario, seed)

        def show(progress: ProbeProgress) -> None:
            tried = ", ".join(f"{probe.rate:.0f} {probe.vote}" for probe in progress.probes[-3:])
            bar.update(None, f"{progress.ask.rate:.0f}/s ({progress.ask.why})  {tried}")

        found = await find_breakpoint(
            scenario,
            objectives=SLO,
            seed=seed,
            search=SearchOptions(
                start=min(start, CEILING),
                ceiling=CEILING,
                floor=1.0,
                factor=1.3,
                precision=plan.precision,
                samples=plan.search_samples,
                min_seconds=3.0,
                budget=plan.search_budget,
            ),
            on_progress=show,
            options=OPTIONS,
        )
        bar.update(1.0, f"holds {found.highest_passing:.0f}/s")
    return RungOutcome(
        key=which.key,
        title=which.title,
        change=which.change,
        rate=found.highest_passing,
        failing=found.lowest_failing,
        why=found.why,
        probes=tuple(
            Probe(probe.rate, math.inf if probe.p95 is None else probe.p95, probe.vote == "pass")
            for probe in found.probes
        ),
    )


async def hold(
    scenario: Scenario, rate: float, seconds: float, warmup: float, seed: int, view: View, label: str
) -> RunResult:
    """One run at one rate, judged by the objective."""
    with view.bar(label) as bar:

        def show(progress: Progress) -> None:
            bar.update(progress.elapsed / progress.planned, f"p95 {progress.p95 * 1e3:.0f} ms, {progress.errors} errors")

        result = await run(
            scenario,
            Poisson(rate, warmup + seconds),
            warmup=warmup,
            seed=seed,
            objectives=SLO,
            on_progress=show,
            options=OPTIONS,
        )
        bar.update(1.0, f"{rate:.0f}/s: p95 {result.totals.latency(0.95) * 1e3:.1f} ms")
    return result
