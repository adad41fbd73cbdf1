"""Carries the messages of the outboxes to their receivers: at least once, in order for each key. See `outbox`.

For each shard one dispatcher of all processes leads, by an advisory lock that its connection holds; the others stand
by. Should a leader be cut off without knowing, two deliver for a while. Both go through a key's messages in order and
none of them skips one, so what the receiver has had is always a beginning of the row of messages, and the inbox drops
what comes twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from random import Random
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import shielded
from tenfold.db.advisory import lock_key
from tenfold.db.pool_policy import must_be_direct, refuse_pooled
from tenfold.db.refusals import NOT_THERE
from tenfold.db.shards.carry import Carrier, Receiver
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.outbox import CHANNEL, UNREADABLE, Message, OutboxOptions, message
from tenfold.resilience import Deadline

_log: Final = logging.getLogger("tenfold.db.shards")
_LOCK: Final = sa.text("SELECT pg_try_advisory_lock(:key)").bindparams(sa.bindparam("key", type_=sa.BigInteger))
FIND: Final = sa.text(
    "SELECT id, message, topic, key, body::text, tries, asked, error, "
    "extract(epoch FROM statement_timestamp() - at)::float8, held FROM tenfold_outbox o WHERE NOT dead AND due <= "
    "statement_timestamp() AND NOT EXISTS (SELECT FROM tenfold_outbox e WHERE e.key = o.key AND NOT e.dead AND "
    "e.id < o.id AND e.due > statement_timestamp()) ORDER BY id LIMIT :most"
)
"""What is due, and behind nothing of its key that is not. All by one reading of the clock: by a second one, a message
that was passed over a moment ago would be due, and the next of its key would go before it.
"""
_FORGET: Final = sa.text(
    "DELETE FROM tenfold_inbox WHERE message IN (SELECT message FROM tenfold_inbox WHERE at < now() - "
    "make_interval(secs => CAST(:keep AS float8)) ORDER BY at LIMIT :most FOR UPDATE SKIP LOCKED)"
)
_FORGET_EVERY: Final = 60.0
_FORGET_MOST: Final = 1000


class Dispatcher:
    """``async with Dispatcher(cluster, {"points": add_points}):`` delivers in the background until the block ends.

    ``receivers`` by topic; a message of another topic fails and is tried again, for another process may be newer. Run
    one in each process, or a process of its own: for each shard one leads. It needs one connection of each shard's
    pool, and ``concurrency`` more while it delivers. ``name`` ("outbox") is what its metrics are told apart by.
    Entering raises `MisuseError` where a pooler in transaction mode stands before a shard: it would lose the lock and
    the notifications.
    """

    def __init__(
        self,
        cluster: ShardedCluster,
        receivers: Mapping[str, Receiver],
        *,
        options: OutboxOptions | None = None,
        random: Random | None = None,
        hub: Hub = EVENTS,
        name: str = "outbox",
    ) -> None:
        if not receivers:
            raise MisuseError('receivers: expected functions by topic such as {"points": add_points}, got none')
        self._cluster = cluster
        self._options = options or OutboxOptions()
        self._random = random or Random()
        self._carrier = Carrier(cluster, dict(receivers), self._options, self._random, hub)
        self.name: Final = name
        self._tasks: list[asyncio.Task[None]] = []
        self._served: set[str] = set()
        self.counters: Final = self._carrier.counters
        self.leads: Final[set[str]] = set()
        """The shards whose messages this dispatcher delivers."""

    async def __aenter__(self) -> Dispatcher:
        if self._tasks:
            raise MisuseError("Dispatcher: expected to be entered once at a time")
        for shard in self._cluster.shards:
            if self._cluster.member(shard).pooled:
                refuse_pooled(f"Dispatcher: shard {shard}")
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

    def state(self) -> dict[str, Any]:
        """What a person or a dashboard asks for, ready for JSON: counters, and whether it leads each shard.

        May be called from any thread. See `tenfold.observe`.
        """
        leads = frozenset(self.leads)
        return {
            "name": self.name,
            **asdict(replace(self.counters, lag=dict(self.counters.lag))),
            "leads": {shard: shard in leads for shard in self._cluster.shards},
        }

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
                    await must_be_direct(connection, f"Dispatcher: shard {shard}")
                    while not (await connection.execute(_LOCK, key)).scalar_one():  # noqa: ASYNC110
                        await asyncio.sleep(self._random.uniform(poll / 2, poll))
                    self.leads.add(shard)
                    await self._lead(shard, connection)
                finally:
                    self.leads.discard(shard)
                    self.counters.lag.pop(shard, None)
                    await shielded(_drop(connection), timeout="5s")  # the lock and the listener end with the session
            except (*NOT_THERE, PoolTimeout, TenfoldError) as error:
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise asyncio.CancelledError from error  # it came while a batch was settled after the cancellation
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
                rows = (await connection.execute(FIND, {"most": self._options.batch})).all()
            self.counters.lag[shard] = max((row[8] for row in rows), default=0.0)
            found: list[tuple[Message, bool]] = []
            for row in rows:
                try:
                    one = message(row)
                    self._cluster.map.bucket_of(one.key)
                except UNREADABLE as error:
                    await self._carrier.lay_aside(shard, connection, row, error)
                else:
                    found.append((one, row.held))
            if found:
                await self._carrier.carry(shard, connection, found)
            if loop.time() >= forget_at:
                async with Deadline(self._options.deadline):
                    gone: Any = await connection.execute(_FORGET, {"keep": self._options.keep, "most": _FORGET_MOST})
                # There may be more of them: then at every look.
                forget_at = loop.time() + (_FORGET_EVERY if gone.rowcount < _FORGET_MOST else 0.0)
            if len(rows) == self._options.batch or any(row.held for row in rows):
                continue
            try:
                async with asyncio.timeout(float(self._options.poll)):
                    await told.wait()
            except TimeoutError:
                continue


async def _drop(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
