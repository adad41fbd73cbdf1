"""The report of the proof in a real browser: every figure drawn, also where p95 is infinite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from blackfriday.acts import FULL, blank
from blackfriday.acts.scale import scale_ups
from blackfriday.promises import promises
from blackfriday.report import write
from blackfriday.story import Look, Probe, RungOutcome, ScaleOutcome
from tenfold.load import Interval, RunResult


def test_the_ladder_and_the_probes_are_drawn(tmp_path: Path, dom_of: Callable[..., tuple[str, str]]) -> None:
    story = blank(FULL, seed=1)
    story.rungs = [
        RungOutcome("draft", "draft", "N+1", 12.0, probes=(Probe(12.0, 0.09, True), Probe(15.0, math.inf, False))),
        RungOutcome(
            "baseline", "baseline <b>", "eager", 80.0, probes=(Probe(80.0, 0.08, True), Probe(90.0, 0.4, False))
        ),
    ]
    story.promises = promises(story)
    page, _ = write(story, tmp_path)
    dom, log = dom_of(page, tmp_path / "profile")
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn, log
    assert int(drawn[1]) == 2
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log
    assert "<b></text>" not in dom


def test_the_workers_are_drawn_as_steps_over_the_rate(tmp_path: Path, dom_of: Callable[..., tuple[str, str]]) -> None:
    story = blank(FULL, seed=1)
    looks = tuple(Look(at / 5, 1 if at < 60 else 2, 1 if at < 50 else 2, 1.0) for at in range(100))
    story.scale = ScaleOutcome(
        2, 0.4, 20.0, 200.0, 600.0, 20.0, True, looks, scale_ups(looks), 8000, 0, 0, 0.02, None, 0, 0, math.nan, 0
    )
    intervals = [Interval(at=at, intended=200 + 20 * at, sent=400, answered=390) for at in range(20)]
    story.scale_run = RunResult(scenario="", target="", schedule={}, duration=20, elapsed=20, intervals=intervals)
    story.promises = promises(story)
    page, _ = write(story, tmp_path)
    dom, log = dom_of(page, tmp_path / "profile")
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn, log
    assert int(drawn[1]) == 2
    assert not re.search(r"CONSOLE.*(Uncaught|Refused|violates|Error)", log), log
    for name in ("intended", "answered", "workers wished", "workers ready"):
        assert f">{name}</text>" in dom
    # Steps, not slopes: only level and upright parts, once for those that are wished and once for the ready ones.
    assert len(re.findall(r'class="js-line" d="M[\d.]+,[\d.]+(?:[HV][\d.]+)+"', dom)) == 2
