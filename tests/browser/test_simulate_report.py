"""The page of a simulation in a real browser: every figure drawn, nothing from outside executed, no error logged."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCENARIO = """
name = "<script>document.title='broken'</script>"
requests = 1000
policies = ["p2c", { pick = "random", label = "<img src=x onerror=\\"document.title='broken'\\">" }]
arrivals = { kind = "poisson", rate = 100 }
service = { kind = "exponential", mean = "10ms" }
servers = [{ count = 3 }]
fault = [{ kind = "crash", at = "1s", lasts = "1s", servers = ["*"] }]
"""


def test_every_figure_is_drawn_and_nothing_is_executed(tmp_path: Path, dom_of: Callable[..., tuple[str, str]]) -> None:
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "tenfold", "simulate", str(tmp_path / "scenario.toml"), "--report", str(page)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    dom, log = dom_of(page, tmp_path / "profile")
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn, log
    assert int(drawn[1]) == 5
    assert "<title>broken</title>" not in dom
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log


SCALING = """
name = "<script>document.title='broken'</script>"
duration = "20s"
slo = "200ms"
arrivals = { kind = "poisson", rate = 100 }
service = { kind = "exponential", mean = "50ms" }
workers = { limit = 4 }
scale = [{ label = "<img src=x onerror=\\"document.title='broken'\\">", most = 4, in_flight = 3 }]
"""


@pytest.mark.slow
def test_the_page_of_a_scaling_scenario_is_drawn_too(tmp_path: Path, dom_of: Callable[..., tuple[str, str]]) -> None:
    (tmp_path / "scaling.toml").write_text(SCALING)
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "tenfold", "simulate", str(tmp_path / "scaling.toml"), "--report", str(page)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    dom, log = dom_of(page, tmp_path / "profile")
    assert 'data-drawn="4"' in dom, log
    assert "<title>broken</title>" not in dom
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log
