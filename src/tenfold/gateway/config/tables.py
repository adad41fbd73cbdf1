"""Tables of options: our own classes, whose fields say their kind and meaning, and those of other packages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, get_type_hints

from tenfold._core.errors import MisuseError
from tenfold.gateway.config.kinds import WRONG, Flag, Kind, Number, Reading, Whole, refused
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.problems import Wrong

# The reader of policies has these already; one way of saying what a field takes is enough.
from tenfold.resilience.config_read import _culprit, _fits, _named, _told, unknown

_LABEL: Final = re.compile(r"^(rate|adaptive) limit: ")
"""How some classes begin their sentences; the words are names of keys too."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a field says of itself: its kind, its meaning in a sentence, and whether a change needs a restart."""

    kind: Kind
    text: str
    restart: bool = False


def option(kind: Kind, text: str, *, default: Any = MISSING, restart: bool = False, show: bool = True) -> Any:
    """A field of `Options`. Without ``default`` it must be given; with ``show=False`` no ``repr`` has it."""
    metadata = {"key": Key(kind, text, restart)}
    if default is MISSING:
        return field(metadata=metadata, repr=show)
    return field(default=default, metadata=metadata, repr=show)


class Options:
    """A table of our own. Subclasses are frozen dataclasses of `option` fields, checked when they are made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        about = type(self).__name__.lower()
        for name, each in keys(type(self)):
            given = getattr(self, name)
            if given is each.default:
                continue  # defaults stand here as they are once they are read
            try:
                object.__setattr__(self, name, of(each).kind.value(given))
            except Wrong as exc:
                raise Wrong(_dotted(name, exc.key), f"{about} {name}: {exc}") from None
            except MisuseError as exc:
                raise Wrong(name, f"{about} {name}: {exc}") from None
        self._check()

    def _check(self) -> None:
        """Whether the options go together. Raises `Wrong`."""


def keys(kind: type) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """The keys of a table, in the order of its class."""
    return ((each.name, each) for each in fields(kind) if "key" in each.metadata)


def of(each: dataclasses.Field[Any]) -> Key:
    """What a field says of itself."""
    found: Key = each.metadata["key"]
    return found


def _dotted(name: str, inner: str) -> str:
    return f"{name}.{inner}" if inner else name


class Table(Kind):
    """A table of `Options`. ``main`` names the key that may stand alone for the table; with ``flag`` true is the
    defaults and false is none.
    """

    def __init__(self, cls: type[Options], *, main: str = "", flag: bool = False) -> None:
        self.cls: Final = cls
        self.main: Final = main
        self.flag: Final = flag
        self.label = f"table [{cls.__name__}](#{cls.__name__.lower()})" + (", true or false" if flag else "")
        if main:
            self.label += f", or its `{main}` alone"

    def _given(self, given: Any) -> Mapping[str, Any] | None:
        """The keys; None for none. Raises `MisuseError` for what is no table."""
        if isinstance(given, Mapping):
            return given
        if self.flag and isinstance(given, bool):
            return {} if given else None
        if self.main and not isinstance(given, bool):
            return {self.main: given}
        first = next(keys(self.cls))[0]
        raise refused(f"{'true, false or ' if self.flag else ''}a table such as {{ {first} = … }}", given)

    def value(self, given: Any) -> Any:
        if isinstance(given, self.cls) or (given is None and self.flag):
            return given
        found = self._given(given)
        if found is None:
            return None
        known = dict(keys(self.cls))
        for name in found:
            if name not in known:
                raise Wrong(str(name), unknown(str(name), known, "key"))
        for name, each in known.items():
            if each.default is MISSING and name not in found:
                raise Wrong(name, f"expected {name}, got none")
        return self.cls(**found)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        try:
            found = self._given(given)
        except MisuseError as exc:
            return reading.wrong(path, str(exc))
        if found is None:
            return None
        alone = not isinstance(given, Mapping | bool)
        known = dict(keys(self.cls))
        values: dict[str, Any] = {}
        for name, each in found.items():
            if name in known:
                values[name] = of(known[name]).kind.read(each, path if alone else (*path, name), reading)
            else:
                values[str(name)] = reading.wrong((*path, name), unknown(str(name), known, "key"))
        for name, option in known.items():
            if option.default is MISSING and name not in found:
                values[name] = reading.wrong((*path, name), f"expected {name}, got none")
        if any(each is WRONG for each in values.values()):
            return WRONG
        try:
            return self.cls(**values)
        except Wrong as exc:
            inner = tuple(exc.key.split(".")) if exc.key else ()
            return reading.wrong(path if alone else (*path, *inner), str(exc))

    def write(self, value: Any) -> Any:
        return False if value is None else written(value)


def _number(text: str) -> Any:
    """The number or flag that the text of an environment variable is; the text itself where it is none."""
    for kind in (Whole(), Number(), Flag()):
        if not isinstance(done := kind.parsed(text), str):
            return done
    return text


def written(options: Options) -> dict[str, Any]:
    """The table that a file has to hold to be read as ``options``; what has its default is left out."""
    return {
        name: of(each).kind.write(getattr(options, name))
        for name, each in keys(type(options))
        if getattr(options, name) != each.default
    }


class Foreign(Kind):
    """A table of the options of another package, such as `Breaker`; keys that only code can give are left out.

    ``without`` names those, each with what to do instead. ``convert`` changes what a file holds for a key to what the
    class takes, ``back`` what the class holds to what a file may. ``flag`` as in `Table`.
    """

    def __init__(
        self,
        cls: type,
        *,
        main: str = "",
        without: Mapping[str, str] | None = None,
        convert: Mapping[str, Callable[[Any], Any]] | None = None,
        back: Mapping[str, Callable[[Any], Any]] | None = None,
        nested: Mapping[str, type] | None = None,
        flag: bool = True,
    ) -> None:
        self.cls: Any = cls
        self.main: Final = main
        self.without: Final = without or {}
        self.convert: Final = convert or {}
        self.back: Final = back or {}
        self.nested: Final = {name: Foreign(each) for name, each in (nested or {}).items()}
        self.flag: Final = flag
        self.known: Final = {each.name: each for each in fields(self.cls) if each.name not in self.without}
        self.label = f"table [{cls.__name__}](#{cls.__name__.lower()})" + (", true or false" if flag else "")
        if main:
            self.label += f", or its `{main}` alone"

    def value(self, given: Any) -> Any:
        if isinstance(given, self.cls) or given is None:
            return given
        raise refused(f"a {self.cls.__name__}, true or false", given)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        if isinstance(given, bool) and self.flag:
            if not given:
                return None
            given = {}
        alone = not isinstance(given, Mapping)
        if alone:
            if not self.main or isinstance(given, bool):
                first = next(iter(self.known))
                expected = f"{'true, false or ' if self.flag else ''}a table such as {{ {first} = … }}"
                return reading.wrong(path, str(refused(expected, given)))
            given = {self.main: given}
        found = dict(given)
        wrong = [self._wrong(name, found, path if alone else (*path, name), reading) for name in tuple(found)]
        for name, each in self.known.items():
            if each.default is MISSING and each.default_factory is MISSING and name not in found:
                wrong.append(True)
                reading.wrong((*path, name), f"expected {name}, got none")
        if any(wrong):
            return WRONG
        try:
            return self.cls(**found)
        except (MisuseError, TypeError, ValueError) as exc:
            culprit = _culprit(_LABEL.sub("", str(exc)), found)
            return reading.wrong((*path, culprit) if culprit and not alone else path, _told(str(exc)))

    def _wrong(self, name: str, found: dict[str, Any], path: Path, reading: Reading) -> bool:
        """Whether the value of one key is wrong; what is right is put into ``found``."""
        value = found[name]
        if name in self.without:
            reading.wrong(path, self.without[name])
            return True
        if name not in self.known:
            reading.wrong(path, unknown(name, self.known, "key"))
            return True
        if name in self.nested:
            found[name] = self.nested[name].read(value, path, reading)
            return found[name] is WRONG
        if name in self.convert:
            try:
                found[name] = self.convert[name](value)
            except MisuseError as exc:
                reading.wrong(path, str(exc))
                return True
            return False
        hint = get_type_hints(self.cls)[name]
        if isinstance(value, str) and path in reading.whole and not _fits(value, hint):
            value = found[name] = _number(value)
        if not _fits(value, hint):
            reading.wrong(path, str(refused(_named(hint), value)))
            return True
        return False

    def write(self, value: Any) -> Any:
        if value is None:
            return False
        found: dict[str, Any] = {}
        required = any(each.default is MISSING and each.default_factory is MISSING for each in self.known.values())
        defaults = None if required else self.cls()
        for name, each in self.known.items():
            held = getattr(value, name)
            if defaults is not None and held == getattr(defaults, name):
                continue
            if name in self.nested:
                found[name] = self.nested[name].write(held)
            elif name in self.back:
                found[name] = self.back[name](held)
            elif held is None:
                if each.default is not None:
                    found[name] = "off"
            else:
                found[name] = held
        return found
