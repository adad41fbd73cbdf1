"""One run: spawn the load processes, start them at one instant, merge what they measure, judge it."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from tenfold import __version__
from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold.load import environment
from tenfold.load.errors import WorkerError
from tenfold.load.frames import Go, Spec
from tenfold.load.processes import LoadProcess
from tenfold.load.progress import Merged, Outcome, Progress, Snapshot
from tenfold.load.result import RunResult
from tenfold.load.scenario import Scenario
from tenfold.load.schedule import Schedule
from tenfold.load.slo import DEFAULT_VALIDITY, Objective, Validity, judge
from tenfold.load.watch import INTERRUPTED, Watch

MAX_RATE: Final = 20_000.0
MAX_DURATION: Final = 3600.0
_EXACT_UP_TO: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run seldom needs told. Durations are seconds or strings such as ``"10s"``.

    ``timeout`` (10 s) is how long a request may take, waiting for a connection included; ``drain`` (10 s) how
    long the run waits for answers after the last arrival; ``start_timeout`` (30 s) how long the processes may
    take to get ready. ``max_connections`` (1,000) bounds the connections of one process to one origin,
    ``connections`` (10) are opened before the start. ``lift_ceilings`` allows more than 20,000 arrivals a
    second and more than an hour.
    ``handle_sigint`` makes SIGINT end the run with a partial result instead of raising `KeyboardInterrupt`.
    ``validity`` says when the client has become what was measured.
    """

    timeout: units.Duration = 10.0
    drain: units.Duration = 10.0
    start_timeout: units.Duration = 30.0
    max_connections: int = 1000
    connections: int = 10
    lift_ceilings: bool = False
    handle_sigint: bool = False
    validity: Validity = DEFAULT_VALIDITY

    def __post_init__(self) -> None:
        for name in ("timeout", "start_timeout"):
            if units.duration(getattr(self, name), name) <= 0:
                raise MisuseError(f"{name}: expected a duration above 0, got {getattr(self, name)!r}")
        units.duration(self.drain, "drain")
        if self.max_connections < 1 or self.connections < 1:
            raise MisuseError("max_connections, connections: expected at least 1")


DEFAULT_OPTIONS: Final = RunOptions()


async def run(
    scenario: Scenario,
    schedule: Schedule,
    *,
    warmup: units.Duration = 0.0,
    processes: int = 1,
    seed: int | None = None,
    objectives: Sequence[Objective] = (),
    on_progress: Callable[[Progress], object] | None = None,
    stop_early: Callable[[Snapshot], str | None] | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
) -> RunResult:
    """Load ``scenario`` by ``schedule`` and return what was measured, judged by ``objectives``.

    ``warmup``
        Seconds from the start whose samples are kept apart; part of the schedule's duration. Default 0.
    ``processes``
        Load processes, each at most one core. Default 1.
    ``seed``
        Of arrivals, choices and data. Default: drawn anew, and written into the result.
    ``stop_early``
        Called about five times a second with the result so far; a sentence ends the run, None lets it go on.

    Raises `MisuseError` for nonsense and for what exceeds the ceilings, `TargetDownError` where nothing
    listens, and `WorkerError` where a process does not come up. Later trouble never raises: a run that was
    interrupted, or lost a process, returns with ``complete=False`` and says why. No process outlives the
    call.
    """
    outcome = await execute(
        scenario,
        schedule,
        warmup=warmup,
        processes=processes,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        objectives=objectives,
        on_progress=on_progress,
        stop_early=stop_early,
        options=options,
    )
    return outcome.result


async def execute(
    scenario: Scenario,
    schedule: Schedule,
    *,
    warmup: units.Duration,
    processes: int,
    seed: int,
    objectives: Sequence[Objective],
    on_progress: Callable[[Progress], object] | None,
    stop_early: Callable[[Snapshot], str | None] | None,
    options: RunOptions,
) -> Outcome:
    """`run`, with how it ended."""
    warm = units.duration(warmup, "warmup")
    _check(schedule, warm, processes, options)
    merged = Merged(processes)
    children = [LoadProcess(number, merged.add) for number in range(processes)]
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    if options.handle_sigint:
        loop.add_signal_handler(signal.SIGINT, interrupted.set)
    result = RunResult(
        scenario=scenario.name,
        target=scenario.target,
        schedule=schedule.to_dict(),
        tool_version=__version__,
        seed=seed,
        warmup=warm,
        duration=schedule.duration,
        planned=_planned(schedule, seed),
        environment=environment.describe(),
    )
    reason, early = INTERRUPTED, False
    try:
        if await _unless(interrupted, _start(children, scenario, schedule, result, options)):
            start = monotonic() + 0.1
            result.started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            for child in children:
                child.say(Go(start))
            watch = Watch(children, merged, result, start, units.duration(options.drain))
            await watch.until_the_end(interrupted, on_progress, stop_early)
            reason, early = watch.reason, watch.early
            result.elapsed = max(0.0, monotonic() - start)
    finally:
        if options.handle_sigint:
            loop.remove_signal_handler(signal.SIGINT)
        await asyncio.shield(asyncio.gather(*(child.close() for child in children)))
    unfinished = _conclude(result, merged, children, reason)
    judge(result, objectives, options.validity)
    return Outcome(result, unfinished, early, reason == INTERRUPTED)


def _check(schedule: Schedule, warmup: float, processes: int, options: RunOptions) -> None:
    if processes < 1:
        raise MisuseError(f"processes: expected at least 1, got {processes!r}")
    if not schedule.duration > 0:
        raise MisuseError(f"schedule: expected a duration above 0, got {schedule.duration!r}")
    if warmup >= schedule.duration:
        raise MisuseError(f"warmup: expected less than the {schedule.duration:g} s of the schedule, got {warmup:g} s")
    if options.lift_ceilings:
        return
    if schedule.duration > MAX_DURATION:
        raise MisuseError(
            f"duration: expected at most {MAX_DURATION:g} s, got {schedule.duration:g} s; lift_ceilings "
            "(--lift-ceilings) allows more"
        )
    points = 1000
    peak = max(schedule.rate_at(schedule.duration * at / points) for at in range(points))
    if peak > MAX_RATE:
        raise MisuseError(
            f"rate: expected at most {MAX_RATE:g} arrivals a second, got {peak:g}; "
            "lift_ceilings (--lift-ceilings) allows more"
        )


def _planned(schedule: Schedule, seed: int) -> int:
    estimate = schedule.count_estimate
    if estimate > _EXACT_UP_TO:
        return estimate
    return sum(len(chunk) for chunk in schedule.arrivals(seed))


async def _unless(interrupted: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; False where the interruption came first, and then the work is cancelled."""
    doing = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(interrupted.wait())
    try:
        await asyncio.wait({doing, stop}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
            return True
        return False
    finally:
        for task in (doing, stop):
            task.cancel()
        await asyncio.gather(doing, stop, return_exceptions=True)


async def _start(
    children: list[LoadProcess],
    scenario: Scenario,
    schedule: Schedule,
    result: RunResult,
    options: RunOptions,
) -> None:
    timeout = units.duration(options.start_timeout)
    specs = [
        Spec(
            source=scenario.source,
            is_file=scenario.is_file,
            target=scenario.target,
            schedule=schedule.to_dict(),
            seed=result.seed,
            process=child.number,
            processes=len(children),
            warmup=result.warmup,
            timeout=units.duration(options.timeout),
            drain=units.duration(options.drain),
            max_connections=options.max_connections,
            connections=min(options.connections, options.max_connections),
        )
        for child in children
    ]
    starts = [asyncio.ensure_future(child.start(spec)) for child, spec in zip(children, specs, strict=True)]
    try:
        async with asyncio.timeout(timeout):
            await asyncio.gather(*starts)
    except TimeoutError:
        raise WorkerError(
            f"the load processes were not ready within {timeout:g} s; look at what the scenario does at import"
        ) from None
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)


def _conclude(result: RunResult, merged: Merged, children: list[LoadProcess], reason: str) -> int:
    """Fill the result in; how many journeys were cut off."""
    result.steps = list(merged.steps.values())
    result.intervals = merged.timeline()
    result.started = sum(merged.started)
    result.stopped_because = reason
    result.complete = not reason
    words = [child.done for child in children if child.done is not None]
    result.clients = [word.health for word in words]
    dropped = sum(word.dropped for word in words)
    if result.complete:
        result.planned = result.started + dropped
    if dropped:
        result.notes.append(f"{dropped:,} arrivals were not started: too many journeys were under way")
    unfinished = sum(word.unfinished for word in words)
    if unfinished:
        result.notes.append(f"{unfinished:,} journeys were under way when the run ended")
    if retries := sum(word.retries for word in words):
        result.notes.append(f"{retries:,} requests were sent again: a reused connection had been closed by the target")
    for child in children:
        if child.done is not None and child.said:
            result.notes.append(f"load process {child.number} said on stderr: {child.said[-500:]}")
    for word in words:
        for kind, text in word.tracebacks.items():
            result.tracebacks.setdefault(kind, text)
    return unfinished
