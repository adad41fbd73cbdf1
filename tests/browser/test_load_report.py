"""The report in a real browser: every figure drawn, nothing from outside executed, no error logged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold._core.histogram import Histogram
from tenfold.load import report
from tenfold.load.result import Interval, RunResult, StepResult
from tenfold.load.slo import Objective, judge

NASTY = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture
def report_path(tmp_path: Path) -> Path:
    values = Histogram([1000 + 37 * n for n in range(1000)])
    step = StepResult(name=NASTY, attempts=1010, errors={NASTY: 10}, corrected=values, uncorrected=values)
    other = StepResult(name="cart", attempts=1000, corrected=values, uncorrected=values)
    run = RunResult(
        scenario=NASTY, target="http://127.0.0.1", schedule={"kind": "constant"},
        duration=20, elapsed=20, warmup=2,
        steps=[step, other],
        intervals=[
            Interval(
                at=at, intended=100, sent=100, answered=100, errors=1, kinds={NASTY: 1}, corrected=values
            )
            for at in range(20)
        ],
    )  # fmt: skip
    judge(run, [Objective(p95="50ms")])
    path = tmp_path / "report.html"
    report.save(report.render(run), path)
    return path


@pytest.mark.parametrize("scheme", [1, 0], ids=["light", "dark"])
def test_every_figure_is_drawn_and_nothing_is_executed(
    report_path: Path, tmp_path: Path, scheme: int, dom_of: Callable[..., tuple[str, str]]
) -> None:
    dom, log = dom_of(report_path, tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}")
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn, log
    assert int(drawn[1]) == 5
    assert len(re.findall(r'<svg class="main-svg"', dom)) >= 5
    assert "<title>broken</title>" not in dom
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log
    assert ("rgb(230, 233, 239)" in dom) == (scheme == 0)  # the ink of the dark theme
