"""SQLAlchemy's session on one shard: the first statement decides which, the transaction keeps it, a second is refused.

A session that was opened for a key or a shard by name runs every statement there as it stands. One that was not reads
the key from each statement or object. What a relationship loads belongs to the object it is loaded for and is read
where that lives. Reads that name no key scatter, unless a transaction is open: there they would miss what it has
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sqlalchemy import Insert, Update, event, inspect
from sqlalchemy.engine import Connection, Engine, Result
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util import await_only

from tenfold._core.errors import MisuseError
from tenfold.db.causality import CAUSALITY
from tenfold.db.shards.errors import CannotAnswer, CrossShard, StaleMap
from tenfold.db.shards.keys import Key, check
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.scheme import Scheme, Sharded
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.store import EXPECTED, SHARD


class Shards(Protocol):
    """What a session needs of its cluster."""

    scheme: Scheme

    @property
    def map(self) -> ShardMap: ...
    def member(self, shard: str) -> Member: ...
    def plan(self, statement: Any, parameters: Any = None, *, shard_key: Any = None) -> Plan: ...
    async def refresh(self, stale: StaleMap, attempt: int) -> None: ...
    async def read(self, statement: Any, parameters: Any = None, *, primary: bool = False) -> Result[Any]: ...


class ShardSession(Session):
    """What `ShardedCluster.session` opens. ``shard_key`` or ``shard`` bind it from the start."""

    def __init__(self, *, cluster: Shards, shard_key: Any = None, shard: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        if shard_key is not None and shard is not None:
            raise MisuseError("session: expected shard_key or shard, got both")
        self._cluster = cluster
        self._key: Key | None = None if shard_key is None else check(shard_key)
        self._named = shard
        self._bound: str | None = None
        self._engine: Engine | None = None
        self._been_there = False
        event.listen(self, "do_orm_execute", _route)
        event.listen(self, "after_transaction_end", _unbind)

    @property
    def shard(self) -> str | None:
        """The shard of the transaction that is open; None when none is."""
        return self._bound

    def get_bind(self, *arguments: Any, bind: Engine | Connection | None = None, **options: Any) -> Engine | Connection:
        if bind is not None:
            return bind
        if self._engine is None:
            self.bind_shard()
        assert self._engine is not None
        return self._engine

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As SQLAlchemy's, after every changed object has been found to live on the session's shard."""
        changed = [*self.new, *self.dirty, *self.deleted]
        if changed and self._key is None and self._named is None:
            keys = {key for one in changed if (key := _object_key(one, self._cluster.scheme)) is not None}
            self.bind_shard(keys=keys)
        elif changed:
            home = self._target()
            for one in changed:
                key = _object_key(one, self._cluster.scheme)
                if (
                    key is not None
                    and home is not None
                    and self._named is None
                    and self._cluster.map.shard_of(key) != home
                ):
                    raise CrossShard(home, self._cluster.map.shard_of(key))
        super().flush(objects)

    def _bulk_save_mappings(self, *arguments: Any, **options: Any) -> None:
        """Behind SQLAlchemy's old ``bulk_…`` methods, which pass by flush and its checks."""
        if self._named is None:
            raise CannotAnswer(
                "bulk_save_objects, bulk_insert_mappings and bulk_update_mappings do not say where their rows belong",
                "use session.execute(insert(Model), rows), cluster.insert, or cluster.session(shard=…)",
            )
        super()._bulk_save_mappings(*arguments, **options)

    def _target(self) -> str | None:
        if self._named is not None:
            return self._named
        return None if self._key is None else self._cluster.map.shard_of(self._key)

    def bind_shard(self, *, keys: set[Key] | None = None, plan: Any = None) -> None:
        """Open the transaction on the shard of ``keys``, of ``plan()``, or of the session, and pass its fence.

        Refreshes the map and decides anew while it is stale: nothing has happened yet.
        """
        attempt = 0
        while True:
            wanted = self._target()
            if wanted is None and plan is not None:
                wanted = plan()
            if wanted is None and keys:
                shards = self._cluster.map.shards_of(keys)
                if len(shards) > 1:
                    raise CrossShard(shards[0], shards[1])
                wanted = shards[0]
            if wanted is None:
                wanted = self._bound
            if wanted is None:
                raise CannotAnswer(
                    "the session has no shard yet and this does not say which",
                    "open it with session(shard_key=…), or begin with a statement or object that has the shard key",
                )
            if self._bound is not None:
                if self._bound != wanted:
                    raise CrossShard(self._bound, wanted)
                return
            try:
                self._cluster.member(wanted).at_writer(self._connector(wanted))
            except StaleMap as stale:
                self._engine = None
                attempt += 1
                await_only(self._cluster.refresh(stale, attempt))
                continue
            except BaseException:
                self._engine = None
                raise
            self._bound = wanted
            self._been_there = True
            return

    def _connector(self, shard: str) -> Callable[[Engine], Connection]:
        options = {EXPECTED: self._cluster.map.epoch, SHARD: shard}

        def connect(engine: Engine) -> Connection:
            self._engine = engine.execution_options(**options)
            return self.connection(bind_arguments={"bind": self._engine})

        return connect


def _route(state: ORMExecuteState) -> Result[Any] | None:
    session = state.session
    assert isinstance(session, ShardSession)
    if session._target() is not None:
        session.bind_shard()
        _check_place(session, state)
        return None
    if (state.is_relationship_load or state.is_column_load) and session._bound is not None:
        return None
    cluster, statement, parameters = session._cluster, state.statement, state.parameters
    made = cluster.plan(statement, parameters)
    if made.kind == "scatter":
        if session.in_transaction() and session._bound is not None:
            raise CannotAnswer(
                f"the transaction is bound to shard {session._bound}, and this read needs {', '.join(made.shards)}",
                "read it in a session of its own, or pin it with WHERE on the shard key",
            )
        # Without a token, a replica may lack what this session has written.
        primary = session._been_there and CAUSALITY.get() is None
        return await_only(cluster.read(statement, parameters, primary=primary))
    session.bind_shard(plan=lambda: cluster.plan(statement, parameters).shards[0])
    return None


def _check_place(session: ShardSession, state: ORMExecuteState) -> None:
    """In a session that is bound from its start: refuse what names another shard, and rows that belong there."""
    said = state.statement.get_execution_options().get("shard_key")
    if session._key is not None and (said is not None or isinstance(state.statement, Insert | Update)):
        made = session._cluster.plan(
            state.statement, state.parameters, shard_key=session._key if said is None else said
        )
        if made.shards[0] != session._bound:
            raise CrossShard(str(session._bound), made.shards[0])


def _unbind(session: Session, transaction: Any) -> None:
    if transaction.parent is None and isinstance(session, ShardSession):
        if session._bound is not None:
            session._cluster.member(session._bound).committed()
        session._bound = session._engine = None


def _object_key(one: Any, scheme: Scheme) -> Key | None:
    """The shard key of a mapped object; None for tables that stand everywhere."""
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
    value = getattr(one, name)
    if value is None:
        raise CannotAnswer(
            f"an object of {type(one).__name__} has no shard key {name} yet",
            "set it before the flush; relationships and the database's defaults fill it too late",
        )
    return check(value, known.kind)
