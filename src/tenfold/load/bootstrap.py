"""Block bootstrap of quantiles and error shares, on the histograms of single seconds.

Theory. Latencies of one run are not independent: a queue that stands at one moment stands at the next.
Resampling single requests would pretend that they are and would give intervals several times too narrow. So
whole seconds are resampled, and neighbouring ones together: the circular moving-block bootstrap (Künsch 1989;
Politis and Romano 1992), in blocks as long as the likeness of neighbours asks for. A resample adds the
histograms of its seconds and reads its quantiles from the sum, failures counted above every bucket; the
spread of log(quantile of B / quantile of A) over the resamples is the uncertainty of the ratio.

Percentile intervals from n blocks are too narrow when n is small, by about what separates Student's t from
the normal. The tail probability is therefore widened to Φ(−√(n/(n−1)) · t(α/2, n−1)) (Hesterberg 2015,
expanded percentile).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from tenfold._core.histogram import bucket_high, bucket_low, bucket_of
from tenfold.load.result import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_BATCH = 200
_MAX_BLOCKS = 600
_MIN_ROWS = 5


@dataclass(frozen=True, slots=True)
class Seconds:
    """The measured seconds of one run: a row of bucket counts each, failed samples, and the rows resampled
    together."""

    counts: Floats
    errors: Floats
    length: int

    @property
    def effective(self) -> float:
        """How many blocks there are to draw from."""
        return len(self.errors) / self.length


@dataclass(frozen=True, slots=True)
class Draws:
    """One value a resample (first axis) and quantile (second), in microseconds, and the error share of each
    resample."""

    quantiles: Floats
    errors: Floats


def block_length(levels: Floats) -> int:
    """Rows that are resampled together, from the mean latency of each row.

    At least n^(1/3); more where neighbours are alike: (2ρ / (1 − ρ²))^(2/3) · n^(1/3), the optimum for a
    first-order autoregression (Carlstein 1986), with ρ corrected for its bias of −(1 + 3ρ)/n. Never more than
    a fifth of the rows.
    """
    n = len(levels)
    if n < _MIN_ROWS:
        return 1
    centred = levels - levels.mean()
    power = float((centred**2).sum())
    rho = float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0
    rho = min(0.95, max(0.0, rho + (1 + 3 * rho) / n))
    wanted = max(1.0, math.cbrt(2 * rho / (1 - rho * rho)) ** 2) * math.cbrt(n)
    return max(1, min(round(wanted), n // 5))


def tabulate(runs: Sequence[Sequence[Interval]]) -> tuple[Floats, list[Seconds]]:
    """Middles of all buckets in use (microseconds, ascending) and the seconds of every run over those
    buckets.

    Runs of more than ten minutes are folded to at most 600 rows, each the sum of consecutive seconds.
    """
    import numpy as np

    used = sorted({bucket_of(low) for run in runs for second in run for low, _, _ in second.corrected.buckets()})
    column = {index: at for at, index in enumerate(used)}
    middles = np.array([(bucket_low(index) + bucket_high(index)) / 2 for index in used])
    tables = []
    for run in runs:
        fold = max(1, math.ceil(len(run) / _MAX_BLOCKS))
        rows = math.ceil(len(run) / fold)
        counts, errors = np.zeros((rows, len(used))), np.zeros(rows)
        for at, second in enumerate(run):
            errors[at // fold] += second.errors
            for low, _, n in second.corrected.buckets():
                counts[at // fold, column[bucket_of(low)]] += n
        totals = counts.sum(axis=1)
        levels = (counts @ middles)[totals > 0] / totals[totals > 0]
        tables.append(Seconds(counts, errors, block_length(levels)))
    return middles, tables


def quantiles_of(middles: Floats, counts: Floats, errors: Floats, qs: Sequence[float]) -> Floats:
    """Nearest-rank quantiles of each row of ``counts``, with ``errors`` infinitely slow samples above
    them."""
    import numpy as np

    totals = counts.sum(axis=1) + errors
    running = counts.cumsum(axis=1)
    values = np.append(middles, np.inf)
    found = np.empty((len(totals), len(qs)))
    for at, q in enumerate(qs):
        ranks = np.maximum(1.0, np.ceil(q * totals - 1e-9))
        # The first column whose running count reaches the rank; none: the rank falls among the failures.
        position = (running < ranks[:, None]).sum(axis=1)
        found[:, at] = np.where(totals > 0, values[position], np.nan)
    return found


def resample(
    middles: Floats, runs: Sequence[Seconds], qs: Sequence[float], resamples: int, rng: np.random.Generator
) -> Draws:
    """``resamples`` bootstrap replicates of one side. Every run gives as many seconds as it has."""
    import numpy as np

    quantiles, errors = [], []
    for begin in range(0, resamples, _BATCH):
        size = min(_BATCH, resamples - begin)
        counts = np.zeros((size, len(middles)))
        failed = np.zeros(size)
        for run in runs:
            weights = _weights(len(run.errors), run.length, size, rng)
            counts += weights @ run.counts
            failed += weights @ run.errors
        total = counts.sum(axis=1) + failed
        quantiles.append(quantiles_of(middles, counts, failed, qs))
        errors.append(np.divide(failed, total, out=np.zeros(size), where=total > 0))
    return Draws(np.concatenate(quantiles), np.concatenate(errors))


def _weights(n: int, length: int, size: int, rng: np.random.Generator) -> Floats:
    """How often each of ``n`` seconds occurs in each of ``size`` resamples."""
    import numpy as np

    starts = rng.integers(0, n, size=(size, math.ceil(n / length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % n).reshape(size, -1)[:, :n]
    flat = drawn + np.arange(size)[:, None] * n
    found: Any = np.bincount(flat.ravel(), minlength=size * n).reshape(size, n)
    return found.astype(np.float64)  # type: ignore[no-any-return]


def interval(draws: Floats, alpha: float, blocks: float) -> tuple[float, float]:
    """The expanded percentile interval of ``draws`` with coverage 1 − ``alpha``, from ``blocks`` blocks a
    side."""
    import numpy as np

    tail = tail_probability(alpha, blocks)
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def tail_probability(alpha: float, blocks: float) -> float:
    """Each tail of an expanded percentile interval."""
    freedom = max(2.0, blocks - 1)
    return NormalDist().cdf(-math.sqrt((freedom + 1) / freedom) * student(1 - alpha / 2, freedom))


def student(p: float, freedom: float) -> float:
    """The ``p`` quantile of Student's t: the Cornish–Fisher expansion to the fourth order (Abramowitz and
    Stegun 26.7.5).

    Better than 1 % for five degrees of freedom and more; the closed forms serve one and two.
    """
    if freedom <= 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom <= 2:
        a = 4 * p * (1 - p)
        return 2 * (p - 0.5) * math.sqrt(2 / a)
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**order for order, term in enumerate(terms, start=1))
