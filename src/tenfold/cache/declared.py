"""What a cache knows of the functions that it decorates, and the way back from a key's text to the arguments.

Keys are canonical texts (see `keys`), so a key that some process recorded can be called again by another one.
Whatever does not come back as exactly the same key (enums, which would have to be imported, and keys of another
version of the function) is refused rather than guessed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from tenfold.cache.keys import TagTemplates
from tenfold.cache.lookup import Spec
from tenfold.cache.many import CachedMany

_SCALAR: Final = re.compile(r"[^,(){}\"]+")
_MAX_DEPTH: Final = 50
_WORDS: Final = {"None": None, "True": True, "False": False}
_FLOAT: Final = re.compile(r"-?(\d+\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+|inf)|nan")


class Unreadable(ValueError):
    """A key that cannot be turned back into arguments. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One decorated function: the wrapper that callers see, what it declared, and its tags as written."""

    function: Any
    spec: Spec
    tags: tuple[str, ...]

    @property
    def many(self) -> bool:
        return isinstance(self.function, CachedMany)

    def arguments(self, key: str) -> tuple[Any, ...]:
        """The arguments in the order of the parameters. Raises `Unreadable`."""
        prefix = self.spec.name + "("
        if not key.startswith(prefix) or not key.endswith(")"):
            raise Unreadable(f"{key!r} is no key of {self.spec.name}")
        values = decode(key[len(prefix) : -1])
        try:
            again = self.key(values)
        except Exception as error:
            raise Unreadable(f"{key!r} does not fit {self.spec.name} ({error})") from error
        if again != key:
            raise Unreadable(f"{key!r} comes back as {again!r}")
        return values

    def key(self, values: Sequence[Any]) -> str:
        """The key of these arguments."""
        if self.many:
            (one,) = values
            return str(self.function.key(one))
        positional, named = self._split(values)
        return str(self.function.key(*positional, **named))

    async def call(self, values: Sequence[Any]) -> Any:
        """Call the function (not one of many) with the arguments in the order of its parameters."""
        positional, named = self._split(values)
        return await self.function(*positional, **named)

    async def forget(self, keys: Sequence[Any]) -> None:
        """Invalidate entries; each key is an argument or a tuple of arguments."""
        if self.many:
            await self.function.invalidate(*keys)
        else:
            split = [self._split(key if isinstance(key, tuple) else (key,)) for key in keys]
            await asyncio.gather(*[self.function.invalidate(*ahead, **named) for ahead, named in split])

    def tags_of(self, values: Sequence[Any]) -> tuple[str, ...]:
        """The tags that an entry of these arguments carries."""
        if self.many:
            return TagTemplates(self.tags, ["id"], self.spec.name).fill({"id": values[0]})
        bound = inspect.signature(self.function).bind(*self._split(values)[0], **self._split(values)[1])
        bound.apply_defaults()
        return TagTemplates(self.tags, list(bound.arguments), self.spec.name).fill(bound.arguments)

    def _split(self, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """What goes by position and what by name: parameters after ``*`` are values at the end."""
        parameters = list(inspect.signature(self.function).parameters.values())
        ahead = [one for one in parameters if one.kind is not one.KEYWORD_ONLY]
        named = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        return list(values[: len(ahead)]), dict(zip(named, values[len(ahead) :], strict=False))


def decode(text: str) -> tuple[Any, ...]:
    """The values of ``a,b,…`` as `keys.encode` writes them. Raises `Unreadable`."""
    if not text:
        return ()
    values, at = _series(text, 0, "", 0)
    if at != len(text):
        raise Unreadable(f"{text!r} goes on after position {at}")
    return tuple(values)


def _series(text: str, at: int, end: str, depth: int) -> tuple[list[Any], int]:
    """Values up to ``end`` (a bracket, or nothing: the end of the text)."""
    if depth > _MAX_DEPTH:
        raise Unreadable("brackets too deep")
    values: list[Any] = []
    if end and text.startswith(end, at):
        return values, at + 1
    while True:
        value, at = _value(text, at, depth)
        values.append(value)
        if at == len(text) and not end:
            return values, at
        if end and text.startswith(end, at):
            return values, at + 1
        if not text.startswith(",", at):
            raise Unreadable(f"{text!r}: expected a comma at position {at}")
        at += 1


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    first = text[at : at + 1]
    if first == '"':
        return _quoted(text, at + 1)
    if first == "(":
        values, at = _series(text, at + 1, ")", depth + 1)
        return tuple(values), at
    if first == "{":
        values, at = _series(text, at + 1, "}", depth + 1)
        return frozenset(values), at
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        raise Unreadable(f"{text!r}: expected a value at position {at}")
    return _scalar(scalar[0]), scalar.end()


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(text):
        one = text[at]
        if one == '"':
            return "".join(parts), at + 1
        if one == "\\":
            at += 1
            one = text[at : at + 1]
        parts.append(one)
        at += 1
    raise Unreadable("a text that does not end")


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    kind, colon, rest = text.partition(":")
    try:
        if re.fullmatch(r"-?\d+", text, re.ASCII):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if re.fullmatch(r"b([0-9a-f]{2})*", text):
            return bytes.fromhex(text[1:])
        if colon:
            return _typed(kind, rest)
    except (ValueError, InvalidOperation, OverflowError) as error:
        raise Unreadable(f"{text!r}: {error}") from error
    raise Unreadable(f"{text!r} is of a type that a key does not bring back")


def _typed(kind: str, rest: str) -> Any:
    match kind:
        case "UUID":
            return uuid.UUID(rest)
        case "Decimal":
            return Decimal(rest)
        case "datetime":
            return dt.datetime.fromisoformat(rest)
        case "date":
            return dt.date.fromisoformat(rest)
        case "time":
            return dt.time.fromisoformat(rest)
        case "timedelta":
            days, seconds, microseconds = (int(part) for part in rest.split(":"))
            return dt.timedelta(days=days, seconds=seconds, microseconds=microseconds)
    raise Unreadable(f"{kind!r} is a type that a key does not bring back")
