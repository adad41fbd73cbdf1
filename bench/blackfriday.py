"""The whole proof on the reference shop, as one record: the story without the histograms of its runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE = 900.0
BULKY = ("ten_times_run", "before_run", "after_run", "scale_run")


def measure(*, quick: bool) -> dict[str, Any]:
    """What `tenfold blackfriday` found, its exit code and the text that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tenfold", "blackfriday", "--out", folder, *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
        story = json.loads((Path(folder) / "report.json").read_text())
    baseline = next((rung["rate"] for rung in story["rungs"] if rung["key"] == "baseline"), None)
    last = next((rung["rate"] for rung in story["rungs"] if rung["key"] == "edge"), None)
    edge = story["edge"]
    same, ten = story["same_rate"], story["ten_times"]
    return {
        "p95_reduction_at_equal_rate": same and 1 - same["after"] / same["before"],
        "held_at_ten_times": ten and ten["held"],
        "held_seconds": ten and ten["seconds"],
        "factor_reached": last / baseline if baseline and last else None,
        "hit_rate": ten and 1 - ten["loads"] / ten["reads"],
        "edge_hit_rate": edge and edge["hits"] / edge["asked"],
        "edge_late_prices": edge and edge["prices"]["late"],
        "lost": story["integrity"].get("tuned", {}).get("lost"),
        "oversold": story["integrity"].get("tuned", {}).get("oversold"),
        "exit_code": done.returncode,
        "seconds": story["seconds"],
        "story": {name: value for name, value in story.items() if name not in BULKY},
        "printed": [line for line in done.stdout.splitlines() if not line.startswith("  wrote ")],
    }
