"""Whether two sets of runs may be compared at all: the same question asked of the same kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tenfold._core import units
from tenfold._core.errors import MisuseError
from tenfold.load.result import RunResult

_MACHINE: Final = ("cpu", "cores", "platform", "python")


def check_comparable(a: Sequence[RunResult], b: Sequence[RunResult], *, force: bool) -> list[str]:
    """Warnings, one sentence each. Raises `MisuseError` for what forbids a comparison, unless ``force``."""
    if not a or not b:
        raise MisuseError(f"compare: expected at least one run on each side, got {len(a)} and {len(b)}")
    first = a[0]
    refusals, warnings = [], []
    for run in (*a, *b):
        if run.invalid or not run.complete:
            why = run.invalid[0] if run.invalid else run.stopped_because or "it is partial"
            refusals.append(f"the run of {run.started_at or run.scenario} is invalid: {why}")
        if run.scenario != first.scenario:
            refusals.append(f"different scenarios: {first.scenario!r} and {run.scenario!r}")
        if run.schedule != first.schedule:
            refusals.append(f"different schedules: {_words(first.schedule)} and {_words(run.schedule)}")
        if run.warmup != first.warmup:
            spans = units.format_duration(first.warmup), units.format_duration(run.warmup)
            warnings.append(f"different warm-ups: {spans[0]} and {spans[1]}")
        here, there = first.environment, run.environment
        warnings += [
            f"different {fact}: {here.get(fact)} and {there.get(fact)}"
            for fact in _MACHINE
            if here.get(fact) != there.get(fact)
        ]
    refusals = list(dict.fromkeys(refusals))
    if refusals and not force:
        raise MisuseError(f"compare: {refusals[0]}; compare runs that differ in one thing only, or pass force")
    if len(a) < 3 or len(b) < 3:
        warnings.append("fewer than three runs a side: how much runs differ among themselves is not in the intervals")
    elif len(a) != len(b):
        warnings.append(f"{len(a)} runs against {len(b)}: runs are not paired, their differences are not seen")
    return refusals + list(dict.fromkeys(warnings))


def _words(schedule: dict[str, object]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in schedule.items() if name != "kind")
    return f"{schedule.get('kind')} ({rest})"
