"""Whether two policies decide alike on the same series, and where they first do not.

Each policy goes by its own decisions: its number of workers at one moment is what it decided at the moment before. The
series is what all workers together have, shared out evenly among as many as there are then; so a difference shows at
the first moment and is not hidden by the number of workers that somebody else chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tenfold.autoscale import Decision, Observed, PerWorker, Reading, Sample, ScalePolicy, Scaler, Target, Total, Worker

Series = Iterable[tuple[float, Mapping[str, float]]]
"""Moments that rise, and at each what is measured of all workers together, by the target's name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first moment at which two policies wanted different numbers: ``at``, and what each decided."""

    at: float
    one: Decision
    other: Decision

    def __str__(self) -> str:
        return f"at {self.at:g} s: {self.one}; the other: {self.other}"


def first_difference(
    one: ScalePolicy, other: ScalePolicy, series: Series, *, current: int | None = None, begins: float | None = None
) -> Difference | None:
    """Where two policies first want different numbers of workers on ``series``; None where they never do.

    Targets of the kind ``"value"`` (a percentile) get the number as it is. A target whose name is not in the series
    counts as not measured. ``current`` (the least of ``one``): workers at the start. ``begins``: seconds since the
    epoch at 0, for schedules.
    """
    scalers = (Scaler(one), Scaler(other))
    wanted = [one.least if current is None else current] * 2
    for at, totals in series:
        wall = None if begins is None else begins + at
        first, second = (
            scaler.decide(_look(scaler.policy, number, totals, wall), at)
            for scaler, number in zip(scalers, wanted, strict=True)
        )
        if first.desired != second.desired:
            return Difference(at, first, second)
        wanted = [first.desired, second.desired]
    return None


def _look(policy: ScalePolicy, current: int, totals: Mapping[str, float], wall: float | None) -> Observed:
    workers = tuple(Worker(f"w{number}") for number in range(current))
    readings = {
        target.name: _reading(target, totals[target.name], workers)
        for target in policy.targets
        if target.name in totals
    }
    return Observed(current=current, workers=workers, readings=readings, wall=wall)


def _reading(target: Target, total: float, workers: tuple[Worker, ...]) -> Reading:
    if not target.per_worker:
        return Total(total)
    return PerWorker({worker.name: Sample(total / len(workers)) for worker in workers})
