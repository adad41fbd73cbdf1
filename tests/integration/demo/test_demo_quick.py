"""The proof itself, as a newcomer runs it: every promise that is measured is kept, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_quick_demo_keeps_every_promise_it_measures(
    tmp_path: Path, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    environment, living = marked
    done = subprocess.run(
        [sys.executable, "-m", "tenfold", "blackfriday", "--quick", "--out", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    story = json.loads((tmp_path / "report.json").read_text())
    assert story["stopped_because"] is None
    assert story["ten_times"]["held"]
    assert story["ten_times"]["seconds"] >= 29.5
    baseline = next(rung for rung in story["rungs"] if rung["key"] == "baseline")
    assert story["ten_times"]["rate"] == pytest.approx(10 * baseline["rate"])
    assert [rung["key"] for rung in story["rungs"]] == [
        "draft",
        "baseline",
        "shapes",
        "indexes",
        "cache",
        "replicas",
        "edge",
    ]
    assert all(rung["fixed"] is not None for rung in story["rungs"])
    assert story["integrity"]["tuned"]["acknowledged"] > 50
    assert story["integrity"]["tuned"]["own_reads"] > 50
    assert min(story["integrity"]["tuned"]["spread"]) > 0
    assert len(story["integrity"]["tuned"]["spread"]) == 2
    assert story["integrity"]["tuned"]["leaked"] == 0
    assert story["ten_times"]["replica_reads"] > story["ten_times"]["token_reads"] > 0
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "not measured" in done.stdout
    assert living() == []
