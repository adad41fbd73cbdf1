"""The order of a keyset: what "after this row" means in SQL, with mixed directions and NULLs.

The theory (Winand, "We need tool support for keyset pagination", use-the-index-luke.com/no-offset). A page is the
first n rows *strictly after* the last row seen. "After" is the lexicographic order of the sort key k = (k1 … km), each
part ascending or descending with its NULLs at one end, and it is only a total order if k is unique; hence the primary
key goes last. Over parts of one direction without NULLs, SQL:1999's row comparison ``(k1, …) > (v1, …)`` says it, and a
B-tree answers it by one descent. Directions that differ and NULLs have to be written out::

    k1 after v1  OR  k1 = v1 AND (k2 after v2 OR …)

PostgreSQL uses an index for an OR badly, so the coarse bound ``k1 >= v1``, which follows from it, stands before it and
gives the index its starting point. Parts next to each other that can be compared as a row, are.

"k after v" of one part: ``k > v`` (descending: ``k < v``); NULLs that come after v in the order are added by
``OR k IS NULL``; with v NULL itself: ``k IS NOT NULL`` if NULLs come first, else nothing. NULLs that come *before* v
need no word: a comparison with NULL is not true, so such a part can stand in a row comparison as well.

Backward is the same in the reversed order, and the rows turned round.

What a row is compared with has to be the value itself. SQLAlchemy's types may change it on the way out and back in: a
``Numeric(asdecimal=False)`` rounds to a float, a ``Float(asdecimal=True)`` to ten digits, and ``price * 1.19`` is typed
as ``price`` is and would be cast to its two digits. So a part has a ``kind``, a type that keeps all of the value, in
which it is read and given back; of a type of your own (``TypeDecorator``) it is the one beneath, which is what the
server compares. Dates and intervals no Python value holds: to the driver 9999-12-31 is infinity, and a year is 365
days, which the server takes for 360. They are told as text (`Part.told`), by way of JSON, where no setting changes how
(but for an interval ``IntervalStyle``, which is to be the same for all connections).
And only a table's own column is believed to be never NULL: that of a subquery may be, whatever it says, by a UNION or
an outer join inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    Numeric,
    Table,
    Text,
    and_,
    cast,
    false,
    func,
    literal,
    literal_column,
    or_,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Label, UnaryExpression
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from tenfold._core.errors import MisuseError
from tenfold.db.dialect import DIALECT

_TOLD_AS_TEXT: Final = (Date, DateTime, INTERVAL)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the sort key. ``nullable``: whether a NULL may be met there; ``kind``: see the module."""

    expression: ColumnElement[Any]
    descending: bool
    nulls_first: bool
    nullable: bool
    kind: TypeEngine[Any]

    def reversed(self) -> Part:
        """The same, read from the end."""
        return replace(self, descending=not self.descending, nulls_first=not self.nulls_first)

    def ordering(self) -> ColumnElement[Any]:
        """As ORDER BY has it. NULLS is left out where it is the default, so that a plain index fits."""
        ordered = self.expression.desc() if self.descending else self.expression.asc()
        if not self.nullable or self.nulls_first is self.descending:
            return ordered
        return ordered.nulls_first() if self.nulls_first else ordered.nulls_last()

    @property
    def whole(self) -> ColumnElement[Any]:
        """The expression, as it is compared."""
        return self.expression if self.kind is self.expression.type else type_coerce(self.expression, self.kind)

    @property
    def told(self) -> ColumnElement[Any]:
        """The expression, as it is read for a cursor."""
        if not isinstance(self.kind, _TOLD_AS_TEXT):
            return self.whole
        return func.to_json(self.expression).op("#>>", return_type=Text())(literal_column("'{}'"))

    def literal(self, value: Any) -> ColumnElement[Any]:
        """A value of `told`, as it is compared."""
        if not isinstance(self.kind, _TOLD_AS_TEXT):
            return literal(value, self.kind)
        return cast(literal(value, Text()), self.kind)

    def is_column(self, other: Part) -> bool:
        """Whether both are the same column of the same table (another alias of it is another table)."""
        one, two = self.expression, other.expression
        return one.shares_lineage(two) and hash(one) == hash(two)  # ORM's annotated columns hash as the plain ones

    def in_a_row(self, value: Any) -> bool:
        """Whether a row comparison says the right thing of this part and ``value``."""
        return value is not None and (not self.nullable or self.nulls_first)


def after(parts: Sequence[Part], values: Sequence[Any]) -> ColumnElement[bool]:
    """The condition that a row comes strictly after ``values`` in the order of ``parts``."""
    if not parts:
        return false()
    run = 0
    while run < len(parts) and parts[run].in_a_row(values[run]) and parts[run].descending is parts[0].descending:
        run += 1
    rest = after(parts[max(run, 1) :], values[max(run, 1) :]) if len(parts) > max(run, 1) else None
    if run == 0:
        beyond = _strictly(parts[0], values[0])
        return beyond if rest is None else or_(beyond, and_(_equal(parts[0], values[0]), rest))
    left: Any
    right: Any
    if run == 1:
        left, right = parts[0].whole, parts[0].literal(values[0])
    else:
        left = tuple_(*[part.whole for part in parts[:run]])
        right = tuple_(*[part.literal(value) for part, value in zip(parts[:run], values[:run], strict=True)])
    strictly: ColumnElement[bool] = left < right if parts[0].descending else left > right
    if rest is None:
        return strictly
    equal = and_(*[_equal(part, value) for part, value in zip(parts[:run], values[:run], strict=True)])
    bound = left <= right if parts[0].descending else left >= right
    return and_(bound, or_(strictly, and_(equal, rest)))


def _strictly(part: Part, value: Any) -> ColumnElement[bool]:
    if value is None:
        return part.whole.is_not(None) if part.nulls_first else false()
    given = part.literal(value)
    beyond: ColumnElement[bool] = part.whole < given if part.descending else part.whole > given
    return or_(beyond, part.whole.is_(None)) if part.nullable and not part.nulls_first else beyond


def _equal(part: Part, value: Any) -> ColumnElement[bool]:
    return part.whole.is_(None) if value is None else part.whole == part.literal(value)


def part_of(given: Any) -> Part:
    """The part that a column with ``.desc()``, ``.nulls_last()`` and the like stands for. Raises `MisuseError`."""
    expression = given.__clause_element__() if hasattr(given, "__clause_element__") else given
    descending, nulls_first = False, None
    while isinstance(expression, UnaryExpression) and expression.modifier is not None:
        modifier = expression.modifier
        if modifier is operators.desc_op:
            descending = True
        elif modifier in (operators.nulls_first_op, operators.nulls_last_op):
            nulls_first = modifier is operators.nulls_first_op
        elif modifier is not operators.asc_op:
            break
        expression = expression.element
    if not isinstance(expression, ColumnElement):
        raise MisuseError(f"order: expected columns or expressions such as Product.price.desc(), got {given!r}")
    if isinstance(expression, Label):
        expression = expression.element
    own, kind = _is_a_table_s(expression), _beneath(expression.type)
    if isinstance(kind, JSON):
        raise MisuseError(
            f"order: expected columns whose values have an order, got JSON in {given}; take a value out of it, such as "
            'Product.data["rank"].as_integer()'
        )
    return Part(
        expression,
        descending,
        descending if nulls_first is None else nulls_first,
        bool(getattr(expression, "nullable", True)) if own else True,
        _kind(kind, own),
    )


def _is_a_table_s(expression: ColumnElement[Any]) -> bool:
    table: Any = expression.table if isinstance(expression, Column) else None
    return isinstance(table.element if isinstance(table, Alias) else table, Table)


def _beneath(kind: Any) -> Any:
    """The type that the server knows."""
    while isinstance(kind, TypeDecorator):
        kind = kind.type_engine(DIALECT)
    return kind


def _kind(kind: Any, own: bool) -> TypeEngine[Any]:
    """A type that keeps the whole value. Numbers that are computed (not a table's ``own``) are left to the driver and
    the server: what SQLAlchemy makes of ``price * 1.19`` need not be what the server does.
    """
    if isinstance(kind, Float | Numeric | Integer) and not own:
        return NullType()
    if isinstance(kind, Float):
        return Double() if kind.asdecimal else kind
    kept: TypeEngine[Any] = Numeric() if isinstance(kind, Numeric) and not kind.asdecimal else kind
    return kept
