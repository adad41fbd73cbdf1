"""What the ORM makes of a SELECT: which columns it loads for entities, what it adds to them, how it calls them in rows.

The mapper and the loader options say which columns those are, and their expressions do not stand in the statement:
`column_property`, `with_expression`, `with_loader_criteria`, ``Model.items.and_(…)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import ClauseElement, Select
from sqlalchemy.engine import Result
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.orm import LoaderCriteriaOption, Mapper
from sqlalchemy.sql.elements import ColumnClause, Label
from sqlalchemy.sql.selectable import SelectState

_ALL: Final = "*"
_JOINED: Final = {("lazy", "joined"), ("lazy", False)}


def is_entity(column: Any) -> bool:
    """Whether an element of a select list is a mapped class or an alias of one, and no column."""
    return (
        "parententity" in column._annotations and not isinstance(column, ColumnClause | Label) and column.is_selectable
    )


def mappers(statement: Select[Any]) -> list[Mapper[Any]]:
    """The mappers of the entities that are selected."""
    return [one._annotations["parententity"].mapper for one in statement._raw_columns if is_entity(one)]


def added(statement: Any) -> Iterator[tuple[ClauseElement, frozenset[Mapper[Any]]]]:
    """The expressions that are not in the statement and are sent with it, and of whose rows they are computed."""
    selected = frozenset(mappers(statement))
    if not selected and not statement._with_options:
        return
    only = getattr(statement._compile_options, "_only_load_props", None)  # of an object that is there already
    undeferred = _undeferred(statement)
    for mapper in _with_joined(statement):
        some = only if mapper in selected else None
        for prop in mapper.column_attrs:
            also = _ALL in undeferred or prop.key in undeferred
            loaded = (also or not prop.deferred) if some is None else prop.key in some
            if loaded and not isinstance(prop.columns[0], ColumnClause):
                yield prop.columns[0], frozenset((mapper,))
    for option in statement._with_options:
        if isinstance(option, LoaderCriteriaOption):
            for mapper in option._all_mappers():
                yield option._resolve_where_criteria(mapper), selected | {mapper}
        for element in getattr(option, "context", ()):
            for criterion in getattr(element, "_extra_criteria", ()):
                yield criterion, selected | _arriving(element)
            expression = element.local_opts.get("expression")
            if isinstance(expression, ClauseElement):
                yield expression, selected


def _with_joined(statement: Any) -> set[Mapper[Any]]:
    """The mappers of the entities that are selected, and of those that may come with them by joins."""
    found: set[Mapper[Any]] = set()
    left = mappers(statement)
    joins_all = False
    for option in statement._with_options if left else ():
        for element in (option, *getattr(option, "context", ())):
            if _JOINED & set(getattr(element, "strategy", None) or ()):
                arriving = _arriving(element)
                left.extend(arriving)
                joins_all = joins_all or not arriving  # joinedload("*")
    while left:
        mapper = left.pop()
        if mapper not in found:
            found.add(mapper)
            left.extend(mapper._with_polymorphic_mappers)
            left.extend(prop.mapper for prop in mapper.relationships if joins_all or ("lazy", prop.lazy) in _JOINED)
    return found


def _arriving(element: Any) -> frozenset[Mapper[Any]]:
    """The mapper of the relationship that an option is about."""
    mapper = getattr(element.path[-1], "mapper", None)
    return frozenset() if mapper is None else frozenset((mapper,))


def _undeferred(statement: Any) -> set[str]:
    """The attributes that the options load although the mapper does not; `_ALL` where they do not name them."""
    found: set[str] = set()
    for option in statement._with_options:
        for element in (option, *getattr(option, "context", ())):
            if ("deferred", False) in (getattr(element, "strategy", None) or ()):
                found.add(getattr(element.path[-1], "key", _ALL))
            if any(name.startswith("undefer_group") for name in getattr(element, "local_opts", ())):
                found.add(_ALL)
    return found


def found_by(column: Any) -> tuple[Any, ...]:
    """What a selected column is found by in a row: itself and the attribute of the model that it was selected as."""
    notes = column._annotations
    key, owner = notes.get("proxy_key"), notes.get("proxy_owner", notes.get("parententity"))
    return (column,) if key is None or owner is None else (column, getattr(owner.entity, key))


def as_loaded(result: Result[Any], statement: Any) -> Result[Any]:
    """The rows as a session names them, to which a column is called what its attribute is."""
    if not isinstance(result, IteratorResult) or statement._propagate_attrs.get("compile_state_plugin") != "orm":
        return result
    columns = tuple(statement._all_selected_columns)
    name = SelectState._column_naming_convention(statement._label_style)
    names = [str(name(column)) for column in columns]
    return IteratorResult(SimpleResultMetaData(names, extra=list(map(found_by, columns))), result.iterator)
