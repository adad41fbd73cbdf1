"""The measure act, also used for every rung: at which rate does a shop stop holding the objective?

Rates here and in the story are *requests* a second; the load client counts journeys, and `REQUESTS_PER_JOURNEY` is the
one place where they meet.
"""

from __future__ import annotations

import math
from itertools import pairwise
from time import monotonic
from typing import Final

from blackfriday.acts.plan import Plan
from blackfriday.acts.stage import LIMIT, SLO, VALIDITY, Stage, Step
from blackfriday.journeys import REQUESTS_PER_JOURNEY
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
STAIRS: Final = tuple(8.0 * 1.6**n for n in range(14))  # 8/s to 3,600/s in 14 s; most shops are done long before
START: Final = 0.5  # a queue that takes seconds to grow is not seen in one: the answer lies below the lost stair
CEILING: Final = 8000.0
OPTIONS: Final = RunOptions(validity=VALIDITY, connections=32, drain=5.0)


async def neighbourhood(scenario: Scenario, seed: int) -> float:
    """About which rate the objective breaks: a staircase of one-second stairs, left where a stair is lost.

    One second is far too short for a verdict; it is enough to know where to look for one.
    """
    result = await run(scenario, Steps(STAIRS, STAIR, poisson=True), seed=seed, stop_early=_lost, options=OPTIONS)
    slow = [interval.at for interval in result.intervals if _slow(interval)]
    # Two in a row: a single slow second is a cold cache or a neighbour.
    lost = next((at for at, then in pairwise(slow) if then == at + 1), len(result.intervals) - 1)
    return START * STAIRS[max(0, min(lost, len(STAIRS) - 1))]


def _slow(interval: Interval) -> bool:
    return interval.intended > 0 and interval.corrected.quantile(0.75, beyond=interval.errors) > LIMIT * 1e6


def _lost(so_far: Snapshot) -> str | None:
    """A third of a second's worth of journeys under way: the queue grows, the stair is lost."""
    at = min(int(so_far.result.elapsed / STAIR), len(STAIRS) - 1)
    return "the stair is lost" if so_far.in_flight > 10 + STAIRS[at] / 3 else None


async def breakpoint_of(
    stage: Stage, which: Step, shop: Shop, plan: Plan, view: View, seed: int, *, near: float | None = None
) -> RungOutcome:
    """The highest rate at which ``shop`` holds the objective, in requests a second.

    ``near`` is a rate to begin at where one is known; else the neighbourhood is looked for first.
    """
    budget = plan.baseline_budget if which.variant == "baseline" else plan.search_budget
    if near:
        budget = plan.edge_budget
    scenario = stage.scenario(shop, direct=not which.gateway)
    began = monotonic()
    with view.bar(which.title) as bar:
        bar.update(0.0, "looking for the neighbourhood")
        start = near / REQUESTS_PER_JOURNEY if near else await neighbourhood(scenario, seed)

        def show(progress: ProbeProgress) -> None:
            tried = ", ".join(f"{_requests(probe.rate):.0f} {probe.vote}" for probe in progress.probes[-3:])
            bar.update(None, f"{_requests(progress.ask.rate):.0f}/s ({progress.ask.why})  {tried}")

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
                max_seconds=plan.probe_seconds,
                budget=max(1.0, budget - (monotonic() - began)),
            ),
            on_progress=show,
            options=OPTIONS,
        )
        bar.update(1.0, f"holds {_requests(found.highest_passing):.0f}/s")
    return RungOutcome(
        key=which.key,
        title=which.title,
        change=which.change,
        rate=_requests(found.highest_passing),
        failing=None if found.lowest_failing is None else _requests(found.lowest_failing),
        why=found.why,
        probes=tuple(
            Probe(_requests(probe.rate), math.inf if probe.p95 is None else probe.p95, probe.vote == "pass")
            for probe in found.probes
        ),
    )


def _requests(journeys: float) -> float:
    return journeys * REQUESTS_PER_JOURNEY


async def probe(scenario: Scenario, rate: float, seconds: float, seed: int, view: View, label: str) -> Probe:
    """One rate of requests a second, tried once and not for long; left where the queue grows without end."""
    journeys = rate / REQUESTS_PER_JOURNEY

    def hopeless(so_far: Snapshot) -> str | None:
        return "the queue grows" if so_far.in_flight > 20 + journeys else None

    with view.bar(label) as bar:
        warmup = 1.0
        result = await run(
            scenario,
            Poisson(journeys, warmup + seconds),
            warmup=warmup,
            seed=seed,
            objectives=SLO,
            stop_early=hopeless,
            options=OPTIONS,
        )
        held = result.complete and all(objective.passed for objective in result.objectives)
        tried = Probe(rate, result.totals.latency(0.95), held)
        bar.update(1.0, f"p95 {tried.p95 * 1e3:.1f} ms at {rate:.0f}/s{'' if held else ', missed'}")
    return tried


async def hold(
    scenario: Scenario, rate: float, seconds: float, warmup: float, seed: int, view: View, label: str
) -> RunResult:
    """One run at one rate of requests a second, judged by the objective."""
    with view.bar(label) as bar:

        def show(progress: Progress) -> None:
            bar.update(
                progress.elapsed / progress.planned, f"p95 {progress.p95 * 1e3:.0f} ms, {progress.errors} errors"
            )

        result = await run(
            scenario,
            Poisson(rate / REQUESTS_PER_JOURNEY, warmup + seconds),
            warmup=warmup,
            seed=seed,
            objectives=SLO,
            on_progress=show,
            options=OPTIONS,
        )
        bar.update(1.0, f"{rate:.0f}/s: p95 {result.totals.latency(0.95) * 1e3:.1f} ms")
    return result
