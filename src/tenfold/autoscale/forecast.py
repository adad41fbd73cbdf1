"""What the load will be a little later, from what it was at this time of earlier days.

Theory. Load has seasons: a day, a week. Simple methods are tried, which are hard to beat on such series (Makridakis and
others, the M competitions; Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed., ch. 5, 8):

- *seasonal naive*: what it was a season before;
- *seasonal naive with drift*: that, and what the mean of the last season differs from the mean of the one before;
- *Holt-Winters*, additive with a damped trend (Winters 1960; Gardner and McKenzie 1985)::

      level    l = α (y - s) + (1 - α) (l' + φ b')
      trend    b = β (l - l') + (1 - β) φ b'
      season   s = γ (y - l) + (1 - γ) s',     forecast for h steps: l + (φ + … + φ^h) b + s

  with a few values each of α, β and γ.

Which is best is seen by forecasting the past: from every moment with no more than was known at that moment (rolling
origin). The choice is made on the earlier seasons and the error is taken on the last one, which had no say in the
choice; so the error that is shown is one of a real forecast. It is the sum of the absolute errors over the sum of the
values (WAPE). With fewer than four seasons there is too little to choose by, and seasonal naive is taken.

A forecast is a floor under what the measured load asks for (`policy`), so a wrong one costs workers and never answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import share, whole_number

_DAMPING: Final = 0.98
_ALPHAS: Final = (0.1, 0.3, 0.6)
_BETAS: Final = (0.0, 0.02)
_GAMMAS: Final = (0.1, 0.4)

Method = Callable[[Sequence[float], int, int], "list[float]"]
"""Of a series, a season and a distance: at each index what is expected that far after it, NaN where it cannot say."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected: ``value``, and ``upper``, which nine of ten forecasts of the last season stayed below.

    ``error``: the sum of the absolute errors over the sum of the values in the last season (0.05: off by 5 %).
    ``tested`` forecasts it was taken from. ``method``: how.
    """

    value: float
    upper: float
    error: float
    method: str
    tested: int


@dataclass(frozen=True, slots=True)
class NoForecast:
    """Nothing can be said. ``why`` is for a person; ``error`` that of the best method, NaN where none was tried."""

    why: str
    error: float = math.nan


def forecast(
    series: Sequence[float], *, season: int, ahead: int = 1, most_error: str | float = 0.5
) -> Forecast | NoForecast:
    """What comes ``ahead`` (1) steps after the end of ``series``, whose pattern comes again every ``season`` steps.

    ``series``: values in equal steps, the last one the newest, none negative. Refused where there are fewer than two
    seasons, and where the best method was off by more than ``most_error`` (50 %) in the last season. Give it some
    weeks, not years: the time it takes grows with the length.

    Raises `MisuseError` for a season below 2 and an ``ahead`` that is not from 1 to the season.
    """
    whole_number(season, "season", least=2)
    if whole_number(ahead, "ahead", least=1) > season:
        raise MisuseError(f"ahead: expected at most a season of {season} steps, got {ahead}")
    limit = share(most_error, "most_error")
    if len(series) < 2 * season:
        return NoForecast(f"two seasons are {2 * season} values, and there are {len(series)}")
    if not all(math.isfinite(value) and value >= 0 for value in series):
        return NoForecast("there are gaps or negative values in the series")
    name, expected = _chosen(series, season, ahead)
    misses = [
        series[index + ahead] - expected[index] for index in range(len(series) - season - ahead, len(series) - ahead)
    ]
    error = _wape(misses, series[-season:])
    if error > limit:
        return NoForecast(f"forecasts of the last season were off by {error:.0%}, more than {limit:.0%}", error)
    value = max(0.0, expected[-1])
    above = sorted(misses)[min(len(misses) - 1, math.ceil(0.9 * len(misses)) - 1)]
    return Forecast(value, value + max(0.0, above), error, name, len(misses))


def _chosen(series: Sequence[float], season: int, ahead: int) -> tuple[str, list[float]]:
    """The method that was best before the last season, and what it expected at every moment."""
    if len(series) < 4 * season:
        return "seasonal naive", _naive(series, season, ahead)
    targets = range((3 if len(series) >= 5 * season else 2) * season, len(series) - season)
    best = None
    for name, method in _methods():
        expected = method(series, season, ahead)
        known = [target for target in targets if not math.isnan(expected[target - ahead])]
        if len(known) < len(targets):
            continue
        error = sum(abs(series[target] - expected[target - ahead]) for target in targets)
        if best is None or error < best[0]:
            best = (error, name, expected)
    if best is None:
        raise AssertionError("seasonal naive can always say")
    return best[1], best[2]


def _methods() -> Iterator[tuple[str, Method]]:
    yield "seasonal naive", _naive
    yield "seasonal naive with drift", _drift
    for alpha, beta, gamma in product(_ALPHAS, _BETAS, _GAMMAS):
        yield f"Holt-Winters α={alpha} β={beta} γ={gamma}", _holt_winters(alpha, beta, gamma)


def _naive(series: Sequence[float], season: int, ahead: int) -> list[float]:
    return [series[index + ahead - season] if index + ahead >= season else math.nan for index in range(len(series))]


def _drift(series: Sequence[float], season: int, ahead: int) -> list[float]:
    sums = [0.0]
    for value in series:
        sums.append(sums[-1] + value)
    found = _naive(series, season, ahead)
    for index in range(len(series)):
        end = index + 1
        if end < 2 * season:
            found[index] = math.nan
        else:
            found[index] += (sums[end] - 2 * sums[end - season] + sums[end - 2 * season]) / season
    return found


def _holt_winters(alpha: float, beta: float, gamma: float) -> Method:
    reach = [0.0]

    def run(series: Sequence[float], season: int, ahead: int) -> list[float]:
        while len(reach) <= ahead:
            reach.append(reach[-1] + _DAMPING ** len(reach))
        level, trend = math.fsum(series[:season]) / season, 0.0
        seasonal = [value - level for value in series[:season]]
        found = [math.nan] * (season - 1) + [level + seasonal[(season - 1 + ahead) % season]]
        for index in range(season, len(series)):
            place, before = index % season, level
            level = alpha * (series[index] - seasonal[place]) + (1 - alpha) * (level + _DAMPING * trend)
            trend = beta * (level - before) + (1 - beta) * _DAMPING * trend
            seasonal[place] = gamma * (series[index] - level) + (1 - gamma) * seasonal[place]
            found.append(level + reach[ahead] * trend + seasonal[(index + ahead) % season])
        return found

    return run


def _wape(misses: Sequence[float], values: Sequence[float]) -> float:
    missed, whole = math.fsum(map(abs, misses)), math.fsum(values)
    return missed / whole if whole else math.inf if missed else 0.0
