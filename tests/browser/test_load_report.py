"""The report in a real browser: every figure drawn, nothing from outside executed, no error logged."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tenfold._core.histogram import Histogram
from tenfold.load import report
from tenfold.load.result import Interval, RunResult, StepResult
from tenfold.load.slo import Objective, judge

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: the report was NOT looked at by a browser")


def dom_of(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The document after its scripts ran, and what the browser logged."""
    assert CHROMIUM is not None
    line = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", f"--user-data-dir={profile}", "--enable-logging=stderr",
        "--virtual-time-budget=10000", "--window-size=1280,2400", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    # A process group of its own: chromium starts helpers, and on a time-out all of them have to go.
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            out, log = child.communicate(timeout=90)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return out, log


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
def test_every_figure_is_drawn_and_nothing_is_executed(report_path: Path, tmp_path: Path, scheme: int) -> None:
    dom, log = dom_of(report_path, tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}")
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn, log
    assert int(drawn[1]) == 5
    assert len(re.findall(r'<svg class="main-svg"', dom)) >= 5
    assert "<title>broken</title>" not in dom
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log
    assert ("rgb(230, 233, 239)" in dom) == (scheme == 0)  # the ink of the dark theme
