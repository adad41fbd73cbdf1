"""The tool: takes the step that `steps` names until there is none. See `Resharding`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration, whole_number
from tenfold.db.reshard import capture, choose, record, steps, tables
from tenfold.db.reshard.capture import Place
from tenfold.db.reshard.errors import CannotMove, Interrupted, ReshardError
from tenfold.db.reshard.links import LOST, Links, connected
from tenfold.db.reshard.refresh import Flow, compare, copy_page, drain
from tenfold.db.reshard.steps import Course, Do, Intent, Leg, Phase, Reshard, Step
from tenfold.db.reshard.switch import current, recover, settle, switch
from tenfold.db.reshard.tables import BUCKET, Tab, Wanted, quoted
from tenfold.db.shards import store
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.scheme import Scheme
from tenfold.db.urls import asyncpg_url

_CAUGHT_UP: Final = 100
_ROUNDS: Final = 100
_PAUSE: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardOptions:
    """``batch`` (2,000): rows that are read at a time. ``switch_rows`` (10,000): rows that one switch moves, while
    writers of the giving shard wait; a bucket is never divided. ``rest`` (250 ms): the pause after a switch, in which
    writers catch up. ``lock_wait`` (2 s): how long a switch waits for
    transactions under way, during which writers wait behind it. ``attempts`` (30): how often it tries. ``connect``
    (10 s): to connect, and for another tool to end. ``statement`` (10 min): the longest statement.
    """

    batch: int = 2000
    switch_rows: int = 10_000
    rest: Duration = "250ms"
    lock_wait: Duration = "2s"
    attempts: int = 30
    connect: Duration = "10s"
    statement: Duration = "10m"

    def __post_init__(self) -> None:
        for name in ("batch", "switch_rows", "attempts"):
            whole_number(getattr(self, name), name, least=1)
        for name in ("rest", "lock_wait", "connect", "statement"):
            seconds = duration(getattr(self, name), name)
            if seconds <= 0 and name != "rest":
                raise MisuseError(f"{name}: expected a duration above 0, got {getattr(self, name)!r}")
            object.__setattr__(self, name, seconds)


@dataclass(frozen=True, slots=True)
class Progress:
    """``point``: what has just happened. ``done`` of ``total`` rows of leg number ``leg``, or buckets in a switch."""

    point: str
    leg: int = 0
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Verified:
    """What `Resharding.verify` saw.

    ``rows``: live rows by shard. ``misplaced``: rows that are live where the map does not have them.
    ``compared``: rows whose copy was found equal. ``uncompared``: rows of open legs that have no whole copy yet.
    """

    rows: Mapping[str, int]
    misplaced: tuple[str, ...]
    compared: int
    uncompared: int


class Resharding:
    """``await Resharding({"a": url, "b": url}, models=[Base]).plan(to="b", buckets=range(100))``, then `run`.

    ``shards``: URLs by name, the home of the map first, as `ShardedCluster` has them; each process of the application
    must know the shards that are to receive buckets. The user must be allowed to set ``session_replication_role``.
    ``models``: what `Scheme` takes. ``on_progress`` is called between steps.

    Each method opens its connections and closes them. Raises `CannotMove` for a plan that makes no sense,
    `ReshardError` where it cannot go on, `Interrupted` when a shard was lost. The state is kept on the home shard:
    calling again goes on, after a kill at any point.
    """

    def __init__(
        self,
        shards: Mapping[str, str | URL],
        *,
        models: Iterable[Any],
        options: ReshardOptions | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        if not shards:
            raise MisuseError("shards: expected URLs by name, the home of the map first")
        self._urls = {name: asyncpg_url(url, f"shards[{name!r}]") for name, url in shards.items()}
        self._home = next(iter(self._urls))
        # Sorted, because logs and copies are numbered by it and a registry has its models in any order.
        self._wanted = sorted(
            Wanted(f"{quoted(table.schema)}.{quoted(table.name)}" if table.schema else quoted(table.name), what.column)
            for table, what in Scheme(*models).sharded().items()
        )
        self._options = options or ReshardOptions()
        self._tell = on_progress or (lambda _: None)

    # -- what an operator does

    async def plan(
        self, *, to: str | None = None, buckets: Sequence[int] = (), empty: str | None = None, even: bool = False
    ) -> Reshard:
        """Plan and keep the plan: ``buckets`` to the shard ``to``, or all off the shard ``empty``, or spread evenly.

        Moves nothing. Raises `CannotMove` with what is in the way.
        """
        if (to is not None) + (empty is not None) + even != 1 or bool(buckets) != (to is not None):
            raise CannotMove("plan: expected one of buckets with a shard they go to, a shard to empty, or even")
        async with self._open() as links:
            await self._prepare()
            found = await record.load(links.home)
            if found is not None and found.started:
                raise ReshardError("a reshard is under way: `tenfold reshard run` or `tenfold reshard rollback` first")
            tabs = await tables.read(links.shards, self._wanted)
            map = await current(links.home)
            if to is not None:
                legs = choose.named(map, self._urls, buckets, to)
            elif empty is not None:
                legs = choose.emptied(map, self._urls, empty)
            else:
                legs = choose.even(map, self._urls)
            counts = {name: await self._counts(links, name, tabs, map) for name in self._urls}
            legs = tuple(_counted(leg, counts) for leg in legs)
            state = Reshard(legs=legs, tables=tuple(tab.sql for tab in tabs))
            await record.store(links.home, state)
            return state

    async def run(self, *, finish: bool = False) -> Reshard | None:
        """Move what is planned, or go on with it. Returns the state; every leg has moved.

        From then on changes flow back to the former shards, so that `rollback` loses nothing; calling it again works
        off what has gathered. ``finish`` drops the former rows and the logs, and returns None.
        """
        return await self._go(Course.FINISH if finish else Course.FORTH)

    async def rollback(self) -> None:
        """Bring every bucket back to where it was, with all that was written meanwhile, and clean up."""
        await self._go(Course.BACK)

    async def verify(self) -> Verified:
        """Count where rows are, and compare live rows with their copies. Raises `Different`."""
        async with self._open() as links:
            await self._prepare()
            state = await record.load(links.home)
            if state is not None and state.intent is not None:
                raise ReshardError("a switch was interrupted: `tenfold reshard run` or `rollback` first")
            tabs = await tables.read(links.shards, self._wanted)
            map = await current(links.home)
            compared = uncompared = 0
            for number, leg in enumerate(state.legs if state is not None else ()):
                if leg.phase not in (Phase.SWITCHING, Phase.MOVED):
                    uncompared += leg.rows if leg.phase is not Phase.CLEAN else 0
                    continue
                for giver, taker in ((leg.source, leg.target), (leg.target, leg.source)):
                    flow = _flow(links, number, tabs, map, leg, giver, taker)
                    if flow.buckets:
                        compared += sum(count for count, _ in (await compare(flow, self._options.batch)).values())
            counts = {name: await self._counts(links, name, tabs, map) for name in self._urls}
            misplaced = tuple(
                f"{rows} rows of bucket {bucket} are on {name}, and the map has it on {map.shards[bucket]}"
                for name, held in counts.items()
                for bucket, rows in sorted(held.items())
                if map.shards[bucket] != name
            )
            return Verified(
                {name: sum(held.values()) for name, held in counts.items()}, misplaced, compared, uncompared
            )

    async def status(self) -> Reshard | None:
        """The reshard that is open; None when there is none."""
        async with self._open() as links:
            return await record.load(links.home)

    # -- one step after the other

    async def _go(self, course: Course) -> Reshard | None:
        async with self._open() as links:
            state = await record.load(links.home)
            if state is None:
                raise ReshardError("no reshard is open: `tenfold reshard plan` first")
            tabs = await tables.read(links.shards, self._wanted)
            if tuple(tab.sql for tab in tabs) != state.tables:
                raise ReshardError(
                    f"the reshard was planned for {', '.join(state.tables)}, and the models have "
                    f"{', '.join(tab.sql for tab in tabs)}: run it with the models of the plan"
                )
            state = replace(state, started=True)
            if course is Course.BACK or state.course is not Course.FORTH:
                state = steps.turned(state, course)
            await record.store(links.home, state)
            if state.intent is None:
                await settle(links, state, wait=self._lock_wait)
            compared: set[tuple[int, str]] = set()
            while True:
                map = await current(links.home)
                step = steps.next_step(state, map.shards)
                self._tell(Progress(str(step.do), step.leg))
                if step.do is Do.REST and course is Course.FINISH:
                    state = steps.turned(state, course)
                    await record.store(links.home, state)
                elif step.do is Do.REST:
                    for number, leg in enumerate(state.legs):
                        await self._catch_up(_flow(links, number, tabs, map, leg, leg.target, leg.source))
                    return state
                elif step.do is Do.FORGET:
                    await record.forget(links.home)
                    return None
                else:
                    state = await self._take(links, state, step, tabs, map, compared)

    async def _take(
        self, links: Links, state: Reshard, step: Step, tabs: Sequence[Tab], map: ShardMap,
        compared: set[tuple[int, str]],
    ) -> Reshard:  # fmt: skip
        leg, place = state.legs[step.leg], Place(step.leg)
        ends = (links.shards[leg.source], links.shards[leg.target])
        if step.do is Do.RECOVER:
            return await recover(links, state, place, tabs, wait=self._lock_wait)
        if step.do is Do.SWITCH:
            return await self._switch(links, state, step, tabs, map, compared)
        if step.do is Do.COPY:
            leg = await self._copy_on(_flow(links, step.leg, tabs, map, leg, leg.source, leg.target), step.leg, leg)
            await drain(_flow(links, step.leg, tabs, map, leg, leg.target, leg.source), self._options.batch)
        elif step.do is Do.PREPARE:
            for end in ends:
                await self._patient(lambda end=end: capture.make(end, place, tabs, self._lock_wait))  # type: ignore[misc]
            leg = replace(leg, phase=Phase.COPYING)
        elif step.do is Do.MARK_MOVED:
            leg = replace(leg, phase=Phase.MOVED)
        else:
            for end in ends:
                await self._patient(lambda end=end: capture.drop(end, place, tabs, self._lock_wait))  # type: ignore[misc]
            leg = replace(leg, phase=Phase.CLEAN)
        state = state.with_leg(step.leg, leg)
        await record.store(links.home, state)
        return state

    async def _copy_on(self, flow: Flow, number: int, leg: Leg) -> Leg:
        if leg.table == len(flow.tabs):
            return replace(leg, phase=Phase.SWITCHING)
        after, copied = await copy_page(flow, leg.table, leg.after, self._options.batch)
        await drain(flow, self._options.batch)
        leg = replace(leg, after=after, table=leg.table + (after is None), copied=leg.copied + copied)
        self._tell(Progress("copied", number, leg.copied, leg.rows))
        return leg

    async def _switch(
        self, links: Links, state: Reshard, step: Step, tabs: Sequence[Tab], map: ShardMap,
        compared: set[tuple[int, str]],
    ) -> Reshard:  # fmt: skip
        """One group of buckets, after all of the leg have been compared once."""
        leg, place = state.legs[step.leg], Place(step.leg)
        flow = _flow(links, step.leg, tabs, map, leg, step.giver, step.taker)
        await self._catch_up(flow)
        if (step.leg, step.giver) not in compared:
            await compare(flow, self._options.batch)
            compared.add((step.leg, step.giver))
            self._tell(Progress("compared", step.leg, leg.copied, leg.rows))
            await self._catch_up(flow)
        await self._catch_up(_flow(links, step.leg, tabs, map, leg, step.taker, step.giver))
        rows: dict[int, int] = {}
        for table in range(len(tabs)):
            for bucket, count in await flow.taker.fetch(
                f"SELECT {BUCKET}, count(*) FROM {place.copy(table)} GROUP BY 1"
            ):
                rows[bucket] = rows.get(bucket, 0) + count
        buckets = steps.group(step.buckets, rows, self._options.switch_rows)
        done = len(leg.buckets) - len(step.buckets)

        def tell(point: str) -> None:
            self._tell(Progress(point, step.leg, done, len(leg.buckets)))

        for attempt in range(self._options.attempts):
            intent = Intent(
                number=state.switches + 1, leg=step.leg, giver=step.giver, taker=step.taker, buckets=buckets
            )
            try:
                state = await switch(
                    links, state, flow, intent, batch=self._options.batch, wait=self._lock_wait, tell=tell
                )
                await asyncio.sleep(duration(self._options.rest))
                return state
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                state = await self._undone(links, state, intent, tabs)
                tell("waiting for transactions under way")
                await asyncio.sleep(_PAUSE * min(attempt + 1, 5))
                await self._catch_up(flow)
            except ReshardError:
                await self._undone(links, state, intent, tabs)
                raise
        raise ReshardError(
            f"transactions on {step.giver} or {step.taker} have lasted longer than "
            f"{format_duration(self._lock_wait)} each of {self._options.attempts} times: see pg_stat_activity for "
            "those that are idle in transaction, then run it again"
        )

    async def _undone(self, links: Links, state: Reshard, intent: Intent, tabs: Sequence[Tab]) -> Reshard:
        """Forget an intent of which nothing has come."""
        open_ = replace(state, intent=intent, switches=intent.number)
        return await recover(links, open_, Place(intent.leg), tabs, wait=self._lock_wait)

    async def _catch_up(self, flow: Flow) -> None:
        """Work off the log until little is left, so that a switch is short. Under more writes than that, so be it."""
        for _ in range(_ROUNDS):
            if await drain(flow, self._options.batch) <= _CAUGHT_UP:
                return

    async def _patient(self, call: Callable[[], Awaitable[None]]) -> None:
        for attempt in range(self._options.attempts):
            try:
                return await call()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(_PAUSE * min(attempt + 1, 5))
        raise ReshardError(
            f"the tables could not be locked within {format_duration(self._lock_wait)}, "
            f"{self._options.attempts} times: see pg_stat_activity for long transactions, then run it again"
        )

    # -- the shards

    @property
    def _lock_wait(self) -> float:
        return duration(self._options.lock_wait)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Links]:
        async with connected(
            self._urls, timeout=duration(self._options.statement), within=duration(self._options.connect)
        ) as links:
            yield links

    async def _prepare(self) -> None:
        """The tables of the map and the epochs, also on a shard that is new."""
        engines = {name: create_async_engine(url, poolclass=NullPool) for name, url in self._urls.items()}
        try:
            await store.prepare(engines, self._home, None)
        except (*LOST, DBAPIError) as error:
            raise Interrupted(f"a shard does not answer: {type(error).__name__}: {error}") from error
        finally:
            for engine in engines.values():
                await engine.dispose()

    async def _counts(self, links: Links, name: str, tabs: Sequence[Tab], map: ShardMap) -> dict[int, int]:
        """Live rows on a shard by bucket. Raises `CannotMove` for rows without a key."""
        found: dict[int, int] = {}
        for tab in tabs:
            for key, count in await links.shards[name].fetch(
                f"SELECT {quoted(tab.key)}, count(*) FROM {tab.sql} GROUP BY 1"
            ):
                if key is None:
                    raise CannotMove(
                        f"{count} rows of {tab.sql} on {name} have no {tab.key}, so no shard is theirs: give them one "
                        "or delete them"
                    )
                bucket = map.bucket_of(key)
                found[bucket] = found.get(bucket, 0) + count
        return found


def _counted(leg: Leg, counts: Mapping[str, Mapping[int, int]]) -> Leg:
    """With its rows. Raises `CannotMove` when some of them are on the target already."""
    for bucket in leg.buckets:
        if there := counts[leg.target].get(bucket, 0):
            raise CannotMove(
                f"{leg.target} has {there} rows of bucket {bucket} already, which is on {leg.source} by the map, so "
                "readers see them twice: find out whose they are, and delete or move them"
            )
    return replace(leg, rows=sum(counts[leg.source].get(bucket, 0) for bucket in leg.buckets))


def _flow(links: Links, number: int, tabs: Sequence[Tab], map: ShardMap, leg: Leg, giver: str, taker: str) -> Flow:
    held = frozenset(steps.held(leg, giver, map.shards))
    return Flow(links.shards[giver], links.shards[taker], Place(number), tabs, map, held)
