"""What is wrong with a file, gathered while it is read: a line, a key and a sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config.positions import Path, Positions
from tenfold.resilience.config_read import ConfigError, without_passwords


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, or (as a warning) doubtful. ``line`` counts from 1; ``key`` is for a person:
    ``"pool 1 check.interval"``, ``""`` for the file as a whole.
    """

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key + ': ' if self.key else ''}{self.text}"


class GatewayConfigError(ConfigError):
    """A file that no gateway can be made of. ``found`` has a `Problem` for each thing that is wrong, by line, and
    ``problems`` the same as sentences.
    """

    def __init__(self, found: Iterable[Problem]) -> None:
        self.found: Final = tuple(sorted(found))
        super().__init__(map(str, self.found))


class Wrong(MisuseError):
    """Options that do not go together. ``key`` is the option to be changed, ``""`` where it is none in particular."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key: Final = key


def spoken(path: Path) -> str:
    """``("pool", 0, "check", "interval")`` as people say it: ``"pool 1 check.interval"``."""
    words: list[str] = []
    for before, each in zip(("", *path), path, strict=False):
        if isinstance(each, int):
            words.append(f" {each + 1} ")
        else:
            words.append(each if isinstance(before, int) or not words else f".{each}")
    return "".join(words).strip()


class Findings:
    """Gathers problems and warnings. ``secrets`` maps what came from the environment to how it may be told."""

    def __init__(self, file: str, positions: Positions | None = None) -> None:
        self.file: Final = file
        self.positions = positions
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.secrets: Mapping[str, str] = {}
        self._told: set[Path] = set()

    def _made(self, path: Path, text: str) -> Problem:
        line = 1 if self.positions is None else self.positions.line(path)
        return Problem(self.file, line, spoken(path), self._hidden(text))

    def _hidden(self, text: str) -> str:
        for value in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(repr(value), repr(self.secrets[value]))
            if len(value) >= 4:  # shorter ones are found in any sentence, and are no secrets
                text = text.replace(value, self.secrets[value])
        return without_passwords(text)

    def is_told(self, path: Path) -> bool:
        """Whether something is wrong at ``path`` or within it."""
        return any(told[: len(path)] == path for told in self._told)

    def wrong(self, path: Path, text: str) -> None:
        """One problem more. Only the first at a path is kept: the others are mostly what follows from it."""
        if path not in self._told:
            self._told.add(path)
            self.problems.append(self._made(path, text))

    def doubtful(self, path: Path, text: str) -> None:
        """One warning more."""
        self.warnings.append(self._made(path, text))

    def line(self, path: Path) -> int:
        """On which line ``path`` stands."""
        return 1 if self.positions is None else self.positions.line(path)

    def raise_any(self) -> None:
        """Raises `GatewayConfigError` if anything is wrong."""
        if self.problems:
            raise GatewayConfigError(self.problems)
