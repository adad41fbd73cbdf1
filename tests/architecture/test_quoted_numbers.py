"""The numbers in the pages are those of the committed results."""

from __future__ import annotations

import json

import pytest

from bench._quotes import QUOTATIONS, RESULT, ROOT, corrected, wrong


@pytest.mark.parametrize("name", QUOTATIONS)
def test_a_page_says_what_was_measured(name: str) -> None:
    """`python -m bench._quotes` corrects it."""
    assert wrong((ROOT / name).read_text(), QUOTATIONS[name], json.loads(RESULT.read_text())) == []


def test_the_readme_shows_what_the_demo_printed() -> None:
    told = json.loads((ROOT / "bench" / "results" / "blackfriday.json").read_text())
    printed = {" ".join(line.split()) for line in told["printed"]}
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("\nthe ladder\n")[2].partition("```")[0].splitlines()
    assert len(shown) > 30
    assert [line for line in shown if " ".join(line.split()) not in printed] == []
    assert f"{told['date'][:10]}, {told['seconds']:.0f} seconds" in " ".join(readme.split())


def test_another_number_is_found_and_corrected() -> None:
    quotations = ("took {a[b c]:.1f} ms of {n:,}, {share:.1%} % on {date:date}",)
    result = {"a": {"b c": 1.25}, "n": 100_000, "share": 0.953, "date": "2026-11-26T09:31:35"}
    page = "It took 1.3 ms\nof 1,000, 95 % on 2026-11-25."
    assert wrong(page, quotations, result) == [
        "a[b c]: the page says 1.3, the result 1.2",
        "n: the page says 1,000, the result 100,000",
        "share: the page says 95, the result 95.3",
        "date: the page says 2026-11-25, the result 2026-11-26",
    ]
    assert corrected(page, quotations, result) == "It took 1.2 ms\nof 100,000, 95.3 % on 2026-11-26."
    assert wrong("nothing of it", quotations, result) == [f"not on the page: {quotations[0]}"]
