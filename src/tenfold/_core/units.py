"""Durations and sizes as people write them: ``"250ms"``, ``"5m"``, ``"1h30m"``, ``"64MB"``, ``"0.1%"``, ``"500/s"``.

Inside tenfold a duration is a ``float`` of seconds, a size an ``int`` of bytes, a share a ``float`` in 0…1 and a rate a
``float`` a second. This module is the one door between the two worlds.
"""

from __future__ import annotations

import math
import re
from typing import Final

from tenfold._core.errors import MisuseError

_SECONDS: Final = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
# Decimal prefixes are powers of 1000 and binary ones of 1024, as IEC 80000-13 has it.
_BYTES: Final = {
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("kMGT", start=1)},
    "KB": 1000,
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", start=1)},
}
_DURATION: Final = re.compile(r"\s*(?:\d+(?:\.\d+)?\s*(?:us|µs|ms|s|m|h|d|w)\s*)+", re.IGNORECASE)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(us|µs|ms|s|m|h|d|w)", re.IGNORECASE)
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B)\s*")

Duration = str | int | float
Size = str | int


def duration(value: Duration, name: str = "duration") -> float:
    """Seconds from ``"250ms"``, ``"1h30m"`` or a plain number of seconds.

    ``name`` is how the message calls the argument. Raises `MisuseError` for anything else, for negative and for
    non-finite numbers.
    """
    if isinstance(value, str):
        if _DURATION.fullmatch(value) is None:
            raise MisuseError(f'{name}: expected a duration such as "250ms", "30s" or "1h30m", got {value!r}')
        return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _DURATION_PART.findall(value))
    return _number(value, name, 'a number of seconds or a string such as "30s"')


def size(value: Size, name: str = "size") -> int:
    """Bytes from ``"64MB"``, ``"1.5GiB"`` or a plain number of bytes. Raises `MisuseError` for anything else."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise MisuseError(f'{name}: expected a size such as "64MB" or "1.5GiB", got {value!r}')
        return round(float(match[1]) * _BYTES[match[2]])
    return round(_number(value, name, 'a number of bytes or a string such as "64MB"'))


def share(value: str | float, name: str = "share") -> float:
    """A fraction in 0…1 from ``"0.1%"`` or ``0.001``. Raises `MisuseError` outside that range."""
    number = value
    if isinstance(value, str):
        try:
            number = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            raise MisuseError(f'{name}: expected a share such as "0.1%" or 0.001, got {value!r}') from None
    number = _number(number, name, 'a share such as "0.1%" or 0.001')
    if number > 1:
        raise MisuseError(f"{name}: expected a share between 0 and 1 (or 0% and 100%), got {value!r}")
    return number


def rate(value: str | float, name: str = "rate") -> float:
    """Events a second from ``"500/s"``, ``"3000/m"`` or a plain number. Raises `MisuseError` for anything else."""
    if isinstance(value, str):
        number, _, unit = value.partition("/")
        try:
            return _number(float(number), name, "a rate") / (_SECONDS[unit.strip()] if unit else 1.0)
        except (ValueError, KeyError):
            raise MisuseError(f'{name}: expected a rate such as "500/s" or "3000/m", got {value!r}') from None
    return _number(value, name, 'a number a second or a string such as "500/s"')


def format_duration(seconds: float) -> str:
    """Three significant digits and the unit that fits: ``"1.27 s"``, ``"830 µs"``, ``"5 min 20 s"``."""
    if not math.isfinite(seconds):
        return "never" if seconds > 0 else "-"
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
        return " ".join(f"{number} {unit}" for number, unit in parts if number)
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{_significant(seconds / factor)} {unit}"
    return f"{_significant(seconds * 1e6)} µs"


def format_size(count: float) -> str:
    """Decimal units, as disks and networks have them: ``"13.6 MB"``."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{_significant(count / factor)} {unit}"
    return f"{count:.0f} B"


def _significant(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _number(value: object, name: str, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MisuseError(f"{name}: expected {expected}, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise MisuseError(f"{name}: expected a finite number that is not negative, got {value!r}")
    return float(value)
