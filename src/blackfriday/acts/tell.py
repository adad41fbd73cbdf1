"""The whole story: measure, find, fix, prove, check."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import monotonic

from msgspec import structs

from blackfriday.acts.find import find, forget
from blackfriday.acts.measure import breakpoint_of, hold, probe
from blackfriday.acts.ownreads import OwnReads
from blackfriday.acts.plan import Plan
from blackfriday.acts.prove import same_rate, ten_times
from blackfriday.acts.stage import LADDER, SLO_TEXT, TUNED, Stage, Step, step
from blackfriday.domain import Scale, audit
from blackfriday.journeys import ZIPF
from blackfriday.promises import promises
from blackfriday.shop import Shop
from blackfriday.story import Integrity, RungOutcome, Story
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
                await _play(story, plan, view, stage)
    except asyncio.CancelledError:
        story.stopped_because = "interrupted"
        raise
    except BaseException as error:
        story.stopped_because = f"{type(error).__name__}: {error}"
        raise
    finally:
        story.seconds = monotonic() - began
        story.promises = promises(story)


async def _play(story: Story, plan: Plan, view: View, stage: Stage) -> None:
    baseline = step("baseline")
    async with stage.shop(baseline) as shop:
        view.act("measure", f"the highest rate at which the baseline holds {story.slo}")
        outcome = await breakpoint_of(stage, baseline, shop, plan, view, story.seed)
        story.integrity["baseline"] = await _integrity(stage)
        broke_at = outcome.rate or 0.0
        view.act("find", "where the time goes, as PostgreSQL counts it")
        await forget(stage)
        seconds = 3.0 if plan.quick else 6.0
        run = await hold(
            stage.scenario(shop), max(1.0, 0.7 * broke_at), seconds, 0.0, story.seed, view, "watching PostgreSQL"
        )
        story.evidence = await find(stage, shop, run)
        view.evidence(story.evidence)
    if not broke_at:
        story.rungs.append(outcome)
        view.say(f"  The baseline holds the objective at no rate ({outcome.why}): there is nothing to multiply by ten.")
        return

    view.act("fix", "one rung after the other, the same journeys each time")
    fixed = 2 * broke_at if plan.quick else None
    for rung in LADDER[:-1]:
        async with stage.shop(rung) as shop:
            story.rungs.append(await _climb(story, stage, rung, shop, plan, view, outcome, fixed))

    # The last rung stays for the proof, so its numbers come from the very processes that the ladder shows.
    async with stage.shop(TUNED) as after:
        story.rungs.append(await _climb(story, stage, TUNED, after, plan, view, outcome, fixed))
        view.ladder(story.rungs, fixed)
        view.act("prove", "ten times the rate that broke the baseline; then the same rate before and after")
        story.ten_times, story.ten_times_run, reads = await ten_times(stage, after, broke_at, plan, view, story.seed)
        view.ten_times(story.ten_times)
        # Before the baseline shares the database again, with its read-then-write of the stock.
        story.integrity["tuned"] = await _integrity(stage, reads)
        async with stage.shop(baseline, beside=True) as before:
            found = await same_rate(stage, before, after, broke_at, plan, view, story.seed)
            story.same_rate, story.before_run, story.after_run = found
            view.same_rate(story.same_rate)
    view.act("check", "orders and stock, against what the customers were told")
    view.integrity(story.integrity)


async def _climb(
    story: Story,
    stage: Stage,
    rung: Step,
    shop: Shop,
    plan: Plan,
    view: View,
    baseline: RungOutcome,
    fixed: float | None,
) -> RungOutcome:
    """One rung: its breakpoint (the baseline's is known already), or in a quick run one probe at the rate ``fixed``."""
    if fixed is None:
        if rung.key == baseline.key:
            return baseline
        return await breakpoint_of(stage, rung, shop, plan, view, story.seed)
    tried = await probe(stage.scenario(shop), fixed, plan.fixed_seconds, story.seed, view, rung.title)
    if rung.key == baseline.key:
        return structs.replace(baseline, fixed=tried)
    return RungOutcome(rung.key, rung.title, rung.change, None, fixed=tried)


async def _integrity(stage: Stage, reads: OwnReads | None = None) -> Integrity:
    """The audit of everything since the last reset, when nothing is in flight any more."""
    told = stage.acknowledged() + (reads.orders if reads else [])
    found = await audit(stage.connection, told)
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
    )
