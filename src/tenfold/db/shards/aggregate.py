"""Aggregates put together from the parts of several shards, exactly as one database would have computed them.

Decomposable (Gray et al. 1997, "Data Cube": *distributive* and *algebraic* aggregates): count and sum add up, min and
max and bool_and and bool_or repeat, avg is sum over count. A part that is NULL (no rows there) counts for nothing; all
parts NULL give NULL, except count.

avg of integers and numerics is PostgreSQL's numeric division, whose number of digits depends on the operands
(``select_div_scale`` in numeric.c: at least 16 significant digits, and no fewer decimals than either operand); the same
rule stands here, so the answer is the same to the last digit. Sums of floats depend on the order of addition, on one
database as on several.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

from sqlalchemy import Enum, Float, Integer, Numeric, String, cast, func
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import FunctionFilter, Grouping, UnaryExpression
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.sqltypes import DOUBLE_PRECISION, REAL
from sqlalchemy.types import NullType, TypeDecorator

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.order import comparable, why_not_ordered
from tenfold.db.shards.scheme import of_postgres

_EXACT: Final = Context(prec=200_000, traps=[])
_MIN_SIGNIFICANT: Final = 16
_MOST_DECIMALS: Final = 1000


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How one aggregate is merged. ``positions``: of its parts in a pushed row."""

    kind: str
    positions: tuple[int, ...]


def parts(node: Any, where: str) -> tuple[str, list[Any]]:
    """The kind of an aggregate and the expressions that each shard computes for it."""
    criterion = None
    function = node
    if isinstance(node, FunctionFilter):
        function, criterion = node.func, node.criterion
    name = str(function.name).lower()
    arguments = list(function.clauses)
    for argument in arguments:
        while isinstance(argument, Grouping):
            argument = argument.element
        if isinstance(argument, UnaryExpression) and argument.operator is operators.distinct_op:
            raise CannotAnswer(
                f"{name}(DISTINCT …) in {where} does not decompose: one value may be on several shards",
                "group by the shard key, or select the distinct values and count them",
            )

    def with_filter(made: Any) -> Any:
        return made if criterion is None else made.filter(criterion)

    if isinstance(node.type, TypeDecorator):
        raise CannotAnswer(f"{name} in {where} is converted by {type(node.type).__name__}", "leave type_ out")
    if name == "count":
        return "sum0", [node]
    argument = arguments[0]
    type_: Any = of_postgres(argument.type)
    if name in ("bool_and", "every", "bool_or"):
        return ("or" if name == "bool_or" else "and"), [node]
    if name in ("min", "max"):
        if why := why_not_ordered(argument):
            text = isinstance(type_, String) and not isinstance(type_, Enum)
            instead = f'use func.{name}(column.collate("C"))' if text else "group by the shard key, or fetch the values"
            raise CannotAnswer(f"{name} in {where}: {why}", instead)
        return name, [node]
    if isinstance(type_, TypeDecorator) or not isinstance(type_, Integer | Numeric | Float):
        raise CannotAnswer(f"{name} in {where} of type {type_!r} cannot be added up here", "cast it to a number")
    if isinstance(type_, REAL) and name == "sum":
        raise CannotAnswer(f"sum of REAL in {where} rounds on each shard", "cast it to double precision")
    if isinstance(type_, Numeric) and not isinstance(type_, Float) and not type_.asdecimal:
        raise CannotAnswer(f"{name} in {where} of Numeric(asdecimal=False) rounds on each shard", "use asdecimal=True")
    if name == "sum":
        if not isinstance(type_, Float) and not getattr(node.type, "asdecimal", True):
            raise CannotAnswer(f"sum in {where} as {node.type!r} rounds on each shard", "leave type_ out")
        return "sum", [node]
    if not isinstance(node.type, NullType):
        raise CannotAnswer(f"avg in {where} with a type of its own is converted by SQLAlchemy", "leave type_ out")
    floats = isinstance(type_, Float)
    if not floats and any(_may_be_float(inner) for inner in visitors.iterate(argument)):
        raise CannotAnswer(f"avg in {where} may be of floats or not", "cast what it averages to one type")
    addend = cast(argument, DOUBLE_PRECISION) if floats else cast(argument, Numeric)
    counted = with_filter(func.count(argument))
    added = with_filter(func.sum(addend, type_=DOUBLE_PRECISION() if floats else Numeric()))
    return "avg", [added, counted]


def _may_be_float(node: Any) -> bool:
    return isinstance(getattr(node, "type", None), Float) or (
        isinstance(node, FunctionElement) and isinstance(node.type, NullType)
    )


def merge(kind: str, one: Sequence[Any], other: Sequence[Any]) -> tuple[Any, ...]:
    """Two shards' parts of one aggregate as one."""
    if kind == "avg":
        return (_add(one[0], other[0]), one[1] + other[1])
    a, b = one[0], other[0]
    if a is None or b is None:
        return (b if a is None else a,)
    if kind in ("sum", "sum0"):
        return (_add(a, b),)
    if kind == "and":
        return (a and b,)
    if kind == "or":
        return (a or b,)
    smaller = comparable(a) <= comparable(b)
    return (a if smaller == (kind == "min") else b,)


def final(kind: str, values: Sequence[Any]) -> Any:
    """The aggregate's value from its merged parts."""
    if kind != "avg":
        return values[0]
    total, count = values
    if not count or total is None:
        return None
    return total / count if isinstance(total, float) else divide(total, count)


def merged(aggregates: Iterable[Aggregate], one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """Two pushed rows of one group as one."""
    made = list(one)
    for aggregate in aggregates:
        places = aggregate.positions
        values = merge(aggregate.kind, [one[p] for p in places], [other[p] for p in places])
        for place, value in zip(places, values, strict=True):
            made[place] = value
    return made


def _add(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, Decimal) or isinstance(b, Decimal):
        return _EXACT.add(Decimal(a), Decimal(b))
    return a + b


def divide(total: Decimal, count: int) -> Decimal:
    """``total / count`` with the digits that PostgreSQL's numeric division gives."""
    if not total.is_finite():
        return total
    decimals = max(0, -int(total.as_tuple().exponent))
    weight_a, first_a = _leading(total)
    weight_b, first_b = _leading(Decimal(count))
    weight = weight_a - weight_b - (1 if first_a <= first_b else 0)
    scale = min(max(_MIN_SIGNIFICANT - weight * 4, decimals, 0), _MOST_DECIMALS)
    # Rounded half away from zero in integers: no context's precision can get in the way.
    numerator, denominator = abs(total).scaleb(scale, _EXACT).as_integer_ratio()
    denominator *= count
    quotient = (2 * numerator + denominator) // (2 * denominator)
    sign = -1 if total < 0 else 1
    return Decimal(sign * quotient).scaleb(-scale, _EXACT)


def _leading(value: Decimal) -> tuple[int, int]:
    """Weight and value of the first digit in base 10,000, as PostgreSQL stores numerics; (0, 0) for zero."""
    if value == 0:
        return 0, 0
    weight = value.adjusted() // 4
    first = int(abs(value).scaleb(-4 * weight, _EXACT).to_integral_value("ROUND_FLOOR", _EXACT))
    return weight, first
