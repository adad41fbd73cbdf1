"""Rows by a key, gathered by a `Loader`: one object of a relation (`one_by`), or all of it (`many_by`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import ARRAY, ColumnElement, Select, any_, literal
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold.db.loader import KeyNotFound, Loader

__all__ = ["KeyNotFound", "Loader", "among", "many_by", "one_by"]


def among(column: Any, keys: Iterable[Any]) -> ColumnElement[bool]:
    """``column = ANY(:keys)``: as ``column.in_(keys)``, with one text for any number of keys.

    An IN-list has a placeholder for each key, so each length is another statement for the driver's cache of prepared
    ones.
    """
    return column == any_(literal(list(keys), ARRAY(column.type)))  # type: ignore[no-any-return]


def one_by(session: AsyncSession | AsyncConnection, statement: Select[Any], column: Any) -> Loader[Any, Any]:
    """A loader of the one row where ``column`` is the key; None where there is none::

        customers = one_by(session, select(Customer), Customer.id)

    For a statement of one entity or column its value, else the row. Of several rows with a key the last counts. The
    loaders of one session run their queries in turn. Raises `MisuseError` for a statement with LIMIT.
    """
    _refuse_limit(statement)

    async def load(keys: list[Any]) -> dict[Any, Any]:
        return dict(await _rows(session, statement, column, keys))

    return Loader(load, default=None)


def many_by(session: AsyncSession | AsyncConnection, statement: Select[Any], column: Any) -> Loader[Any, list[Any]]:
    """A loader of all rows where ``column`` is the key, in the statement's order; [] where there are none::

        lines = many_by(session, select(Line).order_by(Line.id), Line.order_id)

    As `one_by` otherwise.
    """
    _refuse_limit(statement)

    async def load(keys: list[Any]) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = {key: [] for key in keys}
        for key, row in await _rows(session, statement, column, keys):
            found[key].append(row)
        return found

    return Loader(load)


def _refuse_limit(statement: Select[Any]) -> None:
    if (
        statement._limit_clause is not None
        or statement._offset_clause is not None
        or statement._fetch_clause is not None
    ):
        raise MisuseError(
            "loader: the statement has LIMIT or OFFSET, which would count the rows of all keys together; expected one "
            "without. For the first rows of each key number them: func.row_number().over(partition_by=…) in a subquery"
        )


# A session is not to be used by two tasks at once, and two loaders of one request have one session.
_IN_USE: Final[WeakKeyDictionary[Any, asyncio.Lock]] = WeakKeyDictionary()


async def _rows(session: Any, statement: Select[Any], column: Any, keys: list[Any]) -> list[tuple[Any, Any]]:
    width = len(statement.column_descriptions)
    async with _IN_USE.setdefault(session, asyncio.Lock()):
        result = await session.execute(statement.add_columns(column.label("tenfold_key")).where(among(column, keys)))
        rows = result.all()
    asked = set(keys)
    for row in rows:
        if row[-1] not in asked:
            raise MisuseError(
                f"loader: the database found {row[-1]!r} by one of the keys that were asked for, and none of them is "
                f"that, as {next(iter(asked))!r}; expected keys as the column's type gives them, such as UUID and not "
                "its text, and as they are written in the column"
            )
    return [(row[-1], row[0] if width == 1 else tuple(row[:-1])) for row in rows]
