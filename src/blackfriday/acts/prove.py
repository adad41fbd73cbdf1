"""The prove act: ten times the rate that broke the first shop; and the same rate before and after."""

from __future__ import annotations

import math
from time import monotonic
from typing import Final

from blackfriday.acts.edge import Meter
from blackfriday.acts.measure import hold
from blackfriday.acts.outage import PaymentOutage
from blackfriday.acts.ownreads import OwnReads
from blackfriday.acts.plan import Plan
from blackfriday.acts.prices import PriceChanges
from blackfriday.acts.stage import Stage
from blackfriday.journeys import BROWSE
from blackfriday.shop import Shop
from blackfriday.story import Cost, EdgeOutcome, Outage, SameRate, TenTimes
from blackfriday.view import View
from tenfold.load import CompareOptions, RunResult, compare

SHARE: Final = 0.7  # of the baseline's breakpoint: a rate at which it is well, so that the gain is not that of a queue
TEN: Final = 10.0
WARM_UP: Final = 3.0
WANTED: Final = 450.0  # samples a side
SHORTEST: Final = 5.0  # seconds a block: an interval wants ten measured seconds a side
ENOUGH: Final = 300.0  # the 95th percentile of fewer than 200 is none to compare, and arrivals are random
LONGEST: Final = 25.0  # seconds a block
BETWEEN: Final = 0.7  # seconds between two runs


async def same_rate(
    stage: Stage, baseline: Shop, tuned: Shop, breakpoint: float, plan: Plan, finish: float, view: View, seed: int
) -> tuple[SameRate, RunResult, RunResult]:
    """Before, after, before, after …: both shops stand, one of them is loaded at a time, by the same arrivals.

    ``finish`` is the monotonic moment at which the story wants to go on: blocks are as long as there is time, and never
    too short for what is said about them.
    """
    rate = SHARE * breakpoint
    seconds = block_seconds(rate, plan, finish - monotonic())
    before: list[RunResult] = []
    after: list[RunResult] = []
    # The baseline has just been started, the tuned shop has been under load: let it compile its statements and open its
    # connections before anything counts.
    await hold(stage.scenario(baseline), rate, WARM_UP, 0.0, seed + plan.blocks, view, "before, not counted")
    for block in range(plan.blocks):
        for shop, results, label in ((baseline, before, "before"), (tuned, after, "after")):
            results.append(
                await hold(
                    stage.scenario(shop),
                    rate,
                    seconds,
                    plan.warmup,
                    seed + block,
                    view,
                    f"{label}, block {block + 1}",
                )
            )
    options = CompareOptions(steps=BROWSE, quantiles=("p95",), force=True)
    found = compare(before, after, options)
    p95 = found.metrics[0]
    return (
        SameRate(
            rate=rate,
            step="browsing",
            before=math.inf if p95.a is None else p95.a,
            after=math.inf if p95.b is None else p95.b,
            low=math.nan if p95.low is None else p95.low,
            high=math.inf if p95.high is None else p95.high,
            verdict=p95.outcome,
            samples=sum(found.samples),
        ),
        before[0],
        after[0],
    )


def block_seconds(rate: float, plan: Plan, left: float) -> float:
    """How long each block may take if all of them are to end in ``left`` seconds."""
    share = (left - WARM_UP - BETWEEN) / (2 * plan.blocks) - plan.warmup - BETWEEN
    wanted = max(plan.block_seconds, WANTED / plan.blocks / rate)
    enough = max(SHORTEST, ENOUGH / plan.blocks / rate)
    return min(LONGEST, math.ceil(max(enough, min(wanted, share))))


async def workers_alone(stage: Stage, tuned: Shop, breakpoint: float, plan: Plan, view: View, seed: int) -> Cost:
    """Ten times the breakpoint past the gateway, for a few seconds: what a request costs without one."""
    async with Meter(tuned) as meter:
        result = await hold(
            stage.scenario(tuned, direct=True), TEN * breakpoint, plan.direct_seconds, 0.5, seed, view, "workers alone"
        )
    return meter.told(result.totals.attempts + result.warmup_totals.attempts, result.totals.latency(0.95))


async def ten_times(
    stage: Stage, tuned: Shop, breakpoint: float, plan: Plan, view: View, seed: int, alone: Cost
) -> tuple[TenTimes, RunResult, OwnReads, Outage, EdgeOutcome]:
    """Ten times the breakpoint through the gateway for the whole of `Plan.hold_seconds`, while other buyers check what
    they wrote, the payment service goes away for ten seconds and then an editor changes prices.
    """
    rate = TEN * breakpoint
    async with (
        Meter(tuned) as meter,
        OwnReads(tuned.url) as reads,
        PaymentOutage(stage, tuned) as outage,
        PriceChanges(stage, tuned) as prices,
    ):
        result = await hold(
            stage.scenario(tuned),
            rate,
            plan.hold_seconds,
            plan.warmup,
            seed,
            view,
            f"{rate:.0f}/s for {plan.hold_seconds:.0f} s",
        )
    totals = result.totals
    # Nobody's journey: the watcher of prices asks for pages that the edge has.
    hits = max(0, meter.edge["hits"] + meter.edge["collapsed"] - prices.asked)
    asked = hits + meter.edge["misses"]
    held = not result.invalid and all(objective.passed for objective in result.objectives)
    return (
        TenTimes(
            rate=rate,
            seconds=result.measured,
            p95=totals.latency(0.95),
            errors=totals.error_share,
            held=held and result.measured >= plan.hold_seconds - 0.5,
            invalid=tuple(result.invalid),
            requests=totals.attempts,
            reads=meter.reads + hits,
            loads=meter.loads,
            **meter.statements,
        ),
        result,
        reads,
        await outage.told(result),
        EdgeOutcome(rate, alone, meter.told(meter.edge["requests"], totals.latency(0.95)), asked, hits, prices.told()),
    )
