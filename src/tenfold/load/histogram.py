"""The histogram under its public name, and its export as a percentile distribution that existing plotters
read.

The text is that of HdrHistogram's ``outputPercentileDistribution`` (G. Tene), the ``.hgrm`` files of wrk2 and
of the HdrHistogram plotter: value, percentile, running count and 1/(1 − percentile), five steps for every
halving of the distance to 100 %.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import RELATIVE_ERROR, SUB_BUCKET_BITS, Histogram

__all__ = ["RELATIVE_ERROR", "Histogram", "hgrm", "save_hgrm"]

_TICKS: Final = 5
_MICROS_PER_MS: Final = 1000.0


def hgrm(histogram: Histogram, *, ticks: int = _TICKS) -> str:
    """The percentile distribution in milliseconds. ``ticks`` rows for each halving of the distance to 100 %.

    Failed samples are not in it: a ``.hgrm`` file has no way to write infinity. Raises `MisuseError` for
    ticks below 1.
    """
    if ticks < 1:
        raise MisuseError(f"hgrm ticks: expected at least 1, got {ticks!r}")
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    lines += _rows(histogram, ticks)
    mean = histogram.mean / _MICROS_PER_MS if histogram else 0.0
    top = (histogram.max or 0) / _MICROS_PER_MS
    buckets = max(1, (histogram.max or 1).bit_length() - SUB_BUCKET_BITS)
    lines += [
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {_deviation(histogram) / _MICROS_PER_MS:12.3f}]",
        f"#[Max     = {top:12.3f}, Total count    = {histogram.count:12d}]",
        f"#[Buckets = {buckets:12d}, SubBuckets     = {2 << SUB_BUCKET_BITS:12d}]",
    ]
    return "\n".join(lines) + "\n"


def save_hgrm(histogram: Histogram, path: str | Path) -> None:
    """Write `hgrm` to a file. Raises `MisuseError` where it cannot be written."""
    try:
        Path(path).write_text(hgrm(histogram), encoding="utf-8")
    except OSError as exc:
        raise MisuseError(f"hgrm: cannot write {path}: {exc.strerror or exc}") from exc


def _rows(histogram: Histogram, ticks: int) -> list[str]:
    if not histogram:
        return []
    rows: list[str] = []
    buckets = histogram.buckets()
    total, top, running, value = histogram.count, histogram.max or 0, 0, 0
    percentile = 0.0
    while running < total:
        while running < total and running < max(1, math.ceil(percentile / 100 * total - 1e-9)):
            _, high, n = next(buckets)
            running, value = running + n, min(high, top)
        if running == total:
            break
        share = percentile / 100
        rows.append(f"{value / _MICROS_PER_MS:12.3f} {share:2.12f} {running:10d} {1 / (1 - share):14.2f}")
        halvings = math.floor(math.log2(100 / (100 - percentile))) + 1
        percentile += 100 / (ticks * 2**halvings)
    rows.append(f"{top / _MICROS_PER_MS:12.3f} {1:2.12f} {total:10d}")
    return rows


def _deviation(histogram: Histogram) -> float:
    if not histogram:
        return 0.0
    mean = histogram.mean
    square = math.fsum(((low + high) / 2 - mean) ** 2 * n for low, high, n in histogram.buckets())
    return math.sqrt(square / histogram.count)
