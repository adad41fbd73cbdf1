"""HTTP dates (RFC 9110 §5.6.7): the one form that is written and the two old ones that must be read.

Read strictly: what is no date counts as none, and for Expires that means "in the past" (RFC 9111 §5.3).
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Final

_MONTHS: Final = {name: n for n, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MON: Final = rb"(?P<mon>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME: Final = rb"(?P<h>[0-9]{2}):(?P<m>[0-9]{2}):(?P<s>[0-9]{2})"
_IMF: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<d>[0-9]{2}) " + _MON + rb" (?P<y>[0-9]{4}) " + _TIME + rb" GMT"
)
_RFC850: Final = re.compile(rb"[A-Z][a-z]{5,8}, (?P<d>[0-9]{2})-" + _MON + rb"-(?P<y>[0-9]{2}) " + _TIME + rb" GMT")
_ASCTIME: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) " + _MON + rb" (?P<d>[ 0-9][0-9]) " + _TIME + rb" (?P<y>[0-9]{4})"
)


def read_date(field: bytes | None) -> int | None:
    """Seconds since the Unix epoch, or None for what is no HTTP date. Never raises."""
    if field is None:
        return None
    field = field.strip()
    found = _IMF.fullmatch(field) or _RFC850.fullmatch(field) or _ASCTIME.fullmatch(field)
    if found is None:
        return None
    year, day = int(found["y"]), int(found["d"])
    if len(found["y"]) == 2:
        year += 2000 if year < 70 else 1900
    hour, minute, second = int(found["h"]), int(found["m"]), int(found["s"])
    month = _MONTHS[found["mon"]]
    if year < 1 or hour > 23 or minute > 59 or second > 60 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, hour, minute, min(second, 59)))


def write_date(wall: float) -> bytes:
    """The IMF-fixdate of a Unix time."""
    at = time.gmtime(wall)
    month = list(_MONTHS)[at.tm_mon - 1].decode()
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {month} {at.tm_year:04} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    ).encode()


_present: tuple[int, bytes] = (-1, b"")


def present_date() -> bytes:
    """The IMF-fixdate of now, written once a second."""
    global _present
    second, text = int(time.time()), _present[1]
    if second != _present[0]:
        text = write_date(second)
        _present = (second, text)
    return text
