"""The percentile export: read back as a plotter reads it, and against the histogram it came from."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load.histogram import Histogram, hgrm, save_hgrm

ROW = re.compile(r" *(?P<value>\d+\.\d{3}) (?P<share>[01]\.\d{12}) +(?P<count>\d+)(?: +(?P<inverse>\d+\.\d{2}))?")


def parse(text: str) -> list[tuple[float, float, int, float | None]]:
    lines = text.splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert lines[1] == ""
    rows = []
    for line in lines[2:-3]:
        match = ROW.fullmatch(line)
        assert match, line
        inverse = match["inverse"]
        rows.append(
            (
                float(match["value"]),
                float(match["share"]),
                int(match["count"]),
                float(inverse) if inverse else None,
            )
        )
    return rows


def test_rows_say_what_the_histogram_says() -> None:
    draw = random.Random(1)
    held = Histogram([round(draw.lognormvariate(9, 1)) for _ in range(20_000)])
    rows = parse(hgrm(held))
    for value, share, count, inverse in rows[:-1]:
        assert value * 1000 == pytest.approx(held.quantile(share), abs=0.51)
        assert count >= share * held.count - 1e-6
        assert inverse == pytest.approx(1 / (1 - share), abs=0.006)
    assert rows[0][1] == 0
    assert rows[-1] == (pytest.approx((held.max or 0) / 1000), 1.0, 20_000, None)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    shares = [row[1] for row in rows]
    assert shares[1:7] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.55])  # five steps a halving


def test_the_footer_has_mean_deviation_and_count() -> None:
    footer = hgrm(Histogram([1000] * 3 + [3000])).splitlines()[-3:]
    match = re.fullmatch(r"#\[Mean    =        1\.500, StdDeviation   = +(\d\.\d{3})\]", footer[0])
    assert match, footer[0]
    assert float(match[1]) == pytest.approx(0.866, rel=0.01)
    assert footer[1] == "#[Max     =        3.000, Total count    =            4]"
    assert footer[2].startswith("#[Buckets = ")


def test_an_empty_histogram_has_no_rows() -> None:
    assert parse(hgrm(Histogram())) == []


def test_writing_where_one_cannot_is_refused(tmp_path: Path) -> None:
    save_hgrm(Histogram([5]), tmp_path / "a.hgrm")
    assert parse((tmp_path / "a.hgrm").read_text())[-1] == (0.005, 1.0, 1, None)
    with pytest.raises(MisuseError, match="hgrm: cannot write"):
        save_hgrm(Histogram([5]), tmp_path / "none" / "a.hgrm")
    with pytest.raises(MisuseError, match="ticks"):
        hgrm(Histogram([5]), ticks=0)
