"""Which keys a statement can touch: of INSERT, UPDATE, DELETE and SELECT, with the selects inside. See `tables`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Delete, Insert, Select, Update
from sqlalchemy.sql.elements import (
    BindParameter,
    ClauseElement,
    ColumnClause,
)
from sqlalchemy.sql.selectable import FromClause, Join, SelectBase
from sqlalchemy.types import TypeDecorator

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.froms import base_table, correlated, final_froms, leaves
from tenfold.db.shards.keys import Key, check
from tenfold.db.shards.loaded import added
from tenfold.db.shards.opaque import inner_statements
from tenfold.db.shards.scheme import Everywhere, Scheme, Sharded
from tenfold.db.shards.tables import Located, Tables, value_of

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
_PINNED: Final = (
    "pin it with WHERE on the shard key, or say execution_options(shard_key=…) to run it as it stands on that shard"
)


def locate(statement: Any, parameters: Parameters, scheme: Scheme) -> Located:
    """The keys of a Core or ORM statement. Raises `CannotAnswer` for what cannot be analysed."""
    if isinstance(statement, Insert):
        rows = insert_keys(statement, parameters, scheme)
        return Located(frozenset(rows))
    if isinstance(statement, Update | Delete):
        return _locate_change(statement, parameters, scheme)
    if isinstance(statement, SelectBase):
        return _locate_query(statement, parameters, scheme)
    raise CannotAnswer(
        f"a {type(statement).__name__} says nothing about its keys", "say execution_options(shard_key=…)"
    )


def insert_keys(statement: Insert, parameters: Parameters, scheme: Scheme) -> list[Key]:
    """The shard key of each row of an INSERT, in order."""
    known = scheme.of(statement.table)
    if isinstance(known, Everywhere):
        raise CannotAnswer(
            f"{statement.table} stands on every shard, and a write reaches one",
            "write it on each shard by name: cluster.session(shard=…)",
        )
    if statement.select is not None:
        raise CannotAnswer("INSERT … SELECT may read one shard and write another", "read first, then insert the rows")
    rows: list[Mapping[Any, Any]] = [
        dict(zip(statement.table.c, row, strict=False)) if not isinstance(row, Mapping) else row
        for many in statement._multi_values
        for row in many
    ]
    fixed: Mapping[Any, Any] = statement._values or {}
    if not rows:
        given: list[Mapping[str, Any]] = [parameters] if isinstance(parameters, Mapping) else list(parameters or [{}])
        rows = [{**fixed, **row} for row in given]
    one = parameters if isinstance(parameters, Mapping) else None
    names = key_names(statement, known)
    keys = [_row_key(statement.table, known, names, row, row if one is None else one) for row in rows]
    values = [value for row in rows for value in row.values()] if statement._multi_values else []
    computed = [value for value in values if isinstance(value, ClauseElement) and not isinstance(value, BindParameter)]
    for part in (statement, *computed):  # SQLAlchemy does not count the values of many rows among the elements
        inside = _check_nested(inner_statements(part), Located(frozenset(keys)), one, scheme)
        if inside.apart:
            raise CannotAnswer(inside.apart, _PINNED)
    _check_conflict(statement, known)
    return keys


def _check_conflict(statement: Insert, known: Sharded) -> None:
    """Refuse ON CONFLICT DO UPDATE of the shard key, unless it is set to the key of the row that was to be inserted."""
    column = statement.table.c[known.column]
    for name, value in getattr(statement._post_values_clause, "update_values_to_set", {}).items():
        if getattr(name, "key", name) in (known.column, column.key) and not (
            isinstance(value, ColumnClause) and value.name == column.name and value.table is not statement.table
        ):
            raise CannotAnswer(
                f"ON CONFLICT DO UPDATE of the shard key {column} would have to move the row",
                "leave the key out of set_",
            )


def key_names(statement: Insert | Update | Delete, known: Sharded) -> set[str]:
    """What a row may call the shard key: by its column, or by its attribute where the ORM sends the statement."""
    column = statement.table.c[known.column]
    names = {known.column, column.key}
    entity = statement._propagate_attrs.get("plugin_subject")
    attribute = None if entity is None else entity.mapper._columntoproperty.get(column)
    return names if attribute is None else names | {attribute.key}


def _row_key(table: Any, known: Sharded, names: set[str], row: Mapping[Any, Any], parameters: Mapping[Any, Any]) -> Key:
    column = table.c[known.column]
    for name, value in row.items():
        if name in names if isinstance(name, str) else name is column or hash(name) == hash(column):
            if isinstance(value, BindParameter) and not isinstance(value.type, TypeDecorator):
                value = value_of(value, parameters)
            return check(value, known.kind)
    raise CannotAnswer(
        f"a row for {table} comes without its shard key {known.column}",
        "give it as a value: defaults of the database are not known in time",
    )


def _locate_change(statement: Update | Delete, parameters: Parameters, scheme: Scheme) -> Located:
    known = scheme.of(statement.table)
    if isinstance(known, Everywhere):
        raise CannotAnswer(
            f"{statement.table} stands on every shard, and a write reaches one",
            "write it on each shard by name: cluster.session(shard=…)",
        )
    many: list[Mapping[str, Any] | None] = (
        [parameters] if parameters is None or isinstance(parameters, Mapping) else list(parameters)
    )
    check_key_stays(statement, parameters, known)
    criteria = list(statement._where_criteria)
    others = _other_froms(statement)
    joins: list[Join] = []
    froms = {hash(leaf): leaf for leaf in leaves([statement.table, *others], joins)}
    inner = [found for part in (statement, *others) for found in inner_statements(part)]
    tables = Tables(list(froms.values()), joins, scheme)
    keys: set[Key] = set()
    for row in many:
        found = _check_nested(inner, tables.restrict(criteria, row), row, scheme)
        if found.apart:
            raise CannotAnswer(found.apart, _PINNED)
        if found.keys is None:
            raise CannotAnswer(f"the write to {statement.table} does not say which {known.column} it changes", _PINNED)
        keys |= found.keys
    return Located(frozenset(keys))


def check_key_stays(statement: Update | Delete, parameters: Parameters, known: Sharded) -> None:
    """Raises `CannotAnswer` for an UPDATE that gives a row another shard key."""
    if not isinstance(statement, Update):
        return
    column = statement.table.c[known.column]
    rows = [parameters or {}] if parameters is None or isinstance(parameters, Mapping) else parameters
    names = {getattr(name, "key", name) for name in (statement._values or {})}.union(*rows)
    if key_names(statement, known) & names:
        raise CannotAnswer(
            f"an UPDATE of the shard key {column} would have to move the row",
            "insert it under the new key and delete the old one, by outbox",
        )


def _other_froms(statement: Update | Delete) -> list[FromClause]:
    """What SQLAlchemy names after FROM or USING: what the caller did, and what is named in WHERE and in SET."""
    values: Mapping[Any, Any] = (statement._values or {}) if isinstance(statement, Update) else {}
    terms = [*statement._where_criteria, *values.values()]
    named = [one for term in terms if isinstance(term, ClauseElement) for one in term._from_objects]
    return [*(statement._extra_froms if isinstance(statement, Delete) else ()), *named]


def _locate_query(statement: SelectBase, parameters: Parameters, scheme: Scheme) -> Located:
    row = parameters if isinstance(parameters, Mapping) or parameters is None else None
    if parameters is not None and row is None:
        raise MisuseError("parameters: expected one mapping for a SELECT, got a list")
    inner = inner_statements(statement)
    if not isinstance(statement, Select):
        return _check_nested(inner, Located(None, sharded=False), row, scheme)
    found = _check_nested(inner, _locate_select(statement, row, scheme), row, scheme)
    return _check_added(statement, found, row, scheme)


def check_loaded(statement: Any, scheme: Scheme) -> None:
    """Refuse what is loaded for an object where it lives, where attributes of it are computed of other shards' rows."""
    apart = _check_added(statement, Located(None), None, scheme).apart
    if apart:
        raise CannotAnswer(
            f"an attribute that is loaded for an object is a subquery: {apart}",
            "map it with deferred=True and ask for it by a statement of its own, or open the session for one shard: "
            "session(shard_key=…)",
        )


def _check_added(statement: Any, found: Located, row: Mapping[str, Any] | None, scheme: Scheme) -> Located:
    """The selects in what the ORM adds to the statement."""
    for expression, mappers in added(statement):
        own = _cut(scheme, [table for mapper in mappers for table in mapper.tables])
        found = _check_within(expression, found, row, scheme, own, frozenset())
    return found


def _check_within(
    part: Any,
    found: Located,
    row: Mapping[str, Any] | None,
    scheme: Scheme,
    around: frozenset[int],
    beyond: frozenset[int],
) -> Located:
    """The selects in ``part``, and those in them. SQLAlchemy correlates one by itself with the select ``around`` it,
    and with those ``beyond`` where it is told to.
    """
    inner = inner_statements(part)
    deeper = {id(node) for one in inner for node in inner_statements(one)}
    for node in inner:
        if id(node) in deeper:
            continue
        own = around if getattr(node, "_auto_correlate", False) else around | beyond
        found = _check_nested([node], found, row, scheme, own)
        if deeper:
            assert isinstance(node, Select)  # others are refused by now
            taken = own.intersection(hash(leaf) for leaf in leaves(correlated(node)))
            here = _cut(scheme, leaves(final_froms(node))) - taken
            found = _check_within(node, found, row, scheme, here, around | beyond)
    return found


def _cut(scheme: Scheme, froms: Iterable[FromClause]) -> frozenset[int]:
    """Those of ``froms`` that are sharded."""
    tables = [(leaf, base_table(leaf)) for leaf in froms]
    return frozenset(
        hash(leaf)
        for leaf, table in tables
        if table is not None and scheme.knows(table) and isinstance(scheme.of(table), Sharded)
    )


def _locate_select(statement: Select[Any], row: Mapping[str, Any] | None, scheme: Scheme) -> Located:
    joins: list[Join] = []
    tables = Tables(list(leaves(final_froms(statement), joins)), joins, scheme)
    return tables.restrict(statement._where_criteria, row)


def _check_nested(
    inner: Iterable[Any],
    found: Located,
    row: Mapping[str, Any] | None,
    scheme: Scheme,
    own: frozenset[int] = frozenset(),
) -> Located:
    """Selects inside the statement must be pinned to the very keys of the whole, or be joined on its shard key to one
    of its ``own`` tables.
    """
    keys, sharded, apart = found.keys, found.sharded, found.apart
    for node in inner:
        if not isinstance(node, Select):
            raise CannotAnswer("a write inside another statement is not analysed", "run it as a statement of its own")
        nested = _locate_select(node, row, scheme)
        if not nested.sharded:
            continue
        if not sharded:
            keys, sharded, apart = nested.keys, True, nested.apart
        pinned = nested.keys is not None and len(nested.keys) == 1 and nested.keys == keys
        pinned = pinned or not own.isdisjoint(hash(leaf) for leaf in leaves(correlated(node)))
        if nested.apart or not pinned:
            apart = apart or nested.apart or "a subquery over a sharded table would see the rows of one shard only"
    return Located(keys, sharded, apart)
