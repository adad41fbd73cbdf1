"""One transaction over several shards: two-phase commit (`commit`) with a decision log, and recovery.

What it costs: a prepared part holds its locks until it is told, so a shard or a coordinator that is down holds up
others for that time; two round trips and three flushes to disk more than a local commit; and no snapshot is common to
the shards, so a reader may see one part before the other. Where a delay does no harm, an outbox is the better way
(`outbox`).

Deadlocks over shards are seen by nobody: `across` bounds the wait, and `TwoPhase.run` runs it again.

The log lives on the home shard. If that is an `AsyncCluster` whose replicas are not synchronous, a failover may lose
the last decisions, and with them the agreement of the shards: use synchronous replication for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from types import TracebackType
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, format_duration
from tenfold.db.cluster_errors import RetriesExhausted
from tenfold.db.refusals import NOT_THERE
from tenfold.db.shards import decisions
from tenfold.db.shards.across import CrossShardTransaction, may_run_again, shard_of, waited_too_long
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.commit import Protocol
from tenfold.db.shards.coordinator import Coordinator
from tenfold.db.shards.errors import LockTimeout
from tenfold.db.shards.parallel import together
from tenfold.db.shards.recovery import Recovered, recover
from tenfold.db.transaction import RunOptions
from tenfold.resilience.backoff import pause
from tenfold.resilience.deadline import Deadline

T = TypeVar("T")
_log: Final = logging.getLogger("tenfold.db.shards")
_ENTERING: Final = 30.0


class TwoPhase:
    """``async with TwoPhase(cluster) as two: async with two.transaction() as tx: …``; one for each process::

        async with two.transaction() as tx:
            giver, taker = await tx.session(1), await tx.session(2)
            await giver.execute(update(Account).where(Account.customer == 1).values(money=Account.money - 5))
            await taker.execute(update(Account).where(Account.customer == 2).values(money=Account.money + 5))

    The end of the block commits on all shards or on none; an exception rolls back. ``age`` (5 s): parts that a dead
    coordinator left are ended when they are that old. ``every`` (5 s): how often that is looked for. ``timeout``
    (10 s) bounds the commit; what is not settled by then is left to recovery. ``lock_timeout`` (2 s): how long a
    statement waits for a lock at most, once the transaction is on several shards; it is between half of it and all.

    Needs ``max_prepared_transactions`` above 0 on every shard (as many as connections, to be on the safe side), and a
    session of its own on the home shard: no pooler in transaction mode. Raises `MisuseError` otherwise.
    """

    def __init__(
        self,
        cluster: ShardedCluster,
        *,
        age: Duration = "5s",
        every: Duration = "5s",
        timeout: Duration = "10s",
        lock_timeout: Duration = "2s",
        random: Random | None = None,
    ) -> None:
        self._cluster = cluster
        self._age, self._every = duration(age, "age"), duration(every, "every")
        self._timeout = duration(timeout, "timeout")
        self._lock_timeout = duration(lock_timeout, "lock_timeout")
        self._random = random or Random()
        if not self._every or not self._timeout or not self._lock_timeout:
            raise MisuseError('every, timeout and lock_timeout: expected durations above 0 such as "5s", got 0')
        self._coordinator = Coordinator(cluster)
        self._look = asyncio.Event()
        self._protocol = Protocol(cluster, self._coordinator, self._timeout, self._look.set)
        self._task: asyncio.Task[None] | None = None
        self.retries = 0
        """Times that `run` has run a function again."""
        self.recovered_commits = 0
        self.recovered_aborts = 0

    async def __aenter__(self) -> TwoPhase:
        if self._task is not None:
            raise MisuseError("TwoPhase: expected to be entered once at a time")
        shards = self._cluster.shards
        async with Deadline(_ENTERING):
            await together([partial(self._check, shard) for shard in shards], len(shards))
            async with self._cluster.member(self._cluster.home).begin(None) as connection:
                await decisions.create_tables(connection)
            await self._coordinator.ensure()
        self._task = asyncio.create_task(self._keep(), name="tenfold two-phase recovery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await shielded(self._coordinator.leave())

    @property
    def committed(self) -> int:
        """Transactions of several shards that were committed."""
        return self._protocol.committed

    @property
    def aborted(self) -> int:
        """Transactions of several shards that were rolled back after their block had ended well."""
        return self._protocol.aborted

    @property
    def late(self) -> int:
        """Parts of decided transactions that their shard did not carry out at once, and that were left to recovery."""
        return self._protocol.late

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[CrossShardTransaction]:
        """A transaction over whichever shards its sessions are on. One that touched a single shard commits as usual.

        Once the block has ended well, a cancellation or a deadline no longer stops it: it is passed on after the
        outcome stands. Raises what made a shard refuse (all is rolled back), `LockTimeout`, `CoordinatorLost`,
        `InDoubt`.
        """
        if self._task is None:
            raise MisuseError("TwoPhase: expected to be entered (`async with`), and is not")
        await self._coordinator.ensure()
        transaction = CrossShardTransaction(self._cluster, self._lock_timeout * self._random.uniform(0.5, 1.0))
        try:
            yield transaction
            for shard, session in transaction.sessions.items():
                if shard_of(session) != shard:
                    raise MisuseError(f"the session on {shard} was ended by itself; the transaction's end does that")
            if len(transaction.sessions) == 1:
                await shielded(next(iter(transaction.sessions.values())).commit(), timeout=self._timeout)
            elif transaction.sessions:
                await shielded(self._protocol.commit(transaction))
        except Exception as error:
            if len(transaction.sessions) > 1 and waited_too_long(error):
                raise LockTimeout(tuple(transaction.sessions), format_duration(self._lock_timeout)) from error
            raise
        finally:
            await shielded(_close(transaction.sessions.values(), self._timeout))

    async def run(
        self,
        fn: Callable[[CrossShardTransaction], Awaitable[T]],
        *,
        deadline: Duration | None = None,
        options: RunOptions | None = None,
    ) -> T:
        """Run ``fn(tx)`` in a `transaction`; give back what it returned.

        ``fn`` is run again from the start, in fresh sessions, after `LockTimeout`, a deadlock or a serialization
        failure on one shard, `MapMoved` and `CoordinatorLost`, with pauses that are fully jittered: it must do nothing
        outside of the sessions that cannot be done twice. ``deadline``: for all of it. ``options``: ``attempts``,
        ``base`` and ``cap``. Raises what `transaction` and ``fn`` raise, `RetriesExhausted`, `DeadlineExceeded`.
        """
        how = options or RunOptions()
        async with AsyncExitStack() as stack:
            if deadline is not None:
                await stack.enter_async_context(Deadline(deadline))
            for number in range(1, how.attempts + 1):
                try:
                    async with self.transaction() as transaction:
                        return await fn(transaction)
                except Exception as error:
                    if not may_run_again(error):
                        raise
                    if number == how.attempts:
                        raise RetriesExhausted(
                            f"the transaction failed {number} times, the last time with: {error}", number
                        ) from error
                self.retries += 1
                await asyncio.sleep(pause("full", number, 0.0, float(how.base), float(how.cap), self._random))
        raise AssertionError("the last attempt returns or raises")

    async def recover(self) -> Recovered:
        """End what dead coordinators left in doubt, now. The background does so too."""
        async with asyncio.timeout(self._timeout):
            found = await recover(
                self._cluster,
                own=self._coordinator.id if self._coordinator.is_alive() else None,
                active=lambda: frozenset(self._protocol.active),
                age=self._age,
                patience=self._timeout / 4,
            )
        self.recovered_commits += found.committed
        self.recovered_aborts += found.aborted
        return found

    def __repr__(self) -> str:
        return (
            f"<TwoPhase coordinator {self._coordinator.id}, {len(self._protocol.active)} under way, "
            f"{self.committed} committed, {self.aborted} aborted, {self.late} parts late>"
        )

    # -- the coordinator

    async def _check(self, shard: str) -> None:
        async with self._cluster.member(shard).alone(writes=False) as connection:
            found = (await connection.execute(sa.text("SHOW max_prepared_transactions"))).scalar_one()
        if int(found) == 0:
            raise MisuseError(
                f"shard {shard}: expected max_prepared_transactions above 0, got 0: set it to max_connections in "
                "postgresql.conf and restart the server, on replicas first"
            )

    async def _keep(self) -> None:
        while True:
            try:
                await self.recover()
            except (*NOT_THERE, PoolTimeout, TenfoldError) as error:
                _log.warning("two-phase: recovery is tried again (%s: %s)", type(error).__name__, error)
            self._look.clear()
            try:
                async with asyncio.timeout(self._every):
                    await self._look.wait()
                await asyncio.sleep(min(1.0, self._every))  # a shard that was lost needs a moment
            except TimeoutError:
                continue


async def _close(sessions: Iterable[AsyncSession], within: float) -> None:
    """What was not prepared is rolled back: by the server itself where a connection is lost, or is cut here."""

    async def one(session: AsyncSession) -> None:
        try:
            async with asyncio.timeout(within):
                await session.close()
        except NOT_THERE:
            await session.invalidate()

    await asyncio.gather(*(one(session) for session in sessions))
