"""The how-to is true: its block of Python is a test file, run here as its reader would run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "reshard.md"


def test_the_block_of_the_how_to_passes(passes: Callable[[str], int]) -> None:
    assert passes(PAGE.read_text(encoding="utf-8")) == 1
