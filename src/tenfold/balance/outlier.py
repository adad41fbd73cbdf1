"""When the results of real requests put an endpoint out, for how long, and how many at most.

Theory. Checks ask whether a server answers a check; real requests say whether it does its work. Envoy's outlier
detection draws three conclusions from them, and so does this.

*Failures in a row.* ``consecutive`` of them without a success between, and the endpoint is out at once. Cheap, fast,
and right for a server that is gone; blind to one that fails every other time.

*Success rate against peers.* Every ``interval`` the success rates of the endpoints with at least ``volume`` results
are compared, if there are ``hosts`` of them or more: out goes who lies below ``mean - deviations * stdev``. Against
peers, because when a shared database is gone all fail alike, and to eject anyone would help nobody. Two remarks.
Among ``n`` hosts the worst can lie no more than ``sqrt(n - 1)`` standard deviations below the mean (Samuelson 1968,
"How Deviant Can You Be?"), so that 1.9 deviations need five hosts: options that could never eject are refused. And
where all peers are perfect, one failure in a thousand is an "outlier": the rate must also lie ``gap`` below the mean.

*Latency against peers.* Out goes whose mean time of successes exceeds ``latency_factor`` times the median of the other
endpoints' means, and ``latency_floor``. The median, because one slow peer must not raise the bar for another; the
others', because with three hosts one's own time would be half of the bar.

*How long.* ``base``, times the number of the ejection in a row, ``most`` at most, plus a random part of up to
``jitter``, so that what fell together does not come back together. Each ``calm`` spent in service takes one off that
number: it grows with repeats and falls with good time.

*How many.* Never more than ``share`` of the endpoints, or one bad deployment would leave nobody; who cannot be ejected
for want of room waits for it, as long as its failures go on. When the set shrinks so that too many are out, those
whose time would be over first come back at once.

*After the return* nothing is held against an endpoint but the number: its counters start from nothing, and results
of requests that were begun before the return are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share, whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierEjection:
    """Leave out for a while who does badly with real requests.

    ``consecutive`` (5) failures in a row eject at once. Every ``interval`` (10 s), of the endpoints with ``volume``
    (50) results or more, if they are ``hosts`` (5) or more, those are ejected whose success rate is below the mean by
    more than ``deviations`` (1.9) standard deviations and by more than ``gap`` (0.1); and, if they are
    ``latency_hosts`` (3) or more, those whose mean latency is above ``latency_factor`` (off) times the median of the
    others and above ``latency_floor`` (50 ms). ``consecutive``, ``deviations`` and ``latency_factor`` take ``"off"``,
    but not all three. An endpoint with fewer results keeps them for ``stretch`` (6) intervals.

    The first ejection lasts ``base`` (30 s), the n-th in a row n times as long, ``most`` (5 min) at most, and up to
    ``jitter`` (0.1) of that longer by chance; each ``calm`` (30 s) in service takes one off the row. Never more than
    ``share`` (0.5) of the endpoints are out: of one endpoint, none; of two, one.

    Raises `MisuseError` for what makes no sense.
    """

    consecutive: int | str | None = 5
    interval: Duration = 10.0
    volume: int = 50
    hosts: int = 5
    deviations: float | str | None = 1.9
    gap: str | float = 0.1
    latency_factor: float | str | None = None
    latency_floor: Duration = 0.05
    latency_hosts: int = 3
    stretch: int = 6
    base: Duration = 30.0
    most: Duration = 300.0
    calm: Duration = 30.0
    jitter: str | float = 0.1
    share: str | float = 0.5

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("interval", "base", "most", "calm"):
            seconds = duration(getattr(self, name), f"ejection {name}")
            if seconds == 0:
                raise MisuseError(f'ejection {name}: expected more than 0, such as "30s"')
            put(self, name, seconds)
        put(self, "latency_floor", duration(self.latency_floor, "ejection latency_floor"))
        for name, least in (("volume", 1), ("hosts", 2), ("latency_hosts", 2), ("stretch", 1)):
            whole_number(getattr(self, name), f"ejection {name}", least=least)
        for name in ("gap", "jitter", "share"):
            put(self, name, share(getattr(self, name), f"ejection {name}"))
        for name in ("consecutive", "deviations", "latency_factor"):
            if getattr(self, name) == "off":
                put(self, name, None)
        self._check()

    def _check(self) -> None:
        if self.consecutive is None and self.deviations is None and self.latency_factor is None:
            raise MisuseError(
                "ejection: consecutive, deviations and latency_factor are all off, so it could never eject; leave one "
                "on, or leave the ejection out"
            )
        if self.consecutive is not None:
            whole_number(self.consecutive, "ejection consecutive", least=1)
        if self.deviations is not None:
            deviations = _above(self.deviations, 0.0, "deviations")
            if deviations * deviations >= self.hosts - 1:
                raise MisuseError(
                    f"ejection deviations: among {self.hosts} hosts none can lie {deviations:g} standard deviations "
                    f"below the mean; expected less than {math.sqrt(self.hosts - 1):.3g}, or more hosts"
                )
        if self.latency_factor is not None:
            _above(self.latency_factor, 1.0, "latency_factor")
        if self.share == 0:
            raise MisuseError("ejection share: expected more than 0; to do without, leave the ejection out")
        if float(self.most) < float(self.base):
            raise MisuseError(f"ejection most: expected base ({self.base:g} s) or more, got {self.most:g} s")


def _above(value: object, least: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < math.inf:
        raise MisuseError(f'ejection {name}: expected more than {least:g}, or "off", got {value!r}')
    return float(value)


@dataclass(frozen=True, slots=True)
class Ejected:
    """An endpoint is out from now until ``until``; ``repeats`` is the number of the ejection in a row."""

    id: str
    reason: str
    seconds: float
    until: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Returned:
    """An endpoint may be used again."""

    id: str
    reason: str
