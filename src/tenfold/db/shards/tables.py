"""Which keys a statement can touch: read from its WHERE, its VALUES and its parameters, never guessed.

For a set of tables joined by their keys the analysis is a small abstract interpretation: an expression maps to the set
of keys for which it can be true, or to "any". ``key = v`` is {v}, ``key IN (…)`` its members, AND intersects, OR
unites, and everything else is "any", which is always sound: a larger set costs shards, never rows. NULL equals nothing.

Tables count as joined by key when an AND-term of WHERE or of a join's ON says ``a.key = b.key`` (a union-find over the
FROM list). Rows that match are then on one shard, so the join (outer joins included) can be computed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, Table
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseList,
    ColumnClause,
    ExpressionClauseList,
    Grouping,
)
from sqlalchemy.sql.functions import FunctionElement, ScalarFunctionColumn
from sqlalchemy.sql.selectable import (
    Alias,
    AliasedReturnsRows,
    FromClause,
    FromGrouping,
    Join,
    SelectBase,
    SelectStatementGrouping,
    TableSample,
    Values,
)
from sqlalchemy.types import NullType, TypeDecorator

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.keys import Key, kind_of
from tenfold.db.shards.loaded import is_entity
from tenfold.db.shards.scheme import Scheme, Sharded

_ALIKE: Final[dict[Any, tuple[FromClause, ...]]] = {}
_MOST_ALIKE: Final = 256


@dataclass(frozen=True, slots=True)
class Located:
    """``keys``: those that can matter, None for any. ``sharded``: whether a sharded table is named at all.

    ``apart``: why the tables cannot be joined shard by shard; "" when they can.
    """

    keys: frozenset[Key] | None
    sharded: bool = True
    apart: str = ""


def leaves(froms: Iterable[FromClause], joins: list[Join] | None = None) -> Iterator[FromClause]:
    """The members of a FROM list; its joins are added to ``joins``."""
    for one in froms:
        while isinstance(one, FromGrouping):
            one = one.element
        if isinstance(one, Join):
            if joins is not None:
                joins.append(one)
            yield from leaves([one.left, one.right], joins)
        else:
            yield one


@lru_cache(maxsize=64)
def final_froms(statement: Select[Any]) -> tuple[FromClause, ...]:
    """The FROM list that the statement will have. SQLAlchemy compiles it for that, so the last ones are kept.

    A statement that is built anew for each call is another object each time, but has the cache key of its like, for
    which SQLAlchemy takes one compiled SQL. So a FROM list of plain tables is theirs too. One with joins or aliases is
    not: those are objects with values of their own.
    """
    cache_key = statement._generate_cache_key()
    if cache_key is None:
        return tuple(_joined(statement).get_final_froms())
    known = _ALIKE.get(cache_key.key)
    if known is None:
        known = tuple(_joined(statement).get_final_froms())
        if all(isinstance(one, Table) for one in known):
            if len(_ALIKE) >= _MOST_ALIKE:
                _ALIKE.clear()
            _ALIKE[cache_key.key] = known
    return known


def _joined(statement: Any) -> Any:
    """Without the LIMIT and the like of entities: SQLAlchemy cuts in a subquery, and joins to it what is loaded with
    them. The tables and the terms of ON are those of a statement that is not cut.
    """
    if not any(is_entity(column) for column in statement._raw_columns):
        return statement
    bare = statement.limit(None).offset(None).group_by(None)
    bare._distinct = False
    return bare


def base_table(leaf: Any) -> Table | None:
    """The table behind a FROM element; None for subqueries, functions and the like."""
    while isinstance(leaf, Alias):
        leaf = leaf.element
    return leaf if isinstance(leaf, Table) else None


def _check_derived(leaf: Any) -> None:
    """Raises `CannotAnswer` unless what stands in FROM is a subquery (its selects are looked at by themselves), a
    function, or a list of values. A name alone may be any table.
    """
    inner = leaf
    while isinstance(inner, AliasedReturnsRows | FromGrouping) and not isinstance(inner, TableSample):
        inner = inner.element
    if not isinstance(inner, SelectBase | SelectStatementGrouping | FunctionElement | ScalarFunctionColumn | Values):
        raise CannotAnswer(
            f"a {type(inner).__name__} in FROM says nothing of where its rows are",
            "name the table by its model or Table, or say execution_options(shard_key=…)",
        )


def same(one: Any, other: Any) -> bool:
    """Whether two expressions are one. To SQLAlchemy's ``compare`` two aliases of a table without names are equal."""
    if one is other:
        return True
    if _tables_of(one) != _tables_of(other):
        return False
    try:
        return bool(one.compare(other))
    except (AttributeError, NotImplementedError):
        return False  # entities and text it cannot compare; to call them two is safe


def _tables_of(node: Any) -> list[int | None]:
    columns = (inner for inner in visitors.iterate(node) if isinstance(inner, ColumnClause))
    return [None if column.table is None else hash(column.table) for column in columns]


class Tables:
    """The FROM list of one statement, its sharded members grouped by equality of their keys."""

    def __init__(self, leaves: list[FromClause], joins: list[Join], scheme: Scheme) -> None:
        self.keyed: dict[int, Sharded] = {}
        self.everywhere: set[int] = set()
        for leaf in leaves:
            table = base_table(leaf)
            if table is None:
                _check_derived(leaf)
                continue
            known = scheme.of(table)
            if isinstance(known, Sharded):
                self.keyed[hash(leaf)] = known
            else:
                self.everywhere.add(hash(leaf))
        self.joins = joins
        self.parent = {leaf: leaf for leaf in self.keyed}

    def root(self, leaf: int) -> int:
        while self.parent[leaf] != leaf:
            leaf = self.parent[leaf]
        return leaf

    def key_leaf(self, node: Any) -> int | None:
        """The FROM element of which ``node`` is the shard key."""
        while isinstance(node, Grouping):
            node = node.element
        if not isinstance(node, ColumnClause) or node.table is None:
            return None
        leaf = hash(node.table)
        known = self.keyed.get(leaf)
        return leaf if known is not None and node.name == known.column else None

    def restrict(self, criteria: Sequence[Any], row: Mapping[str, Any] | None) -> Located:
        if not self.keyed:
            return Located(None, sharded=False)
        inner = not any(join.isouter or join.full for join in self.joins)
        terms = list(conjuncts(criteria))
        on = [term for join in self.joins for term in conjuncts([join.onclause])]
        for term in terms:
            self._unite(term)
        self._unite_joined()
        usable = [*terms, *on] if inner else terms
        groups: dict[int, frozenset[Key] | None] = {}
        for leaf in self.keyed:
            groups.setdefault(self.root(leaf), None)
        for root in groups:
            for term in usable:
                groups[root] = _both(groups[root], self._keys(term, root, row))
        found = list(groups.values())
        apart = ""
        if len(found) > 1 and not (
            found[0] is not None and len(found[0]) == 1 and all(one == found[0] for one in found)
        ):
            apart = "the sharded tables are not joined on their shard keys, so matching rows may be on different shards"
        elif self._misplaced():
            apart = "an outer join from a table that stands on every shard would repeat its unmatched rows on each"
        return Located(found[0] if not apart else None, apart=apart)

    def _misplaced(self) -> bool:
        for join in self.joins:
            left = {hash(leaf) for leaf in leaves([join.left])}
            right = {hash(leaf) for leaf in leaves([join.right])}
            if (join.full and self.everywhere) or (
                join.isouter and not left & self.keyed.keys() and right & self.keyed.keys()
            ):
                return True
        return False

    def _unite_joined(self) -> None:
        """The terms of ON: of inner joins, then of outer ones from the innermost. An outer join keeps the rows of its
        left side (FULL: of either) whatever its ON says, so that says nothing of how these were put together.
        """
        outer = [join for join in reversed(self.joins) if join.isouter or join.full]
        inner = [join for join in self.joins if not (join.isouter or join.full)]
        for join in [*inner, *outer]:
            kept: list[set[int]] = []
            if join.isouter or join.full:
                kept.append({hash(leaf) for leaf in leaves([join.left])})
            if join.full:
                kept.append({hash(leaf) for leaf in leaves([join.right])})
            for term in conjuncts([join.onclause]):
                self._unite(term, kept)

    def _unite(self, term: Any, kept: Sequence[set[int]] = ()) -> None:
        if isinstance(term, BinaryExpression) and term.operator is operators.eq:
            left, right = self.key_leaf(term.left), self.key_leaf(term.right)
            if left is not None and right is not None and self.keyed[left].kind == self.keyed[right].kind:
                one, other = self.root(left), self.root(right)
                if not any(self._reaches(one, side) and self._reaches(other, side) for side in kept):
                    self.parent[one] = other

    def _reaches(self, root: int, side: set[int]) -> bool:
        return any(leaf in side and self.root(leaf) == root for leaf in self.keyed)

    def _keys(self, node: Any, root: int, row: Mapping[str, Any] | None) -> frozenset[Key] | None:
        while isinstance(node, Grouping):
            node = node.element
        if isinstance(node, BooleanClauseList | ExpressionClauseList) and node.operator in (
            operators.and_,
            operators.or_,
        ):
            parts = [self._keys(part, root, row) for part in node.clauses]
            if node.operator is operators.and_:
                found: frozenset[Key] | None = None
                for part in parts:
                    found = _both(found, part)
                return found
            known = [part for part in parts if part is not None]
            return frozenset().union(*known) if parts and len(known) == len(parts) else None
        if isinstance(node, BinaryExpression):
            return self._compared(node, root, row)
        return None

    def _compared(self, node: Any, root: int, row: Mapping[str, Any] | None) -> frozenset[Key] | None:
        for one, other in ((node.left, node.right), (node.right, node.left)):
            leaf = self.key_leaf(one)
            if leaf is None or self.root(leaf) != root:
                continue
            kind = self.keyed[leaf].kind
            if node.operator is operators.eq and isinstance(other, BindParameter) and _same(one, other):
                value = value_of(other, row)
                return frozenset() if value is None else _typed([value], kind)
            if node.operator is operators.in_op and one is node.left:
                return _members(other, one, kind, row)
        return None


def _members(node: Any, column: Any, kind: str, row: Mapping[str, Any] | None) -> frozenset[Key] | None:
    while isinstance(node, Grouping):
        node = node.element
    if isinstance(node, BindParameter) and _same(column, node):
        values = value_of(node, row)
        return _typed(values, kind) if isinstance(values, list | tuple | set | frozenset) else None
    if isinstance(node, ClauseList) and all(
        isinstance(one, BindParameter) and _same(column, one) for one in node.clauses
    ):
        return _typed([value_of(one, row) for one in node.clauses if isinstance(one, BindParameter)], kind)
    return None


def _same(column: Any, parameter: BindParameter[Any]) -> bool:
    """Whether the parameter is compared as the column's own type (``= $1::float`` of an int column is not)."""
    if isinstance(parameter.type, TypeDecorator):
        return False  # what is sent is another value than the one that is seen here
    affinity = parameter.type._type_affinity
    return affinity is column.type._type_affinity or affinity is NullType


def _typed(values: Iterable[Any], kind: str) -> frozenset[Key] | None:
    present = [value for value in values if value is not None]
    return frozenset(present) if all(kind_of(value) == kind for value in present) else None


def _both(one: frozenset[Key] | None, other: frozenset[Key] | None) -> frozenset[Key] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def conjuncts(criteria: Iterable[Any]) -> Iterator[Any]:
    """The terms that must all be true."""
    for node in criteria:
        inner = node
        while isinstance(inner, Grouping):
            inner = inner.element
        if isinstance(inner, BooleanClauseList | ExpressionClauseList) and inner.operator is operators.and_:
            yield from conjuncts(inner.clauses)
        elif inner is not None:
            yield inner


def value_of(parameter: BindParameter[Any], row: Mapping[str, Any] | None) -> Any:
    """What a parameter is bound to. Raises `MisuseError` when nobody gave it."""
    if row is not None and parameter.key in row:
        return row[parameter.key]
    if parameter.required:
        raise MisuseError(f"parameter {parameter.key}: expected a value, got none")
    return parameter.effective_value
