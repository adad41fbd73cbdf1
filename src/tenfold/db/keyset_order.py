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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, and_, false, literal, or_, tuple_
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from tenfold._core.errors import MisuseError


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the sort key. ``nullable``: whether a NULL may be met there."""

    expression: ColumnElement[Any]
    descending: bool
    nulls_first: bool
    nullable: bool

    def reversed(self) -> Part:
        """The same, read from the end."""
        return replace(self, descending=not self.descending, nulls_first=not self.nulls_first)

    def ordering(self) -> ColumnElement[Any]:
        """As ORDER BY has it. NULLS is left out where it is the default, so that a plain index fits."""
        ordered = self.expression.desc() if self.descending else self.expression.asc()
        if not self.nullable or self.nulls_first is self.descending:
            return ordered
        return ordered.nulls_first() if self.nulls_first else ordered.nulls_last()

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
        left, right = parts[0].expression, _literal(parts[0], values[0])
    else:
        left = tuple_(*[part.expression for part in parts[:run]])
        right = tuple_(*[_literal(part, value) for part, value in zip(parts[:run], values[:run], strict=True)])
    strictly: ColumnElement[bool] = left < right if parts[0].descending else left > right
    if rest is None:
        return strictly
    equal = and_(*[_equal(part, value) for part, value in zip(parts[:run], values[:run], strict=True)])
    bound = left <= right if parts[0].descending else left >= right
    return and_(bound, or_(strictly, and_(equal, rest)))


def _strictly(part: Part, value: Any) -> ColumnElement[bool]:
    if value is None:
        return part.expression.is_not(None) if part.nulls_first else false()
    given = _literal(part, value)
    beyond: ColumnElement[bool] = part.expression < given if part.descending else part.expression > given
    return or_(beyond, part.expression.is_(None)) if part.nullable and not part.nulls_first else beyond


def _equal(part: Part, value: Any) -> ColumnElement[bool]:
    return part.expression.is_(None) if value is None else part.expression == _literal(part, value)


def _literal(part: Part, value: Any) -> ColumnElement[Any]:
    return literal(value, part.expression.type)


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
    return Part(
        expression,
        descending,
        descending if nulls_first is None else nulls_first,
        bool(getattr(expression, "nullable", True)),
    )
