"""One transaction over several shards: two-phase commit with a decision log, and recovery.

Theory. Each shard first *prepares*: it promises to commit whatever happens to it, and keeps its locks. When all have
promised, the coordinator writes its decision, and that is the moment of the commit; then it tells the shards. Under
*presumed abort* (Mohan, Lindsay and Obermarck, "Transaction Management in the R* Distributed Database Management
System", 1986) only decisions to commit are written down, and before anybody is told; whoever finds a promise and no
decision of a coordinator that is gone may roll back. A decision is forgotten when all shards have carried it out.

What it costs: a prepared part holds its locks until it is told, so a shard or a coordinator that is down holds up
others for that time; two round trips and three flushes to disk more than a local commit; and no snapshot is common to
the shards, so a reader may see one part before the other. Where a delay does no harm, an outbox is the better way
(`outbox`). Deadlocks over shards are seen by nobody: touch keys in one order, and let a deadline bound the wait.

The log lives on the home shard. If that is an `AsyncCluster` whose replicas are not synchronous, a failover may lose
the last decisions, and with them the agreement of the shards: use synchronous replication for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration
from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.shards import decisions
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.coordinator import Coordinator, driver_of
from tenfold.db.shards.decisions import Gid, Verdict
from tenfold.db.shards.errors import CoordinatorLost, InDoubt, ShardError
from tenfold.db.shards.keys import check
from tenfold.db.shards.parallel import together
from tenfold.db.shards.recovery import Recovered, recover

_log: Final = logging.getLogger("tenfold.db.shards")
_BETWEEN_TRIES: Final = 0.05


class CrossShardTransaction:
    """What `TwoPhase.transaction` gives: one session on each shard that is touched."""

    def __init__(self, cluster: ShardedCluster) -> None:
        self._cluster = cluster
        self.sessions: Final[dict[str, AsyncSession]] = {}

    async def session(self, shard_key: Any) -> AsyncSession:
        """The session on the shard of ``shard_key``; the same for keys of the same shard. Do not commit it."""
        found = self.sessions.get(self._cluster.map.shard_of(check(shard_key)))
        if found is not None:
            return found
        session = self._cluster.session(shard_key=shard_key, expire_on_commit=False)
        try:
            await session.connection()
            shard = _shard_of(session)
            if shard is None or shard in self.sessions:
                raise ShardError("the map of shards changed in the middle of the transaction: run it again")
        except BaseException:
            await shielded(session.close())
            raise
        self.sessions[shard] = session
        return session


class TwoPhase:
    """``async with TwoPhase(cluster) as two: async with two.transaction() as tx: …``; one for each process::

        async with two.transaction() as tx:
            giver, taker = await tx.session(1), await tx.session(2)
            await giver.execute(update(Account).where(Account.customer == 1).values(money=Account.money - 5))
            await taker.execute(update(Account).where(Account.customer == 2).values(money=Account.money + 5))

    The end of the block commits on all shards or on none; an exception rolls back. ``age`` (5 s): parts that a dead
    coordinator left are ended when they are that old. ``every`` (5 s): how often that is looked for. ``timeout``
    (10 s) bounds the commit; what is not settled by then is left to recovery.

    Needs ``max_prepared_transactions`` above 0 on every shard (as many as connections, to be on the safe side), and a
    session of its own on the home shard: no pooler in transaction mode. Raises `MisuseError` otherwise.
    """

    def __init__(
        self, cluster: ShardedCluster, *, age: Duration = "5s", every: Duration = "5s", timeout: Duration = "10s"
    ) -> None:
        self._cluster = cluster
        self._age, self._every = duration(age, "age"), duration(every, "every")
        self._timeout = duration(timeout, "timeout")
        if not self._every or not self._timeout:
            raise MisuseError('every and timeout: expected durations above 0 such as "5s", got 0')
        self._coordinator = Coordinator(cluster)
        self._number = 0
        self._active: set[int] = set()
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.committed = 0
        self.aborted = 0
        """Transactions of several shards that were rolled back after their block had ended well."""
        self.late = 0
        """Parts of decided transactions that their shard did not carry out at once, and that were left to recovery."""
        self.recovered_commits = 0
        self.recovered_aborts = 0

    async def __aenter__(self) -> TwoPhase:
        if self._task is not None:
            raise MisuseError("TwoPhase: expected to be entered once at a time")
        shards = self._cluster.shards
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
        await shielded(self._coordinator.leave(), timeout=self._timeout)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[CrossShardTransaction]:
        """A transaction over whichever shards its sessions are on. One that touched a single shard commits as usual.

        Once the block has ended well, a cancellation or a deadline no longer stops it: it is passed on after the
        outcome stands. Raises what made a shard refuse (all is rolled back), `CoordinatorLost`, `InDoubt`.
        """
        if self._task is None:
            raise MisuseError("TwoPhase: expected to be entered (`async with`), and is not")
        await self._coordinator.ensure()
        transaction = CrossShardTransaction(self._cluster)
        try:
            yield transaction
            for shard, session in transaction.sessions.items():
                if _shard_of(session) != shard:
                    raise MisuseError(f"the session on {shard} was ended by itself; the transaction's end does that")
            if len(transaction.sessions) == 1:
                await next(iter(transaction.sessions.values())).commit()
            elif transaction.sessions:
                await shielded(self._commit(transaction))
        finally:
            await shielded(_close(transaction.sessions.values(), self._timeout))

    async def recover(self) -> Recovered:
        """End what dead coordinators left in doubt, now. The background does so too."""
        async with asyncio.timeout(self._timeout):
            found = await recover(
                self._cluster, own=self._coordinator.id, active=lambda: frozenset(self._active), age=self._age
            )
        self.recovered_commits += found.committed
        self.recovered_aborts += found.aborted
        return found

    def __repr__(self) -> str:
        return (
            f"<TwoPhase coordinator {self._coordinator.id}, {len(self._active)} under way, {self.committed} committed, "
            f"{self.aborted} aborted, {self.late} parts late>"
        )

    # -- the protocol

    async def _commit(self, transaction: CrossShardTransaction) -> None:
        coordinator, tag = self._coordinator.id, self._coordinator.tag
        assert coordinator is not None
        self._number += 1
        number = self._number
        self._active.add(number)
        try:
            drivers: list[tuple[Gid, Any]] = []
            for part, session in enumerate(transaction.sessions.values()):
                await session.flush()
                gid = Gid(coordinator, number, part, tag)
                drivers.append((gid, driver_of(await session.connection())))
            try:
                await self._prepare(drivers)
                await self._decide(coordinator, number)
            except InDoubt:
                raise
            except BaseException:
                self.aborted += 1
                await self._tell(drivers, "abort")
                raise
            self.committed += 1
            if await self._tell(drivers, "commit"):
                self._coordinator.carried_out(number)
            else:
                self.late += 1
        finally:
            self._active.discard(number)

    async def _prepare(self, drivers: Sequence[tuple[Gid, Any]]) -> None:
        """Have all promise. Raises the first refusal after all have answered."""
        async with asyncio.timeout(self._timeout):
            answers = await asyncio.gather(
                *(driver.execute(f"PREPARE TRANSACTION '{gid}'") for gid, driver in drivers), return_exceptions=True
            )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _decide(self, coordinator: int, number: int) -> None:
        """Write the decision; again where the answer was lost, which does not hurt. Raises `CoordinatorLost` where it
        certainly was not written, `InDoubt` where nobody knows.
        """
        home = self._cluster.member(self._cluster.home)
        lost = False
        until = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                async with asyncio.timeout_at(until), home.alone() as connection:
                    done, sent = list(self._coordinator.done), True
                    if await decisions.decide(connection, coordinator, number, done):
                        del self._coordinator.done[: len(done)]
                        return
                    if not lost:
                        self._coordinator.give_up()
                        raise CoordinatorLost("another process took this coordinator for dead; run it again")
                    if (coordinator, number) in await decisions.decided(connection, [coordinator]):
                        return
                    raise InDoubt(number)
            except NOT_THERE as error:
                lost = lost or sent
                if asyncio.get_running_loop().time() >= until or not (
                    isinstance(error, TimeoutError) or is_gone(error)
                ):
                    if lost:
                        raise InDoubt(number) from error
                    raise
            await asyncio.sleep(_BETWEEN_TRIES)

    async def _tell(self, drivers: Sequence[tuple[Gid, Any]], verdict: Verdict) -> bool:
        """Carry out the verdict on all shards; whether all have done so. What remains is recovery's."""
        try:
            async with asyncio.timeout(self._timeout):
                answers = await asyncio.gather(
                    *(decisions.resolve(driver, gid, verdict) for gid, driver in drivers), return_exceptions=True
                )
        except TimeoutError as error:
            answers = [error]
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            _log.warning("two-phase: a part of transaction %d is left to recovery: %s", drivers[0][0].number, failed[0])
            self._look.set()
        return not failed

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
            except (*NOT_THERE, TenfoldError) as error:
                _log.warning("two-phase: recovery is tried again (%s: %s)", type(error).__name__, error)
            self._look.clear()
            try:
                async with asyncio.timeout(self._every):
                    await self._look.wait()
                await asyncio.sleep(min(1.0, self._every))  # a shard that was lost needs a moment
            except TimeoutError:
                continue


def _shard_of(session: AsyncSession) -> str | None:
    inner: Any = session.sync_session
    shard: str | None = inner.shard
    return shard


async def _close(sessions: Iterable[AsyncSession], within: float) -> None:
    """What was not prepared is rolled back: by the server itself where a connection is lost, or is cut here."""

    async def one(session: AsyncSession) -> None:
        try:
            async with asyncio.timeout(within):
                await session.close()
        except NOT_THERE:
            await session.invalidate()

    await asyncio.gather(*(one(session) for session in sessions))
