"""What may stand for an option: each kind reads a value, says what it expected, and writes the value again.

A `Kind` serves four readers at once: the check of an option object made in code (`value`), a file (`read`, which knows
the place of each part), the writer (`write`) and the reference (`label`). So none of them can disagree with another.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration, share, size
from tenfold.gateway.config.environment import Secret
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.problems import Findings


class _Wrong:
    def __repr__(self) -> str:
        return "WRONG"


WRONG: Final = _Wrong()
"""What `Kind.read` gives for a value that is wrong; the problem has been told."""


class Reading:
    """One reading of one file: what is wrong so far, and which strings were nothing but ``${…}``."""

    def __init__(self, findings: Findings, whole: Iterable[Path] = ()) -> None:
        self.findings: Final = findings
        self.whole: Final = frozenset(whole)

    def wrong(self, path: Path, text: str) -> Any:
        """Tell a problem; gives `WRONG`."""
        self.findings.wrong(path, text)
        return WRONG


class Kind(ABC):
    """One kind of value. ``label`` is what the reference calls it."""

    label: str

    @abstractmethod
    def value(self, given: Any) -> Any:
        """The value as options hold it, from what a file or code gives; what it has given itself, it takes.

        Raises `MisuseError` with what was expected and what came.
        """

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        """The value at ``path`` of a file, or `WRONG`."""
        try:
            return self.value(given)
        except MisuseError as exc:
            return reading.wrong(path, str(exc))

    def write(self, value: Any) -> Any:
        """What a file has to hold to be read as ``value``."""
        return value


def refused(expected: str, got: object) -> MisuseError:
    """The sentence of a value that is not what was expected."""
    return MisuseError(f"expected {expected}, got {got!r}")


class Text(Kind):
    """A string that matches ``pattern``; ``expected`` says in words what that is."""

    def __init__(self, expected: str, pattern: str = r".+", *, label: str = "text") -> None:
        self.expected: Final = expected
        self.pattern: Final = re.compile(pattern, re.ASCII)
        self.label = label

    def value(self, given: Any) -> Any:
        if not isinstance(given, str) or self.pattern.fullmatch(given) is None:
            raise refused(self.expected, given)
        return given


class Hidden(Kind):
    """A text that is a secret, of ``least`` characters or more. What came is never told."""

    label = "secret"

    def __init__(self, least: int) -> None:
        self.least: Final = least

    def value(self, given: Any) -> Any:
        text = given.reveal() if isinstance(given, Secret) else given
        if not isinstance(text, str):
            raise MisuseError(f"expected a secret of {self.least} characters or more, got a {type(text).__name__}")
        if len(text) < self.least or not text.isprintable():
            raise MisuseError(
                f"expected a secret of {self.least} printable characters or more, got {len(text)} characters; "
                'make one with `python -c "import secrets; print(secrets.token_urlsafe(24))"`'
            )
        return Secret(text)

    def write(self, value: Any) -> Any:
        return value.reveal()


class Choice(Kind):
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words: Final = words
        self.label = " or ".join(f'"{word}"' for word in words)

    def value(self, given: Any) -> Any:
        if given not in self.words or not isinstance(given, str):
            raise refused(self.label, given)
        return given


class Scalar(Kind):
    """What may also come as the text of an environment variable."""

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        if isinstance(given, str) and path in reading.whole:
            given = self.parsed(given)
        return super().read(given, path, reading)

    @abstractmethod
    def parsed(self, text: str) -> Any:
        """The number that a text is; the text itself where it is none."""


class Flag(Scalar):
    """True or false."""

    label = "true or false"

    def value(self, given: Any) -> Any:
        if not isinstance(given, bool):
            raise refused("true or false", given)
        return given

    def parsed(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


class Whole(Scalar):
    """A whole number within bounds."""

    label = "whole number"

    def __init__(self, least: int = 0, most: int | None = None) -> None:
        self.least: Final = least
        self.most: Final = most

    def value(self, given: Any) -> Any:
        over = isinstance(given, int) and self.most is not None and given > self.most
        if isinstance(given, bool) or not isinstance(given, int) or given < self.least or over:
            bounds = f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"
            raise refused(f"a whole number, {bounds}", given)
        return given

    def parsed(self, text: str) -> Any:
        return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else text


class Number(Scalar):
    """A finite number above ``above``, or of ``least`` or more."""

    label = "number"

    def __init__(self, *, above: float | None = None, least: float = 0.0) -> None:
        self.above: Final = above
        self.least: Final = least

    def value(self, given: Any) -> Any:
        bound = f"{self.least:g} or more" if self.above is None else f"above {self.above:g}"
        low = self.least if self.above is None else math.nextafter(self.above, math.inf)
        if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given < math.inf:
            raise refused(f"a number, {bound}", given)
        return float(given)

    def parsed(self, text: str) -> Any:
        return float(text) if re.fullmatch(r"[+-]?\d{1,18}(\.\d{1,18})?", text, re.ASCII) else text


class Unit(Scalar):
    """A duration, size or share in seconds, bytes or a fraction. With ``off`` the word ``"off"`` is None, too."""

    def __init__(
        self, label: str, convert: Callable[[Any, str], float], *, least: float = 0, off: bool = False, example: str
    ) -> None:
        self.label = label + (' or "off"' if off else "")
        self.convert: Final = convert
        self.least: Final = least
        self.off: Final = off
        self.example: Final = example

    def value(self, given: Any) -> Any:
        if self.off and (given is None or given == "off"):
            return None
        try:
            number = self.convert(given, "value")
        except MisuseError as exc:
            also = ' (or "off")' if self.off else ""
            raise MisuseError(str(exc).removeprefix("value: ") + also) from None
        if number < self.least:
            raise refused(f"{self.label.partition(' or ')[0]} of {self.example} or more", given)
        return number

    def parsed(self, text: str) -> Any:
        return float(text) if re.fullmatch(r"\d{1,18}(\.\d{1,18})?", text, re.ASCII) else text

    def write(self, value: Any) -> Any:
        return "off" if value is None else value


def span(*, zero: bool = False, off: bool = False) -> Unit:
    """A duration, of a millisecond or more unless ``zero``."""
    return Unit("duration", duration, least=0 if zero else 0.001, off=off, example="1ms")


def volume(least: int = 0, *, off: bool = False) -> Unit:
    """A size, of ``least`` bytes or more."""
    return Unit("size", size, least=least, off=off, example=f"{least} B")


def part() -> Unit:
    """A share between 0 and 1."""
    return Unit("share", share, example="0")
