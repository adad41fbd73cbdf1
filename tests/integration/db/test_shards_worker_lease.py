"""Worker numbers under a lease in a real database: never held twice, never used twice in a millisecond."""

from __future__ import annotations

import asyncio
import os

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tenfold._core.clock import SystemClock
from tenfold._core.errors import MisuseError
from tenfold.db.shards import ClockWentBack, LeaseLost, NoWorkerFree, SnowflakeIds, snowflake_parts


@pytest.fixture
async def engine(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE IF EXISTS tenfold_worker"))
    return engine


class Stepped(SystemClock):
    """The machine's clocks, the wall clock off by ``by`` seconds."""

    __slots__ = ("by",)

    def __init__(self, by: float = 0.0) -> None:
        self.by = by

    def time(self) -> float:  # type: ignore[override]
        return super().time() + self.by


async def expire(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE tenfold_worker SET until = '-infinity'"))


async def test_holders_at_once_have_different_numbers(engine: AsyncEngine) -> None:
    sources = [SnowflakeIds(engine, workers=3) for _ in range(3)]
    await asyncio.gather(*(source.__aenter__() for source in sources))
    try:
        assert {source.worker for source in sources} == {0, 1, 2}
        with pytest.raises(NoWorkerFree):
            async with SnowflakeIds(engine, workers=3):
                pass
        made = await asyncio.gather(*(source.next() for source in sources for _ in range(2000)))
        assert len(set(made)) == 6000
    finally:
        for source in sources:
            await source.__aexit__(None, None, None)
    async with SnowflakeIds(engine, workers=1) as again:
        assert again.worker == 0


async def test_a_successor_after_a_crash_begins_at_the_horizon(engine: AsyncEngine) -> None:
    """The dead one may have made ids up to its horizon; a clock that is behind it is refused."""
    async with SnowflakeIds(engine, workers=1, lease="30s") as dead:
        await dead.next()
        await expire(engine)
        async with SnowflakeIds(engine, workers=1) as successor:
            with pytest.raises(ClockWentBack):
                await successor.next()
        with pytest.raises(LeaseLost):
            await dead.renew()
        with pytest.raises(LeaseLost):
            await dead.next()


async def test_a_clock_that_steps_back_is_waited_for_or_refused(engine: AsyncEngine) -> None:
    clock = Stepped()
    async with SnowflakeIds(engine, workers=1, clock=clock) as ids:
        first = await ids.next()
        clock.by = -0.03
        assert await ids.next() > first
        clock.by = -5.0
        with pytest.raises(ClockWentBack):
            await ids.next()
    clock.by = -0.05
    async with SnowflakeIds(engine, workers=1, clock=clock) as ids:  # given back at its last millisecond, not at 30 s
        assert snowflake_parts(await ids.next())[0] > snowflake_parts(first)[0]


async def test_renewal_moves_the_horizon(engine: AsyncEngine) -> None:
    clock = Stepped()
    async with SnowflakeIds(engine, workers=1, lease="1s", clock=clock) as ids:
        clock.by = 3.0  # past the horizon: the next id waits for the renewal in the background
        async with asyncio.timeout(5):
            assert await ids.next() > 0
        assert ids.failed_renewals == 0


async def test_a_renewal_outlives_a_server_that_starts_up(engine: AsyncEngine) -> None:
    """It refuses connections in words of its own, which SQLAlchemy does not translate."""
    refusals = 0

    def refuse(*_: object) -> None:
        nonlocal refusals
        if refusals == 0:
            refusals += 1
            raise asyncpg.CannotConnectNowError("the database system is starting up")

    async with SnowflakeIds(engine, workers=1, lease="1500ms") as ids:
        await engine.dispose()
        sa.event.listen(engine.sync_engine, "do_connect", refuse)
        async with asyncio.timeout(10):
            while not refusals or ids._flake is None or ids._good_until < ids._clock.monotonic() + 1.0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (refusals, ids.failed_renewals) == (1, 1)
        assert await ids.next() > 0


async def test_a_child_that_was_forked_makes_none_of_its_parents_ids(engine: AsyncEngine) -> None:
    async with SnowflakeIds(engine, workers=1) as ids:
        assert in_a_child(ids) == "refused"
        assert await ids.next() > 0


def in_a_child(ids: SnowflakeIds) -> str:
    pid = os.fork()
    if pid == 0:
        try:
            ids.next().send(None)
        except MisuseError:
            os._exit(3)
        finally:
            os._exit(4)
    return "refused" if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3 else "made"
