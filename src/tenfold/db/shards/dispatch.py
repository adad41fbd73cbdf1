"""Carries the messages of the outboxes to their receivers: at least once, in order for each key. See `outbox`.

For each shard one dispatcher of all processes leads, by an advisory lock that its connection holds; the others stand
by. Should a leader be cut off without knowing, two deliver for a while. Both go through a key's messages in order and
none of them skips one, so what the receiver has had is always a beginning of the row of messages, and the inbox drops
what comes twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import shielded
from tenfold.db.advisory import lock_key
from tenfold.db.cluster_errors import NoPrimary
from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.outbox import CHANNEL, Message, MessageDied, OutboxOptions, message
from tenfold.db.shards.parallel import together
from tenfold.resilience import Deadline
from tenfold.resilience.backoff import pause

Receiver = Callable[[AsyncSession, Message], Awaitable[object]]
"""Does what a message asks for, in a session on the shard of its key, and does not commit."""
Outcome = Literal["delivered", "duplicate", "moved"]

_log: Final = logging.getLogger("tenfold.db.shards")
_LOCK: Final = sa.text("SELECT pg_try_advisory_lock(:key)").bindparams(sa.bindparam("key", type_=sa.BigInteger))
_FIND: Final = sa.text(
    "SELECT id, message, topic, key, body::text, tries, asked, error, "
    "extract(epoch FROM clock_timestamp() - at)::float8, held FROM tenfold_outbox o WHERE NOT dead AND due <= "
    "clock_timestamp() AND NOT EXISTS (SELECT FROM tenfold_outbox e WHERE e.key = o.key AND NOT e.dead AND e.id < o.id "
    "AND e.due > clock_timestamp()) ORDER BY id LIMIT :most"
)
_CLAIM: Final = sa.text(
    "UPDATE tenfold_outbox o SET asked = CASE WHEN c.shard = ANY (asked) THEN asked ELSE asked || c.shard END, "
    "tries = tries + 1, held = true, due = clock_timestamp() + make_interval(secs => c.wait) FROM "
    "unnest(CAST(:ids AS bigint[]), CAST(:shards AS text[]), CAST(:waits AS float8[])) c (id, shard, wait) "
    "WHERE o.id = c.id"
)
_GIVE_BACK: Final = sa.text(
    "UPDATE tenfold_outbox SET tries = greatest(tries - 1, 0), held = :held, due = '-infinity' "
    "WHERE id = ANY (CAST(:ids AS bigint[]))"
)
_DELIVERED: Final = sa.text("DELETE FROM tenfold_outbox WHERE id = ANY (CAST(:ids AS bigint[]))")
_FAILED: Final = sa.text(
    "UPDATE tenfold_outbox SET due = clock_timestamp() + make_interval(secs => CAST(:wait AS float8)), error = :error, "
    "tries = :tries, dead = :dead, held = false WHERE id = :id"
)
_RECEIVE: Final = sa.text("INSERT INTO tenfold_inbox (message) VALUES (:message) ON CONFLICT DO NOTHING RETURNING true")
_RECEIVED: Final = sa.text("SELECT EXISTS (SELECT FROM tenfold_inbox WHERE message = :message)")
_FORGET: Final = sa.text(
    "DELETE FROM tenfold_inbox WHERE message IN (SELECT message FROM tenfold_inbox WHERE at < now() - "
    "make_interval(secs => CAST(:keep AS float8)) ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
)
_FORGET_EVERY: Final = 60.0
_LONGEST_ERROR: Final = 1000


@dataclass(slots=True)
class DispatchCounters:
    """What one `Dispatcher` has seen. ``lag``: seconds that the oldest message of a shard had waited when it was last
    looked at, 0 for none; only of shards where this dispatcher leads.
    """

    delivered: int = 0
    duplicates: int = 0
    """Deliveries that had happened already."""
    failed: int = 0
    suspects: int = 0
    """Messages that a dispatcher had in hand when it was killed, or cut off from their shard; delivered one by one."""
    dead: int = 0
    moved: int = 0
    """Put back because the key's bucket changed its shard meanwhile."""
    interrupted: int = 0
    """How often a shard was lost and looked for anew."""
    lag: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Results:
    """What became of one batch. ``gone``: shards that are not there, so that nobody else waits for them."""

    delivered: list[int] = field(default_factory=list)
    failed: list[tuple[Message, Exception]] = field(default_factory=list)
    gone: dict[str, Exception] = field(default_factory=dict)


class Dispatcher:
    """``async with Dispatcher(cluster, {"points": add_points}):`` delivers in the background until the block ends.

    ``receivers`` by topic; a message of another topic fails and is tried again, for another process may be newer. Run
    one in each process, or a process of its own: for each shard one leads. It needs one connection of each shard's
    pool, and ``concurrency`` more while it delivers.
    """

    def __init__(
        self,
        cluster: ShardedCluster,
        receivers: Mapping[str, Receiver],
        *,
        options: OutboxOptions | None = None,
        random: Random | None = None,
        hub: Hub = EVENTS,
    ) -> None:
        if not receivers:
            raise MisuseError('receivers: expected functions by topic such as {"points": add_points}, got none')
        self._cluster, self._receivers, self._hub = cluster, dict(receivers), hub
        self._options = options or OutboxOptions()
        self._random = random or Random()
        self._tasks: list[asyncio.Task[None]] = []
        self._served: set[str] = set()
        self.counters: Final = DispatchCounters()
        self.leads: Final[set[str]] = set()
        """The shards whose messages this dispatcher delivers."""

    async def __aenter__(self) -> Dispatcher:
        if self._tasks:
            raise MisuseError("Dispatcher: expected to be entered once at a time")
        tasks: list[asyncio.Task[None]] = []
        self._tasks = tasks
        self._serve(tasks)
        tasks.append(asyncio.create_task(self._serve_new(tasks), name="tenfold outbox of new shards"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, []
        self._served.clear()
        await shielded(_end(tasks))

    def __repr__(self) -> str:
        return f"<Dispatcher leads {', '.join(sorted(self.leads)) or 'nowhere'}, {self.counters}>"

    # -- one shard

    def _serve(self, tasks: list[asyncio.Task[None]]) -> None:
        for shard in self._cluster.shards:
            if shard not in self._served:
                self._served.add(shard)
                tasks.append(asyncio.create_task(self._keep(shard), name=f"tenfold outbox {shard}"))

    async def _serve_new(self, tasks: list[asyncio.Task[None]]) -> None:
        """Shards that the cluster has taken in since (`ShardedCluster.add_shard`)."""
        while True:
            await asyncio.sleep(float(self._options.poll))
            self._serve(tasks)

    async def _keep(self, shard: str) -> None:
        """Serve a shard for ever, over a new connection whenever one breaks."""
        poll = float(self._options.poll)
        key = {"key": lock_key("outbox", space="tenfold.shards")}
        while True:
            try:
                connection = await self._cluster.member(shard).connect()
                try:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    while not (await connection.execute(_LOCK, key)).scalar_one():  # noqa: ASYNC110
                        await asyncio.sleep(self._random.uniform(poll / 2, poll))
                    self.leads.add(shard)
                    await self._lead(shard, connection)
                finally:
                    self.leads.discard(shard)
                    await shielded(_drop(connection), timeout="5s")  # the lock and the listener end with the session
            except (*NOT_THERE, TenfoldError) as error:
                self.counters.interrupted += 1
                _log.warning("outbox of %s: looked for anew (%s: %s)", shard, type(error).__name__, error)
            await asyncio.sleep(self._random.uniform(0.0, poll))

    async def _lead(self, shard: str, connection: AsyncConnection) -> None:
        told = asyncio.Event()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener(CHANNEL, lambda *_: told.set())
        driver.add_termination_listener(lambda *_: told.set())
        loop = asyncio.get_running_loop()
        forget_at = loop.time()
        while True:
            told.clear()
            async with Deadline(self._options.deadline):
                rows = (await connection.execute(_FIND, {"most": self._options.batch})).all()
            self.counters.lag[shard] = max((row[8] for row in rows), default=0.0)
            if rows:
                suspects = [message(row) for row in rows if row[9]]
                await self._carry_apart(shard, connection, [message(row) for row in rows if not row[9]], suspects)
                if suspects or len(rows) == self._options.batch:
                    continue
            elif loop.time() >= forget_at:
                forget_at = loop.time() + _FORGET_EVERY
                async with Deadline(self._options.deadline):
                    await connection.execute(_FORGET, {"keep": self._options.keep})
            try:
                async with asyncio.timeout(float(self._options.poll)):
                    await told.wait()
            except TimeoutError:
                continue

    # -- one batch

    async def _carry_apart(
        self, shard: str, connection: AsyncConnection, messages: Sequence[Message], suspects: Sequence[Message]
    ) -> None:
        """What nobody suspects, as a batch, then the first suspect alone. Later messages of a suspect's key wait."""
        keys = {(type(one.key), one.key) for one in suspects}
        if free := [one for one in messages if (type(one.key), one.key) not in keys]:
            await self._carry(shard, connection, free)
        if not suspects:
            return
        first = suspects[0]
        if first.tries < self._options.tries:
            self.counters.suspects += 1
            await self._carry(shard, connection, [first], held=True)
            return
        text = f"its dispatcher was killed or cut off while it delivered it, the last of {first.tries} tries"
        if first.error is not None:
            text = f"{text}; before that: {first.error}"
        values = {"id": first.id, "wait": 0.0, "error": text[:_LONGEST_ERROR], "tries": first.tries, "dead": True}
        async with Deadline(self._options.deadline):
            await connection.execute(_FAILED, values)
        self._bury(shard, first, text)

    async def _carry(
        self, shard: str, connection: AsyncConnection, messages: Sequence[Message], *, held: bool = False
    ) -> None:
        targets = [self._cluster.map.shard_of(one.key) for one in messages]
        waits = [self._pause(one.tries + 1) for one in messages]
        async with Deadline(self._options.deadline):
            ids = [one.id for one in messages]
            await connection.execute(_CLAIM, {"ids": ids, "shards": targets, "waits": waits})
        rows: dict[Any, tuple[str, list[Message]]] = {}
        for one, target in zip(messages, targets, strict=True):
            rows.setdefault((type(one.key), one.key), (target, []))[1].append(one)
        results = _Results()
        try:
            work = [partial(self._in_order, row, target, results) for target, row in rows.values()]
            await together(work, self._options.concurrency)
        finally:
            settled = {*results.delivered, *(one.id for one, _ in results.failed)}
            rest = [one.id for one in messages if one.id not in settled]
            await shielded(self._settle(shard, connection, results, rest, held), timeout=self._options.deadline)

    async def _in_order(self, row: Sequence[Message], target: str, results: _Results) -> None:
        """The messages of one key, until one of them does not go through."""
        for one in row:
            try:
                if target in results.gone:
                    raise results.gone[target]
                async with Deadline(self._options.deadline):
                    outcome = await self._deliver(one, frozenset((*one.asked, target)))
            except Exception as error:  # noqa: BLE001 - whatever a receiver raises, the message is tried again
                if isinstance(error, NoPrimary) or is_gone(error):
                    results.gone[target] = error
                results.failed.append((one, error))
                return
            if outcome == "moved":
                self.counters.moved += 1
                return
            self.counters.delivered += outcome == "delivered"
            self.counters.duplicates += outcome == "duplicate"
            results.delivered.append(one.id)

    async def _deliver(self, one: Message, asked: frozenset[str]) -> Outcome:
        receiver = self._receivers.get(one.topic)
        if receiver is None:
            raise MisuseError(f"no receiver of topic {one.topic!r}: expected one of {', '.join(self._receivers)}")
        async with self._cluster.session(shard_key=one.key) as session:
            connection = await session.connection()  # it has passed the fence now, so the shard is the key's
            here: Any = session.sync_session
            if here.shard not in asked:
                return "moved"
            known = {"message": one.message}
            if (await connection.execute(_RECEIVE, known)).scalar_one_or_none() is None:
                return "duplicate"
            for before in asked - {here.shard}:
                async with self._cluster.member(before).alone(writes=False) as other:
                    if (await other.execute(_RECEIVED, known)).scalar_one():
                        return "duplicate"
            await receiver(session, one)
            await session.commit()
        return "delivered"

    async def _settle(
        self, shard: str, connection: AsyncConnection, results: _Results, rest: Sequence[int], held: bool
    ) -> None:
        if results.delivered:
            await connection.execute(_DELIVERED, {"ids": results.delivered})
        if rest:
            await connection.execute(_GIVE_BACK, {"ids": rest, "held": held})
        for one, error in results.failed:
            self.counters.failed += 1
            tries, wait = one.tries + 1, self._pause(one.tries + 1)
            if error in results.gone.values():  # that a shard is down is not the message's fault
                tries, wait = one.tries, float(self._options.poll)
            dead = tries >= self._options.tries
            text = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            values = {"id": one.id, "wait": wait, "error": text, "tries": tries, "dead": dead}
            await connection.execute(_FAILED, values)
            if dead:
                self._bury(shard, one, text)

    def _pause(self, tries: int) -> float:
        base, cap = float(self._options.base), float(self._options.cap)
        return pause("full", tries, 0.0, base, cap, self._random)

    def _bury(self, shard: str, one: Message, text: str) -> None:
        self.counters.dead += 1
        self._hub.emit(MessageDied(shard, one.id, one.topic, text))
        _log.error("outbox of %s: message %d (%s) is laid aside: %s", shard, one.id, one.topic, text)


async def _drop(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
