"""A worker number for Snowflake ids, claimed in the database under a lease (Gray and Cheriton, 1989).

The database's clock alone says when a lease has run out; the holder measures its own with the monotonic clock from
before it asked, and stops a fifth of the lease early, so it stops first, whatever its wall clock says.

The wall clock is in the ids, so the lease bounds that too: each claim stores a *horizon*, a wall-clock millisecond at
or after which the holder makes no id. Whoever claims the number next begins there. A successor whose clock is behind
(another host's, or one that was set back) waits or is refused instead of making an id twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.tasks import shielded
from tenfold._core.units import Duration, duration, whole_number
from tenfold.db.refusals import NOT_THERE
from tenfold.db.shards.errors import ShardError
from tenfold.db.shards.ids import WORKERS, Snowflake, Wait
from tenfold.db.shards.own_tables import made

_log: Final = logging.getLogger("tenfold.db.shards")
_CREATE: Final = (
    "SELECT pg_advisory_xact_lock(7233173)",
    "CREATE TABLE IF NOT EXISTS tenfold_worker (worker int PRIMARY KEY, holder bigint NOT NULL DEFAULT 0, "
    "until timestamptz NOT NULL DEFAULT '-infinity', horizon_ms bigint NOT NULL DEFAULT 0)",
)
_FILL: Final = sa.text(
    "INSERT INTO tenfold_worker (worker) SELECT generate_series(0, :workers - 1) ON CONFLICT DO NOTHING"
).bindparams(sa.bindparam("workers", type_=sa.Integer))
_CLAIM: Final = sa.text(
    "UPDATE tenfold_worker w SET holder = w.holder + 1, until = clock_timestamp() + make_interval(secs => :lease), "
    "horizon_ms = greatest(c.horizon_ms, :horizon) FROM (SELECT worker, horizon_ms FROM tenfold_worker WHERE worker < "
    ":workers AND until < clock_timestamp() ORDER BY horizon_ms, worker LIMIT 1 FOR UPDATE SKIP LOCKED) c "
    "WHERE w.worker = c.worker RETURNING w.worker, w.holder, c.horizon_ms, w.horizon_ms"
).bindparams(
    sa.bindparam("lease", type_=sa.Double), sa.bindparam("horizon", type_=sa.BigInteger),
    sa.bindparam("workers", type_=sa.Integer),
)  # fmt: skip
_RENEW: Final = sa.text(
    "UPDATE tenfold_worker SET until = clock_timestamp() + make_interval(secs => :lease), "
    "horizon_ms = greatest(horizon_ms, :horizon) WHERE worker = :worker AND holder = :holder AND until > "
    "clock_timestamp() RETURNING horizon_ms"
).bindparams(sa.bindparam("lease", type_=sa.Double), sa.bindparam("horizon", type_=sa.BigInteger))
_RELEASE: Final = sa.text(
    "UPDATE tenfold_worker SET until = '-infinity', horizon_ms = :last WHERE worker = :worker AND holder = :holder"
)


class NoWorkerFree(ShardError):
    """All worker numbers are held."""


class LeaseLost(ShardError):
    """The lease of the worker number has run out, so no id can be made."""


class SnowflakeIds:
    """``async with SnowflakeIds(engine) as ids: await ids.next()``: ids under a leased worker number.

    ``engine``: where the leases are kept; one database for all processes whose ids must differ, such as
    ``cluster.async_engine(home)``. ``lease`` (30 s): how long a dead process's number stays taken; renewed at a third
    of it. ``workers`` (1024): numbers to claim from. ``patience`` (100 ms): how far the clock may step back to be
    waited for.

    `next` raises `ClockWentBack`, or `LeaseLost` when the database could not be reached for four fifths of the lease.
    Entering raises `NoWorkerFree`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        lease: Duration = "30s",
        workers: int = WORKERS,
        patience: Duration = "100ms",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._engine = engine
        self._lease = duration(lease, "lease")
        if self._lease <= 0:
            raise MisuseError("lease: expected a duration above 0")
        self._workers = whole_number(workers, "workers", least=1)
        if workers > WORKERS:
            raise MisuseError(f"workers: expected at most {WORKERS}, got {workers}")
        self._patience = duration(patience, "patience")
        self._clock = clock
        self._flake: Snowflake | None = None
        self._holder = 0
        self._good_until = 0.0
        self._process = 0
        self._task: asyncio.Task[None] | None = None
        self.failed_renewals = 0
        """How often the lease could not be renewed in time for a try."""

    async def __aenter__(self) -> SnowflakeIds:
        async with self._engine.begin() as connection:
            await made(connection, "SnowflakeIds", _CREATE, ("tenfold_worker",))
            await connection.execute(_FILL, {"workers": self._workers})
        asked, horizon = self._clock.monotonic(), self._horizon()
        async with self._engine.begin() as connection:
            row = (
                await connection.execute(_CLAIM, {"lease": self._lease, "horizon": horizon, "workers": self._workers})
            ).one_or_none()
        if row is None:
            raise NoWorkerFree(
                f"all {self._workers} worker numbers are held; the number of a dead process is free after its lease"
            )
        worker, self._holder, before, after = row
        self._flake = Snowflake(worker, last_ms=before, patience=self._patience, horizon_ms=after)
        self._good_until, self._process = asked + self._lease * 0.8, os.getpid()
        self._task = asyncio.create_task(self._keep(), name="tenfold snowflake lease")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        flake, self._flake = self._flake, None
        if flake is not None:
            await shielded(self._release(flake))

    @property
    def worker(self) -> int:
        """The number that is held."""
        return self._held().worker

    async def next(self) -> int:
        """An id that nobody else has made or will make."""
        while True:
            flake = self._held()
            if self._clock.monotonic() >= self._good_until:
                raise LeaseLost(
                    f"the lease of worker number {flake.worker} was not renewed in time: is the database reachable? "
                    "Enter SnowflakeIds anew"
                )
            found = flake.take(int(self._clock.time() * 1000))
            if not isinstance(found, Wait):
                return found
            await self._clock.sleep(found.seconds)

    async def renew(self) -> None:
        """Prolong the lease now, as the background does. Raises `LeaseLost` when somebody else may hold it."""
        flake = self._held()
        asked, horizon = self._clock.monotonic(), self._horizon()
        async with asyncio.timeout(self._lease / 3), self._engine.begin() as connection:
            row = (
                await connection.execute(
                    _RENEW,
                    {"lease": self._lease, "horizon": horizon, "worker": flake.worker, "holder": self._holder},
                )
            ).one_or_none()
        if row is None:
            self._good_until = 0.0
            raise LeaseLost(f"the lease of worker number {flake.worker} has run out")
        flake.horizon_ms, self._good_until = row[0], asked + self._lease * 0.8

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._lease / 3)
            try:
                await self.renew()
            except LeaseLost:
                _log.error("snowflake: the lease was lost; no more ids are made")
                return
            except (*NOT_THERE, PoolTimeout) as error:
                self.failed_renewals += 1
                _log.warning("snowflake: the lease could not be renewed and is tried again (%s)", error)

    async def _release(self, flake: Snowflake) -> None:
        try:
            async with asyncio.timeout(self._lease), self._engine.begin() as connection:
                await connection.execute(
                    _RELEASE, {"last": flake.last_ms + 1, "worker": flake.worker, "holder": self._holder}
                )
        except (*NOT_THERE, PoolTimeout) as error:
            _log.warning("snowflake: the worker number was not given back and is free after its lease (%s)", error)

    def _horizon(self) -> int:
        return int((self._clock.time() + self._lease) * 1000)

    def _held(self) -> Snowflake:
        if self._flake is None:
            raise MisuseError("SnowflakeIds: expected to be entered (`async with`), and is not")
        if self._process != os.getpid():
            raise MisuseError(
                "SnowflakeIds: entered before a fork, so its parent makes the same ids: enter another one"
            )
        return self._flake

    def __repr__(self) -> str:
        held: Any = "no number" if self._flake is None else f"worker {self._flake.worker}"
        return f"SnowflakeIds({held})"
