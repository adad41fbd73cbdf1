"""From the text of a TOML file to what `Policy` takes, or to one sentence for each thing that is wrong with it.

A file that is wrong is wrong as a whole: nobody wants half of the settings of a change that somebody typed
together. So all problems are gathered before any is raised, each naming file, table and key.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.fallback import Fallback, exceptions
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

PARTS: Final[dict[str, type]] = {
    "retry": Retry,
    "breaker": Breaker,
    "bulkhead": Bulkhead,
    "limit": RateLimit,
    "adaptive": AdaptiveLimit,
    "hedge": Hedge,
    "fallback": Fallback,
    "chaos": Chaos,
}
NESTED: Final[dict[str, type]] = {"retry.budget": Budget}
"""Options that are a table of options themselves."""
ARGUMENTS: Final = {"adaptive": "limit"}
"""Which argument of `Policy` a part goes to, where that has another name."""
PLAIN: Final = ("deadline", "timeout", "idempotent", "answers")
ALIASES: Final = {("bulkhead", "places"): "size", ("chaos", "for"): "for_"}
"""Keys that read better in a file than the name they have in Python."""


class ConfigError(MisuseError):
    """A file that cannot be used. ``problems`` has a sentence for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: Final = tuple(map(without_passwords, problems))
        super().__init__("\n".join(self.problems))


def without_passwords(text: str) -> str:
    """``text`` as it may stand in a log: ``redis://user:secret@host`` loses what stands before the host."""
    return re.sub(r"(\w://)[^/\s'\"@]+@", r"\1…@", text)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """One policy of a file. ``options`` are keyword arguments of `Policy`, ``values`` what stands in the file, by
    dotted key.
    """

    options: dict[str, Any]
    values: dict[str, Any]

    def differs(self, other: Settings) -> bool:
        """Whether the file says something else. By what is written: True and 1 are equal, and not the same option."""
        return repr(sorted(self.values.items())) != repr(sorted(other.values.items()))

    def changes(self, name: str, before: Settings) -> list[str]:
        """A line for each value that differs: ``"payments.timeout: '1s' -> '500ms'"``."""
        keys = dict.fromkeys((*before.values, *self.values))
        found = [(key, before.values.get(key, _ABSENT), self.values.get(key, _ABSENT)) for key in keys]
        return [
            without_passwords(f"{name}.{key}: {old!r} -> {new!r}") for key, old, new in found if repr(old) != repr(new)
        ]


class _Absent:
    def __repr__(self) -> str:
        return "none"


_ABSENT: Final = _Absent()


def read(text: str, path: Path, code: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """The policies of a file. ``code`` adds parts that no file can hold. Raises `ConfigError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{path}: expected TOML, got a file that breaks its rules: {exc}"]) from exc
    problems = [
        f"{path}: {key}: {unknown(key, ('policy',), 'table')}; policies stand in tables such as [policy.payments]"
        for key in document
        if key != "policy"
    ]
    tables = document.get("policy", {})
    if not isinstance(tables, dict):
        raise ConfigError([f"{path}: policy: expected tables such as [policy.payments], got {tables!r}"])
    if not tables and not problems:
        problems.append(f"{path}: expected at least one table such as [policy.payments], got none")
    found = {}
    for name, table in tables.items():
        reader = _Reader(f"{path}: [policy.{name}]")
        found[name] = reader.settings(table, code.get(name, {}))
        problems += reader.problems
    if problems:
        raise ConfigError(problems)
    return found


class _Reader:
    """Reads one table and gathers what is wrong with it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def _wrong(self, key: str, what: str) -> None:
        self.problems.append(f"{self.where} {key}: {what}")

    def settings(self, table: object, code: Mapping[str, Any]) -> Settings:
        options: dict[str, Any] = {}
        if not isinstance(table, dict):
            self.problems.append(f"{self.where}: expected a table of settings, got {table!r}")
            return Settings(options, {})
        if "limit" in table and "adaptive" in table:
            self._wrong("adaptive", "expected either limit or adaptive, got both")
        for key, value in table.items():
            argument = ARGUMENTS.get(str(key), str(key))
            if argument in code:
                self._wrong(key, "expected it either in the file or in the code, got both")
            elif key in PARTS:
                part = self._part(key, PARTS[key], value)
                if part is not None:
                    options[argument] = part
            elif key not in PLAIN:
                self._wrong(key, unknown(key, (*PLAIN, *PARTS), "key"))
            elif self._plain(key, value):
                options[key] = value
        return Settings({**options, **code}, dict(_flat(table)))

    def _plain(self, key: str, value: object) -> bool:
        if key == "idempotent":
            if isinstance(value, bool):
                return True
            self._wrong(key, f"expected true or false, got {value!r}")
            return False
        try:
            if key == "answers":
                exceptions(value, key)
            else:
                duration(value, key)  # type: ignore[arg-type]
        except MisuseError as exc:
            self._wrong(key, _told(str(exc)))
            return False
        return True

    def _part(self, part: str, kind: type, value: Any) -> Any:
        """The options object that ``value`` stands for; None for ``false`` and for what is wrong."""
        fields = {field.name: field for field in dataclasses.fields(kind)}
        if isinstance(value, dict):
            spelt: dict[str, str] = {ALIASES.get((part, str(key)), str(key)): str(key) for key in value}
            given: dict[str, Any] = {name: value[key] for name, key in spelt.items()}
        elif isinstance(value, bool) and part != "fallback":
            if value is False:
                return None
            spelt, given = {}, {}
        else:
            main = next((name for name, field in fields.items() if not field.kw_only), None)
            if main is None:
                self._wrong(
                    part, f"expected true, false or a table such as {{ {next(iter(fields))} = … }}, got {value!r}"
                )
                return None
            spelt, given = {main: ""}, {main: value}
        before = len(self.problems)
        self._check(part, kind, fields, given, spelt)
        for name, each in given.items():
            nested = NESTED.get(f"{part}.{name}")
            if nested is not None and isinstance(each, dict):
                given[name] = self._part(f"{part}.{name}", nested, each)
        if len(self.problems) > before:
            return None
        try:
            return kind(**given)
        except (MisuseError, TypeError, ValueError) as exc:
            message = str(exc)
            self._wrong(_dotted(part, spelt.get(_culprit(message, given), "")), _told(message))
            return None

    def _check(
        self, part: str, kind: type, fields: Mapping[str, Any], given: Mapping[str, Any], spelt: Mapping[str, str]
    ) -> None:
        hints = get_type_hints(kind)
        shown = {name: alias for (of, alias), name in ALIASES.items() if of == part}
        strange = [name for name in given if name not in fields]
        for name in strange:
            self._wrong(_dotted(part, spelt[name]), unknown(name, [shown.get(each, each) for each in fields], "key"))
        for name, value in given.items():
            if name in fields and not _fits(value, hints[name]):
                names = _named(hints[name])
                refusal = f"expected {names}" if names else "takes a function, which a file cannot hold"
                help_ = "" if names else f"; give {part} in code"
                self._wrong(_dotted(part, spelt[name]), f"{refusal}, got {value!r}{help_}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in given and not strange:
                key = shown.get(name, name)
                self._wrong(part, f"expected {key}, got none; say {part} = {{ {key} = … }}")


def _dotted(part: str, key: str) -> str:
    return f"{part}.{key}" if key else part


def _flat(table: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def unknown(key: str, known: Iterable[str], what: str) -> str:
    """What to say about a name that nobody knows."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"unknown {what}; did you mean {close[0]}?" if close else f"unknown {what}; expected {' or '.join(names)}"


def _told(message: str) -> str:
    """The message without the names that it begins with, for what it is about stands before it already."""
    for _ in range(2):
        head, colon, rest = message.partition(": ")
        if colon and re.fullmatch(r"[\w.]+( [\w.]+){0,3}", head) and "expected" not in head:
            message = rest
    return message


def _culprit(message: str, given: Mapping[str, Any]) -> str:
    """Which of the given keys a refusal is about: the first that it names; "" for the part as a whole."""
    places = {key: match.start() for key in given if (match := re.search(rf"\b{re.escape(key)}\b", message))}
    return min(places, key=places.__getitem__) if places else ""


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from a file may stand for a field of that type, as far as types tell."""
    origin = get_origin(hint)
    if hint is Any or hint is object:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint) if each is not type(None))
    if origin is Literal:
        return any(type(value) is type(each) for each in get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    if hint in (int, str, bool, datetime):
        return isinstance(value, hint)
    if origin in (tuple, list, set, frozenset) or hint in (tuple, list, set, frozenset):
        return isinstance(value, list)
    return False


_NAMES: Final = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    datetime: "a date and time with a time zone",
}


def _named(hint: Any) -> str:
    """What a file may hold for a field of that type; "" for nothing."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = tuple(type(get_args(kind)[0]) if get_origin(kind) is Literal else kind for kind in kinds)
    found = [name for kind, name in _NAMES.items() if kind in kinds]
    if float in kinds and int in kinds:
        found.remove(_NAMES[int])
    if any(get_origin(kind) in (tuple, list, set, frozenset) for kind in kinds):
        found.append("a list")
    return " or ".join(found)
