"""A part of a scattered SELECT past SQLAlchemy's Connection, for where nobody would notice.

Each shard costs the client what a SELECT costs, and four of them are the time of a scattered read. Half of it is
bookkeeping that such a part has no use for: a transaction that is none, events without listeners, a context, rows of
which the merge keeps every fourth. So the statement is compiled by SQLAlchemy and kept in its cache, its values and
types are SQLAlchemy's and the connection is one of its pool; but it is sent through the driver's cursor, and the
driver's records are what is merged.

`ask` gives None, and SQLAlchemy has to be asked in the usual way, wherever that could make a difference: listeners
other than the fence, logging, execution options, parameters that are expanded into the text (IN), types whose values
SQLAlchemy converts; and where a connection was lost or a prepared statement outlived its table, for which SQLAlchemy
has its rules. A part is row-wise and only reads, so it may be asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import WARN_LINTING

from tenfold.db.shards.order import Row
from tenfold.db.shards.store import fence

_EVENTS: Final = (
    "after_cursor_execute",
    "after_execute",
    "before_cursor_execute",
    "before_execute",
    "commit",
    "engine_connect",
    "rollback",
    "set_connection_execution_options",
)
_OF_THE_DIALECT: Final = ("do_execute", "do_execute_no_params", "do_setinputsizes", "handle_error")


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a compiled statement. ``plain``: the driver's types that need no conversion, once seen."""

    text: str
    names: tuple[str, ...]
    binds: Mapping[str, Any]
    keys: tuple[str, ...]
    types: tuple[Any, ...]
    plain: set[tuple[Any, ...]] = field(default_factory=set)


_SENT: Final[WeakKeyDictionary[Any, _Sent | None]] = WeakKeyDictionary()


def ask(engine: Engine, statement: Any, parameters: Any) -> tuple[Sequence[str], Sequence[Row]] | None:
    """The names and rows of one SELECT in autocommit. In SQLAlchemy's greenlet."""
    if _is_heard(engine) or statement.get_execution_options() or engine.get_execution_options():
        return None
    dialect: Any = engine.dialect
    compiled, extracted, collected, _ = statement._compile_w_cache(
        dialect,
        compiled_cache=engine._compiled_cache,
        column_keys=sorted(parameters or ()),
        linting=dialect.compiler_linting | WARN_LINTING,
    )
    if compiled not in _SENT:
        _SENT[compiled] = _sent(compiled)
    sent = _SENT[compiled]
    if sent is None:
        return None
    values = compiled.construct_params(
        parameters or None, extracted_parameters=extracted, escape_names=False, _collected_params=collected
    )
    binds = sent.binds
    arguments = tuple([binds[name](values[name]) if name in binds else values[name] for name in sent.names])
    answer = _send(engine, sent, arguments)
    if answer is None:
        return None
    codes, rows = answer
    if codes not in sent.plain:
        for type_, code in zip(sent.types, codes, strict=True):
            if type_.result_processor(dialect, code) is not None:
                _SENT[compiled] = None
                return None
        sent.plain.add(codes)
    return sent.keys, rows


def _sent(compiled: Any) -> _Sent | None:
    if compiled.literal_execute_params or compiled.post_compile_params or not compiled._ordered_columns:
        return None
    columns = compiled._result_columns
    types = tuple(entry.type.dialect_impl(compiled.dialect) for entry in columns)
    keys = tuple(entry.keyname for entry in columns)
    return _Sent(compiled.string, tuple(compiled.positiontup or ()), compiled._bind_processors, keys, types)


def _send(engine: Engine, sent: _Sent, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], Sequence[Row]] | None:
    """The types' codes and the records; None for what SQLAlchemy has rules for."""
    dialect: Any = engine.dialect
    errors = dialect.loaded_dbapi
    try:
        pooled: Any = engine.raw_connection()
    except errors.Error:
        return None
    driven = pooled.dbapi_connection
    try:
        driven.autocommit = True
        cursor = driven.cursor()
        cursor._invalidate_schema_cache_asof = dialect._invalidate_schema_cache_asof
        try:
            cursor.execute(sent.text, arguments)
            return tuple([column[1] for column in cursor.description]), cursor.fetchall()
        finally:
            cursor.close()
            driven.autocommit = False
    except errors.Error as error:
        if isinstance(error, errors.InvalidCachedStatementError | errors.InternalServerError) or dialect.is_disconnect(
            error, driven, None
        ):
            return None
        hidden = engine.hide_parameters
        raise DBAPIError.instance(sent.text, arguments, error, errors.Error, hidden, dialect=dialect) from error
    except BaseException as error:
        if not isinstance(error, Exception):  # it was cancelled: nobody knows what the connection will say next
            pooled.invalidate(error)
        raise
    finally:
        pooled.close()


def _is_heard(engine: Any) -> bool:
    """Whether somebody beside the fence would hear of a statement."""
    dispatch = engine.dispatch
    return bool(
        Connection._has_events
        or engine._should_log_info()
        or any(listener is not fence for listener in dispatch.begin)
        or any(getattr(dispatch, name) for name in _EVENTS)
        or any(getattr(engine.dialect.dispatch, name) for name in _OF_THE_DIALECT)
    )
