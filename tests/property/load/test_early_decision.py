"""Ending a probe early must never change its verdict: against the full evaluation of the same samples."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold._core.histogram import Histogram
from tenfold.load.result import Counts, RunResult, StepResult
from tenfold.load.slo import Objective, certainly_missed, evaluate

# None is a failed sample. Values crowd around the limit of 1,000 µs and inside one bucket of it.
outcomes = st.lists(st.one_of(st.none(), st.integers(0, 3000), st.integers(990, 1010)), min_size=1, max_size=120)
objectives = st.builds(
    Objective,
    p50=st.sampled_from([None, 0.001]),
    p95=st.sampled_from([0.001, 0.0010005]),
    errors=st.sampled_from([None, 0.02, 0.3]),
)


def counts_of(values: list[int | None]) -> Counts:
    failed = sum(value is None for value in values)
    good = Histogram([value for value in values if value is not None])
    return Counts(attempts=len(values), errors={"timeout": failed} if failed else {}, corrected=good)


def missed(values: list[int | None], objective: Objective) -> bool:
    counts = counts_of(values)
    step = StepResult(name="a", attempts=counts.attempts, errors=counts.errors, corrected=counts.corrected)
    run = RunResult(scenario="s", target="t", schedule={}, steps=[step])
    return not all(line.passed for line in evaluate(run, [objective]))


@settings(deadline=None, max_examples=200)
@given(outcomes, objectives, st.integers(0, 20))
def test_certain_is_certain_and_the_end_is_exact(values: list[int | None], objective: Objective, spare: int) -> None:
    at_most = len(values) + spare  # an upper bound that need not be reached
    verdict = missed(values, objective)
    for n in range(1, len(values) + 1):
        if certainly_missed(objective, counts_of(values[:n]), at_most):
            assert verdict, f"called missed after {n} of {len(values)}, but the whole passes"
            break
    assert bool(certainly_missed(objective, counts_of(values), len(values))) == verdict
