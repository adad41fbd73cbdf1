"""How long a server works on a request when nothing disturbs it.

Theory. What waiting there is depends on the *variability* of the work as much as on the load: by Pollaczek and
Khinchine the mean wait of M/G/1 is that of M/M/1 times ``(1 + cv²) / 2``, with ``cv`` the standard deviation over the
mean. So the kinds span it: deterministic (0), exponential (1), log-normal (any), bimodal (a few long ones among many
short ones: the mix of cache hit and database), and what was measured. ``mean`` and ``cv`` say what was asked for, so
that results can be compared with formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Annotated

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share

Sample = Callable[[], float]
"""Seconds of work for one request."""


class _Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds of work have in common."""


class Deterministic(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="deterministic"):
    """Always ``mean``."""

    mean: Duration

    def __post_init__(self) -> None:
        _positive(self.mean, "mean")

    def moments(self) -> tuple[float, float]:
        """Mean in seconds and coefficient of variation."""
        return duration(self.mean), 0.0

    def sampler(self, random: Random) -> Sample:
        """Nothing is drawn."""
        mean = duration(self.mean)
        return lambda: mean


class Exponential(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="exponential"):
    """Exponential with this ``mean``: the textbook's server."""

    mean: Duration

    def __post_init__(self) -> None:
        _positive(self.mean, "mean")

    def moments(self) -> tuple[float, float]:
        """Mean in seconds and coefficient of variation."""
        return duration(self.mean), 1.0

    def sampler(self, random: Random) -> Sample:
        """Drawn from ``random``."""
        draw, pace = random.expovariate, 1 / duration(self.mean)
        return lambda: draw(pace)


class LogNormal(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lognormal"):
    """Log-normal with this ``mean`` and ``cv`` (1.0): what latencies of real services look like."""

    mean: Duration
    cv: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.mean, "mean")
        if not 0 < self.cv < math.inf:
            raise MisuseError(f"cv: expected a coefficient of variation above 0, got {self.cv!r}")

    def moments(self) -> tuple[float, float]:
        """Mean in seconds and coefficient of variation."""
        return duration(self.mean), self.cv

    def sampler(self, random: Random) -> Sample:
        """Drawn from ``random``."""
        variance = math.log1p(self.cv**2)
        mu, sigma, draw = math.log(duration(self.mean)) - variance / 2, math.sqrt(variance), random.lognormvariate
        return lambda: draw(mu, sigma)


class Bimodal(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bimodal"):
    """``fast`` but for the share ``slow_share`` (``"1%"``) of requests, which take ``slow``."""

    fast: Duration
    slow: Duration
    slow_share: str | int | float

    def __post_init__(self) -> None:
        _positive(self.fast, "fast")
        _positive(self.slow, "slow")
        share(self.slow_share, "slow_share")

    def moments(self) -> tuple[float, float]:
        """Mean in seconds and coefficient of variation."""
        fast, slow, p = duration(self.fast), duration(self.slow), share(self.slow_share)
        mean = fast * (1 - p) + slow * p
        return mean, abs(slow - fast) * math.sqrt(p * (1 - p)) / mean

    def sampler(self, random: Random) -> Sample:
        """Drawn from ``random``."""
        fast, slow, p, draw = duration(self.fast), duration(self.slow), share(self.slow_share), random.random
        return lambda: slow if draw() < p else fast


class Empirical(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="empirical"):
    """One of the measured ``values``, each as likely as any other."""

    values: Annotated[tuple[Duration, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        for at, value in enumerate(self.values):
            _positive(value, f"values[{at}]")

    def moments(self) -> tuple[float, float]:
        """Mean in seconds and coefficient of variation."""
        values = [duration(value) for value in self.values]
        mean = math.fsum(values) / len(values)
        return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) / mean

    def sampler(self, random: Random) -> Sample:
        """Drawn from ``random``."""
        values, draw = [duration(value) for value in self.values], random.random
        size = len(values)
        return lambda: values[int(draw() * size)]


Service = Deterministic | Exponential | LogNormal | Bimodal | Empirical


def _positive(value: Duration, name: str) -> None:
    if duration(value, name) == 0:
        raise MisuseError(f'{name}: expected a duration above 0 such as "10ms", got 0')
