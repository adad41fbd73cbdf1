"""SQL as text within a statement: whether it can change which rows the rest of the statement sees.

A piece of text is not taken apart. It is let through where its tokens show that it stays what it stands for: it reads
no table, it is closed in itself, and it holds no OR outside of parentheses, which would take the shard key's condition
beside it apart (``key = 1 AND a OR b`` is ``(key = 1 AND a) OR b``).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import ClauseElement, ColumnClause, TextClause
from sqlalchemy.sql.selectable import ScalarValues, Values

from tenfold.db.classify.tokens import UnreadableTextError, tokens
from tenfold.db.shards.errors import CannotAnswer

_READS: Final = frozenset({"select", "table", "values", "insert", "update", "delete", "merge"})
_APART: Final = frozenset({"or", "from", "join", "where", "union", "intersect", "except", ";", ","})


def inner_statements(statement: Any) -> list[Select[Any] | UpdateBase]:
    """The selects and writes inside ``statement``. Raises `CannotAnswer` for text that may read tables or weaken what
    stands beside it.
    """
    found: list[Select[Any] | UpdateBase] = []
    for node in _parts(statement):
        if isinstance(node, ColumnClause):
            if node.is_literal:
                _check(node.name)
        elif isinstance(node, TextClause):
            _check(node.text)
        elif isinstance(node, Select | UpdateBase):
            _check_around(node)
            if node is not statement:
                if node._params:
                    raise CannotAnswer("params() of a part of the statement are not looked at", "call it on the whole")
                found.append(node)
    return found


def _parts(statement: Any) -> Iterator[Any]:
    """The elements of ``statement``, with those of VALUES in FROM, which SQLAlchemy does not count among them."""
    for node in visitors.iterate(statement):
        yield node
        if isinstance(node, Values | ScalarValues):
            for value in chain.from_iterable(chain.from_iterable(node._data)):
                if isinstance(value, ClauseElement):
                    yield from _parts(value)


def _check_around(node: Any) -> None:
    """The text that SQLAlchemy does not count among a statement's elements."""
    for clause, _ in (*getattr(node, "_prefixes", ()), *getattr(node, "_suffixes", ())):
        _check(str(clause))
    for hint in (*dict(getattr(node, "_statement_hints", ())).values(), *getattr(node, "_hints", {}).values()):
        _check(hint)


def _check(text: str) -> None:
    reason = _why_not(text)
    if reason:
        raise CannotAnswer(
            f"the text {text!r} {reason}",
            "write it with SQLAlchemy's expressions, or say execution_options(shard_key=…)",
        )


def _why_not(text: str) -> str:
    depth = 0
    try:
        for token in tokens(text):
            if token.text in ("(", "["):
                depth += 1
            elif token.text in (")", "]"):
                depth -= 1
            elif token.sort == "word" and token.text in _READS:
                return f"may read rows of other shards ({token.text.upper()})"
            elif depth == 0 and token.sort in ("word", "mark") and token.text in _APART:
                return f"takes the statement apart ({token.text.upper()} outside of parentheses)"
            if depth < 0:
                break
    except UnreadableTextError as error:
        return f"cannot be read ({error})"
    if depth:
        return "has parentheses that are not closed in it"
    return "holds a comment to the end of the line" if "--" in text else ""
