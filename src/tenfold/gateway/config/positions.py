"""On which line each key of a TOML document stands.

`tomllib` says what a document means and not where it says it, and an error without a line sends a person searching.
So the document is read twice: `tomllib` judges it and gives the values, and this scanner, which is only ever shown
documents that `tomllib` took, finds the places. That makes it short: it needs the shapes of TOML 1.0 (keys, headers,
strings, brackets) and none of its rules. A parser that keeps positions would be a dependency for one number a key;
tomlkit keeps the layout of a document but gives no line numbers.

The test compares both readings over random documents: the same paths, all of them, and each on the line of its key.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

Path = tuple[str | int, ...]
"""``("pool", 0, "check", "interval")``: names of keys, and places in arrays counted from 0."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{1,2})?'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?:'{1,2})?"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]*")


class Positions:
    """The lines, counted from 1, of a document that `tomllib` has taken."""

    def __init__(self, text: str) -> None:
        scan = _Scan(text)
        scan.document()
        self.lines: Final[Mapping[Path, int]] = MappingProxyType(scan.found)

    def line(self, path: Path) -> int:
        """Where ``path`` stands; for what the document does not have, where the nearest that it has around it stands;
        1 where there is none.
        """
        while path:
            found = self.lines.get(path)
            if found is not None:
                return found
            path = path[:-1]
        return 1


def paths(value: object, before: Path = ()) -> Iterator[Path]:
    """Every path of a document as `tomllib` gives it."""
    pairs: Iterator[tuple[str | int, object]]
    if isinstance(value, dict):
        pairs = iter(value.items())
    elif isinstance(value, list):
        pairs = iter(enumerate(value))
    else:
        return
    for key, each in pairs:
        yield (*before, key)
        yield from paths(each, (*before, key))


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")  # as tomllib does
        self.at = 0
        self.found: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  # how many tables each array of tables has so far
        self._breaks = [place.start() for place in re.finditer("\n", self.text)]

    def document(self) -> None:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        assert match is not None  # both patterns match nothing, too
        self.at = match.end()

    def _note(self, path: Path, at: int) -> None:
        self.found.setdefault(path, bisect_right(self._breaks, at) + 1)

    def _header(self) -> Path:
        start = self.at
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        *names, last = self._key()
        self.at += 2 if many else 1
        path: Path = ()
        for name in names:
            path = (*path, name)
            self._note(path, start)
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
        path = (*path, last)
        self._note(path, start)
        if many:
            count = self._arrays.get(path, 0)
            self._arrays[path] = count + 1
            path = (*path, count)
            self._note(path, start)
        return path

    def _key(self) -> list[str]:
        """The parts of a dotted key, and past it."""
        names = []
        while True:
            self._skip(_SPACE)
            match = _BARE.match(self.text, self.at)
            if match is not None:
                names.append(match[0])
            else:
                match = _STRING.match(self.text, self.at)
                assert match is not None
                names.append(tomllib.loads(f"key = {match[0]}")["key"])
            self.at = match.end()
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def _pair(self, table: Path) -> None:
        start = self.at
        path = table
        for name in self._key():
            path = (*path, name)
            self._note(path, start)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self.text[self.at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline(path)
        else:
            match = (_STRING if first in "\"'" else _SCALAR).match(self.text, self.at)
            assert match is not None
            self.at = match.end()

    def _array(self, path: Path) -> None:
        self.at += 1
        for number in range(len(self.text)):
            self._skip(_BLANK)
            if self.text[self.at] == "]":
                break
            self._note((*path, number), self.at)
            self._value((*path, number))
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _inline(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == "}":
                break
            self._pair(path)
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1
