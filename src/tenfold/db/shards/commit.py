"""The protocol of a two-phase commit: promise, decide, tell.

Theory. Each shard first *prepares*: it promises to commit whatever happens to it, and keeps its locks. When all have
promised, the coordinator writes its decision, and that is the moment of the commit; then it tells the shards. Under
*presumed abort* (Mohan, Lindsay and Obermarck, "Transaction Management in the R* Distributed Database Management
System", 1986) only decisions to commit are written down, and before anybody is told; whoever finds a promise and no
decision of a coordinator that is gone may roll back. A decision is forgotten when all shards have carried it out.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.shards import decisions
from tenfold.db.shards.across import CrossShardTransaction
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.coordinator import Coordinator, driver_of
from tenfold.db.shards.decisions import Gid, Verdict
from tenfold.db.shards.errors import CoordinatorLost, InDoubt
from tenfold.resilience.scope import SCOPE

_log: Final = logging.getLogger("tenfold.db.shards")
_BETWEEN_TRIES: Final = 0.05


class Protocol:
    """Commits transactions under the name of ``coordinator``, each within ``timeout`` seconds; ``look`` is called when
    something is left to recovery. ``active``: the numbers of those under way.
    """

    def __init__(
        self, cluster: ShardedCluster, coordinator: Coordinator, timeout: float, look: Callable[[], object]
    ) -> None:
        self._cluster, self._coordinator, self._timeout, self._look = cluster, coordinator, timeout, look
        self._number = 0
        self.active: Final[set[int]] = set()
        self.committed = 0
        self.aborted = 0
        """Transactions that were rolled back although their block had ended well."""
        self.late = 0
        """Parts of decided transactions that their shard did not carry out at once."""

    async def commit(self, transaction: CrossShardTransaction) -> None:
        """In a task of its own, because what has been promised is not stopped by the caller's deadline."""
        SCOPE.set((math.inf, SCOPE.get()[1]))
        coordinator, tag = self._coordinator.id, self._coordinator.tag
        assert coordinator is not None
        self._number += 1
        number = self._number
        self.active.add(number)
        try:
            drivers: list[tuple[Gid, Any]] = []
            at_home: AsyncConnection | None = None
            for part, (shard, session) in enumerate(transaction.sessions.items()):
                await session.flush()
                gid = Gid(coordinator, number, part, tag)
                connection = await session.connection()
                drivers.append((gid, driver_of(connection)))
                if shard == self._cluster.home:
                    at_home = connection
            try:
                await self._prepare(drivers)
                await self._decide(coordinator, number, at_home)
            except InDoubt:
                self._coordinator.give_up()  # a decision that is still on its way is void once recovery has come by
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
            self.active.discard(number)

    async def _prepare(self, drivers: Sequence[tuple[Gid, Any]]) -> None:
        """Have all promise. Raises the first refusal after all have answered."""
        async with asyncio.timeout(self._timeout):
            answers = await asyncio.gather(
                *(driver.execute(f"PREPARE TRANSACTION '{gid}'") for gid, driver in drivers), return_exceptions=True
            )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _decide(self, coordinator: int, number: int, at_home: AsyncConnection | None) -> None:
        """Write the decision; again where the answer was lost, which does not hurt. Raises `CoordinatorLost` where it
        certainly was not written, `InDoubt` where nobody knows.

        ``at_home``: the transaction's own connection there, in no transaction now. It goes first: those who hold all
        connections of the pool would wait for one another if each asked for one more.
        """
        home = self._cluster.member(self._cluster.home)
        lost = False
        until = asyncio.get_running_loop().time() + self._timeout
        while True:
            sent, own, at_home = False, at_home, None
            try:
                async with asyncio.timeout_at(until), home.alone() if own is None else nullcontext(own) as connection:
                    done, sent = list(self._coordinator.done), True
                    if await decisions.decide(connection, coordinator, number, done):
                        self._coordinator.done.difference_update(done)  # others may have sent the same ones
                        return
                    if not lost:
                        self._coordinator.give_up()
                        raise CoordinatorLost("another process took this coordinator for dead; run it again")
                    if (coordinator, number) in await decisions.decided(connection, [coordinator]):
                        return
                    raise InDoubt(number)
            except (*NOT_THERE, PoolTimeout, asyncio.CancelledError) as error:
                refused = not (isinstance(error, TimeoutError | asyncio.CancelledError) or is_gone(error))
                lost = lost or (sent and not refused)
                over = asyncio.get_running_loop().time() >= until or isinstance(error, asyncio.CancelledError)
                if over or (refused and own is None):  # what a session has SET may be why its connection is refused
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
            self._look()
        return not failed
