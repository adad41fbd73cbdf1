"""The report of the proof in a real browser: every figure drawn, also where p95 is infinite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

from blackfriday.acts import FULL, blank
from blackfriday.promises import promises
from blackfriday.report import write
from blackfriday.story import Probe, RungOutcome


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
