"""What the ORM makes of a SELECT that names entities: which columns it loads, and what it adds to them.

The mapper and the loader options say which columns those are, and their expressions do not stand in the statement:
`column_property`, `with_expression`, `with_loader_criteria`, ``Model.items.and_(…)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ClauseElement, Select
from sqlalchemy.orm import LoaderCriteriaOption, Mapper
from sqlalchemy.sql.elements import ColumnClause, Label


def is_entity(column: Any) -> bool:
    """Whether an element of a select list is a mapped class or an alias of one, and no column."""
    return (
        "parententity" in column._annotations and not isinstance(column, ColumnClause | Label) and column.is_selectable
    )


def mappers(statement: Select[Any]) -> list[Mapper[Any]]:
    """The mappers of the entities that are selected."""
    return [one._annotations["parententity"].mapper for one in statement._raw_columns if is_entity(one)]


def added(statement: Select[Any]) -> Iterator[ClauseElement]:
    """The expressions that are not in the statement and are sent with it."""
    for mapper in mappers(statement):
        for one in {mapper, *mapper._with_polymorphic_mappers}:
            for prop in one.column_attrs:
                if not prop.deferred and not isinstance(prop.columns[0], ColumnClause):
                    yield prop.columns[0]
    for option in statement._with_options:
        if isinstance(option, LoaderCriteriaOption):
            for mapper in option._all_mappers():
                yield option._resolve_where_criteria(mapper)
        for element in getattr(option, "context", ()):
            yield from getattr(element, "_extra_criteria", ())
            expression = element.local_opts.get("expression")
            if isinstance(expression, ClauseElement):
                yield expression
