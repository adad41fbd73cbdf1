"""What an operator does: plan, run, roll back, verify. See `Resharding`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tenfold._core.errors import MisuseError
from tenfold._core.units import duration
from tenfold.db.refusals import is_gone, sqlstate
from tenfold.db.reshard import choose, record, tables
from tenfold.db.reshard.drive import Drive, flow_from
from tenfold.db.reshard.errors import CannotMove, Interrupted, ReshardError
from tenfold.db.reshard.links import LOST, Links, connected
from tenfold.db.reshard.options import Progress, ReshardOptions
from tenfold.db.reshard.refresh import compare
from tenfold.db.reshard.steps import Course, Leg, Phase, Reshard
from tenfold.db.reshard.switch import current
from tenfold.db.reshard.tables import Tab, Wanted, quoted
from tenfold.db.shards import store
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.scheme import Scheme
from tenfold.db.urls import asyncpg_url

_PREFETCH: Final = 5000


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

    ``shards``: URLs by name, the home of the map first, as `ShardedCluster` has them; for a shard with replicas a list
    of the URLs of all its servers, of which the primary is looked for at each call. Each process of the application
    must know the shards that are to receive buckets. The user must be allowed to set ``session_replication_role``.
    ``models``: what `Scheme` takes. ``on_progress`` is called between steps.

    Each method opens its connections and closes them. Raises `CannotMove` for a plan that makes no sense,
    `ReshardError` where it cannot go on, `Interrupted` when a shard was lost. The state is kept on the home shard:
    calling again goes on, after a kill at any point.
    """

    def __init__(
        self,
        shards: Mapping[str, str | URL | Sequence[str | URL]],
        *,
        models: Iterable[Any],
        options: ReshardOptions | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        if not shards:
            raise MisuseError("shards: expected URLs by name, the home of the map first")
        self._urls = {
            name: tuple(
                asyncpg_url(url, f"shards[{name!r}]") for url in ([given] if isinstance(given, (str, URL)) else given)
            )
            for name, given in shards.items()
        }
        if empty := [name for name, given in self._urls.items() if not given]:
            raise MisuseError(f"shards[{empty[0]!r}]: expected a URL, or those of all its servers, got none")
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
            await self._prepare(links)
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

        From then on changes are noted for the way back, and `rollback` loses nothing; calling it again brings the
        former shards' copies up to date. ``finish`` drops the former rows and the logs, and returns None.
        """
        return await self._drive(Course.FINISH if finish else Course.FORTH)

    async def rollback(self) -> None:
        """Bring every bucket back to where it was, with all that was written meanwhile, and clean up."""
        await self._drive(Course.BACK)

    async def verify(self) -> Verified:
        """Count where rows are, and compare live rows with their copies. Raises `Different`."""
        async with self._open() as links:
            await self._prepare(links)
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
                for giver in (leg.source, leg.target):
                    flow = flow_from(giver, links, number, leg, tabs, map)
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

    # -- the shards

    async def _drive(self, course: Course) -> Reshard | None:
        async with self._open() as links:
            state = await record.load(links.home)
            if state is None:
                raise ReshardError("no reshard is open: `tenfold reshard plan` first")
            await self._prepare(links)
            if missing := {name for leg in state.legs for name in (leg.source, leg.target)} - links.shards.keys():
                raise CannotMove(f"shards: the plan names {', '.join(sorted(missing))}, of which no URL was given")
            tabs = await tables.read(links.shards, self._wanted)
            if tuple(tab.sql for tab in tabs) != state.tables:
                raise ReshardError(
                    f"the reshard was planned for {', '.join(state.tables)}, and the models have "
                    f"{', '.join(tab.sql for tab in tabs)}: run it with the models of the plan"
                )
            return await Drive(links, tabs, self._options, self._tell).run(state, course)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Links]:
        async with connected(
            self._urls, timeout=duration(self._options.statement), within=duration(self._options.connect)
        ) as links:
            yield links

    async def _prepare(self, links: Links) -> None:
        """The tables of the map and the epochs, also on a shard that is new."""
        bounds = {"timeout": duration(self._options.connect), "command_timeout": duration(self._options.statement)}
        engines = {
            name: create_async_engine(url, poolclass=NullPool, connect_args=bounds) for name, url in links.urls.items()
        }
        try:
            await store.prepare(engines, self._home, None)
        except (*LOST, DBAPIError) as error:
            if sqlstate(error) and not is_gone(error):
                raise ReshardError(
                    f"PostgreSQL refused ({type(error).__name__}: {error}); put it right, then run it again"
                ) from error
            raise Interrupted(f"a shard does not answer: {type(error).__name__}: {error}") from error
        finally:
            for engine in engines.values():
                await engine.dispose()

    async def _counts(self, links: Links, name: str, tabs: Sequence[Tab], map: ShardMap) -> dict[int, int]:
        """Live rows on a shard by bucket. Raises `CannotMove` for rows without a key."""
        found: dict[int, int] = {}
        connection = links.shards[name]
        for tab in tabs:
            statement = f"SELECT {quoted(tab.key)}, count(*) FROM {tab.sql} GROUP BY 1"
            async with connection.transaction():
                async for key, count in connection.cursor(statement, prefetch=_PREFETCH):
                    if key is None:
                        raise CannotMove(
                            f"{count} rows of {tab.sql} on {name} have no {tab.key}, so no shard is theirs: give them "
                            "one or delete them"
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
