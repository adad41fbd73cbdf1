"""Made-up runs with known numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tenfold._core.histogram import Histogram
from tenfold._core.rng import derive
from tenfold.load.result import ClientHealth, Counts, Interval, RunResult, StepResult
from tenfold.load.schedule import Constant

MakeRun = Callable[..., RunResult]


def _make_run(
    *,
    rate: int = 100,
    seconds: int = 30,
    warmup: int = 3,
    median: float = 20e-3,
    sigma: float = 0.4,
    errors: float = 0.0,
    seed: int = 1,
    step: str = "product",
    scenario: str = "shop",
) -> RunResult:
    """A run of lognormal latencies (``median`` seconds), ``errors`` of them failed with status 503."""
    draw = derive(seed, "run")
    schedule = Constant(rate, seconds)
    measured = StepResult(name=step)
    intervals = []
    for second in range(seconds):
        values, bad = [], 0
        for _ in range(rate):
            if draw.random() < errors:
                bad += 1
            else:
                values.append(round(draw.lognormvariate(0, sigma) * median * 1e6))
        held = Histogram(values)
        kinds = {"status 503": bad} if bad else {}
        intervals.append(
            Interval(
                at=second, intended=rate, sent=rate, answered=rate, errors=bad, kinds=kinds,
                in_flight_max=1 + round(rate * median), corrected=held,
            )
        )  # fmt: skip
        part = Counts(attempts=rate, errors=kinds, corrected=held, uncorrected=held.copy())
        (measured.warmup if second < warmup else measured).add(part)
    return RunResult(
        scenario=scenario,
        target="http://127.0.0.1:8000",
        schedule=schedule.to_dict(),
        seed=seed,
        warmup=warmup,
        duration=seconds,
        elapsed=seconds,
        planned=rate * seconds,
        started=rate * seconds,
        steps=[measured],
        intervals=intervals,
        clients=[ClientHealth(pid=7, cpu_seconds=1.0, cpu_share=0.1)],
    )


@pytest.fixture
def make_run() -> MakeRun:
    return _make_run
