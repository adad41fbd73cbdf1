"""The smallest code in each concept page of the database is a test that passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

CONCEPTS = Path(__file__).parents[3] / "docs" / "concepts"


def test_the_code_in_the_pages_passes(passes: Callable[[str], int]) -> None:
    names = ("read-your-writes", "lag", "failover", "hot-rows")
    pages = [(CONCEPTS / f"{name}.md").read_text(encoding="utf-8") for name in names]
    assert passes("\n".join(pages)) == 4
