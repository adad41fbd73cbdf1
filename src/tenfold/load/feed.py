"""Data feeders: callables that hand a journey its next value.

Made at import of the scenario, seeded when the run starts: random ones from the run's seed and the number of
the process, walking ones so that n processes share one list without handing out a row twice in a round.
"""

from __future__ import annotations

import csv as _csv
import random
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive

T = TypeVar("T")

_made: Final[list[Feed[Any]]] = []
_MAX_VALUES: Final = 10_000_000


class Feed(Generic[T]):
    """Call it for the next value."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._process, self._processes = 0, 1
        _made.append(self)

    def seed(self, seed: int, label: int, process: int = 0, processes: int = 1) -> None:
        """Start anew for one process of a run. ``label`` tells this feed from the others of the scenario."""
        self._random = derive(seed, "feed", label, process)
        self._process, self._processes = process, processes

    def __call__(self) -> T:
        raise NotImplementedError


class _Zipf(Feed[int]):
    def __init__(self, low: int, high: int, exponent: float) -> None:
        super().__init__()
        self._low = low
        self._cumulative = array("d", accumulate(rank**-exponent for rank in range(1, high - low + 2)))
        self._total = self._cumulative[-1]

    def __call__(self) -> int:
        return self._low + bisect_left(self._cumulative, self._random.random() * self._total)


class _Uniform(Feed[int]):
    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self._low, self._span = low, high - low + 1

    def __call__(self) -> int:
        return self._low + int(self._random.random() * self._span)


class _Choice(Feed[T]):
    def __init__(self, values: Sequence[T], weights: Sequence[float] | None) -> None:
        super().__init__()
        self._values = values
        self._cumulative = list(accumulate(weights)) if weights is not None else None

    def __call__(self) -> T:
        if self._cumulative is None:
            return self._values[int(self._random.random() * len(self._values))]
        return self._values[bisect_left(self._cumulative, self._random.random() * self._cumulative[-1])]


class _Cycle(Feed[T]):
    def __init__(self, values: Sequence[T]) -> None:
        super().__init__()
        self._values = values
        self._next = 0

    def seed(self, seed: int, label: int, process: int = 0, processes: int = 1) -> None:
        super().seed(seed, label, process, processes)
        self._next = process

    def __call__(self) -> T:
        value = self._values[self._next % len(self._values)]
        self._next += self._processes
        return value


def zipf(low: int, high: int, *, exponent: float = 1.0) -> Feed[int]:
    """Whole numbers ``low`` … ``high`` by Zipf's law: the k-th has probability ∝ 1 / k**exponent.

    ``low`` is the most popular. Raises `MisuseError` for an empty or huge range (over 10 million) and for
    exponents below 0.
    """
    _range(low, high)
    if exponent < 0:
        raise MisuseError(f"feed.zipf: expected an exponent of 0 or more, got {exponent!r}")
    return _Zipf(low, high, exponent)


def uniform(low: int, high: int) -> Feed[int]:
    """Whole numbers ``low`` … ``high``, each as likely as the others."""
    _range(low, high, bound=sys.maxsize)
    return _Uniform(low, high)


def choice(values: Iterable[T], *, weights: Sequence[float] | None = None) -> Feed[T]:
    """One of the values at random, by weight where weights are given."""
    held = _values(values, "feed.choice")
    if weights is not None and (len(weights) != len(held) or min(weights) < 0 or sum(weights) <= 0):
        raise MisuseError(f"feed.choice: expected {len(held)} weights, none negative, not all 0, got {list(weights)!r}")
    return _Choice(held, weights)


def cycle(values: Iterable[T]) -> Feed[T]:
    """The values in turn, for ever. n processes take every n-th."""
    return _Cycle(_values(values, "feed.cycle"))


def csv(path: str | Path, *, order: Literal["cycle", "random"] = "cycle") -> Feed[dict[str, str]]:
    """The rows of a CSV file with a header line, as dictionaries. A relative path counts from the scenario
    file.
    """
    place = Path(path)
    if not place.is_absolute():
        place = Path(sys._getframe(1).f_globals.get("__file__", ".")).parent / place
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_csv.DictReader(file))
    except (OSError, UnicodeDecodeError, _csv.Error) as error:
        raise MisuseError(f"feed.csv: cannot read {place}: {error}") from error
    if not rows:
        raise MisuseError(f"feed.csv: expected a header line and at least one row, got none in {place}")
    return _Choice(rows, None) if order == "random" else _Cycle(rows)


def seed_all(seed: int, process: int, processes: int) -> None:
    """Start every feed that was made in this interpreter."""
    for label, feed in enumerate(_made):
        feed.seed(seed, label, process, processes)


def _range(low: int, high: int, bound: int = _MAX_VALUES) -> None:
    if high < low or high - low >= bound:
        raise MisuseError(f"feed: expected low <= high and at most {bound} values, got {low!r} … {high!r}")


def _values(values: Iterable[T], name: str) -> list[T]:
    held = list(values)
    if not held:
        raise MisuseError(f"{name}: expected at least one value, got none")
    return held
