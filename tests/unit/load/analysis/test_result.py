from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import Histogram
from tenfold.load.result import Counts, Interval, RunResult, Spread, StepResult

MakeRun = Callable[..., RunResult]


def test_a_result_goes_to_disk_and_back(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(errors=0.01)
    run.save(tmp_path / "deep" / "run.json")
    assert RunResult.load(tmp_path / "deep" / "run.json") == run
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.json"]


def test_totals_merge_steps_and_leave_them_alone() -> None:
    first = StepResult(name="a", attempts=3, errors={"timeout": 1}, corrected=Histogram([10, 20]))
    second = StepResult(name="b", attempts=1, corrected=Histogram([30]), warmup=Counts(attempts=9))
    run = RunResult(scenario="s", target="t", schedule={}, steps=[first, second])
    assert (run.totals.attempts, run.totals.errors, run.totals.corrected.count) == (4, {"timeout": 1}, 3)
    assert run.warmup_totals.attempts == 9
    assert first.attempts == 3
    assert first.corrected.count == 2
    assert run.named("b") is second
    with pytest.raises(MisuseError, match=r'expected "\*" or one of a, b, got \'c\''):
        run.named("c")


def test_failures_count_as_infinitely_slow() -> None:
    counts = Counts(attempts=100, errors={"timeout": 6}, corrected=Histogram([1000] * 94))
    assert counts.latency(0.94) == 0.001
    assert counts.latency(0.95) == math.inf
    assert counts.error_share == 0.06


def test_intervals_of_processes_add_up() -> None:
    one = Interval(at=3, intended=5, sent=5, answered=4, in_flight_max=2, corrected=Histogram([7]))
    one.add(Interval(at=3, intended=1, errors=1, kinds={"reset": 1}, in_flight_max=1))
    assert (one.intended, one.errors, one.kinds, one.in_flight_max, one.corrected.count) == (
        6, 1, {"reset": 1}, 3, 1,
    )  # fmt: skip


def test_the_repr_says_what_matters(make_run: MakeRun) -> None:
    run = make_run(median=0.01, sigma=0.0)
    assert repr(run) == "RunResult('shop', 2700 samples, 0 errors, p95=10ms, valid)"
    run.complete = False
    assert repr(run).endswith("partial)")


def test_measured_seconds_and_goodput_leave_the_warmup_out(make_run: MakeRun) -> None:
    run = make_run(rate=100, seconds=30, warmup=3)
    assert run.measured == 27
    assert run.goodput == pytest.approx(100)
    run.elapsed = 31.5  # the last answers came after the last arrival
    assert run.measured == 27


def test_spread_of_a_histogram() -> None:
    assert Spread.of(Histogram([100] * 99 + [200])) == Spread(p50=1e-4, p99=1e-4, max=2e-4)
    assert Spread.of(Histogram()) == Spread()


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"scenario": 1}', b'{"scenario":"s","target":"t","schedule":{},"format":9}']
)
def test_foreign_files_are_refused_with_their_path(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(data)
    with pytest.raises(MisuseError, match=r"odd\.json: result: expected"):
        RunResult.load(path)


def test_a_missing_file_and_a_bad_histogram_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"cannot read .*none\.json: No such file"):
        RunResult.load(tmp_path / "none.json")
    bad = b'{"scenario":"s","target":"t","schedule":{},"steps":[{"name":"a","corrected":{"unit":"ms"}}]}'
    with pytest.raises(MisuseError, match="histogram"):
        RunResult.from_json(bad)
