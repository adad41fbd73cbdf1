"""Ends what a coordinator left in doubt: a pass over all shards and the decision log. See `twophase`.

Any process may do it for any other, at any time and several at once: a verdict follows from the log alone, and a part
that has been ended already is no error. The order of the steps matters:

1. list the coordinators that had ended *before* (for step 5), then the parts that wait on the shards;
2. end every coordinator whose lock is free, its parts found or not; then their logs are complete;
3. read these logs;
4. commit or roll back the parts found;
5. forget a coordinator that had ended before the parts were listed, if no shard was silent, or is unknown here, and
   none had a part of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold._core.errors import TenfoldError
from tenfold.db.refusals import NOT_THERE
from tenfold.db.shards import decisions
from tenfold.db.shards.cluster import ShardedCluster
from tenfold.db.shards.coordinator import driver_of
from tenfold.db.shards.decisions import Prepared, Verdict
from tenfold.db.shards.parallel import together

_log: Final = logging.getLogger("tenfold.db.shards")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one pass did. ``left``: parts whose coordinator lives or that are too young; ``silent``: shards that did not
    answer, whose parts wait for another pass.
    """

    committed: int = 0
    aborted: int = 0
    left: int = 0
    silent: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is in doubt any more."""
        return not self.left and not self.silent


async def recover(
    cluster: ShardedCluster, *, own: int | None, active: Callable[[], frozenset[int]], age: float, patience: float
) -> Recovered:
    """One pass. ``own`` is the caller's coordinator while it lives, ``active`` its transactions under way. A shard that
    does not answer for ``patience`` seconds is silent. Raises what the home shard raises; of the others it tells.
    """
    home = cluster.member(cluster.home)
    before = active()
    async with home.alone() as connection:
        known = await decisions.known(connection)
    silent: list[str] = []
    found = await _prepared(cluster, silent, patience)
    ended = set()
    for coordinator in {one.gid.coordinator for one in found} | known.keys():
        if coordinator != own:
            async with home.begin(None) as connection:
                if known.get(coordinator) or await decisions.end(connection, coordinator):
                    ended.add(coordinator)
    asked = ended if own is None else ended | {own}
    async with home.alone() as connection:
        log = await decisions.decided(connection, asked)
    settled = decisions.verdicts(found, own=own, active=before | active(), ended=frozenset(ended), decided=log, age=age)
    done = await together([partial(_resolve, cluster, one, verdict, silent, patience) for one, verdict in settled], 4)
    with_parts = {one.gid.coordinator for one in found}
    if any(known.values()):
        await cluster.refresh()
        silent += set(cluster.map.names) - set(cluster.shards)  # they came while this process was running
    if not silent:
        async with home.alone() as connection:
            for coordinator, had_ended in known.items():
                if had_ended and coordinator not in with_parts:
                    await decisions.bury(connection, coordinator)
    committed = sum(ok and verdict == "commit" for ok, (_, verdict) in zip(done, settled, strict=True))
    left = len(found) - len(settled)
    return Recovered(committed, sum(done) - committed, left, tuple(sorted(set(silent))))


@asynccontextmanager
async def _cut_after(
    patience: float, made: AbstractAsyncContextManager[AsyncConnection]
) -> AsyncIterator[AsyncConnection]:
    """A connection that ends after ``patience`` seconds, and a statement on it with an error. Whose statement is only
    cancelled says farewell to the silent server for two seconds more, and a short pass would end before it has come to
    the shards that answer, each time.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    async with AsyncExitStack() as stack:
        async with asyncio.timeout_at(until):
            connection = await stack.enter_async_context(made)
        driver = driver_of(connection)
        timer = loop.call_at(until, driver.terminate)
        try:
            yield connection
        finally:
            timer.cancel()
            if driver.is_closed():
                await connection.invalidate()


async def _prepared(cluster: ShardedCluster, silent: list[str], patience: float) -> list[Prepared]:
    async def one(shard: str) -> list[Prepared]:
        try:
            async with _cut_after(patience, cluster.member(shard).alone(writes=False)) as connection:
                return await decisions.prepared(connection, shard)
        except (*NOT_THERE, PoolTimeout, TenfoldError) as error:
            silent.append(shard)
            _log.warning("two-phase: %s was not asked (%s: %s)", shard, type(error).__name__, error)
            return []

    shards = cluster.shards
    return [one for part in await together([partial(one, shard) for shard in shards], len(shards)) for one in part]


async def _resolve(
    cluster: ShardedCluster, one: Prepared, verdict: Verdict, silent: list[str], patience: float
) -> bool:
    if one.shard in silent:  # its next part would be waited for as long
        return False
    try:
        async with _cut_after(patience, cluster.member(one.shard).alone()) as connection:
            return await decisions.resolve(driver_of(connection), one.gid, verdict)
    except (*NOT_THERE, PoolTimeout, TenfoldError) as error:
        silent.append(one.shard)
        _log.warning("two-phase: %s on %s is left (%s: %s)", one.gid, one.shard, type(error).__name__, error)
        return False
