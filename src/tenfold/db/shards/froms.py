"""The tables of a statement: what stands in its FROM list when SQLAlchemy has compiled it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, Table
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause
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

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.loaded import is_entity

_ALIKE: Final[dict[Any, tuple[FromClause, ...]]] = {}
_MOST_ALIKE: Final = 256


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


def correlated(statement: Select[Any]) -> Iterator[FromClause]:
    """The members of the FROM list of a select inside another that are rows of that other (`Select.correlate`).

    SQLAlchemy takes none by itself where nothing else is left: such a select reads the whole table.
    """
    froms = final_froms(statement)
    if statement._auto_correlate:
        yield from froms if len(froms) > 1 else ()
        return
    excepted = statement._correlate_except
    named = {hash(leaf) for leaf in leaves(statement._correlate if excepted is None else excepted)}
    for one in froms:
        members = {hash(leaf) for leaf in leaves([one])}
        if members <= named if excepted is None else members.isdisjoint(named):
            yield one


def base_table(leaf: Any) -> Table | None:
    """The table behind a FROM element; None for subqueries, functions and the like."""
    while isinstance(leaf, Alias):
        leaf = leaf.element
    return leaf if isinstance(leaf, Table) else None


def check_derived(leaf: Any) -> None:
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
