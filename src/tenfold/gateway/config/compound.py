"""Kinds of values that are made of others: lists, tables with free names, and one of several kinds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config.kinds import WRONG, Kind, Reading, Text, refused
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.problems import Wrong


class Many(Kind):
    """A list of one kind, of ``least`` or more; with ``single`` one value may stand for a list of it. A tuple."""

    def __init__(self, kind: Kind, *, least: int = 0, single: bool = False, what: str = "a list") -> None:
        self.kind: Final = kind
        self.least: Final = least
        self.single: Final = single
        self.what: Final = what
        self.label = f"list of {kind.label}" + (", or one" if single else "")

    def value(self, given: Any) -> Any:
        return tuple(self.kind.value(each) for each in self._list(given))

    def _list(self, given: Any) -> list[Any]:
        if self.single and not isinstance(given, list | tuple):
            return [given]
        if not isinstance(given, list | tuple) or len(given) < self.least:
            raise refused(self.what + (f" of {self.least} or more" if self.least else ""), given)
        return list(given)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        try:
            found = self._list(given)
        except MisuseError as exc:
            return reading.wrong(path, str(exc))
        at = path if not isinstance(given, list | tuple) else None
        done = [self.kind.read(each, at or (*path, n), reading) for n, each in enumerate(found)]
        return WRONG if any(each is WRONG for each in done) else tuple(done)

    def write(self, value: Any) -> Any:
        return [self.kind.write(each) for each in value]


class Named(Kind):
    """A table of names that are free, each with a value of one kind."""

    def __init__(self, name: Text, kind: Kind, *, lower: bool = False) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.lower: Final = lower
        self.label = f"table of {kind.label}"

    def value(self, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise refused("a table", given)
        found = {self._key(self.name.value(key)): self.kind.value(each) for key, each in given.items()}
        return Frozen(found)

    def _key(self, name: str) -> str:
        return name.lower() if self.lower else name

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(given, Mapping):
            return reading.wrong(path, str(refused("a table", given)))
        found: dict[Any, Any] = {}
        for key, each in given.items():
            name = self.name.read(key, (*path, key), reading)
            value = self.kind.read(each, (*path, key), reading)
            if name is not WRONG and self._key(name) in found:
                value = reading.wrong((*path, key), f"{name} stands here twice, in other letters")
            found[name if name is WRONG else self._key(name)] = value
        return WRONG if WRONG in found or any(each is WRONG for each in found.values()) else Frozen(found)

    def write(self, value: Any) -> Any:
        return {key: self.kind.write(each) for key, each in value.items()}


class Frozen(Mapping[str, Any]):
    """A mapping that cannot be changed and so can be hashed."""

    __slots__ = ("_of",)

    def __init__(self, of: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._of = dict(of)

    def __getitem__(self, key: str) -> Any:
        return self._of[key]

    def __iter__(self) -> Any:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __hash__(self) -> int:
        return hash(frozenset(self._of.items()))

    def __repr__(self) -> str:
        return repr(self._of)


class Either(Kind):
    """The first of several kinds that takes a value; for kinds that tell each other apart at sight."""

    def __init__(self, *kinds: Kind, expected: str) -> None:
        self.kinds: Final = kinds
        self.expected: Final = expected
        self.label = " or ".join(kind.label for kind in kinds)

    def value(self, given: Any) -> Any:
        for kind in self.kinds:
            try:
                return kind.value(given)
            except Wrong:
                raise
            except MisuseError:
                continue
        raise refused(self.expected, given)
