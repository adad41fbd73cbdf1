"""Brings a batch of messages to their receivers, and writes down what became of each. See `dispatch`.

A try is counted before the delivery (the *claim*), so a message that kills its process is counted too. The messages of
one key go one after the other, and none goes before an earlier one that did not go through. A message is delivered by a
transaction on the shard of its key that also writes it into the inbox; what is there already is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold._core.tasks import shielded
from tenfold.db.cluster_errors import NoPrimary
from tenfold.db.refusals import is_gone
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.outbox import Message, MessageDied, OutboxOptions
from tenfold.db.shards.parallel import together
from tenfold.resilience import Deadline
from tenfold.resilience.backoff import pause

Receiver = Callable[[AsyncSession, Message], Awaitable[object]]
"""Does what a message asks for, in a session on the shard of its key, and neither commits nor rolls back."""
Outcome = Literal["delivered", "duplicate", "moved"]

_log: Final = logging.getLogger("tenfold.db.shards")
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


class Carrier:
    """Delivers what it is given, to ``receivers`` by topic, and counts in ``counters``."""

    def __init__(
        self,
        cluster: ShardedCluster,
        receivers: Mapping[str, Receiver],
        options: OutboxOptions,
        random: Random,
        hub: Hub,
    ) -> None:
        self._cluster, self._receivers, self._options = cluster, receivers, options
        self._random, self._hub = random, hub
        self.counters: Final = DispatchCounters()

    async def carry(self, shard: str, connection: AsyncConnection, found: Sequence[tuple[Message, bool]]) -> None:
        """What nobody suspects, as a batch, then one suspect alone. ``found``: messages in order, and whether each is
        one.
        """
        free, suspect = turn(found)
        if free:
            await self._carry_batch(shard, connection, free)
        if suspect is None:
            return
        if suspect.tries < self._options.tries:
            self.counters.suspects += 1
            await self._carry_batch(shard, connection, [suspect], held=True)
            return
        text = f"its dispatcher was killed or cut off while it delivered it, the last of {suspect.tries} tries"
        if suspect.error is not None:
            text = f"{text}; before that: {suspect.error}"
        values = {"id": suspect.id, "wait": 0.0, "error": text[:_LONGEST_ERROR], "tries": suspect.tries, "dead": True}
        async with Deadline(self._options.deadline):
            await connection.execute(_FAILED, values)
        self._bury(shard, suspect.id, suspect.topic, text)

    async def lay_aside(self, shard: str, connection: AsyncConnection, row: Any, error: Exception) -> None:
        """A row that is no message to anybody: no try would change that, and the others must not wait for it."""
        text = f"it cannot be read: {type(error).__name__}: {error}"[:_LONGEST_ERROR]
        values = {"id": row.id, "wait": 0.0, "error": text, "tries": row.tries, "dead": True}
        async with Deadline(self._options.deadline):
            await connection.execute(_FAILED, values)
        self._bury(shard, row.id, row.topic, text)

    async def _carry_batch(
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
            except (Exception, asyncio.CancelledError) as error:  # whatever a receiver raises, it is tried again
                if isinstance(error, asyncio.CancelledError):
                    if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        raise
                    error = RuntimeError("the receiver was cancelled from within")
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
            began = here.get_transaction()
            await receiver(session, one)
            if here.get_transaction() is not began:
                raise MisuseError(
                    "the receiver has ended its session's transaction, and with it what keeps this message from being "
                    "received twice: expected no commit and no rollback; try things in session.begin_nested()"
                )
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
                self._bury(shard, one.id, one.topic, text)

    def _pause(self, tries: int) -> float:
        base, cap = float(self._options.base), float(self._options.cap)
        return pause("full", tries, 0.0, base, cap, self._random)

    def _bury(self, shard: str, id: int, topic: str, text: str) -> None:
        self.counters.dead += 1
        self._hub.emit(MessageDied(shard, id, topic, text))
        _log.error("outbox of %s: message %d (%s) is laid aside: %s", shard, id, topic, text)


def turn(found: Sequence[tuple[Message, bool]]) -> tuple[list[Message], Message | None]:
    """Whose turn it is: all that nobody suspects and that no suspect of their key stands before, and the first suspect
    that nothing of its key stands before. The rest waits.
    """
    free: list[Message] = []
    suspect: Message | None = None
    before: set[tuple[type, Any]] = set()
    behind: set[tuple[type, Any]] = set()
    for one, suspected in found:
        key = type(one.key), one.key
        if suspected:
            if suspect is None and key not in before:
                suspect = one
            behind.add(key)
        elif key not in behind:
            free.append(one)
        before.add(key)
    return free, suspect
