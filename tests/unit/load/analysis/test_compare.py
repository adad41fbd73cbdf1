from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load.bootstrap import student, tail_probability
from tenfold.load.compare import CompareOptions, Comparison, compare, measured_seconds
from tenfold.load.result import RunResult

MakeRun = Callable[..., RunResult]


def outcome_of(found: Comparison, name: str) -> str:
    return next(metric.outcome for metric in found.metrics if metric.name == name)


def test_a_known_shift_is_found_with_its_size(make_run: MakeRun) -> None:
    found = compare(make_run(seed=1), make_run(seed=2, median=0.03))
    p95 = found.metrics[1]
    assert found.outcome == p95.outcome == "worse"
    assert p95.low is not None
    assert p95.high is not None
    assert p95.low < 0.5 < p95.high  # 20 ms to 30 ms
    assert compare(make_run(seed=1), make_run(seed=2, median=0.012)).outcome == "better"


def test_a_run_is_the_same_as_itself_given_enough_samples(make_run: MakeRun) -> None:
    run = make_run(rate=400, seconds=60, sigma=0.2)
    found = compare(run, make_run(rate=400, seconds=60, sigma=0.2, seed=2))
    assert outcome_of(found, "p50") == outcome_of(found, "p95") == outcome_of(found, "errors") == "same"


def test_too_few_samples_or_seconds_are_inconclusive(make_run: MakeRun) -> None:
    found = compare(make_run(rate=8, seconds=30), make_run(rate=8, seconds=30, median=0.2))
    p99 = next(metric for metric in found.metrics if metric.name == "p99")
    assert (p99.outcome, p99.note) == ("inconclusive", "too few samples: 216, at least 1,000 needed")
    short = compare(make_run(seconds=12), make_run(seconds=12, median=1.0))
    assert short.outcome == "inconclusive"
    assert short.metrics[0].note == "too short: 9 measured seconds, at least 10 needed"


def test_a_complete_run_covers_its_schedule_to_the_last_second(make_run: MakeRun) -> None:
    run = make_run(seconds=10, warmup=3)
    run.elapsed = 9.9996  # the last answer came a moment before the end
    assert [second.at for second in measured_seconds(run)] == [3, 4, 5, 6, 7, 8, 9]
    run.complete = False
    assert measured_seconds(run)[-1].at == 8


def test_failing_fast_is_not_faster(make_run: MakeRun) -> None:
    """A fifth of B fails; what remains is faster, and still p95 is worse."""
    found = compare(make_run(), make_run(median=0.005, errors=0.2, seed=2))
    assert found.outcome == outcome_of(found, "p95") == outcome_of(found, "errors") == "worse"
    p95 = found.metrics[1]
    assert (p95.b, p95.difference, p95.note) == (None, None, "B falls among the failed samples")


def test_both_sides_among_the_failures_prove_nothing_about_latency(make_run: MakeRun) -> None:
    found = compare(make_run(errors=0.3), make_run(errors=0.3, seed=2))
    assert outcome_of(found, "p95") == "inconclusive"


def test_a_few_errors_are_no_verdict(make_run: MakeRun) -> None:
    found = compare(make_run(), make_run(errors=0.0008, seed=3))
    errors = found.metrics[-1]
    assert errors.outcome == "inconclusive"
    assert errors.note.endswith("errors are too few to tell")


def test_interleaved_runs_show_how_runs_differ(make_run: MakeRun) -> None:
    """Runs that differ by 20 % among themselves support no verdict about 6 %; steady ones do."""
    steady = [make_run(rate=200, seed=s) for s in range(5)]
    slower = [make_run(rate=200, seed=10 + s, median=0.024) for s in range(5)]
    found = compare(steady, slower)
    assert outcome_of(found, "p95") == "worse"
    assert found.warnings == []
    moods = (0.016, 0.024, 0.018, 0.022, 0.02)
    a = [make_run(rate=200, seed=s, median=m) for s, m in enumerate(moods)]
    b = [make_run(rate=200, seed=20 + s, median=m * 1.06) for s, m in enumerate(reversed(moods))]
    assert outcome_of(compare(a, b), "p50") == "inconclusive"


def test_a_comparison_is_reproducible(make_run: MakeRun) -> None:
    a, b = make_run(), make_run(seed=2)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, CompareOptions(seed=2)) != compare(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "other"}, "different scenarios: 'shop' and 'other'"),
        ({"rate": 200}, r"different schedules: constant \(rate 100.0, duration 30.0\) and constant"),
    ],
)
def test_runs_that_differ_in_more_than_one_thing_are_refused(
    make_run: MakeRun, change: dict[str, object], message: str
) -> None:
    with pytest.raises(MisuseError, match=message):
        compare(make_run(), make_run(**change))
    forced = compare(make_run(), make_run(**change), CompareOptions(force=True))
    assert any("different s" in line for line in forced.warnings)


def test_invalid_and_partial_runs_are_refused(make_run: MakeRun) -> None:
    bad = make_run()
    bad.invalid = ["client 7 was saturated"]
    with pytest.raises(MisuseError, match="is invalid: client 7 was saturated"):
        compare(make_run(), bad)
    bad.invalid, bad.complete, bad.stopped_because = [], False, "interrupted"
    with pytest.raises(MisuseError, match="is invalid: interrupted"):
        compare(bad, make_run())
    with pytest.raises(MisuseError, match="at least one run on each side"):
        compare([], [make_run()])


def test_another_machine_is_warned_about(make_run: MakeRun) -> None:
    other = make_run(seed=2)
    other.environment["cores"] = 64
    assert "different cores: None and 64" in compare(make_run(), other).warnings


@pytest.mark.parametrize(
    "options",
    [{"margin": 0}, {"confidence": 1}, {"resamples": 10}, {"quantiles": ("p42",)}, {"error_margin": 2}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(MisuseError, match="compare"):
        CompareOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("p", "freedom", "table"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.995, 5, 4.032),
        (0.995, 10, 3.169),
        (0.995, 30, 2.75),
    ],
)
def test_student_against_the_published_table(p: float, freedom: float, table: float) -> None:
    assert student(p, freedom) == pytest.approx(table, rel=0.02)


def test_few_blocks_widen_the_interval() -> None:
    assert tail_probability(0.05, 6) < 0.01 < tail_probability(0.05, 1000) == pytest.approx(0.025, rel=0.02)


@pytest.fixture
def paths(make_run: MakeRun, tmp_path: Path) -> tuple[Path, Path, Path]:
    names = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "worse.json"
    make_run().save(names[0])
    make_run(seed=2).save(names[1])
    make_run(seed=3, median=0.05).save(names[2])
    return names


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tenfold", "compare", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_table_and_exits_by_the_verdict(paths: tuple[Path, Path, Path]) -> None:
    a, b, worse = paths
    done = command(a, worse)
    assert done.returncode == 1, done.stderr
    assert "B is worse: p50, p95, p99" in done.stdout
    unsure = command(a, b)
    assert unsure.returncode == 0
    assert "inconclusive" in unsure.stdout
    assert command(a, b, "--strict").returncode == 1


def test_the_command_speaks_json_and_takes_a_margin(paths: tuple[Path, Path, Path]) -> None:
    a, _, worse = paths
    done = command(a, worse, "--json", "--margin", "400%")
    assert done.returncode == 2
    assert "--margin: expected a share" in done.stderr
    done = command(a, worse, "--json", "--margin", "10%")
    found = json.loads(done.stdout)
    assert (found["outcome"], found["metrics"][1]["margin"]) == ("worse", 0.1)


def test_the_command_refuses_with_exit_code_two(paths: tuple[Path, Path, Path], make_run: MakeRun) -> None:
    a, b, other = paths
    assert command(a).returncode == 2
    assert command(a, b, a).returncode == 2
    make_run(scenario="else").save(other)
    done = command(a, other)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tenfold: compare: different scenarios")


def test_a_comparison_can_be_narrowed_to_some_steps(make_run: MakeRun) -> None:
    """The slow step hides in the mix; alone it is found, and the other step alone is the same as before."""

    def mix(seed: int, slow: float) -> RunResult:
        run, other = (
            make_run(seed=seed, rate=300, sigma=0.1),
            make_run(seed=seed + 50, rate=30, step="checkout", median=slow),
        )
        for mine, theirs in zip(run.intervals, other.intervals, strict=True):
            mine.steps, theirs.steps = {"product": mine.corrected.copy()}, {"checkout": theirs.corrected.copy()}
            mine.add(theirs)
        run.steps += other.steps
        return run

    before, after = mix(1, 0.02), mix(2, 0.03)
    whole = compare(before, after, CompareOptions(quantiles=("p50",)))
    assert outcome_of(whole, "p50") == "same"
    alone = compare(before, after, CompareOptions(quantiles=("p50",), steps=("checkout",)))
    assert outcome_of(alone, "p50") == "worse"
    assert sum(alone.samples) == 2 * 27 * 30
    rest = compare(before, after, CompareOptions(quantiles=("p50",), steps=("product",)))
    assert outcome_of(rest, "p50") == "same"
    with pytest.raises(MisuseError, match=r"expected .* one of product, checkout, got 'cart'"):
        compare(before, after, CompareOptions(steps=("cart",)))
