"""Workers by the clock: so many at least from one cron time to another.

Theory. Inside or outside is decided as KEDA's cron scaler does it: now is inside if the next end comes before the next
start (or with it). No state is needed, windows may cross midnight, and a restart changes nothing. Cron times are read
by ``cronsim``, which follows Debian's cron where clocks are changed: a fixed time that the spring leaves out comes at
once after the gap, and one that the autumn has twice comes once. Only what every cron reads alike is accepted: five
fields of numbers, names, lists, ranges and steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number

_FIELD: Final = re.compile(r"[0-9A-Za-z*,/-]+", re.ASCII)
_UNLIKE: Final = re.compile(r"(?<![A-Z])L|(?<=\d)W", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """At least ``workers`` from each ``start`` to the next ``end``, both cron times in the time zone ``zone`` (UTC).

    ``Schedule(name="shop hours", start="0 8 * * mon-fri", end="0 20 * * mon-fri", zone="Europe/Berlin", workers=6)``.
    ``name`` is for people. Needs ``cronsim``.

    Raises `MisuseError` for what makes no sense.
    """

    start: str
    end: str
    workers: int
    zone: str = "UTC"
    name: str = "schedule"

    def __post_init__(self) -> None:
        whole_number(self.workers, f"schedule {self.name} workers", least=1)
        for what in ("start", "end"):
            _check(getattr(self, what), f"schedule {self.name} {what}")
        if self.start.split() == self.end.split():
            raise MisuseError(f"schedule {self.name}: expected an end that is not the start, got {self.end!r} for both")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise MisuseError(
                f'schedule {self.name} zone: expected a name such as "Europe/Berlin", got {self.zone!r}'
            ) from error

    def active(self, wall: float) -> bool:
        """Whether ``wall``, in seconds since the epoch, is inside."""
        now = datetime.fromtimestamp(wall, _zone(self.zone))
        return _next(self.end, now) <= _next(self.start, now)


def _next(expression: str, now: datetime) -> datetime:
    from cronsim import CronSim

    return next(CronSim(expression, now))


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _check(expression: str, name: str) -> None:
    from cronsim import CronSim, CronSimError

    expected = f'{name}: expected five cron fields such as "0 8 * * mon-fri", got {expression!r}'
    if type(expression) is not str or len(fields := expression.split()) != 5:
        raise MisuseError(expected)
    if not all(_FIELD.fullmatch(text) and not _UNLIKE.search(text) for text in fields):
        raise MisuseError(f"{expected}; L, W, # and ? are not read alike everywhere")
    if re.search(r"(?<![/\d])7", fields[4]):
        raise MisuseError(f"{expected}; Sunday is 0 or sun, because 7 is not read alike everywhere")
    try:
        next(CronSim(expression, datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))))
    except CronSimError as error:
        raise MisuseError(f"{expected}: {error}") from error
    except StopIteration:
        raise MisuseError(f"{expected}, which never comes") from None
