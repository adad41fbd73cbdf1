"""SQLAlchemy's session on one shard: the first statement decides which, the transaction keeps it, a second is refused.

A session that was opened for a key or a shard by name runs every statement there as it stands. One that was not reads
the key from each statement, from its execution option ``shard_key``, or from the object. What a relationship loads
belongs to the object it is loaded for and is read where that lives, unless the tables' keys say otherwise (`homes`).
Reads that name no key scatter, unless a transaction is open: there they would miss what it has written. `get` by an id
that does not say its shard looks on the shard of the transaction; that nothing is there does not mean that there is
nothing, so this is refused, not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Insert, Update, event, inspect
from sqlalchemy.engine import Connection, Engine, Result
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util import await_only

from tenfold._core.errors import MisuseError
from tenfold.db.causality import CAUSALITY, knowing
from tenfold.db.shards.errors import CannotAnswer, CrossShard, StaleMap
from tenfold.db.shards.homes import home, loaded_for, object_key, remember, stays_at_home
from tenfold.db.shards.key import check_loaded, locate
from tenfold.db.shards.keys import Key
from tenfold.db.shards.loaded import as_loaded
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.member import Member
from tenfold.db.shards.scheme import Everywhere, Scheme, Sharded
from tenfold.db.shards.shape import Plan
from tenfold.db.shards.store import EXPECTED, SHARD

_OVERRIDDEN: Final = (Session._execute_internal, Session._bulk_save_mappings)
"""By their names, so that a SQLAlchemy without them fails here and not by statements that pass unseen."""


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
    """What `ShardedCluster.session` opens. ``shard_key`` or ``shard`` bind it from the start. ``isolation``: the level
    of its transactions, the server's default if left out.
    """

    def __init__(
        self,
        *,
        cluster: Shards,
        shard_key: Any = None,
        shard: str | None = None,
        isolation: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if shard_key is not None and shard is not None:
            raise MisuseError("session: expected shard_key or shard, got both")
        self._cluster = cluster
        self._key: Key | None = None if shard_key is None else cluster.scheme.key(shard_key)
        self._named, self._isolation = shard, isolation
        self._bound: str | None = None
        self._engine: Engine | None = None
        self._been_there = False
        self._scope: object = None
        """The causal scope that knows of all that it has done on primaries; `SEVERAL`: none does."""
        self._getting: _Get | None = None
        event.listen(self, "after_transaction_end", _unbind)
        if self._key is None and shard is None:
            event.listen(self, "pending_to_persistent", remember)
            event.listen(self, "loaded_as_persistent", remember)

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

    def _execute_internal(self, *arguments: Any, **options: Any) -> Any:
        """Behind `execute`, `scalar` and `scalars`. The statement is routed as the listeners to ``do_orm_execute``,
        who may change it, have left it.
        """
        if options.get("_parent_execute_state") is None:  # else it is among what is left of the parent's
            options["_add_event"] = _route
        return super()._execute_internal(*arguments, **options)

    def commit(self) -> None:
        """As SQLAlchemy's. Where the answer is lost it may have happened, and later reads must show it."""
        try:
            super().commit()
        finally:
            self._count_commit()  # unless the transaction is over, which has counted it

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As SQLAlchemy's, after every changed object has been found to live on the session's shard."""
        changed = [*self.new, *self.dirty, *self.deleted]
        if changed:
            with self.no_autoflush:  # the shard key may have to be loaded
                self._check_changed(changed)
        super().flush(objects)

    def _check_changed(self, changed: Sequence[Any]) -> None:
        scheme = self._cluster.scheme
        if self._key is None and self._named is None:
            self.bind_shard(keys={object_key(one, scheme) for one in changed})
            return
        target = self._target()
        for one in changed:
            if self._named is not None and _stands_everywhere(one, scheme):
                continue
            key = object_key(one, scheme)
            if target is not None and self._named is None and self._cluster.map.shard_of(key) != target:
                raise CrossShard(target, self._cluster.map.shard_of(key))

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """As SQLAlchemy's. Without the shard key, in a session that was not opened for one, it looks on the shard of
        the transaction, and raises `CannotAnswer` instead of None when the object is not there.
        """
        before, self._getting = self._getting, _Get(self._getting is not None and self._getting.merges)
        try:
            found = super().get(entity, ident, **options)
            if found is None and self._getting.blind:
                raise CannotAnswer(
                    f"there is no {getattr(entity, '__name__', entity)} {ident!r} on shard {self._bound}, where the "
                    "transaction is, and its id does not say on which shard it would be",
                    'say it: get(…, execution_options={"shard_key": …}), or session(shard_key=…)',
                )
            return found
        finally:
            self._getting = before

    def merge(self, instance: Any, **options: Any) -> Any:
        """As SQLAlchemy's, on the shard of the object's shard key."""
        if self._target() is None:
            self.bind_shard(keys={object_key(instance, self._cluster.scheme)})
        before, self._getting = self._getting, _Get(merges=True)
        try:
            return super().merge(instance, **options)
        finally:
            self._getting = before

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
            return

    def _count_commit(self) -> None:
        """What the transaction has done may last from now on: the present causality scope counts it."""
        if self._bound is None:
            return
        self._cluster.member(self._bound).committed()
        self._scope = knowing(self._scope, self._been_there)
        self._been_there = True

    def _token_tells(self) -> bool:
        """Whether what the present scope wants covers all that this session has done on primaries."""
        scope = CAUSALITY.get()
        return scope is not None and self._scope is scope

    def _connector(self, shard: str) -> Callable[[Engine], Connection]:
        options: dict[str, Any] = {EXPECTED: self._cluster.map.epoch, SHARD: shard}
        if self._isolation is not None:
            options["isolation_level"] = self._isolation

        def connect(engine: Engine) -> Connection:
            self._engine = engine.execution_options(**options)
            return self.connection(bind_arguments={"bind": self._engine})

        return connect


def _route(state: ORMExecuteState) -> Result[Any] | None:
    session = state.session
    assert isinstance(session, ShardSession)
    cluster, statement, parameters = session._cluster, state.statement, state.parameters
    said = state.execution_options.get("shard_key")  # of the statement or of the call
    if session._target() is not None:
        session.bind_shard()
        _check_place(session, state, said)
        return None
    if said is None and (state.is_relationship_load or state.is_column_load) and stays_at_home(state, cluster.scheme):
        check_loaded(statement, cluster.scheme)
        one = loaded_for(state)
        key = None if one is None else home(one, cluster.scheme)
        if key is not None:
            session.bind_shard(keys={key})
        if session._bound is not None:
            return None
    try:
        made = cluster.plan(statement, parameters, shard_key=said)
    except CannotAnswer:
        if session._bound is None or not _gets(session, statement):
            raise
        return None
    elsewhere = session._bound is not None and made.shards[0] != session._bound
    if elsewhere and said is None and not made.write and not locate(statement, parameters, cluster.scheme).sharded:
        return None  # the tables stand here too
    if made.kind == "scatter":
        if state.load_options._autoflush:  # as SQLAlchemy does before it reads; what was flushed binds the session
            session._autoflush()
        if session.in_transaction() and session._bound is not None:
            raise CannotAnswer(
                f"the transaction is bound to shard {session._bound}, and this read needs {', '.join(made.shards)}",
                "read it in a session of its own, or pin it with WHERE on the shard key",
            )
        # A replica may lack what this session has written, unless the scope's token tells of it.
        primary = session._been_there and not session._token_tells()
        result = as_loaded(await_only(cluster.read(statement, parameters, primary=primary)), statement)
        batch = state.execution_options.get("yield_per")
        return result if batch is None else result.yield_per(batch)
    session.bind_shard(plan=lambda: cluster.plan(statement, parameters, shard_key=said).shards[0])
    return None


class _Get:
    """A `get` under way. ``blind``: it looked on a shard where the object need not be. ``merges``: for a `merge`,
    whose object's shard key has said where it is.
    """

    __slots__ = ("blind", "merges")

    def __init__(self, merges: bool = False) -> None:
        self.blind, self.merges = False, merges


def _gets(session: ShardSession, statement: Any) -> bool:
    """Whether this is `get` with an id that does not say its shard; then it looks on the session's."""
    getting = session._getting
    if getting is None or not isinstance(session._cluster.scheme.of(statement.get_final_froms()[0]), Sharded):
        return False
    getting.blind = not getting.merges
    return True


def _check_place(session: ShardSession, state: ORMExecuteState, said: Any) -> None:
    """In a session that is bound from its start: refuse what names another shard, and rows that belong there."""
    if session._key is not None and (said is not None or isinstance(state.statement, Insert | Update)):
        made = session._cluster.plan(
            state.statement, state.parameters, shard_key=session._key if said is None else said
        )
        if made.shards[0] != session._bound:
            raise CrossShard(str(session._bound), made.shards[0])


def _stands_everywhere(one: Any, scheme: Scheme) -> bool:
    mapper: Any = inspect(type(one))
    return isinstance(scheme.of(mapper.local_table), Everywhere)


def _unbind(session: Session, transaction: Any) -> None:
    if transaction.parent is None and isinstance(session, ShardSession):
        session._count_commit()
        session._bound = session._engine = None
