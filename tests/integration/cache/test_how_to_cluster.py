"""The how-to on Sentinel and Cluster is true: each block of Python in it is a test file, run as its reader would."""

from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "cache-on-sentinel-and-cluster.md"


def test_every_block_of_the_how_to_passes(passes: Callable[[str], int]) -> None:
    assert passes(PAGE.read_text(encoding="utf-8")) == 2
