"""The whole story: measure, find, fix, prove, check."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from time import monotonic

from msgspec import structs

from blackfriday.acts.find import find, forget
from blackfriday.acts.measure import breakpoint_of, probe
from blackfriday.acts.ownreads import OwnReads
from blackfriday.acts.plan import Plan
from blackfriday.acts.prove import SHARE, same_rate, ten_times, workers_alone
from blackfriday.acts.scale import scale
from blackfriday.acts.stage import SLO_TEXT, TUNED, Stage, step
from blackfriday.domain import Scale
from blackfriday.journeys import ZIPF
from blackfriday.promises import promises
from blackfriday.shop import Shop
from blackfriday.story import Integrity, Probe, RungOutcome, Story
from blackfriday.view import View
from tenfold.load import describe_environment


def blank(plan: Plan, seed: int) -> Story:
    """A story in which nothing has happened yet."""
    return Story(
        quick=plan.quick,
        seed=seed,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment(),
        slo=SLO_TEXT,
        zipf=ZIPF,
    )


async def tell(story: Story, plan: Plan, view: View, scale: Scale | None = None) -> None:
    """Play every act and write what is found into ``story``, which is worth reading also when this was cancelled.

    Raises what the acts raise: servers that do not start, a shop that does not come up. ``stopped_because`` says so.
    """
    began = monotonic()
    try:
        view.act("set the stage", "real servers, started from nothing")
        async with Stage(view, scale) as stage:
            with stage.recording():
                await _play(story, plan, view, stage, began + plan.finish)
    except asyncio.CancelledError:
        story.stopped_because = "interrupted"
        raise
    except BaseException as error:
        story.stopped_because = f"{type(error).__name__}: {error}"
        raise
    finally:
        story.seconds = monotonic() - began
        story.promises = promises(story)


async def _play(story: Story, plan: Plan, view: View, stage: Stage, finish: float) -> None:
    async with stage.shops("baseline", "draft", "shapes", indexes=False) as shops:
        view.act("measure", f"the highest rate at which the baseline holds {story.slo}")
        await forget(stage)
        baseline = await breakpoint_of(stage, step("baseline"), shops["baseline"], plan, view, story.seed)
        story.integrity["baseline"] = await _integrity(stage)
        view.act("find", "where the time goes, as PostgreSQL counts it")
        story.evidence = await find(stage, shops["baseline"], shops["draft"])
        view.evidence(story.evidence)
        if not baseline.rate:
            story.rungs.append(baseline)
            view.say(f"  The baseline holds the objective at no rate: {baseline.why}. There is nothing to multiply.")
            return
        view.act("fix", "one rung after the other, the same journeys each time")
        climb = partial(_climb, story, stage, plan, view, SHARE * baseline.rate)
        await climb("draft", shops)
        story.rungs.append(baseline)
        await climb("shapes", shops)

    warm = {"cache": plan.warm_cache_rung, TUNED.key: plan.warm}
    async with stage.shops("indexes", "cache", TUNED.key, "baseline", indexes=True, warm=warm) as shops:
        await climb("indexes", shops)
        await climb("cache", shops)
        # The same workers, past the gateway and through it.
        await climb("replicas", {"replicas": shops[TUNED.key]})
        if not plan.quick:
            await climb(TUNED.key, shops, near=story.rungs[-1].rate)
        view.act(
            "prove", "ten times the rate that broke the baseline, without payments for a while; then the same rate"
        )
        tuned = shops[TUNED.key]
        alone = await workers_alone(stage, tuned, baseline.rate, plan, view, story.seed)
        found = await ten_times(stage, tuned, baseline.rate, plan, view, story.seed, alone)
        story.ten_times, story.ten_times_run, reads, story.outage, story.edge = found
        view.ten_times(story.ten_times)
        view.edge(story.edge)
        view.outage(story.outage)
        cost = story.edge.direct.workers  # 0 where the kernel does not tell
        if plan.scale_seconds and cost:
            view.act("scale", "the shop under tenfold serve: one worker, and more of them as the load grows")
            story.scale, story.scale_run = await scale(tuned, cost, plan, view, story.seed)
            view.scale(story.scale)
        # Now, before the baseline sells from the same shelves, with its read-then-write of the stock.
        story.integrity["tuned"] = await _integrity(stage, reads)
        pair = await same_rate(stage, shops["baseline"], tuned, baseline.rate, plan, finish, view, story.seed)
        story.same_rate, story.before_run, story.after_run = pair
        view.same_rate(story.same_rate)
    if plan.quick:
        _compare_at_one_rate(story)
    view.ladder(story.rungs, story.same_rate.rate if plan.quick else None)
    view.act("check", "orders and stock, against what the customers were told")
    view.integrity(story.integrity)


async def _climb(
    story: Story,
    stage: Stage,
    plan: Plan,
    view: View,
    fixed: float,
    key: str,
    shops: dict[str, Shop],
    near: float | None = None,
) -> None:
    """One rung: its breakpoint, looked for from ``near`` on, or in a quick run what it does at the rate ``fixed``."""
    rung, shop = step(key), shops[key]
    if plan.quick:
        scenario = stage.scenario(shop, direct=not rung.gateway)
        tried = await probe(scenario, fixed, plan.fixed_seconds, story.seed, view, rung.title)
        outcome = RungOutcome(rung.key, rung.title, rung.change, None, fixed=tried)
    else:
        outcome = await breakpoint_of(stage, rung, shop, plan, view, story.seed, near=near)
    story.rungs.append(outcome)


def _compare_at_one_rate(story: Story) -> None:
    """A quick run tries its rungs at the rate of the prove act, which has the numbers of baseline and last rung."""
    for key, run in (("baseline", story.before_run), (TUNED.key, story.after_run)):
        assert run is not None
        assert story.same_rate is not None
        held = not run.invalid and all(objective.passed for objective in run.objectives)
        tried = Probe(story.same_rate.rate, run.totals.latency(0.95), held)
        known = story.rung(key)
        if known is None:
            story.rungs.append(RungOutcome(key, TUNED.title, TUNED.change, None, fixed=tried))
        else:
            story.rungs[story.rungs.index(known)] = structs.replace(known, fixed=tried)


async def _integrity(stage: Stage, reads: OwnReads | None = None) -> Integrity:
    """The audit of everything since the last reset, when nothing is in flight any more."""
    told = stage.acknowledged() + (reads.orders if reads else [])
    found = await stage.audit(told)
    return Integrity(
        acknowledged=found.acknowledged,
        stored=found.stored,
        lost=len(found.lost),
        oversold=len(found.oversold),
        negative_stock=len(found.negative),
        miscounted=len(found.miscounted),
        duplicates=len(found.duplicates),
        own_reads=reads.reads if reads else 0,
        stale_own_reads=reads.stale if reads else 0,
        leaked=found.leaked,
        spread=found.spread if reads else (),
    )
