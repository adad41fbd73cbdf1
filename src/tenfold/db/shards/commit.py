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
from collections.abc import Callable, Sequence
from typing import Any, Final

from tenfold.db.refusals import NOT_THERE, is_gone
from tenfold.db.shards import decisions
from tenfold.db.shards.across import CrossShardTransaction
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.coordinator import Coordinator, driver_of
from tenfold.db.shards.decisions import Gid, Verdict
from tenfold.db.shards.errors import CoordinatorLost, InDoubt

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
        coordinator, tag = self._coordinator.id, self._coordinator.tag
        assert coordinator is not None
        self._number += 1
        number = self._number
        self.active.add(number)
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
            self._look()
        return not failed
