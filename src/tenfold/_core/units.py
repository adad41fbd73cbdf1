"""Durations and sizes as people write them: ``"250ms"``, ``"5m"``, ``"1h30m"``, ``"64MB"``, ``"0.1%"``,
``"500/s"``.

Inside tenfold a duration is a ``float`` of seconds, a size an ``int`` of bytes, a share a ``float`` in 0…1
and a rate a ``float`` a second. This module is the one door between the two worlds.
"""

from __future__ import annotations

import math
import re
from typing import Final

from tenfold._core.errors import MisuseError

# The micro sign (U+00B5) and the Greek mu (U+03BC) look alike; keyboards and editors produce both.
_SECONDS: Final = {
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
# Decimal prefixes are powers of 1000 and binary ones of 1024, as IEC 80000-13 has it.
_BYTES: Final = {
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("kMGT", start=1)},
    "KB": 1000,
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", start=1)},
}
# ASCII, because otherwise IGNORECASE takes the long s (U+017F) for an s.
_FLAGS: Final = re.IGNORECASE | re.ASCII
_PART: Final = r"(\d+(?:\.\d+)?)\s*(us|\u00b5s|\u03bcs|ms|s|m|h|d|w)"
_DURATION: Final = re.compile(rf"\s*(?:{_PART}\s*)+", _FLAGS)
_DURATION_PART: Final = re.compile(_PART, _FLAGS)
_SIZE: Final = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_BYTES)})\s*", re.ASCII)

Duration = str | int | float
Size = str | int


def duration(value: Duration, name: str = "duration") -> float:
    """Seconds from ``"250ms"``, ``"1h30m"`` or a plain number of seconds.

    ``name`` is how the message calls the argument. Raises `MisuseError` for anything else, for negative and
    for non-finite numbers.
    """
    if isinstance(value, str):
        if _DURATION.fullmatch(value) is None:
            raise MisuseError(f'{name}: expected a duration such as "250ms", "30s" or "1h30m", got {value!r}')
        seconds = sum(float(number) * _SECONDS[unit.lower()] for number, unit in _DURATION_PART.findall(value))
        return _number(seconds, name, "a duration")
    return _number(value, name, 'a number of seconds or a string such as "30s"')


def size(value: Size, name: str = "size") -> int:
    """Bytes from ``"64MB"``, ``"1.5GiB"`` or a plain number of bytes.

    Raises `MisuseError` for anything else.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise MisuseError(f'{name}: expected a size such as "64MB" or "1.5GiB", got {value!r}')
        return round(_number(float(match[1]) * _BYTES[match[2]], name, "a size"))
    return round(_number(value, name, 'a number of bytes or a string such as "64MB"'))


def share(value: str | float, name: str = "share") -> float:
    """A fraction in 0…1 from ``"0.1%"`` or ``0.001``. Raises `MisuseError` outside that range."""
    number = value
    if isinstance(value, str):
        try:
            text = value.strip()
            number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            raise MisuseError(f'{name}: expected a share such as "0.1%" or 0.001, got {value!r}') from None
    number = _number(number, name, 'a share such as "0.1%" or 0.001')
    if number > 1:
        raise MisuseError(f"{name}: expected a share between 0 and 1 (or 0% and 100%), got {value!r}")
    return number


def rate(value: str | float, name: str = "rate") -> float:
    """Events a second from ``"500/s"``, ``"3000/m"`` or a plain number.

    Raises `MisuseError` for anything else.
    """
    if isinstance(value, str):
        number, slash, unit = value.partition("/")
        try:
            seconds = _SECONDS[unit.strip()] if slash else 1.0
            return _number(float(number) / seconds, name, "a rate")
        except (ValueError, KeyError):
            raise MisuseError(f'{name}: expected a rate such as "500/s" or "3000/m", got {value!r}') from None
    return _number(value, name, 'a number a second or a string such as "500/s"')


def whole_number(value: object, name: str = "number", *, least: int = 0) -> int:
    """``value`` if it is an ``int`` of at least ``least``.

    Raises `MisuseError` for anything else, ``True`` included.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MisuseError(f"{name}: expected a whole number of {least} or more, got {value!r}")
    return value


def format_duration(seconds: float) -> str:
    """Three significant digits and the unit that fits: ``"1.27 s"``, ``"830 µs"``; from two
    minutes on ``"5 min 20 s"``.

    Infinity is ``"never"``; what is not a number is ``"-"``.
    """
    if math.isnan(seconds):
        return "-"
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if math.isinf(seconds):
        return "never"
    if seconds == 0:
        return "0 s"
    if round(seconds) >= 120:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
        return " ".join(f"{number} {unit}" for number, unit in parts if number)
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))


def format_size(count: float) -> str:
    """Three significant digits in decimal units, as disks and networks have them: ``"13.6 MB"``.

    Whole below 1 kB.
    """
    if not math.isfinite(count):
        return "-"
    if count < 0:
        return "-" + format_size(-count)
    if round(count) < 1000:
        return f"{round(count)} B"
    return _scaled(count, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    """``number`` in the largest unit in which it is, *once rounded*, at least one: 0.9999 s is "1.00 s", not
    "1000 ms".
    """
    factor, unit = next((pair for pair in units if number / pair[0] >= 0.9995), units[-1])
    return f"{_significant(number / factor)} {unit}"


def _significant(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _number(value: object, name: str, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MisuseError(f"{name}: expected {expected}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise MisuseError(f"{name}: expected a finite number that is not negative, got {number!r}")
    return number
