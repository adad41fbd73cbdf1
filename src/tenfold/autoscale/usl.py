"""How throughput grows with workers: the Universal Scalability Law, fitted to measured breakpoints.

Theory (Gunther, "Guerrilla Capacity Planning", 2007)::

    X(n) = λ n / (1 + σ (n - 1) + κ n (n - 1))

λ is what one worker does, σ the share that must be done one after another (Amdahl's law is κ = 0), and κ what each pair
of workers costs in keeping each other informed. With κ > 0 there is a peak at ``sqrt((1 - σ) / κ)`` workers, and more
do less. Turned over it is linear, ``n / X = (1 + σ (n - 1) + κ n (n - 1)) / λ``, so least squares need no iteration;
each row is weighted by X / n, which makes the errors relative. None of the three may be negative: of the models with
and without σ and κ the best that has no negative one is taken.

Three parameters go through any three points, so a fit with both σ and κ takes four different numbers of workers, and
one with either of them three; below that there is no fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number

_FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """The highest ``rate`` a second at which ``workers`` met the SLO, and the mean ``response_time`` there if known.

    ``at_least`` (False): no higher rate was seen to miss it, so they may do more. Such a point is an answer for its own
    number of workers and says nothing of how throughput grows.

    Raises `MisuseError` for what makes no sense.
    """

    workers: int
    rate: float
    response_time: Duration | None = None
    at_least: bool = False

    def __post_init__(self) -> None:
        whole_number(self.workers, "measured workers", least=1)
        if type(self.rate) not in (int, float) or not 0 < self.rate < math.inf:
            raise MisuseError(f"measured rate: expected more than 0 a second, got {self.rate!r}")
        if self.response_time is not None:
            object.__setattr__(self, "response_time", duration(self.response_time, "measured response_time"))


@dataclass(frozen=True, slots=True)
class USL:
    """A fitted law: ``one`` (λ, a second), ``contention`` (σ), ``coherence`` (κ).

    ``error`` is the largest relative miss of a measured rate.
    """

    one: float
    contention: float
    coherence: float
    error: float

    def rate(self, workers: float) -> float:
        """What so many workers do, a second."""
        return self.one * workers / (1 + (workers - 1) * (self.contention + self.coherence * workers))

    @property
    def peak(self) -> float:
        """The number of workers beyond which more do less; infinity where there is none."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence) if self.coherence else math.inf


def fit(measured: Sequence[Measured]) -> USL | None:
    """The law that fits best; None where there are fewer than three different numbers of workers.

    Points that are ``at_least`` are left out.
    """
    measured = [point for point in measured if not point.at_least]
    counts = len({point.workers for point in measured})
    if counts < _FEWEST:
        return None
    best = None
    for columns in ((), (1,), (2,), (1, 2)) if counts > _FEWEST else ((), (1,), (2,)):
        law = _least_squares(measured, (0, *columns))
        if law is not None:
            squares = sum((law.rate(point.workers) / point.rate - 1) ** 2 for point in measured)
            if best is None or squares < best[0] - 1e-12:
                best = (squares, law)
    return None if best is None else best[1]


def _least_squares(measured: Sequence[Measured], columns: tuple[int, ...]) -> USL | None:
    rows = []
    for point in measured:
        n, weight = point.workers, point.rate / point.workers
        terms = (1.0, n - 1.0, n * (n - 1.0))
        rows.append([terms[column] * weight for column in columns])
    size = len(columns)
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)] for i in range(size)
    ]
    solution = _solve(matrix)
    if solution is None or solution[0] <= 0 or any(value < 0 for value in solution):
        return None
    full = dict(zip(columns, solution, strict=True))
    one = 1 / full[0]
    law = USL(one, full.get(1, 0.0) * one, full.get(2, 0.0) * one, 0.0)
    error = max(abs(law.rate(point.workers) / point.rate - 1) for point in measured)
    return USL(law.one, law.contention, law.coherence, error)


def _solve(matrix: list[list[float]]) -> list[float] | None:
    """Gauss and Jordan with pivoting; the last column is the right side."""
    size = len(matrix)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        head = matrix[column][column]
        if abs(head) < 1e-15:
            return None
        matrix[column] = [value / head for value in matrix[column]]
        for row in range(size):
            if row != column:
                factor = matrix[row][column]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return [row[-1] for row in matrix]
