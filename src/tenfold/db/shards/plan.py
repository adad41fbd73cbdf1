"""The planner: from a statement to what each shard is sent and how the answers become one; or the reason why not.

It is pure: no connection is needed, and `ShardedCluster.explain` shows its result. In order of preference:

1. *single*: the keys of the statement (`key`) lie on one shard, or only tables that stand everywhere are named. The
   statement goes there as it is.
2. *scatter*, rows: every row of the answer is computed on one shard. Each shard sorts and cuts to ``offset + limit``;
   the streams are merged by the ORDER BY values, which travel as hidden columns where they are not selected.
   A GROUP BY that contains the shard key is of this kind: each group lies on one shard, whatever it computes.
3. *scatter*, groups: each shard sends its groups with partial aggregates (`aggregate`); HAVING, ORDER BY and LIMIT come
   after the merge and are not sent.

A pushed statement also selects the shard's epoch, in the same snapshot as its rows, so an answer that was computed
under another map is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Delete, Insert, Select, Table, Update
from sqlalchemy.sql.base import Executable, ExecutableStatement
from sqlalchemy.sql.elements import (
    ColumnElement,
)

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import CannotAnswer, CrossShard
from tenfold.db.shards.froms import final_froms, leaves
from tenfold.db.shards.key import Parameters, check_key_stays, insert_keys, locate
from tenfold.db.shards.loaded import mappers
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.scatter import Scatter, unlabelled, whole
from tenfold.db.shards.scheme import Scheme
from tenfold.db.shards.shape import Merge, Plan
from tenfold.db.shards.store import EPOCH_COLUMN
from tenfold.db.shards.tables import Located, Tables


def plan(
    statement: Any,
    parameters: Parameters,
    scheme: Scheme,
    shard_map: ShardMap,
    *,
    shard_key: Any = None,
    rowwise: frozenset[str] = frozenset(),
) -> Plan:
    """What to do with ``statement``. Raises `CannotAnswer` with the reason and what to do."""
    _check_given(statement, parameters)
    parameters = _with_own(statement, parameters)
    write = isinstance(statement, Insert | Update | Delete)
    explicit = shard_key if shard_key is not None else statement.get_execution_options().get("shard_key")
    if explicit is not None:
        shard = shard_map.shard_of(scheme.key(explicit))
        if isinstance(statement, Insert):
            for key in insert_keys(statement, parameters, scheme):
                if shard_map.shard_of(key) != shard:
                    raise CrossShard(shard, shard_map.shard_of(key))
        if isinstance(statement, Update) and (known := scheme.sharded().get(cast("Table", statement.table))):
            check_key_stays(statement, parameters, known)
        return _single(statement, (shard,), f"execution option shard_key={explicit!r}", write)
    located = locate(statement, parameters, scheme)
    if not located.sharded:
        shard = shard_map.names[0]
        return _single(statement, (shard,), "its tables stand on every shard", write)
    if located.apart:
        raise CannotAnswer(
            located.apart,
            "join on the shard keys, pin every part to one shard key, or say execution_options(shard_key=…)",
        )
    shards = _shards(located, shard_map)
    if len(shards) == 1:
        return _single(statement, shards, _keys(located), write)
    if write:
        raise CannotAnswer(
            f"the write touches {len(shards)} shards ({', '.join(shards)}), which have no transaction in common",
            "write each key in a session of its own, or use cluster.insert for many rows",
        )
    if not isinstance(statement, Select):
        raise CannotAnswer(
            f"a {type(statement).__name__} over several shards is not merged", "run its parts one by one"
        )
    return Scatter(statement, parameters if isinstance(parameters, Mapping) else None, rowwise).plan(
        shards, _keys(located), _grouped_by_key(statement, scheme)
    )


def _check_given(statement: Any, parameters: Any) -> None:
    if not isinstance(statement, Executable):
        raise MisuseError(f"statement: expected one of SQLAlchemy's, such as select(…), got {statement!r}")
    if parameters is None or isinstance(parameters, Mapping):
        return
    if not isinstance(parameters, list | tuple) or not all(isinstance(row, Mapping) for row in parameters):
        raise MisuseError(f"parameters: expected a mapping or a list of mappings, got {type(parameters).__name__}")


def _with_own(statement: Any, parameters: Parameters) -> Parameters:
    """With those of the statement's ``params()``, which count where none are given."""
    own: Mapping[str, Any] | None = statement._params if isinstance(statement, ExecutableStatement) else None
    if not own:
        return parameters
    if parameters is None or isinstance(parameters, Mapping):
        return {**own, **(parameters or {})}
    return [{**own, **row} for row in parameters]


def _single(statement: Any, shards: tuple[str, ...], why: str, write: bool) -> Plan:
    """One shard. A plain SELECT also gets the epoch column, so that it needs no transaction to be fenced."""
    if isinstance(statement, Select) and statement._for_update_arg is None and not write:
        columns = tuple(statement._all_selected_columns)
        if all(isinstance(column, ColumnElement) for column in columns):
            pushed = whole(statement).add_columns(EPOCH_COLUMN)
            merge = Merge(tuple(range(len(columns))))
            entities = bool(mappers(statement))
            return Plan("single", shards, pushed, (why,), write, merge, columns, statement, entities)
    return Plan("single", shards, statement, (why,), write)


def _shards(located: Located, shard_map: ShardMap) -> tuple[str, ...]:
    if located.keys is None:
        return shard_map.names
    return shard_map.shards_of(located.keys) or shard_map.names[:1]


def _keys(located: Located) -> str:
    if located.keys is None:
        return "no shard key in WHERE"
    if not located.keys:
        return "no key can match"
    return f"shard key {next(iter(located.keys))!r}" if len(located.keys) == 1 else f"{len(located.keys)} shard keys"


def _grouped_by_key(statement: Select[Any], scheme: Scheme) -> bool:
    joins: list[Any] = []
    tables = Tables(list(leaves(final_froms(statement), joins)), joins, scheme)
    if any(join.isouter or join.full for join in joins):
        return False  # the key may be the NULL of an unmatched row, and that group is on every shard
    return any(tables.key_leaf(unlabelled(node)) is not None for node in statement._group_by_clauses)
