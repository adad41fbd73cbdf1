"""The tuned shop under ``tenfold serve``: the load grows, and it gives itself workers, from one to the machine's limit.

What a request costs a worker in processor time is known from the prove act. So it is known which rate fills a worker
as far as `CPU` says. The ramp begins at half of that, and ends at 1.8 times what all workers but one are to have: the
policy must then have wished for the last one too, by far more than its tolerance of a tenth, since a warm worker under
a steady load is cheaper than that one was. Two workers then do what 0.54 of a core does, so that the cores are not
full. Judged is only what a machine that client, databases and gateway share can show: that the workers came, and that
nothing failed once they were there.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from time import monotonic
from typing import Final

from blackfriday.acts.plan import Plan
from blackfriday.acts.stage import VALIDITY
from blackfriday.journeys import REQUESTS_PER_JOURNEY
from blackfriday.served import Seen, Served
from blackfriday.shop import Shop
from blackfriday.story import Look, ScaleOutcome, ScaleUp
from blackfriday.view import View
from tenfold.load import Interval, Poisson, Progress, RunOptions, RunResult, Scenario, Steps, load_scenario, run

MOST: Final = 8  # workers: one gateway process and one load client are before them all
CPU: Final = 0.3  # of a core in each worker: it cannot have a whole one, with so many others on the machine
LOW: Final = 0.5
HIGH: Final = 1.8
RAMP: Final = 0.4  # of the time; then the highest rate is held
SETTLE: Final = 5.0  # seconds from when the last worker serves: as long as it is let in slowly
SHORTEST: Final = 5  # seconds that must be left to judge
EVERY: Final = 0.2  # seconds between two looks at the workers
OPTIONS: Final = RunOptions(validity=VALIDITY, connections=32, drain=5.0)


def limit() -> int:
    """How many workers this machine bears: one a core, two at least."""
    return max(2, min(MOST, os.cpu_count() or 1))


def rates(cost: float, most: int, cpu: float = CPU) -> tuple[float, float]:
    """The lowest and the highest rate, in requests a second, for ``most`` workers that are to use ``cpu`` of a core,
    and ``cost`` seconds of it for a request.
    """
    one = cpu / cost
    return LOW * one, HIGH * (most - 1) * one


def stairs(low: float, high: float, seconds: float) -> tuple[float, ...]:
    """The rate of each second: up in a straight line for `RAMP` of the time, then level."""
    count = max(2, round(seconds))
    rise = max(1, round(RAMP * count))
    return tuple(low + (high - low) * min(1.0, at / rise) for at in range(count))


async def scale(shop: Shop, cost: float, plan: Plan, view: View, seed: int) -> tuple[ScaleOutcome, RunResult]:
    """The act, with what ``shop`` stands on and what it has cached, without its gateway and its edge."""
    settings = replace(shop.settings, rung="replicas", edge="", edge_token="")
    served = Served("blackfriday.asgi:app", settings.to_environment(), most=limit(), cpu=CPU)
    scenario = load_scenario("blackfriday.journeys", target=served.url)
    return await climb(served, scenario, cost, plan.scale_seconds, view, seed, REQUESTS_PER_JOURNEY)


async def climb(
    served: Served,
    scenario: Scenario,
    cost: float,
    seconds: float,
    view: View,
    seed: int,
    per_journey: float = 1.0,
    *,
    warmup: float = 2.0,
) -> tuple[ScaleOutcome, RunResult]:
    """Start ``served``, load it with a rate that grows for ``seconds``, and follow its workers; drain it at the end.

    Before that it gets the lowest rate for ``warmup`` seconds, which nobody counts.
    """
    low, high = rates(cost, served.most, served.cpu)
    steps = [rate / per_journey for rate in stairs(low, high, seconds)]
    async with served:
        # Its first worker has just been started: let it open its connections before anybody looks at what it uses.
        await run(scenario, Poisson(steps[0], warmup), seed=seed + 1, options=OPTIONS)
        with view.bar(f"{low:.0f}/s to {high:.0f}/s") as bar:
            async with _watching(served) as watch:

                def show(progress: Progress) -> None:
                    watch.started = monotonic() - progress.elapsed
                    now = f"{watch.seen[-1][1].workers} workers, " if watch.seen else ""
                    bar.update(progress.elapsed / progress.planned, f"{now}p95 {progress.p95 * 1e3:.0f} ms")

                result = await run(
                    scenario, Steps(steps, 1.0, poisson=True), seed=seed, on_progress=show, options=OPTIONS
                )
            looks = watch.told()
            most = max((look.workers for look in looks), default=0)
            bar.update(1.0, f"{most} of {served.most} workers, {result.totals.failures} errors")
    return outcome(served, low, high, looks, result), result


class _Watch:
    """What was seen of the workers, on the clock of the run."""

    def __init__(self) -> None:
        self.started = math.inf
        """The run's beginning on the monotonic clock; infinite while it is not known."""
        self.seen: list[tuple[float, Seen]] = []

    def told(self) -> tuple[Look, ...]:
        """What was seen since the run began, in its seconds."""
        return tuple(
            Look(at - self.started, seen.workers, seen.wished, seen.in_flight)
            for at, seen in self.seen
            if at >= self.started
        )


@asynccontextmanager
async def _watching(served: Served) -> AsyncIterator[_Watch]:
    """Looks every `EVERY` seconds while the block runs; an error of a look ends the block."""
    watch = _Watch()

    async def look() -> None:
        while True:
            seen = await served.look()
            watch.seen.append((monotonic(), seen))
            await asyncio.sleep(EVERY)

    try:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(look())
            try:
                yield watch
            finally:
                looking.cancel()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def outcome(served: Served, low: float, high: float, looks: tuple[Look, ...], result: RunResult) -> ScaleOutcome:
    """What the looks and the run say together; pure."""
    ups = scale_ups(looks)
    ready = [up.ready for up in ups if up.ready is not None]
    begin = math.ceil(max(ready) + SETTLE) if ready else None
    settled = [each for each in result.intervals if begin is not None and begin <= each.at < result.duration]
    later = Interval(at=begin or 0)
    for each in settled:
        later.add(each)
    totals = result.totals
    return ScaleOutcome(
        most=served.most,
        target_cpu=served.cpu,
        target_in_flight=served.in_flight,
        low=low,
        high=high,
        seconds=result.duration,
        complete=result.complete,
        looks=looks,
        ups=ups,
        requests=totals.attempts,
        errors=totals.failures,
        refused=sum(each.kinds.get("status 503", 0) for each in result.intervals),
        p95=totals.latency(0.95),
        settled_from=None if begin is None or len(settled) < SHORTEST else float(begin),
        settled_requests=later.intended,
        settled_errors=later.errors,
        settled_p95=later.corrected.quantile(0.95, beyond=later.errors) / 1e6,
        code=served.code,
    )


def scale_ups(looks: tuple[Look, ...]) -> tuple[ScaleUp, ...]:
    """Each time that more workers were wished, and when so many were there; pure."""
    found: list[ScaleUp] = []
    for before, now in pairwise(looks):
        if now.wished > before.wished:
            ready = next((look.at for look in looks if look.at >= now.at and look.workers >= now.wished), None)
            found.append(ScaleUp(now.at, now.wished, ready))
    return tuple(found)
