"""Arrival times out of a log: common or combined log format, or one number of seconds a line.

The common log format is that of Apache httpd (``%h %l %u %t "%r" %>s %b``); the combined one adds referer and
user agent. Only the time in square brackets is read: ``[10/Oct/2000:13:55:36 -0700]``.
"""

from __future__ import annotations

import math
import re
from array import array
from datetime import datetime
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError

_BRACKETS: Final = re.compile(r"\S+ \S+ .*?\[([^\]]+)\] \"")
_SHOWN: Final = 80
MAX_ARRIVALS: Final = 20_000_000
"""The longest log that is read: 160 MB of times."""


def read_times(path: Path, *, skip_malformed: bool = False) -> array[float]:
    """Ascending seconds, one an arrival, with those of the same whole second of an access log spread over it.

    Empty lines and lines that start with ``#`` do not count. Raises `MisuseError` for a missing file, a
    malformed line (with its number) and a log without a single arrival.
    """
    plain, stamped = array("d"), array("d")
    parsed: dict[str, float] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.strip()
                if not line or line.startswith("#"):
                    continue
                if not _take(line, plain, stamped, parsed) and not skip_malformed:
                    raise MisuseError(
                        f"{path}, line {number}: expected a line of an access log (common or combined) or a "
                        f"number of seconds, got {line[:_SHOWN]!r}; skip_malformed=True leaves it out"
                    )
                if len(plain) + len(stamped) > MAX_ARRIVALS:
                    raise MisuseError(f"{path}: expected at most {MAX_ARRIVALS:,} arrivals; cut the log and try again")
    except OSError as exc:
        raise MisuseError(f"replay: cannot read {path}: {exc.strerror or exc}") from exc
    if plain and stamped:
        raise MisuseError(f"{path}: expected one kind of line, got {len(plain)} numbers and {len(stamped)} log lines")
    if not plain and not stamped:
        raise MisuseError(f"{path}: expected at least one arrival, got none")
    return array("d", sorted(plain)) if plain else _spread(sorted(stamped))


def _take(line: str, plain: array[float], stamped: array[float], parsed: dict[str, float]) -> bool:
    found = _BRACKETS.match(line)
    try:
        if found is None:
            moment = float(line)
            if math.isfinite(moment):
                plain.append(moment)
                return True
            return False
        text = found[1]
        if text not in parsed:  # strptime costs 5 µs and a busy second has thousands of lines
            if len(parsed) > 1024:
                parsed.clear()
            parsed[text] = datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp()
        stamped.append(parsed[text])
    except ValueError:
        return False
    return True


def _spread(moments: list[float]) -> array[float]:
    spread = array("d")
    at = 0
    while at < len(moments):
        end = at
        while end < len(moments) and moments[end] == moments[at]:
            end += 1
        spread.extend(moments[at] + offset / (end - at) for offset in range(end - at))
        at = end
    return spread
