"""Where a mapped object lives: the shard key of one that is written, and of one for which something is loaded.

What a relationship loads belongs to the object it is loaded for, unless the tables' keys say otherwise, and an object
that is refreshed is where it was. So a load names its shard although its statement does not. The object may have
*expired* by then, as all do at a commit, and its shard key with it; therefore a session writes the key down when an
object enters it, and it never changes.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Table, inspect
from sqlalchemy.orm import InstanceState, ORMExecuteState, RelationshipProperty, Session

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.keys import Key, check, kind_of
from tenfold.db.shards.scheme import Scheme, Sharded

_KEY: Final = "tenfold.db.shards.key"


def remember(session: Session, one: object) -> None:
    """For SQLAlchemy's events of objects that become persistent."""
    state: Any = inspect(one)
    scheme: Scheme = session._cluster.scheme  # type: ignore[attr-defined]  # a ShardSession
    found = _said(state, scheme)
    if found is not None:
        state.info[_KEY] = found


def home(state: InstanceState[Any], scheme: Scheme) -> Key | None:
    """The shard key of a stored object without asking for it; None where its table has none, or nobody knows it."""
    found: Key | None = state.info.get(_KEY)
    return _said(state, scheme) if found is None else found


def loaded_for(execution: ORMExecuteState) -> InstanceState[Any] | None:
    """The object that is refreshed, or whose relationship is loaded lazily; None for every other statement."""
    if execution.is_column_load:
        refreshed: InstanceState[Any] | None = execution.load_options._refresh_state
        return refreshed
    return execution.lazy_loaded_from if execution.is_relationship_load else None


def stays_at_home(execution: ORMExecuteState, scheme: Scheme) -> bool:
    """Whether what this loads for objects lies where they do: not where they stand on every shard."""
    if execution.is_column_load:
        return True
    path = execution.loader_strategy_path
    properties = [] if path is None else [step for step in path.path if isinstance(step, RelationshipProperty)]
    if not execution.is_relationship_load or not properties:
        return False
    relation = properties[-1]
    parent, target = scheme.of(relation.parent.local_table), scheme.of(relation.mapper.local_table)
    if not isinstance(parent, Sharded) or not isinstance(target, Sharded):
        return isinstance(parent, Sharded) or not isinstance(target, Sharded)
    return parent.kind == target.kind and not _leads_away(relation, scheme)


def _leads_away(relation: RelationshipProperty[Any], scheme: Scheme) -> bool:
    """Whether it joins the shard key of one table with what is not that of the other, as an order with its product,
    which is sharded by its own id.
    """
    between = relation.secondary
    known = [(table, scheme.of(table)) for table in {*relation.parent.tables, *relation.mapper.tables}]
    keys = {hash(table.c[what.column]) for table, what in known if isinstance(what, Sharded)}
    if isinstance(between, Table) and scheme.knows(between):
        what = scheme.of(between)
        keys |= {hash(between.c[what.column])} if isinstance(what, Sharded) else set()
    elif between is not None:  # that nobody described, but rows come to it where the objects are
        met = {hash(other) for one, other in relation.local_remote_pairs or () if hash(one) in keys}
        keys |= met if len(met) == 1 else set()
    pairs = [(hash(one) in keys, hash(other) in keys) for one, other in relation.local_remote_pairs or ()]
    return any(one != other for one, other in pairs) and (relation.secondary is not None or (True, True) not in pairs)


def object_key(one: Any, scheme: Scheme) -> Key:
    """The shard key of a mapped object that is to be written. Raises `CannotAnswer` where it has none."""
    state: Any = inspect(one)
    table = state.mapper.local_table
    known = scheme.of(table)
    if not isinstance(known, Sharded):
        raise CannotAnswer(
            f"{table} stands on every shard, and a write reaches one",
            "write it on each shard: cluster.session(shard=…)",
        )
    name = state.mapper.get_property_by_column(table.c[known.column]).key
    if state.key is not None and state.attrs[name].history.has_changes():
        raise CannotAnswer(
            f"the shard key {table.c[known.column]} of a stored object was changed",
            "insert a new object and delete this",
        )
    remembered: Key | None = state.info.get(_KEY)
    if remembered is not None:
        return remembered
    value = getattr(one, name)
    if value is None:
        raise CannotAnswer(
            f"an object of {type(one).__name__} has no shard key {name} yet",
            "set it before the flush; relationships and the database's defaults fill it too late",
        )
    for other in state.mapper.tables:
        if other is not table:
            _check_other(state, other, value, scheme)
    return check(value, known.kind)


def _check_other(state: Any, table: Any, value: object, scheme: Scheme) -> None:
    """Refuse an object of a class that inherits whose row in ``table`` would not lie where the key ``value`` says."""
    known = scheme.of(table)
    prop = state.mapper._columntoproperty.get(table.c[known.column]) if isinstance(known, Sharded) else None
    if prop is None or getattr(state.obj(), prop.key) != value:
        raise CannotAnswer(
            f"the rows of a {state.mapper.class_.__name__} in {state.mapper.local_table} and {table} have not one key",
            "give both tables one shard key, by columns of one attribute",
        )


def _said(state: Any, scheme: Scheme) -> Key | None:
    table = state.mapper.local_table
    try:
        known = scheme.of(table)
    except CannotAnswer:  # what was read in another way
        return None
    if not isinstance(known, Sharded):
        return None
    prop = state.mapper._columntoproperty.get(table.c[known.column])
    value = None if prop is None else state.dict.get(prop.key)
    return value if value is not None and kind_of(value) == known.kind else None
