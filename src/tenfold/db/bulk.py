"""Bulk upsert: COPY into a temporary table, then one INSERT … ON CONFLICT a chunk.

COPY is the fastest way in, but it knows no ON CONFLICT; so rows are staged. A chunk at a time: memory is bounded by the
chunk, on both sides, however long the stream. Within a chunk the rows are reduced to one a key (the last), because
ON CONFLICT refuses to touch a row twice, and are inserted in the order of the key, so that two loads at the same time
lock in the same order and do not deadlock over a chunk.

All of it stands in a savepoint, so that a source of rows that breaks in the middle leaves nothing to a caller who
catches the error and commits. NULLs in the key are distinct, as they are to the index, unless it says otherwise.

Which row was inserted and which updated is told by ``xmax``: 0 on a version that nobody has locked or replaced. An
update by ON CONFLICT locks the old version first, and the new one inherits that.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from sqlalchemy import Column, Index, Table, UniqueConstraint, text
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number
from tenfold.db.schemas import full_name, schema_of

CHUNK: Final = 10_000
_ORDINAL: Final = "tenfold_ordinal"
_LINE: Final = re.compile(r"line (\d+)")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of the rows.

    ``unchanged``: existing rows that were left alone (``update=[]`` or ``skip_unchanged``). ``replaced``: rows of which
    a later one of the same chunk had the same key. ``read`` is the sum of the other four.
    """

    read: int
    inserted: int
    updated: int
    unchanged: int
    replaced: int


@dataclass(frozen=True, slots=True)
class _Statements:
    create: str
    merge: str
    empty: str


async def upsert(
    where: AsyncConnection | AsyncSession,
    table: Table,
    rows: Iterable[Row] | AsyncIterable[Row],
    *,
    on: Sequence[str] | None = None,
    update: Sequence[str] | None = None,
    skip_unchanged: bool = False,
    chunk: int = CHUNK,
) -> Upserted:
    """Insert ``rows`` into ``table``; those whose key is there already update it. In the transaction of ``where``.

    ``rows`` are mappings with the same column names each, from an iterable or an asynchronous one of any length. Values
    pass through the types of ``table``, as those of an INSERT do. Columns left out get the *server's* default.
    ``on`` names the columns of a primary key, unique constraint or unique index (default: the primary key).
    ``update`` names the columns to set (default: all that are given and not in ``on``; ``[]``: leave existing rows as
    they are). ``skip_unchanged`` (False) leaves rows alone that hold these values already: no dead versions, no
    triggers. ``chunk`` (10,000) rows are staged at a time.

    The caller commits; on any error nothing of it is kept. Where COPY finds the fault, a note on the error tells the
    row. Deferred and partial unique indexes cannot be targets, nor partitioned tables. Raises `MisuseError` for
    targets, columns and rows that do not fit, before anything is written where the first row shows it, and what
    SQLAlchemy and asyncpg raise for values that the server refuses.
    """
    whole_number(chunk, "chunk", least=1)
    keys, apart = _target(table, on)
    connection = await where.connection() if isinstance(where, AsyncSession) else where
    if isinstance(where, AsyncSession):
        await where.flush()  # what the session knows must be there before the rows that may refer to it
    source = _chunks(rows, chunk)
    first = await anext(source, None)
    if first is None:
        return Upserted(0, 0, 0, 0, 0)
    names = list(first[0])
    columns = _columns(table, names, keys, update, connection.dialect)
    if update is None:
        update = [name for name in names if name not in keys]
    stage = f"tenfold_bulk_{secrets.token_hex(4)}"
    statements = _write(table, stage, names, keys, apart, list(update), skip_unchanged, connection)
    await connection.exec_driver_sql(statements.create)
    driver = await _driver(connection)
    processors = [_processor(column, connection.dialect) for column in columns]
    written = [*(column.name for column in columns), _ORDINAL]
    read = staged = inserted = updated = 0
    batch: list[Row] | None = first
    async with connection.begin_nested():
        while batch is not None:
            records = [_record(row, names, processors, read + at) for at, row in enumerate(batch)]
            await _copy(driver, stage, records, written, read)
            kept, new, changed = (await connection.execute(text(statements.merge))).one()
            read, staged, inserted, updated = read + len(batch), staged + kept, inserted + new, updated + changed
            await connection.exec_driver_sql(statements.empty)
            batch = await anext(source, None)
        await connection.exec_driver_sql(f"DROP TABLE pg_temp.{stage}")
    return Upserted(read, inserted, updated, staged - inserted - updated, read - staged)


async def _copy(driver: Any, stage: str, records: list[tuple[Any, ...]], columns: list[str], read: int) -> None:
    taken = -1

    def counted() -> Iterator[tuple[Any, ...]]:
        nonlocal taken
        for taken, record in enumerate(records):  # noqa: B007 - told if it fails
            yield record

    try:
        await driver.copy_records_to_table(stage, records=counted(), columns=columns)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, TypeError, ValueError, ArithmeticError) as error:
        context = getattr(error, "context", None) or ""  # "COPY tenfold_bulk_…, line 8, column name"
        line = _LINE.search(context)
        if line is not None:
            taken = int(line[1]) - 1
        error.add_note(f"upsert: in row {read + taken} (the first is 0){': ' + context if context else ''}")
        raise


async def _chunks(rows: Iterable[Row] | AsyncIterable[Row], size: int) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
    else:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _record(row: Row, names: list[str], processors: list[Any], number: int) -> tuple[Any, ...]:
    if len(row) != len(names):
        raise MisuseError(_other_columns(row, names, number))
    try:
        values = [row[name] for name in names]
    except KeyError:
        raise MisuseError(_other_columns(row, names, number)) from None
    return (
        *[value if process is None else process(value) for value, process in zip(values, processors, strict=True)],
        number,
    )


def _other_columns(row: Row, names: list[str], number: int) -> str:
    return (
        f"upsert: row {number} has the columns {', '.join(row)}; expected those of the first row: {', '.join(names)}. "
        "Give each row the same, or load them in two calls"
    )


async def _driver(connection: AsyncConnection) -> Any:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if not hasattr(driver, "copy_records_to_table"):
        raise MisuseError(
            f"upsert: expected a connection of asyncpg (postgresql+asyncpg://), got {connection.dialect.driver}"
        )
    if not driver.is_in_transaction():
        raise MisuseError(
            "upsert: expected a transaction, got a connection in autocommit; use `async with engine.begin()`"
        )
    return driver


def _processor(column: Column[Any], dialect: Dialect) -> Any:
    return column.type.dialect_impl(dialect).bind_processor(dialect)


def _target(table: Table, on: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The key's columns, if there is a unique index that ON CONFLICT can infer from them, and those of them whose NULLs
    are distinct.
    """
    unique = [one for one in table.constraints if isinstance(one, UniqueConstraint) and not one.deferrable] + [
        one for one in sorted(table.indexes, key=lambda one: str(one.name)) if _can_be_inferred(one)
    ]
    found = [([column.key for column in table.primary_key], False)] if list(table.primary_key) else []
    found += [
        ([column.key for column in one.columns], not one.dialect_options["postgresql"]["nulls_not_distinct"])
        for one in unique
    ]
    for columns, distinct in found:
        if (on is None and columns == [column.key for column in table.primary_key]) or (
            on is not None and set(columns) == set(on) and len(columns) == len(on)
        ):
            return columns, [name for name in columns if distinct and table.c[name].nullable]
    options = "; ".join(", ".join(one) for one, _ in found) or "it has none: declare one"
    raise MisuseError(
        f"upsert: on={on!r} is no primary key, unique constraint or whole unique index of {table.name}. "
        f"Expected: {options}"
    )


def _can_be_inferred(index: Index) -> bool:
    plain = all(isinstance(expression, Column) for expression in index.expressions)
    return index.unique and plain and index.dialect_options["postgresql"]["where"] is None


def _columns(
    table: Table, names: list[str], keys: list[str], update: Sequence[str] | None, dialect: Dialect
) -> list[Column[Any]]:
    for name in [*names, *(update or ())]:
        column = table.c.get(name)
        if column is None:
            raise MisuseError(f"upsert: {table.name} has no column {name!r}; it has {', '.join(table.c.keys())}")
        if column.type.dialect_impl(dialect)._has_bind_expression:
            raise MisuseError(
                f"upsert: {table.name}.{name} passes its values through SQL (bind_expression), which COPY does not; "
                "use insert() for this table"
            )
        if column.computed is not None:
            raise MisuseError(f"upsert: {table.name}.{name} is generated by the server; leave it out")
    missing = [name for name in [*keys, *(update or ())] if name not in names]
    if missing:
        raise MisuseError(f"upsert: the rows lack {', '.join(missing)}, which on= and update= need; they have {names}")
    return [table.c[name] for name in names]


def _write(
    table: Table,
    stage: str,
    names: list[str],
    keys: list[str],
    apart: list[str],
    update: list[str],
    skip: bool,
    connection: AsyncConnection,
) -> _Statements:
    dialect = connection.dialect
    prepare = dialect.identifier_preparer

    def named(one: str) -> str:
        return str(prepare.quote(table.c[one].name))

    def compared(row: str, one: str) -> str:
        is_json = dialect.type_compiler_instance.process(table.c[one].type) == "JSON"  # which has no equality
        return f"{row}.{named(one)}{'::text' if is_json else ''}"

    target = full_name(table, schema_of(connection, table), prepare)
    columns, key = ", ".join(map(named, names)), ", ".join(map(named, keys))
    action = "DO NOTHING"
    if update:
        action = "DO UPDATE SET " + ", ".join(f"{named(one)} = excluded.{named(one)}" for one in update)
        if skip:
            old = ", ".join(compared("old_row", one) for one in update)
            new = ", ".join(compared("excluded", one) for one in update)
            action += f" WHERE ({old}) IS DISTINCT FROM ({new})"
    one_a_key = key
    if apart:
        null = " OR ".join(f"{named(one)} IS NULL" for one in apart)
        one_a_key = f"{key}, CASE WHEN {null} THEN {_ORDINAL} END"
    merge = (
        f"WITH last AS MATERIALIZED (SELECT DISTINCT ON ({one_a_key}) {columns} FROM pg_temp.{stage} "
        f"ORDER BY {one_a_key}, {_ORDINAL} DESC), "
        f"done AS (INSERT INTO {target} AS old_row ({columns}) SELECT {columns} FROM last ORDER BY {key} "
        f"ON CONFLICT ({key}) {action} RETURNING old_row.xmax = 0 AS new) "
        "SELECT (SELECT count(*) FROM last), count(*) FILTER (WHERE new), count(*) FILTER (WHERE NOT new) FROM done"
    ).replace(":", "\\:")
    return _Statements(
        f"CREATE TEMP TABLE {stage} ON COMMIT DROP AS "
        f"SELECT {columns}, 0::bigint AS {_ORDINAL} FROM {target} WITH NO DATA",
        merge,
        f"TRUNCATE pg_temp.{stage}",
    )
