"""A log-linear histogram of integer microseconds: small, mergeable, exact at both ends.

Theory. A fixed *relative* error over seven decades needs buckets whose width grows with the value. Each
octave [2^k, 2^(k+1)) is cut into 128 equal buckets (7 sub-bucket bits), so that a bucket is at most 1/128 =
0.78 % of the value wide; below 256 µs a bucket is one microsecond and nothing is lost. The index is two
shifts and an addition:

    shift = max(0, bit_length(v) - 8);  index = (shift << 7) + (v >> shift)

which is contiguous and monotone: index 255 holds 255, 256 holds {256, 257}, 384 holds {512 … 515}. Two
histograms merge by adding counts, so merging is exact, commutative and associative, which an average of
percentiles never is. The layout is that of HdrHistogram (G. Tene) with 2 significant digits; a quantile
reports the highest value that its bucket can hold, as HdrHistogram does, so that it may overstate by 0.78 %
and never understates.

Counts live in a dictionary. A run of one service touches a few hundred buckets, and one histogram a second is
kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tenfold._core.errors import MisuseError

SUB_BUCKET_BITS: Final = 7
RELATIVE_ERROR: Final = 1 / (1 << SUB_BUCKET_BITS)
LINEAR_BITS: Final = SUB_BUCKET_BITS + 1


def bucket_of(value: int) -> int:
    """The index of the bucket that holds ``value`` (microseconds, not negative)."""
    shift = value.bit_length() - LINEAR_BITS
    return (shift << SUB_BUCKET_BITS) + (value >> shift) if shift > 0 else value


def bucket_low(index: int) -> int:
    """The lowest value of a bucket, in microseconds."""
    if index < 1 << LINEAR_BITS:
        return index
    shift = (index >> SUB_BUCKET_BITS) - 1
    return (index - (shift << SUB_BUCKET_BITS)) << shift


def bucket_high(index: int) -> int:
    """The highest value of a bucket, in microseconds."""
    return bucket_low(index + 1) - 1


class Histogram:
    """Counts of integer microseconds with at most 0.78 % relative error; minimum, maximum, sum and count are
    exact.

    Not thread-safe: each process or task keeps its own and the owner merges them.
    """

    __slots__ = ("_counts", "_total", "count", "max", "min")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self._total = 0
        self.min: int | None = None
        """The smallest value recorded, exact; ``None`` while empty."""
        self.max: int | None = None
        """The largest value recorded, exact; ``None`` while empty."""
        self.record_many(values)

    @property
    def sum(self) -> int:
        """The exact sum of all values, in microseconds."""
        return self._total

    @property
    def mean(self) -> float:
        """The exact mean in microseconds; NaN while empty."""
        return self._total / self.count if self.count else math.nan

    def record(self, value: int, n: int = 1) -> None:
        """Count ``value`` microseconds ``n`` times. Raises `MisuseError` for a negative value or count."""
        if value < 0 or n < 1:
            if n == 0 and value >= 0:
                return
            raise MisuseError(f"record: expected microseconds >= 0 and a count >= 0, got {value!r} and {n!r}")
        shift = value.bit_length() - LINEAR_BITS
        index = (shift << SUB_BUCKET_BITS) + (value >> shift) if shift > 0 else value
        counts = self._counts
        counts[index] = counts.get(index, 0) + n
        self.count += n
        self._total += value * n
        if self.max is None or value > self.max:
            self.max = value
        if self.min is None or value < self.min:
            self.min = value

    def record_many(self, values: Iterable[int]) -> None:
        """Count every value once; about half the price of `record` in a loop. All or nothing on a negative
        value."""
        held = values if isinstance(values, list) else list(values)
        if not held:
            return
        low, high = min(held), max(held)
        if low < 0:
            raise MisuseError(f"record_many: expected microseconds >= 0, got {low!r}")
        counts = self._counts
        for value in held:
            shift = value.bit_length() - LINEAR_BITS
            index = (shift << SUB_BUCKET_BITS) + (value >> shift) if shift > 0 else value
            counts[index] = counts.get(index, 0) + 1
        self.count += len(held)
        self._total += sum(held)
        self.max = high if self.max is None else max(self.max, high)
        self.min = low if self.min is None else min(self.min, low)

    def record_counts(self, counts: Mapping[int, int], *, low: int, high: int, total: int) -> None:
        """Count values whose buckets (`bucket_of`) somebody else has worked out, in arrays for instance.

        ``low``, ``high`` and ``total`` are the smallest, the largest and the sum of these values. Raises
        `MisuseError` for a negative value.
        """
        if low < 0:
            raise MisuseError(f"record_counts: expected microseconds >= 0, got {low!r}")
        mine = self._counts
        for index, n in counts.items():
            mine[index] = mine.get(index, 0) + n
        self.count += sum(counts.values())
        self._total += total
        self.max = high if self.max is None else max(self.max, high)
        self.min = low if self.min is None else min(self.min, low)

    def merge(self, other: Histogram) -> Histogram:
        """Add the counts of ``other`` to this one and return this one."""
        counts = self._counts
        for index, n in list(other._counts.items()):
            counts[index] = counts.get(index, 0) + n
        if other.min is not None and other.max is not None:
            self.min = other.min if self.min is None else min(self.min, other.min)
            self.max = other.max if self.max is None else max(self.max, other.max)
        self.count += other.count
        self._total += other._total
        return self

    def copy(self) -> Histogram:
        """An independent histogram with the same counts."""
        return Histogram().merge(self)

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """``(lowest value, highest value, count)`` of every bucket in use, ascending, in microseconds."""
        for index in sorted(self._counts):
            yield bucket_low(index), bucket_high(index), self._counts[index]

    def quantile(self, q: float, *, beyond: int = 0) -> float:
        """The value in microseconds that at least the share ``q`` of all samples does not exceed (nearest
        rank).

        ``beyond`` samples are taken to be infinitely slow: that is how failures keep from improving a
        percentile. The answer is ``math.inf`` where the rank falls among them and NaN where there is no
        sample at all. Raises `MisuseError` unless 0 <= q <= 1.
        """
        return self.quantiles((q,), beyond=beyond)[0]

    def quantiles(self, qs: Iterable[float], *, beyond: int = 0) -> list[float]:
        """`quantile` for several shares in one pass, in the order given."""
        wanted = list(qs)
        for q in wanted:
            if not 0 <= q <= 1:
                raise MisuseError(f"quantile: expected a share between 0 and 1, got {q!r}")
        total = self.count + beyond
        if not total:
            return [math.nan] * len(wanted)
        # 1e-9 keeps 0.95 * 100 = 95.00000000000001 from asking for the 96th sample.
        ranks = [max(1, math.ceil(q * total - 1e-9)) for q in wanted]
        found = [math.inf] * len(wanted)
        order = sorted(range(len(wanted)), key=ranks.__getitem__)
        position = seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            while position < len(order) and ranks[order[position]] <= seen:
                at = order[position]
                found[at] = float(self._within(index)) if ranks[at] > 1 else float(self.min or 0)
                position += 1
            if position == len(order):
                break
        return found

    def above(self, limit: int) -> int:
        """How many samples lie in buckets whose reported value exceeds ``limit`` microseconds, by the rule of
        `quantile`."""
        return sum(n for index, n in self._counts.items() if self._within(index) > limit)

    def to_sparse(self) -> dict[str, Any]:
        """A JSON-ready dictionary of the buckets in use; the way back is `from_sparse`."""
        counts = {index: self._counts[index] for index in sorted(self._counts)}
        return {"unit": "us", "counts": counts, "min": self.min, "max": self.max, "sum": self._total}

    @classmethod
    def from_sparse(cls, data: Mapping[str, Any]) -> Histogram:
        """The histogram that `to_sparse` wrote, keys as integers or strings. Raises `MisuseError` for
        anything else."""
        made = cls()
        try:
            if data["unit"] != "us":
                raise ValueError(f"unit {data['unit']!r}")
            made._counts = {int(index): int(n) for index, n in data["counts"].items()}
            made.min, made.max, made._total = data["min"], data["max"], int(data["sum"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise MisuseError(
                f'histogram: expected {{"unit": "us", "counts", "min", "max", "sum"}}, got {exc}'
            ) from exc
        made.count = sum(made._counts.values())
        bad = any(index < 0 or n < 1 for index, n in made._counts.items())
        empty = made.min is None or made.max is None
        if bad or empty != (made.count == 0):
            raise MisuseError("histogram: expected positive counts, indices >= 0 and a minimum and maximum that fit")
        return made

    def _within(self, index: int) -> int:
        high = bucket_high(index)
        return high if self.max is None or high < self.max else self.max

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine = (self._counts, self._total, self.min, self.max)
        return mine == (other._counts, other._total, other.min, other.max)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if not self.count:
            return "Histogram(empty)"
        p50, p99 = self.quantiles((0.5, 0.99))
        return f"Histogram({self.count} samples, p50={p50:.0f}µs, p99={p99:.0f}µs, max={self.max}µs)"
