"""Taking the steps that `steps` names, until there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import asyncpg

from tenfold._core.events import EVENTS
from tenfold._core.units import duration, format_duration
from tenfold.db.reshard import capture, marks, record, steps
from tenfold.db.reshard.capture import Place
from tenfold.db.reshard.errors import Behind, Different, ReshardError
from tenfold.db.reshard.links import Links
from tenfold.db.reshard.mend import mend
from tenfold.db.reshard.options import BucketsSwitched, Progress, ReshardOptions
from tenfold.db.reshard.refresh import Flow, compare, copy_page, drain
from tenfold.db.reshard.steps import Course, Do, Intent, Leg, Phase, Reshard, Step
from tenfold.db.reshard.switch import current, switch
from tenfold.db.reshard.tables import BUCKET, Tab
from tenfold.db.shards.map import ShardMap

Tell = Callable[[Progress], object]
_CAUGHT_UP: Final = 100
_ROUNDS: Final = 100
_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 1.0
_IN_THE_WAY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


def flow_from(giver: str, links: Links, number: int, leg: Leg, tabs: Sequence[Tab], map: ShardMap) -> Flow:
    """The buckets of a leg that live on ``giver``, towards its other end."""
    taker = leg.target if giver == leg.source else leg.source
    held = frozenset(steps.held(leg, giver, map.shards))
    return Flow(links.shards[giver], links.shards[taker], Place(number), tabs, map, held)


class Drive:
    """One run of the tool over its open connections."""

    def __init__(self, links: Links, tabs: Sequence[Tab], options: ReshardOptions, tell: Tell) -> None:
        self._links, self._tabs, self._options, self._tell = links, tabs, options, tell
        self._wait = duration(options.lock_wait)
        self._compared: set[tuple[int, str]] = set()
        self._renewed: set[int] = set()
        self._doubt = False

    async def run(self, state: Reshard, course: Course) -> Reshard | None:
        """Every step of ``course``. Returns the state; None when the reshard is over."""
        state = await self._met(state)
        # To finish is to go forth to the end and then finish.
        first = Course.FORTH if course is Course.FINISH and state.course is not Course.FINISH else course
        state = steps.turned(state, first)
        await record.store(self._links.home, state)
        state = await self._mend(state)
        while True:
            map = await current(self._links.home)
            step = steps.next_step(state, map.shards)
            self._tell(Progress(str(step.do), step.leg))
            if step.do is Do.REST and course is Course.FINISH:
                state = steps.turned(state, course)
                await record.store(self._links.home, state)
            elif step.do is Do.REST:
                if (renewed := await self._rest(state, map)) is state:
                    return state
                state = renewed
            elif step.do is Do.FORGET:
                await record.forget(self._links.home)
                return None
            else:
                state = await self._take(state, step, map)

    async def _take(self, state: Reshard, step: Step, map: ShardMap) -> Reshard:
        if step.do is Do.RECOVER:
            return await self._mend(state)
        if step.do is Do.SWITCH:
            try:
                return await self._switch(state, step, map)
            except Different as error:
                return await self._anew(error, state, step.leg)
        leg, place = state.legs[step.leg], Place(step.leg)
        ends = (self._links.shards[leg.source], self._links.shards[leg.target])
        if step.do is Do.COPY:
            leg = await self._copy_on(step.leg, leg, map)
        elif step.do is Do.MARK_MOVED:
            leg = replace(leg, phase=Phase.MOVED)
        elif step.do is Do.PREPARE:
            for end in ends:
                await self._patient(partial(capture.make, end, place, self._tabs, self._wait))
                await capture.empty(end, place, self._tabs)
            leg = replace(leg, phase=Phase.COPYING)
        else:
            state = state.with_leg(step.leg, replace(leg, phase=Phase.DROPPING))
            await record.store(self._links.home, state)
            for end in ends:
                await self._patient(partial(capture.drop, end, place, self._tabs, self._wait))
            leg = replace(leg, phase=Phase.CLEAN)
        state = state.with_leg(step.leg, leg)
        await record.store(self._links.home, state)
        return state

    async def _met(self, state: Reshard) -> Reshard:
        """Look whom we speak to: the servers of last time, their successors, or a former primary, which is refused."""
        for name, server in self._links.servers.items():
            before = state.servers.get(name, server)
            if server.system == before.system and server.timeline < before.timeline:
                raise ReshardError(
                    f"shard {name}: this server is on timeline {server.timeline}, and the reshard has gone on with "
                    f"timeline {before.timeline}: it is a former primary; give the URL of the present one"
                )
            self._doubt |= server != before
        if not state.started:
            await self._sweep(state, await current(self._links.home))
        return replace(state, started=True, servers={**self._links.servers}, promoted=state.promoted or self._doubt)

    async def _sweep(self, state: Reshard, map: ShardMap) -> None:
        """Drop what a former reshard has left on the shards, unless the map knows nothing of it: then it is this one,
        whose beginning the home has forgotten, or one that nobody knows.
        """
        legs = {Place(number).schema: leg for number, leg in enumerate(state.legs)}
        for name, shard in self._links.shards.items():
            for place in await capture.left(shard):
                found = await marks.read(shard, place)
                if all(mark.epoch <= map.epoch for mark in found):
                    await self._patient(partial(capture.drop, shard, place, self._tabs, self._wait))
                elif not all(mark.fits(legs.get(place.schema)) for mark in found):
                    raise ReshardError(
                        f"shard {name} has switched buckets under an epoch that the map (epoch {map.epoch}) has not "
                        "reached: a failover of the home has lost what it knew of another reshard. Plan the same one "
                        "again and run it, or bring tenfold_shard_map and tenfold_reshard back from the former primary"
                    )

    async def _mend(self, state: Reshard) -> Reshard:
        """Make good what an interruption, or a promotion, has left on the shards of the legs under way."""
        for number, leg in enumerate(state.legs):
            place, ends = Place(number), (self._links.shards[leg.source], self._links.shards[leg.target])
            there = [await capture.stands(end, place, self._tabs) for end in ends]
            if leg.phase in steps.OVER or all(there) or (leg.phase is Phase.PLANNED and not any(there)):
                continue
            for end in ends:
                await self._patient(partial(capture.make, end, place, self._tabs, self._wait))
            if state.course is not Course.FINISH:
                state = state.with_leg(number, steps.anew(leg))
        state = await mend(self._links, state, self._tabs, wait=self._wait)
        for number, leg in enumerate(state.legs):
            if leg.phase in steps.OVER or leg.phase is Phase.PLANNED or state.course is Course.FINISH:
                continue
            for end in (self._links.shards[leg.source], self._links.shards[leg.target]):
                if await capture.outgrown(end, Place(number), self._tabs):
                    state = state.with_leg(number, steps.anew(leg))
                    await record.store(self._links.home, state)
        return state

    async def _anew(self, error: Different, state: Reshard, number: int) -> Reshard:
        """Live rows and copies differ. After a promotion that is no wonder: copy once more. Else ``error``."""
        if not state.promoted or number in self._renewed:
            raise error
        self._renewed.add(number)
        self._compared = {one for one in self._compared if one[0] != number}
        leg = steps.anew(state.legs[number])
        self._tell(Progress("copies differ after a promotion: anew", number, 0, leg.rows))
        state = (await record.load(self._links.home) or state).with_leg(number, leg)
        await record.store(self._links.home, state)
        return state

    async def _rest(self, state: Reshard, map: ShardMap) -> Reshard:
        """Work off what has gathered; after a promotion compare too. Returns another state when a leg is to be copied
        anew.
        """
        for number, leg in enumerate(state.legs):
            flow = self._flow(leg.target, number, leg, map)
            if self._doubt and number not in self._renewed:
                try:
                    await compare(flow, self._options.batch)
                except Different as error:
                    return await self._anew(error, state, number)
            await self._catch_up(flow)
        return state

    async def _copy_on(self, number: int, leg: Leg, map: ShardMap) -> Leg:
        back, table = divmod(leg.table, len(self._tabs))
        if back > 1:
            return replace(leg, phase=Phase.SWITCHING)
        flow = self._flow((leg.source, leg.target)[back], number, leg, map)
        if not flow.buckets:
            return replace(leg, after=None, table=(back + 1) * len(self._tabs))
        after, copied = await copy_page(flow, table, leg.after, self._options.batch)
        await drain(self._flow(leg.source, number, leg, map), self._options.batch)
        await drain(self._flow(leg.target, number, leg, map), self._options.batch)
        leg = replace(leg, after=after, table=leg.table + (after is None), copied=leg.copied + copied)
        self._tell(Progress("copied", number, leg.copied, leg.rows))
        return leg

    async def _switch(self, state: Reshard, step: Step, map: ShardMap) -> Reshard:
        """One group of buckets, after all of the leg have been compared once."""
        leg = state.legs[step.leg]
        flow = self._flow(step.giver, step.leg, leg, map)
        await self._catch_up(flow)
        if (step.leg, step.giver) not in self._compared:
            await compare(flow, self._options.batch)
            self._compared.add((step.leg, step.giver))
            self._tell(Progress("compared", step.leg, leg.copied, leg.rows))
            await self._catch_up(flow)
        await self._catch_up(self._flow(step.taker, step.leg, leg, map))
        buckets = steps.group(step.buckets, await self._copied(flow), self._options.switch_rows)
        gone = len(leg.buckets) - len(step.buckets)

        def tell(point: str) -> None:
            self._tell(Progress(point, step.leg, gone, len(leg.buckets)))

        behind: Behind | None = None
        for attempt in range(self._options.attempts):
            number = state.switches + 1
            intent = Intent(number=number, leg=step.leg, giver=step.giver, taker=step.taker, buckets=buckets)
            state = replace(state, intent=intent, switches=number)
            try:
                state = await switch(self._links, state, flow, batch=self._options.batch, wait=self._wait, tell=tell)
            except (*_IN_THE_WAY, Behind) as error:
                behind = error if isinstance(error, Behind) else None
                state = await self._mend(state)
                tell("catching up" if behind else "waiting for transactions under way")
                await self._pause(attempt)
                await self._catch_up(flow)
            except ReshardError:
                await self._mend(state)
                raise
            if (await current(self._links.home)).shards[buckets[0]] == step.taker:
                EVENTS.emit(BucketsSwitched(step.giver, step.taker, buckets))
                await asyncio.sleep(duration(self._options.rest))
                return state
        raise behind or ReshardError(
            f"transactions on {step.giver}, {step.taker} or another shard have lasted longer than "
            f"{format_duration(self._wait)} each of {self._options.attempts} times: see pg_stat_activity for those "
            "that are idle in transaction, then run it again"
        )

    async def _copied(self, flow: Flow) -> dict[int, int]:
        """Rows of the copies by bucket."""
        rows: dict[int, int] = {}
        for table in range(len(self._tabs)):
            statement = f"SELECT {BUCKET}, count(*) FROM {flow.place.copy(table)} GROUP BY 1"
            for bucket, count in await flow.taker.fetch(statement):
                rows[bucket] = rows.get(bucket, 0) + count
        return rows

    async def _catch_up(self, flow: Flow) -> None:
        """Work off the log until little is left, so that a switch is short. Under more writes than that, so be it."""
        for _ in range(_ROUNDS):
            if await drain(flow, self._options.batch) <= min(_CAUGHT_UP, self._options.batch - 1):
                return

    async def _patient(self, call: Callable[[], Awaitable[None]]) -> None:
        for attempt in range(self._options.attempts):
            try:
                return await call()
            except _IN_THE_WAY:
                await self._pause(attempt)
        raise ReshardError(
            f"the tables could not be locked within {format_duration(self._wait)}, {self._options.attempts} times: see "
            "pg_stat_activity for long transactions, then run it again"
        )

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(min(_LONGEST_PAUSE, _PAUSE * (attempt + 1)))

    def _flow(self, giver: str, number: int, leg: Leg, map: ShardMap) -> Flow:
        return flow_from(giver, self._links, number, leg, self._tabs, map)
