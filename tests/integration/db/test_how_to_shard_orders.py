"""The how-to on sharding orders is true: each block of Python in it is a test file, run as its reader would run it."""

from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "shard-orders.md"


def test_every_block_of_the_how_to_passes(passes: Callable[[str], int]) -> None:
    assert passes(PAGE.read_text(encoding="utf-8")) == 4
