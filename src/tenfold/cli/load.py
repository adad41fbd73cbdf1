"""``tenfold load run`` and ``tenfold load breakpoint``: parsing and printing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold.cli.load_tables import probe_line, progress_line, show_run, show_search

if TYPE_CHECKING:
    from tenfold.load import RunOptions, RunResult, Schedule

Profile = Literal["constant", "poisson", "ramp", "spike", "steps", "soak", "replay"]

app = App(name="load", help="Load a service by a schedule, honestly, and judge what came back.")


@app.command
def run(
    scenario: Path,
    *,
    rate: str | None = None,
    duration: str | None = None,
    profile: Profile = "poisson",
    start: str | None = None,
    peak: str | None = None,
    at: str | None = None,
    width: str | None = None,
    rates: str | None = None,
    log: Path | None = None,
    speed: float = 1.0,
    warmup: str = "0s",
    processes: int = 1,
    seed: int | None = None,
    target: str | None = None,
    slo: Path | None = None,
    baseline: Path | None = None,
    out: Path | None = None,
    report: Path | None = None,
    hdr: Path | None = None,
    timeout: str = "10s",
    drain: str = "10s",
    max_connections: int = 1000,
    json: Annotated[bool, Parameter(name="--json")] = False,
    lift_ceilings: bool = False,
) -> None:
    """Run a scenario once.

    Exit code 0: objectives held. 1: one missed, or worse than the baseline. 2: invalid run.

    Parameters
    ----------
    scenario
        A Python file with @journey functions.
    rate
        Arrivals a second: "500", "500/s" or "3000/m". The end of a ramp, the base of a spike.
    duration
        Of the schedule, warm-up included: "30s", "5m". Of each step for --profile steps.
    profile
        The shape of the schedule.
    start
        First rate of a ramp. Default: 1/s.
    peak
        Highest rate of a spike. Default: ten times --rate.
    at
        When a spike begins. Default: at 40 % of the duration.
    width
        How long a spike lasts. Default: 20 % of the duration.
    rates
        Rates of the steps, separated by commas.
    log
        What --profile replay replays: an access log, or seconds one a line.
    speed
        How much faster than it was a log is replayed.
    warmup
        Seconds at the start that are shown apart and not judged.
    processes
        Load processes; each can use one core.
    seed
        Of arrivals, choices and data. Default: drawn anew and written into the result.
    target
        Base URL instead of the file's: loopback, or a host that the file names.
    slo
        TOML file of [[objective]] tables.
    baseline
        Result of an earlier run to compare with.
    out
        Where the result goes, as JSON; also that of a run that was interrupted.
    report
        Where the HTML report goes.
    hdr
        Where the corrected latencies of all steps go as a percentile distribution that HdrHistogram's plotters read.
    timeout
        How long a request may take.
    drain
        How long to wait for answers after the last arrival.
    max_connections
        At most so many connections a process.
    json
        Print the result as one JSON object.
    lift_ceilings
        Allow more than 20,000 arrivals a second and more than an hour.
    """
    from tenfold.load import RunResult, load_objectives, load_scenario, verdict
    from tenfold.load import run as execute

    schedule = _schedule(profile, rate, duration, start, peak, at, width, rates, log, speed)
    loaded = load_scenario(scenario, target)
    objectives = load_objectives(slo) if slo is not None else []
    before = RunResult.load(baseline) if baseline is not None else None
    same = before is None or (before.scenario, before.schedule) == (loaded.name, schedule.to_dict())
    if before is not None and not same:
        raise MisuseError(
            f"--baseline: expected a run of {loaded.name!r} by the same schedule, got {before.scenario!r} by "
            f"{before.schedule}"
        )
    if report is not None:
        _need_plotly()
    _writable(out=out, report=report, hdr=hdr)
    options = _options(timeout, drain, max_connections, lift_ceilings)
    with _line() as show:
        result = asyncio.run(
            execute(
                loaded, schedule, warmup=units.duration(warmup, "--warmup"), processes=processes,
                seed=seed, objectives=objectives, on_progress=lambda now: show(progress_line(now)),
                options=options,
            )
        )  # fmt: skip
    if out is not None:
        result.save(out)
    if report is not None:
        from tenfold.load.report import render, save

        save(render(result), report)
    if hdr is not None:
        from tenfold.load.histogram import save_hgrm

        save_hgrm(result.totals.corrected, hdr)
    if json:
        print(result.to_json().decode())
    else:
        show_run(result)
    worse = before is not None and _compare(before, result, quiet=json)
    sys.exit(verdict(result).exit_code or int(worse))


@app.command(name="breakpoint")
def breakpoint_(
    scenario: Path,
    *,
    slo: Path,
    start: str = "20",
    ceiling: str = "5000",
    precision: str = "5%",
    samples: int = 1000,
    budget: str = "120s",
    processes: int = 1,
    seed: int = 1,
    target: str | None = None,
    out: Path | None = None,
    report: Path | None = None,
    timeout: str = "10s",
    max_connections: int = 1000,
    json: Annotated[bool, Parameter(name="--json")] = False,
    lift_ceilings: bool = False,
) -> None:
    """Find the highest rate that meets the objectives.

    Exit code 0: found. 1: no rate passed. 2: the client was the limit.

    Parameters
    ----------
    scenario
        A Python file with @journey functions.
    slo
        TOML file of [[objective]] tables.
    start
        First rate, arrivals a second.
    ceiling
        Highest rate to try.
    precision
        Width of the answer.
    samples
        Arrivals a probe, at least.
    budget
        Time for the whole search.
    processes
        Load processes.
    seed
        Of every probe's own seed.
    target
        Base URL instead of the file's.
    out
        Where the answer goes, as JSON.
    report
        Where the HTML report goes.
    timeout
        How long a request may take.
    max_connections
        At most so many connections a process.
    json
        Print the answer as one JSON object.
    lift_ceilings
        Allow more than 20,000 arrivals a second and more than an hour.
    """
    import msgspec

    from tenfold.load import find_breakpoint, load_objectives, load_scenario

    options = _options(timeout, "10s", max_connections, lift_ceilings)
    if report is not None:
        _need_plotly()
    _writable(out=out, report=report)
    with _line() as show:
        found = asyncio.run(
            find_breakpoint(
                load_scenario(scenario, target), objectives=load_objectives(slo),
                start=units.rate(start, "--start"),
                ceiling=units.rate(ceiling, "--ceiling"), precision=units.share(precision, "--precision"),
                samples=samples, budget=units.duration(budget, "--budget"), processes=processes, seed=seed,
                on_progress=lambda now: show(probe_line(now)), options=options,
            )
        )  # fmt: skip
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    if out is not None:
        out.write_bytes(text)
    if report is not None:
        from tenfold.load.report import render_breakpoint, save

        save(render_breakpoint(found, f"Breakpoint: {scenario.stem}"), report)
    if json:
        print(text.decode())
    else:
        show_search(found)
    sys.exit(2 if found.stopped == "client saturated" else 0 if found.highest_passing > 0 else 1)


def _schedule(
    profile: Profile, rate: str | None, duration: str | None, start: str | None, peak: str | None,
    at: str | None, width: str | None, rates: str | None, log: Path | None, speed: float,
) -> Schedule:  # fmt: skip
    from tenfold.load import Constant, Poisson, Ramp, Replay, Soak, Spike, Steps

    if profile == "replay":
        if log is None:
            raise MisuseError("load run: --profile replay expects --log FILE, got none")
        return Replay(log, speed)
    if duration is None:
        raise MisuseError(f"load run: --profile {profile} expects --duration, got none")
    if profile == "steps":
        if rates is None:
            raise MisuseError('load run: --profile steps expects --rates "100,200,400", got none')
        return Steps([each.strip() for each in rates.split(",")], duration, poisson=True)
    if rate is None:
        raise MisuseError(f"load run: --profile {profile} expects --rate, got none")
    if profile == "ramp":
        return Ramp(start or "1/s", rate, duration, poisson=True)
    if profile == "spike":
        high = peak or 10 * units.rate(rate, "--rate")
        return Spike(rate, high, duration, at=at, width=width, poisson=True)
    if profile == "soak":
        return Soak(rate, duration)
    return Constant(rate, duration) if profile == "constant" else Poisson(rate, duration)


def _options(timeout: str, drain: str, max_connections: int, lift: bool) -> RunOptions:
    from tenfold.load import RunOptions

    return RunOptions(
        timeout=timeout, drain=drain, max_connections=max_connections, lift_ceilings=lift, handle_sigint=True
    )


# What would lose the result of a run is said before the run.


def _need_plotly() -> None:
    if importlib.util.find_spec("plotly") is None:
        raise MisuseError("--report: expected plotly, which is not installed; install tenfold[load]")


def _writable(**files: Path | None) -> None:
    for name, path in files.items():
        if path is None:
            continue
        folder = path.parent
        if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
            raise MisuseError(f"--{name}: expected a file that can be written in a folder that exists, got {path}")


@contextlib.contextmanager
def _line() -> Iterator[Callable[[str], None]]:
    """A status line on stderr where that is a terminal; nothing otherwise."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("starting") as status:
        yield status.update


def _compare(before: RunResult, after: RunResult, *, quiet: bool) -> bool:
    from tenfold.load.compare import compare

    found = compare(before, after)
    if not quiet:
        print(f"against the baseline: {found.outcome}")
        for line in found.metrics:
            change = "-" if line.difference is None else f"{line.difference:+.1%}"
            print(f"  {line.name}: {change}, {line.outcome}")
    return found.outcome == "worse"
