"""Results of load tests as points for a plan: with so many workers, at which rate the SLO held and at which it did not.

Breakpoints and single runs are read alike, as rates with a verdict. Held counts up to the first rate that the majority
of its tries missed, because beyond that a pass is luck. A number of workers that was never seen to miss is a lower
bound: its workers may do more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import rate as per_second
from tenfold.autoscale import Measured
from tenfold.load import Objective, Probe, RunResult, SearchResult, load_objectives
from tenfold.load.slo import QUANTILES, evaluate

_TERM: Final = re.compile(r"\s*(p50|p75|p90|p95|p99|p999|errors)\s*<=?\s*(\S+)\s*")
_COUNTED: Final = re.compile(r"(\d+)=(.+)", re.DOTALL)
_PROBED: Final = ("p50", "p95", "p99")
_STEADY: Final = ("constant", "poisson", "soak")


@dataclass(frozen=True, slots=True)
class Seen:
    """One try: ``workers`` at ``rate`` a second held the SLO or did not; ``in_flight``: mean, if known."""

    workers: int
    rate: float
    held: bool
    in_flight: float | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the files say: ``points`` for `plan`, and ``notes`` of what was taken for granted."""

    points: tuple[Measured, ...]
    notes: tuple[str, ...]


def objectives_of(slo: str) -> list[Objective]:
    """``"p95<100ms"``, ``"p95<100ms, errors<0.1%"``, or the file that ``tenfold load --slo`` takes.

    Raises `MisuseError` for anything else.
    """
    if "<" not in slo:
        return load_objectives(slo)
    limits: dict[str, Any] = {}
    for term in slo.split(","):
        match = _TERM.fullmatch(term)
        if match is None or match[1] in limits:
            names = ", ".join((*QUANTILES, "errors"))
            raise MisuseError(
                f'--slo: expected a file of [[objective]] tables or limits such as "p95<100ms, errors<0.1%", each of '
                f"{names} once, got {slo!r}"
            )
        limits[match[1]] = match[2]
    asked = Objective(**limits)
    asked.allowed_errors  # noqa: B018 - raises for what is no share
    return [asked]


def read(files: Sequence[str], objectives: Sequence[Objective]) -> Evidence:
    """The points that ``files`` (``"4=four.json"``: with four workers) hold, judged by ``objectives``.

    Without objectives each file's own count. Raises `MisuseError` for a file that cannot be read or judged.
    """
    seen: list[Seen] = []
    notes: list[str] = []
    for word in files:
        match = _COUNTED.fullmatch(word)
        workers, path = (int(match[1]), Path(match[2])) if match else (1, Path(word))
        if workers < 1:
            raise MisuseError(f"--from: expected 1 worker or more, got {word!r}")
        if match is None:
            notes.append(f"{path.name} was measured with 1 worker. (With four it is --from 4={path.name}.)")
        seen += _read(path, workers, objectives)
    points = []
    for workers in sorted({one.workers for one in seen}):
        point = _point(workers, [one for one in seen if one.workers == workers])
        many = "1 worker" if workers == 1 else f"{workers} workers"
        if point is None:
            notes.append(f"{many} never held the SLO, so nothing is known of them.")
            continue
        points.append(point)
        if point.at_least:
            notes.append(f"{many} never missed the SLO, so they may do more than {point.rate:.4g}/s.")
    return Evidence(tuple(points), tuple(notes))


def _read(path: Path, workers: int, objectives: Sequence[Objective]) -> Iterable[Seen]:
    try:
        data = path.read_bytes()
        keys = msgspec.json.decode(data)
    except OSError as error:
        raise MisuseError(f"--from: cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise MisuseError(f"--from: {path}: expected JSON, got: {error}") from error
    if isinstance(keys, dict) and "highest_passing" in keys:
        try:
            return _of_search(path, workers, msgspec.json.decode(data, type=SearchResult), objectives)
        except msgspec.ValidationError as error:
            raise MisuseError(f"--from: {path}: expected a result of tenfold load breakpoint, got: {error}") from error
    try:
        return [_of_run(path, workers, RunResult.from_json(data), objectives)]
    except MisuseError as error:
        raise MisuseError(f"--from: {path}: {error}") from error


def _of_search(path: Path, workers: int, found: SearchResult, objectives: Sequence[Objective]) -> Iterable[Seen]:
    for objective in objectives:
        odd = [name for name, *_ in objective.latencies if name not in _PROBED]
        if odd or objective.steps != ("*",):
            raise MisuseError(
                f"--from: {path}: a breakpoint knows {', '.join(_PROBED)} and errors of all steps together, so it "
                f"cannot be judged by {odd[0] if odd else 'step ' + objective.steps[0]}; give a tenfold load run"
            )
    for probe in found.probes:
        if probe.vote == "invalid":
            continue
        held = _within(probe, objectives) if objectives else probe.vote == "pass"
        if objectives and held and probe.early:
            continue  # ended for a stricter SLO than this: it says nothing
        yield Seen(workers, probe.rate, held, probe.in_flight)


def _within(probe: Probe, objectives: Sequence[Objective]) -> bool:
    values = [(getattr(probe, name), limit) for one in objectives for name, _, limit in one.latencies]
    allowed = [one.allowed_errors for one in objectives if one.allowed_errors is not None]
    return all(value is not None and value <= limit for value, limit in values) and all(
        probe.error_share <= most for most in allowed
    )


def _of_run(path: Path, workers: int, result: RunResult, objectives: Sequence[Objective]) -> Seen:
    if result.invalid or not result.complete:
        raise MisuseError(f"the run proves nothing: {'; '.join(result.invalid) or 'it was stopped before its end'}")
    if result.schedule.get("kind") not in _STEADY:
        raise MisuseError(
            f"expected a run at one rate ({', '.join(_STEADY)}), got {result.schedule.get('kind')!r}: which of its "
            "rates held the SLO is not to be seen"
        )
    judged = evaluate(result, objectives) if objectives else result.objectives
    if not judged:
        raise MisuseError("expected an SLO, because the run had none; give --slo")
    return Seen(
        workers, per_second(result.schedule["rate"]), all(line.passed for line in judged), result.mean_in_flight
    )


def _point(workers: int, seen: Sequence[Seen]) -> Measured | None:
    best: list[Seen] = []
    missed = False
    for rate in sorted({one.rate for one in seen}):
        tries = [one for one in seen if one.rate == rate]
        held = [one for one in tries if one.held]
        if 2 * len(held) <= len(tries):
            missed = True
            break
        best = held
    if not best:
        return None
    known = sorted(one.in_flight for one in best if one.in_flight is not None)
    seconds = known[len(known) // 2] / best[0].rate if known else None
    return Measured(workers, best[0].rate, seconds, at_least=not missed)
