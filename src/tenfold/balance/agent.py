"""What a server says of its own load, and what that makes of its weight.

Theory. Who balances sees how many requests it has sent and how long they took; it does not see the other balancers,
the batch job beside the server, or the neighbour on the same machine. The server does, and says so in a header such as
``Tenfold-Load: 0.7``: the share of its capacity that is in use (HAProxy's agent-check and the ORCA load reports of
gRPC and Envoy carry the same word). Its weight is multiplied by its headroom, ``1 - load``, so that work goes where
room is.

Three guards. The load is a decaying mean and not the last word, because everybody who balances reads the same report,
and all moving at once would swing the load to and fro. The factor never falls below ``floor``: a server without work
cannot report that it has room again. And silence is no load: with no report the mean decays towards nothing, so that
a server which has stopped reporting gets its declared weight back.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.stats import Ewma
from tenfold._core.units import Duration, duration, share

LOAD_HEADER: Final = "Tenfold-Load"
_LOAD: Final = re.compile(r"(\d{1,6}(?:\.\d{1,9})?|\.\d{1,9})(%?)", re.ASCII)


def parse_load(text: str) -> float | None:
    """The load in 0…1 from ``"0.7"`` or ``"70%"``; more than all counts as all. None for anything else.

    What a server sends is not to be trusted: nothing here raises.
    """
    match = _LOAD.fullmatch(text.strip())
    if match is None:
        return None
    number = float(match[1]) / (100 if match[2] else 1)
    return min(1.0, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLoad:
    """Let servers say how loaded they are, in the header ``header`` (``"Tenfold-Load"``) of their answers.

    The weight is multiplied by ``1 - load``, but never by less than ``floor`` (0.1). ``half_life`` (10 s) is how
    fast an old report loses its say, to newer ones or to silence.

    Raises `MisuseError` for what makes no sense.
    """

    header: str = LOAD_HEADER
    half_life: Duration = 10.0
    floor: str | float = 0.1

    def __post_init__(self) -> None:
        put = object.__setattr__
        check_header(self.header, "agent load header")
        put(self, "half_life", duration(self.half_life, "agent load half_life"))
        put(self, "floor", share(self.floor, "agent load floor"))
        if self.half_life == 0:
            raise MisuseError('agent load half_life: expected more than 0, such as "10s"')
        if self.floor == 0:
            raise MisuseError(
                "agent load floor: expected more than 0, because a server without work cannot report that it has room"
            )


class Load:
    """What one server has reported. Pure; belongs to one event loop."""

    __slots__ = ("_floor", "_mean", "refused", "reports")

    def __init__(self, options: AgentLoad | None = None) -> None:
        options = AgentLoad() if options is None else options
        self._floor: Final = float(options.floor)
        self._mean = Ewma(half_life=options.half_life, rest=0.0)
        self.reports = self.refused = 0
        """Reports taken in, and reports that made no sense."""

    def report(self, load: float | str | None, now: float) -> bool:
        """Take in a report: a number in 0…1, or the text of a header; whether it made sense. None: no report."""
        if load is None:
            return False
        number = parse_load(load) if isinstance(load, str) else load
        if number is None or not math.isfinite(number) or number < 0:
            self.refused += 1
            return False
        self._mean.observe(min(1.0, number), now)
        self.reports += 1
        return True

    def value(self, now: float) -> float:
        """The load as it is believed now, in 0…1; 0 without reports."""
        return self._mean.value(now)

    def factor(self, now: float) -> float:
        """What to multiply the weight by, in (0, 1]."""
        return max(self._floor, 1.0 - self._mean.value(now))

    def state(self, now: float) -> dict[str, object]:
        """For a person or a gauge."""
        load = self.value(now)
        return {"load": load, "factor": self.factor(now), "reports": self.reports, "refused": self.refused}

    def __repr__(self) -> str:
        return f"<Load mean={self._mean.mean:.3g} reports={self.reports}>"


def check_header(header: object, name: str) -> None:
    """Raises `MisuseError` unless ``header`` is a field name (RFC 9110, 5.1)."""
    if not isinstance(header, str) or re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header, re.ASCII) is None:
        raise MisuseError(f'{name}: expected a header name such as "{LOAD_HEADER}", got {header!r}')
