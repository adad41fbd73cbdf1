"""From arguments to keys: canonical, readable, and never the same for different arguments.

``1``, ``True``, ``1.0`` and ``"1"`` are four keys; ``f(1)``, ``f(n=1)`` and a default of 1 are one. Texts are
quoted and their quotes escaped, so that no argument can imitate two. Nothing depends on ``id()``, on
``repr()`` of a foreign type or on the hash seed: another process makes the same key.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import string
import sys
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from tenfold._core.errors import MisuseError

MAX_TAGS: Final = 100
_KINDS: Final = (
    "int, str, bool, None, float, bytes, Enum, UUID, Decimal, date, datetime, time, timedelta, "
    "dataclasses, msgspec structs and pydantic models, or tuples, frozensets and sets of them"
)


def encode(value: object, function: str, argument: str) -> str:
    """The canonical text of one argument. Raises `MisuseError` that names function and argument."""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None or kind is bool or kind is float:
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{kind.__module__}.{kind.__qualname__}.{value.name}"
    if isinstance(value, bytes) and kind is bytes:
        return f"b{value.hex()}"
    if kind is uuid.UUID or kind is Decimal:
        return f"{kind.__name__}:{value}"
    if isinstance(value, dt.date | dt.time) and kind in (dt.datetime, dt.date, dt.time):
        return f"{kind.__name__}:{value.isoformat()}"
    if isinstance(value, dt.timedelta) and kind is dt.timedelta:
        return f"timedelta:{value.days}:{value.seconds}:{value.microseconds}"
    if isinstance(value, tuple) and kind is tuple:
        return "(" + ",".join(encode(one, function, argument) for one in value) + ")"
    if isinstance(value, frozenset | set) and kind in (frozenset, set):
        mark = "set" if kind is set else ""
        return mark + "{" + ",".join(sorted(encode(one, function, argument) for one in value)) + "}"
    fields = _fields_of(value)
    if fields is None:
        raise MisuseError(
            f"{function}: argument {argument!r} is of type {kind.__qualname__}, which cannot be part of a key; "
            f"expected {_KINDS}. Pass an id instead, or a tuple instead of a list"
        )
    parts = [f"{name}={encode(one, function, f'{argument}.{name}')}" for name, one in fields]
    return f"{kind.__module__}.{kind.__qualname__}({','.join(parts)})"


def _fields_of(value: object) -> list[tuple[str, object]] | None:
    """The fields of a dataclass, a msgspec struct or a pydantic model, as far as they count when two are compared;
    None for anything else.
    """
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [(one.name, getattr(value, one.name)) for one in dataclasses.fields(kind) if one.compare]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    # Looked up and not imported: whoever passes a model has loaded pydantic, and nobody else needs it.
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        extra = sorted((value.model_extra or {}).items())
        return [(name, getattr(value, name)) for name in kind.model_fields] + extra  # type: ignore[attr-defined]
    return None


class TagTemplates:
    """The ``tags=["product:{product_id}"]`` of a decorator, checked when it is applied."""

    __slots__ = ("_constant", "_templates")

    def __init__(self, templates: Sequence[str], names: list[str], function: str) -> None:
        if isinstance(templates, str):
            raise MisuseError(f'{function}: tags: expected a list such as ["catalog"], got the text {templates!r}')
        for template in templates:
            try:
                fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
            except (ValueError, TypeError) as error:
                raise MisuseError(f"{function}: tags: {template!r} is not a template ({error})") from error
            unknown = [field for field in fields if field not in names]
            if unknown:
                raise MisuseError(
                    f"{function}: tags: {template!r} names {unknown[0]!r}; expected one of the arguments: "
                    f"{', '.join(names) or 'there are none'}"
                )
        self._templates = check_tags(templates, function)
        self._constant = not any("{" in template for template in self._templates)

    def fill(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """The tags of one call."""
        if self._constant:
            return self._templates
        return tuple(template.format_map(arguments) for template in self._templates)

    def __repr__(self) -> str:
        return f"TagTemplates({list(self._templates)})"


def check_tags(tags: Sequence[object], where: str) -> tuple[str, ...]:
    """Tags as a tuple without repeats. Raises `MisuseError` for what is no tag, or too many."""
    unique: list[str] = []
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise MisuseError(f'{where}: tags: expected texts such as "product:7", got {tag!r}')
        if tag not in unique:
            unique.append(tag)
    if len(unique) > MAX_TAGS:
        raise MisuseError(f"{where}: tags: expected at most {MAX_TAGS}, got {len(unique)}")
    return tuple(unique)


def parameters_of(function: Callable[..., Any], name: str, *, own_key: bool = False) -> list[inspect.Parameter]:
    """The parameters that make up the key. Raises `MisuseError` for what the decorator cannot serve."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise MisuseError(
            f"{name}: a generator can be read only once, so its result cannot be kept; return a list or a tuple"
        )
    if not inspect.isfunction(function):
        raise MisuseError(f"{name}: expected a function declared with `def` or `async def`, got {function!r}")
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and not own_key:
        raise MisuseError(
            f"{name}: methods cannot be cached as they are, because `{parameters[0].name}` would become part of the "
            "key; say what tells instances apart, such as `key=lambda self, number: (self.shop_id, number)`"
        )
    for parameter in parameters:
        if parameter.name.startswith("_tf_"):
            raise MisuseError(f"{name}: names that begin with `_tf_` are taken; rename `{parameter.name}`")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise MisuseError(f"{name}: expected named parameters only, got `{parameter}`; name each argument")
    return parameters
