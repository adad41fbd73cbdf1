"""PostgreSQL's order in Python: which types can be compared here, and a key under which rows sort as there.

Numbers, dates, booleans, bytes and UUIDs compare alike on both sides once two things are said: NaN is equal to itself
and greater than every number, and NULL stands last in ascending and first in descending order unless told otherwise.
Text does not compare alike: the order of "é", "E" and "e" is the database's collation, and nobody outside can know it.
So text is merged only where the statement asks for ``COLLATE "C"``, which is the order of code points, Python's.

There are two ways to sort by it. `sort_key` makes a key of one row, for a merge of streams. `ranked` sorts rows that
are all there, a column at a time: where a column has neither NULL nor NaN its values are the keys as they are, a number
that descends is negated, and Python's sort, which finds the sorted runs that came from the shards and merges them
(Peters' timsort, after McIlroy, "Optimistic Sorting and Information Theoretic Complexity", SODA 1993), compares them
without calling Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import eq, itemgetter, neg
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, CollationClause, Grouping, Label
from sqlalchemy.types import NullType, TypeDecorator

from tenfold.db.shards.scheme import C_COLLATIONS, of_postgres

Row = Sequence[Any]
_NAN: Final = (1, 0)
_NEGATED: Final[dict[type, Callable[[Any], Any]]] = {
    int: neg,
    bool: neg,
    float: neg,
    Decimal: Decimal.copy_negate,  # a minus would round to the context's precision
}

_TURNED: Final = {*_NEGATED, type(None)}


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One term of ORDER BY: the ``position`` of its value in the row."""

    position: int
    descending: bool = False
    nulls_first: bool = False


class Reversed:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and bool(other.value == self.value)

    __hash__ = None  # type: ignore[assignment]


def comparable(value: Any) -> Any:
    """``value`` such that NaN equals NaN and is greater than every number."""
    if type(value) is float or type(value) is Decimal:
        return (0, value) if value == value else _NAN
    return value


def identity(values: Row) -> tuple[Any, ...]:
    """A hashable key: equal where PostgreSQL's IS NOT DISTINCT FROM says so."""
    return tuple(map(comparable, values))


def sort_key(order: Sequence[OrderKey]) -> Callable[[Row], Any]:
    """A function from row to sort key."""
    terms = [(term.position, term.descending, 0 if term.nulls_first else 2) for term in order]

    def key(row: Row) -> tuple[Any, ...]:
        made: list[Any] = []
        for position, descending, null in terms:
            value = row[position]
            if value is None:
                made.append((null,))
            else:
                value = comparable(value)
                made.append((1, Reversed(value) if descending else value))
        return tuple(made)

    return key


def ranked(order: Sequence[OrderKey], rows: Sequence[Row]) -> list[int]:
    """The places of ``rows`` in the order of `sort_key`; equal rows stay as they are."""
    columns = [list(map(itemgetter(term.position), rows)) for term in order]
    kinds = [set(map(type, column)) for column in columns]
    # The first term that cannot be negated gives the direction of the whole sort.
    rigid = (term for term, found in zip(order, kinds, strict=True) if not found <= _TURNED)
    reverse = next(rigid, order[0]).descending
    keys = [
        _keys(column, found, term.descending is not reverse, 0 if term.nulls_first is not reverse else 2)
        for term, column, found in zip(order, columns, kinds, strict=True)
    ]
    key = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))
    return sorted(range(len(rows)), key=key.__getitem__, reverse=reverse)


def _keys(values: list[Any], kinds: set[type], against: bool, null: int) -> list[Any]:
    """One term's. ``against``: its direction is not that of the sort."""
    turn: Callable[[Any], Any] | None
    nulls = type(None) in kinds
    kinds = kinds - {type(None)}
    if kinds.isdisjoint((float, Decimal)) or all(map(eq, values, values)):  # no NaN
        turn = (_NEGATED.get(next(iter(kinds))) if len(kinds) == 1 else None) or Reversed if against else None
    else:
        turn = (lambda value: Reversed(_with_nan(value))) if against else _with_nan
    if nulls:
        return [(null,) if value is None else (1, value if turn is None else turn(value)) for value in values]
    return values if turn is None else list(map(turn, values))


def _with_nan(value: Any) -> tuple[int, Any]:
    """Of a column that has a NaN."""
    return (0, value) if value == value else _NAN


def why_not_ordered(expression: Any) -> str:
    """Why values of that expression cannot be compared here; "" when they can."""
    while isinstance(expression, Grouping | Label):
        expression = expression.element
    type_: Any = of_postgres(expression.type)
    if isinstance(type_, TypeDecorator):
        return f"{type(type_).__name__} turns values into others, whose order is not the database's"
    if isinstance(type_, Enum) and type_.native_enum:
        return "an enum sorts as it was declared in the database: order by case({value: number, …}, value=column)"
    if isinstance(type_, Enum):
        return 'an enum stored as text is in the database\'s collation: order by cast(column, Text).collate("C")'
    if isinstance(type_, String):
        return "" if is_c_text(expression) else (
            'text in the database\'s collation cannot be merged outside it: order by column.collate("C")'
        )  # fmt: skip
    if isinstance(type_, Float):
        return "Float(asdecimal=True) rounds" if type_.asdecimal else ""
    if isinstance(type_, Numeric):
        return "" if type_.asdecimal else "Numeric(asdecimal=False) rounds"
    if isinstance(type_, Time):
        return "times with a zone compare differently outside the database" if type_.timezone else ""
    if isinstance(type_, Integer | Boolean | Date | DateTime | LargeBinary) or (
        isinstance(type_, Uuid) and type_.as_uuid
    ):
        return ""
    named = "; name the type with type_coerce or cast" if isinstance(type_, NullType) else ""
    return f"values of type {type_!r} cannot be compared outside the database{named}"


def why_not_equal(expression: Any) -> str:
    """Why values of that expression cannot be told apart here; "" when they can."""
    type_ = of_postgres(expression.type)
    if isinstance(type_, CITEXT):
        return "citext cannot be compared outside the database"
    if isinstance(type_, String) and getattr(type_, "collation", None) in (None, *C_COLLATIONS):
        return ""
    if isinstance(type_, ARRAY):
        return "arrays cannot be compared outside the database"
    return why_not_ordered(expression)


def is_c_text(expression: Any) -> bool:
    """Whether a text expression is compared byte by byte."""
    if isinstance(expression, BinaryExpression) and expression.operator is operators.collate:
        right = expression.right
        return isinstance(right, CollationClause) and right.collation.strip('"') in C_COLLATIONS
    return getattr(of_postgres(expression.type), "collation", None) in C_COLLATIONS
