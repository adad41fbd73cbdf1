"""Which schema a table is in for a connection: SQLAlchemy's ``schema_translate_map``, which text does not obey.

Where each tenant has a schema, a statement that is written as text and names the table as it was declared would go to
the wrong tenant without a word.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession


def schema_of(where: AsyncConnection | AsyncSession, table: Table) -> str | None:
    """The schema of ``table`` for ``where``, as its engine, connection or session translates it. Sends nothing."""
    inner: Any
    mapped: Any = None
    if isinstance(where, AsyncSession):
        inner, mapped = where.sync_session.bind, where.sync_session.execution_options.get("schema_translate_map")
    else:
        inner = where.sync_connection
    if mapped is None and inner is not None:
        mapped = inner.get_execution_options().get("schema_translate_map")
    found: str | None = (mapped or {}).get(table.schema, table.schema)
    return found


def full_name(table: Table, schema: str | None, preparer: Any) -> str:
    """``table`` in ``schema``, quoted where it must be."""
    name = str(preparer.quote(table.name))
    return name if schema is None else f"{preparer.quote_schema(schema)}.{name}"
