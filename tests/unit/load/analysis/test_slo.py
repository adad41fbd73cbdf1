from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import Histogram
from tenfold.load.result import Counts, RunResult, Spread
from tenfold.load.slo import (
    Objective,
    Validity,
    Verdict,
    certainly_missed,
    evaluate,
    judge,
    load_objectives,
    reasons_invalid,
    verdict,
)

MakeRun = Callable[..., RunResult]


def test_a_run_within_its_objectives_passes(make_run: MakeRun) -> None:
    run = make_run(median=0.02)
    assert judge(run, [Objective(p95="100ms", errors="0.1%", min_samples=1000)]) is Verdict.PASSED
    assert [(line.metric, line.passed, line.samples) for line in run.objectives] == [
        ("p95", True, 2700),
        ("errors", True, 2700),
    ]
    assert run.invalid == []
    assert verdict(run).exit_code == 0


def test_one_missed_limit_is_enough(make_run: MakeRun) -> None:
    run = make_run(median=0.02, sigma=0.0)
    assert judge(run, [Objective(p50="1s", p95="19ms")]) is Verdict.MISSED
    assert [line.passed for line in run.objectives] == [True, False]
    assert verdict(run).exit_code == 1


def test_failures_spoil_a_percentile_rather_than_improve_it(make_run: MakeRun) -> None:
    run = make_run(errors=0.2)
    [line] = evaluate(run, [Objective(p95="10s")])
    assert (line.passed, line.seen, line.note) == (False, None, "falls among the failed samples")


def test_a_run_without_objectives_passes_unless_it_is_invalid(make_run: MakeRun) -> None:
    run = make_run()
    assert judge(run) is Verdict.PASSED
    run.clients[0].cpu_share = 0.95
    assert judge(run) is Verdict.INVALID
    assert verdict(run).exit_code == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda r: setattr(r.clients[0], "schedule_slip", Spread(p99=0.03)),
            "slip p99 30.0 ms, at most 20.0 ms",
        ),
        (
            lambda r: setattr(r.clients[0], "loop_lag", Spread(p99=0.03)),
            "lagged: p99 30.0 ms, at most 20.0 ms",
        ),
        (lambda r: setattr(r.clients[0], "cpu_share", 0.85), "saturated: 85% of a core"),
        (lambda r: setattr(r, "started", 2999), "2,999 of 3,000 arrivals"),
        (lambda r: setattr(r, "complete", False), "the run is partial"),
        (lambda r: setattr(r, "steps", []), "no sample after the warm-up"),
    ],
)
def test_what_makes_a_run_invalid(make_run: MakeRun, spoil: Callable[[RunResult], None], reason: str) -> None:
    run = make_run()
    objectives = [Objective(p95="200ms"), Objective(p50="300ms")]
    assert reasons_invalid(run, objectives) == []
    spoil(run)
    assert judge(run, objectives) is Verdict.INVALID
    assert any(reason in line for line in run.invalid), run.invalid


def test_one_late_timer_does_not_make_a_run_invalid(make_run: MakeRun) -> None:
    run = make_run()
    run.clients[0].schedule_slip = Spread(p50=0.001, p99=0.009, max=4.0)
    assert judge(run) is Verdict.PASSED
    assert judge(run, validity=Validity(floor=0.005)) is Verdict.INVALID


def test_too_few_samples_or_an_unseen_step_prove_nothing(make_run: MakeRun) -> None:
    run = make_run()
    assert judge(run, [Objective(p95="1s", min_samples=5000)]) is Verdict.INVALID
    assert run.invalid == ["objective for step '*' needs at least 5,000 samples, the run has 2,700"]
    assert judge(run, [Objective(step=["product", "cart"], p95="1s")]) is Verdict.INVALID
    assert [(line.step, line.passed) for line in run.objectives] == [("product", True), ("cart", False)]


def test_a_verdict_is_certain_as_soon_as_it_is_and_not_before() -> None:
    objective = Objective(p95="100ms", errors="1%")
    fifty = Counts(attempts=50, corrected=Histogram([200_000] * 50))
    assert certainly_missed(objective, fifty, at_most=1000) == ""
    more = Counts(attempts=51, corrected=Histogram([200_000] * 51))
    assert certainly_missed(objective, more, at_most=1000).startswith("p95: 51 of 1,000 samples are over 100 ms")
    failed = Counts(attempts=11, errors={"timeout": 11})
    assert certainly_missed(objective, failed, at_most=1000).startswith("errors: 11 of 1,000")


def test_objectives_come_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(
        '[[objective]]\np95 = "100ms"\nerrors = "0.1%"\nmin_samples = 1000\n'
        '[[objective]]\nstep = ["cart", "pay"]\np99 = 0.5\n'
    )
    first, second = load_objectives(path)
    assert first == Objective(p95="100ms", errors="0.1%", min_samples=1000)
    assert second.steps == ("cart", "pay")
    assert second.latencies == [("p99", 0.99, 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective = 3", "expected one or more"),
        ("", "expected one or more"),
        ('[[objective]]\np95="1s"\n[other]\n', "got other"),
        ("[[objective]]\np96 = 1", "objective 1: expected errors, min_samples, .*got p96"),
        (
            '[[objective]]\np95 = "1s"\n[[objective]]\np95 = "fast"',
            "objective 2: objective p95: expected a duration",
        ),
        ('[[objective]]\nstep = "x"', "expected one of p50, .* or errors, got none"),
        ("[[objective]]\np95 = 0", "expected a duration above 0"),
        ('[[objective]]\nerrors = "120%"', "expected a share"),
        ("[[objective]]\np95 = 1\nmin_samples = 1.5", "min_samples: expected a whole number"),
        ("[[objective]]\np95 = 1\nstep = []", "objective step: expected"),
        ("p95 = ", "expected TOML"),
    ],
)
def test_a_bad_slo_file_is_refused_with_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(MisuseError, match=r"(?s)slo\.toml.*" + message):
        load_objectives(path)


def test_a_missing_slo_file_and_a_bad_validity_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="cannot read"):
        load_objectives(tmp_path / "none.toml")
    with pytest.raises(MisuseError, match="validity cpu: expected a number above 0"):
        Validity(cpu=0)
