"""HAVING over merged groups: comparisons of aggregates and group columns with values, in SQL's three-valued logic."""

from __future__ import annotations

import datetime as dt
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from sqlalchemy import CHAR, Numeric, String
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ExpressionClauseList,
    False_,
    Grouping,
    Null,
    True_,
    UnaryExpression,
)
from sqlalchemy.types import TypeDecorator

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.order import comparable, is_c_text
from tenfold.db.shards.tables import value_of

Row = Sequence[Any]
Test = Callable[[Row], bool | None]
Resolve = Callable[[Any], int]

_COMPARE: Final[dict[Any, Callable[[Any, Any], bool]]] = {
    operators.eq: operator.eq,
    operators.ne: operator.ne,
    operators.lt: operator.lt,
    operators.le: operator.le,
    operators.gt: operator.gt,
    operators.ge: operator.ge,
}
_INSTEAD: Final = "compare an aggregate or a group column with a value, or filter the rows yourself"


def build(node: Any, resolve: Resolve, parameters: Mapping[str, Any] | None) -> Test:
    """A test of a merged row: True, False or None (unknown, which does not pass).

    ``resolve`` gives the position of an aggregate or group expression in the row. Raises `CannotAnswer`.
    """
    while isinstance(node, Grouping):
        node = node.element
    if isinstance(node, True_ | False_):
        constant = isinstance(node, True_)
        return lambda row: constant
    if isinstance(node, BooleanClauseList | ExpressionClauseList) and node.operator in (operators.and_, operators.or_):
        tests = [build(part, resolve, parameters) for part in node.clauses]
        decisive = node.operator is operators.or_
        return lambda row: _together([test(row) for test in tests], decisive)
    if isinstance(node, UnaryExpression) and node.operator is operators.inv:
        inner = build(node.element, resolve, parameters)
        return lambda row: None if (found := inner(row)) is None else not found
    if isinstance(node, BinaryExpression):
        return _binary(node, resolve, parameters)
    raise CannotAnswer(f"{type(node).__name__} in HAVING does not decompose", _INSTEAD)


def _together(found: list[bool | None], decisive: bool) -> bool | None:
    if decisive in found:
        return decisive
    return None if None in found else not decisive


def _binary(node: Any, resolve: Resolve, parameters: Mapping[str, Any] | None) -> Test:
    left = _operand(node.left, resolve, parameters)
    if node.operator in (operators.is_, operators.is_not) and isinstance(node.right, Null):
        wanted = node.operator is operators.is_
        return lambda row: (left(row) is None) is wanted
    compare = _COMPARE.get(node.operator)
    if compare is None:
        raise CannotAnswer(f"the operator {getattr(node.operator, '__name__', node.operator)} in HAVING is not merged",
                           _INSTEAD)  # fmt: skip
    equality = node.operator in (operators.eq, operators.ne)
    if not equality and isinstance(node.left.type, String) and not (is_c_text(node.left) or is_c_text(node.right)):
        raise CannotAnswer("text in HAVING is compared in the database's collation", 'use collate("C")')
    if isinstance(node.left.type, CHAR) or isinstance(node.right.type, CHAR):
        raise CannotAnswer("HAVING compares CHAR, in which blanks at the end do not count", "cast it to text")
    right = _operand(node.right, resolve, parameters)

    def test(row: Row) -> bool | None:
        a, b = left(row), right(row)
        if a is None or b is None:
            return None
        if _family(a) != _family(b):
            raise CannotAnswer(
                f"HAVING compares {type(a).__name__} with {type(b).__name__}, which only the database can", _INSTEAD
            )
        if isinstance(a, float) and isinstance(b, int | Decimal):
            b = float(b)
        elif isinstance(b, float) and isinstance(a, int | Decimal):
            a = float(a)
        elif isinstance(a, Decimal) != isinstance(b, Decimal):
            a, b = Decimal(a), Decimal(b)
        return compare(comparable(a), comparable(b))

    return test


def _family(value: Any) -> Any:
    """Values of one family compare here as they do in the database."""
    if isinstance(value, dt.datetime):
        return dt.datetime, value.tzinfo is None
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return Decimal if number else type(value)


def _is_rounded(value: Any, type_: Any) -> bool:
    """Whether a parameter reaches the database as another number, ``$1::NUMERIC(10, 2)``."""
    if not isinstance(type_, Numeric) or type_.precision is None or not isinstance(value, int | float | Decimal):
        return False
    return math.isfinite(value) and (Fraction(value) * 10 ** (type_.scale or 0)).denominator != 1


def _operand(node: Any, resolve: Resolve, parameters: Mapping[str, Any] | None) -> Callable[[Row], Any]:
    while isinstance(node, Grouping):
        node = node.element
    if isinstance(node, BindParameter):
        if isinstance(node.type, TypeDecorator):
            raise CannotAnswer(f"HAVING compares with what {type(node.type).__name__} makes of a value", _INSTEAD)
        value = value_of(node, parameters)
        if _is_rounded(value, node.type):
            raise CannotAnswer(f"HAVING compares with {value}, which the database rounds to {node.type}", _INSTEAD)
        return lambda row: value
    if isinstance(node, True_ | False_):
        constant = isinstance(node, True_)
        return lambda row: constant
    position = resolve(node)
    return lambda row: row[position]
