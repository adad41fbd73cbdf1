"""Plain data as YAML and as Bicep: just enough of either, so that no parser comes along with an emitter.

YAML 1.2 takes every JSON value, so whatever might be read as something else (``no``, ``1.0``, ``a: b``) is written as
JSON; only mappings and lists are laid out in blocks, for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*", re.ASCII)
# What some YAML reader takes for a truth, for nothing, or for a number that is none.
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
Data = Mapping[str, Any]


def yaml_of(documents: Iterable[Data], notes: Iterable[str] = ()) -> str:
    """YAML documents, below ``notes`` as a comment."""
    head = _comment(notes, "#")
    return head + "---\n".join("\n".join(_lines(document, "")) + "\n" for document in documents)


def bicep_of(resource: str, kind: str, data: Data, notes: Iterable[str] = ()) -> str:
    """One Bicep resource of that symbolic name and type, below ``notes`` as a comment."""
    return f"{_comment(notes, '//')}resource {resource} '{kind}' = {_bicep(data, '')}\n"


def _comment(notes: Iterable[str], mark: str) -> str:
    printable = ("".join(c if c.isprintable() or c == "\n" else " " for c in note) for note in notes)
    lines = [f"{mark} {line}".rstrip() for note in printable for line in note.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entry(f"{indent}{_scalar(key)}:", inner, indent + "  ")
    else:
        for inner in value:
            first, *rest = _lines(inner, indent + "  ") if _nested(inner) else (indent + "  " + _scalar(inner),)
            yield f"{indent}- {first.lstrip(' ')}"
            yield from rest


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if _nested(value):
        yield head
        yield from _lines(value, indent)
    else:
        yield f"{head} {_scalar(value)}"


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    return json.dumps(value)


def _escaped(character: str) -> str:
    # JSON has two escapes for a character beyond the first 65,536, and YAML has one
    return json.dumps(character)[1:-1] if character <= "\uffff" else f"\\U{ord(character):08x}"


def _bicep(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, Mapping):
        inner = [f"{deeper}{_bicep_key(key)}: {_bicep(item, deeper)}\n" for key, item in value.items()]
        return "{\n" + "".join(inner) + indent + "}" if inner else "{}"
    if isinstance(value, list | tuple):
        inner = [f"{deeper}{_bicep(item, deeper)}\n" for item in value]
        return "[\n" + "".join(inner) + indent + "]" if inner else "[]"
    if isinstance(value, str):
        return _bicep_text(value)
    if isinstance(value, float) and not value.is_integer():
        return f"json('{value}')"  # Bicep has no fractions of its own
    return json.dumps(int(value) if isinstance(value, float) else value)


def _bicep_key(key: str) -> str:
    return key if _KEY.fullmatch(key) else _bicep_text(key)


def _bicep_text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "'"
