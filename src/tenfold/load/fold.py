"""Good samples of one step, folded: counts by second, histograms by second and by warm-up.

Theory. A sample needs two buckets (corrected and uncorrected) and three seconds (intended, sent, answered).
Everything else that a result shows is a sum of these, because histograms merge exactly; so each sample is
counted once here, and `Recorder.take` adds up, five times a second instead of once a sample.

Two ways to the same numbers. `fold_plain` takes some 0.9 µs a sample. `fold_arrays` needs numpy, pays for
some forty calls into it whatever the size, and then some 0.1 µs a sample; it finds the bucket of `bucket_of` with
``frexp``, whose exponent is the bit length of any integer below 2^53, and counts in arrays (`Dense`), which become
histograms when somebody asks for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import LINEAR_BITS, SUB_BUCKET_BITS, Histogram

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORTH_ARRAYS: Final = 200
"""Samples from which on arrays are the cheaper way; they break even at about 100."""
FULL_BATCH: Final = 1000
"""Samples that are worth folding before they have to be; more at a time gains little and stalls the loop."""


class Folded:
    """What some good samples of one step add up to. Seconds count from the start of the schedule."""

    __slots__ = ("_corrected", "_dense", "_uncorrected", "answered", "sent")

    def __init__(self) -> None:
        self.sent: defaultdict[int, int] = defaultdict(int)
        self.answered: defaultdict[int, int] = defaultdict(int)
        self._corrected: defaultdict[tuple[int, bool], Histogram] = defaultdict(Histogram)
        self._uncorrected: defaultdict[bool, Histogram] = defaultdict(Histogram)
        self._dense: dict[tuple[int, bool] | bool, Dense] = {}

    @property
    def corrected(self) -> defaultdict[tuple[int, bool], Histogram]:
        """By the second in which the samples were intended, and whether that was in the warm-up."""
        self._settle()
        return self._corrected

    @property
    def uncorrected(self) -> defaultdict[bool, Histogram]:
        """By whether the samples were intended in the warm-up."""
        self._settle()
        return self._uncorrected

    def dense(self, key: tuple[int, bool] | bool) -> Dense:
        """The counts in an array that belong to the histogram of that key."""
        found = self._dense.get(key)
        if found is None:
            found = self._dense[key] = Dense()
        return found

    def _settle(self) -> None:
        for key, counted in self._dense.items():
            counted.into(self._uncorrected[key] if isinstance(key, bool) else self._corrected[key])
        self._dense.clear()


class Dense:
    """Counts by bucket in an array: adding many at a time costs no look-up for each bucket."""

    __slots__ = ("_counts", "_high", "_low", "_total")

    def __init__(self) -> None:
        import numpy as np

        self._counts = np.zeros(1024, np.int64)
        self._low, self._high, self._total = -1, 0, 0

    def add(self, values: NDArray[np.int64]) -> None:
        """Count microseconds. Raises `MisuseError` for a negative one when the counts become a histogram."""
        import numpy as np

        shift = np.maximum(np.frexp(values)[1] - LINEAR_BITS, 0)
        buckets = (shift.astype(np.int64) << SUB_BUCKET_BITS) + (values >> shift)
        low, high = int(values.min()), int(values.max())
        if low < 0:
            raise MisuseError(f"fold: expected microseconds >= 0, got {low!r}")
        first, last = int(buckets.min()), int(buckets.max())
        if last >= len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros(last + 1, np.int64)))
        self._counts[first : last + 1] += np.bincount(buckets - first)
        self._low = low if self._low < 0 else min(self._low, low)
        self._high = max(self._high, high)
        self._total += int(values.sum())

    def into(self, histogram: Histogram) -> None:
        """Add what was counted."""
        (used,) = self._counts.nonzero()
        counts = dict(zip(used.tolist(), self._counts[used].tolist(), strict=True))
        if counts:
            histogram.record_counts(counts, low=self._low, high=self._high, total=self._total)


Fold = Callable[[Folded, list[float], float, float], None]
"""Adds samples (intended, sent, answered, intended, …; monotonic seconds) to what is there, given the start
of the schedule and the end of the warm-up.
"""


def best_fold() -> tuple[Fold, int]:
    """`fold_arrays` for many samples and `fold_plain` for few, or only the latter without numpy; and how many
    samples to wait for.
    """
    if find_spec("numpy") is None:
        return fold_plain, 1
    import numpy  # noqa: F401 - here, so that the first fold of a run does not wait for it

    def fold(into: Folded, flat: list[float], start: float, warm_until: float) -> None:
        (fold_arrays if len(flat) >= 3 * WORTH_ARRAYS else fold_plain)(into, flat, start, warm_until)

    return fold, FULL_BATCH


def fold_plain(into: Folded, flat: list[float], start: float, warm_until: float) -> None:
    """In pure Python."""
    corrected: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    uncorrected: defaultdict[bool, list[int]] = defaultdict(list)
    count_sent, count_answered = into.sent, into.answered
    walk = iter(flat)
    for intended, sent, answered in zip(walk, walk, walk, strict=True):
        warm = intended < warm_until
        count_sent[int(sent - start)] += 1
        count_answered[int(answered - start)] += 1
        corrected[int(intended - start), warm].append(int((answered - intended) * 1e6))
        uncorrected[warm].append(int((answered - sent) * 1e6))
    for key, values in corrected.items():
        into.corrected[key].record_many(values)
    for warm, values in uncorrected.items():
        into.uncorrected[warm].record_many(values)


def fold_lateness(into: Histogram, late: list[float], arrays: bool) -> None:
    """Count seconds of lateness in microseconds; with numpy if ``arrays`` and worth it."""
    if len(late) < WORTH_ARRAYS or not arrays:
        into.record_many([int(seconds * 1e6) for seconds in late])
        return
    import numpy as np

    counted = Dense()
    counted.add((np.fromiter(late, np.float64, len(late)) * 1e6).astype(np.int64))
    counted.into(into)


def fold_arrays(into: Folded, flat: list[float], start: float, warm_until: float) -> None:
    """With numpy. Raises `ImportError` where that is missing."""
    import numpy as np

    table = np.fromiter(flat, np.float64, len(flat)).reshape(-1, 3)
    intended, sent, answered = table[:, 0], table[:, 1], table[:, 2]
    _count(into.sent, (sent - start).astype(np.int64))
    _count(into.answered, (answered - start).astype(np.int64))
    corrected = ((answered - intended) * 1e6).astype(np.int64)
    uncorrected = ((answered - sent) * 1e6).astype(np.int64)
    warm = intended < warm_until
    # Second and warm-up in one number, so that one comparison finds the samples of a histogram.
    keys = (intended - start).astype(np.int64) * 2 + warm
    for key, chosen in _split(keys, corrected):
        into.dense((key >> 1, bool(key & 1))).add(chosen)
    for key, chosen in _split(warm.astype(np.int64), uncorrected):
        into.dense(bool(key)).add(chosen)


def _count(into: dict[int, int], seconds: NDArray[np.int64]) -> None:
    for second, group in _split(seconds, seconds):
        into[second] += len(group)


def _split(keys: NDArray[np.int64], values: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """The values by key. Nearly always there are one or two keys."""
    low, high = int(keys.min()), int(keys.max())
    if low == high:
        return [(low, values)]
    found = sorted(set(keys.tolist()))
    return [(key, values[keys == key]) for key in found]
