"""`Fleet`: as many worker processes as are wished, each replaced when it dies, hangs, grows or is outdated.

Theory. `Roster` decides and this acts. Each worker is one task that goes through one `Life` in order, so that the
listener hears ``ready``, ``leaving`` and ``gone`` of a worker one after another and never twice. The tasks do nothing
but that; whenever one has got further, or the time has come, `_turn` asks the roster what to do with all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import Tasks, shielded
from tenfold._core.units import format_size, whole_number
from tenfold.autoscale.supervisor.backoff import Backoff
from tenfold.autoscale.supervisor.happenings import CrashLoop, WorkerCrashed, WorkerLeft, WorkerReady
from tenfold.autoscale.supervisor.life import LEAVE, FleetListener, Life
from tenfold.autoscale.supervisor.member import Member
from tenfold.autoscale.supervisor.options import FleetError, FleetOptions
from tenfold.autoscale.supervisor.place import Place
from tenfold.autoscale.supervisor.roster import SURPLUS, TICK, Choose, Roster, idlest

_log: Final = logging.getLogger("tenfold.autoscale")
_SPREAD: Final = 0.25
"""By how much of `FleetOptions.max_requests` the limits of workers differ."""


class Fleet:
    """Workers that serve ``options.app``, from `start` to `aclose`. For one event loop::

        fleet = Fleet(FleetOptions(app="shop:app"), front)
        await fleet.start(2)
        await fleet.scale(8)
        await fleet.aclose()

    ``listener`` is told of each worker, ``hub`` of what happens (`WorkerReady`, `WorkerLeft`, `WorkerCrashed`,
    `CrashLoop`). What workers write goes to this process's standard error, their number before each line. They lead
    process groups of their own, so that a terminal's Ctrl-C does not reach them, and die with this process (on Linux
    with the thread of this loop already).
    """

    def __init__(
        self, options: FleetOptions, listener: FleetListener, *, hub: Hub = EVENTS, random: Random | None = None
    ) -> None:
        self.options: Final = options
        self._listener: Final = listener
        self._hub: Final = hub
        self._random: Final = random or Random()
        backoff = Backoff(options.seconds("backoff_first"), options.seconds("backoff_cap"), self._random)
        self._roster: Final = Roster(backoff, options.seconds("ready_timeout"), options.seconds("hung_after"))
        self._lives: dict[str, Life] = {}
        self._serving: set[str] = set()
        self._ever = False
        self._failure = ("", "")
        self._waiting: set[asyncio.Future[None]] = set()
        self._tasks = Tasks("fleet", limit=100_000)
        self._next_look = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._place: Place | None = None
        self._closing: asyncio.Task[None] | None = None

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """The workers, those that start and those that leave included, in the order of their start."""
        return tuple(self._roster.members)

    @property
    def wish(self) -> int:
        """How many workers there ought to be."""
        return self._roster.wish

    @property
    def crashes(self) -> int:
        """How many workers ended, or had to be killed, that were to go on."""
        return self._roster.crashes

    @property
    def restarts(self) -> int:
        """How many workers were started in the place of one that crashed."""
        return self._roster.restarts

    @property
    def recycled(self) -> int:
        """How many workers have left because another took their place: rolls, memory, requests, `replace`."""
        return self._roster.recycled

    @property
    def crash_loop(self) -> bool:
        """Whether workers die early over and over; the fleet keeps trying, at the longest pause."""
        return self._roster.backoff.looping

    # -- what is wanted -----------------------------------------------------------------------------------------------

    async def start(self, count: int) -> None:
        """Start so many and return when all are in service, or when some are and the others are in a crash loop.

        Raises `FleetError`, with the last words of one, when none of the first ones gets ready; nothing is left then.
        """
        whole_number(count, "count", least=1)
        if self._place is not None or self._closing is not None:
            raise MisuseError("fleet: expected one start, got a second one; make another fleet")
        self._place = Place(self.options.directory)
        await self._tasks.__aenter__()
        try:
            self._roster.wish = count
            self._turn()
            first = {member.id for member in self.members}
            await self._until(lambda: self._started(first))
        except BaseException:
            await self.aclose()
            raise

    def _started(self, first: set[str]) -> bool:
        if self._closing is not None:
            raise FleetError("the fleet was closed before its workers were ready")
        if not self._ever and (self.crash_loop or not first & self._lives.keys()):
            why, words = self._failure
            raise FleetError(f"{self.options.app}: no worker got ready ({why})", words)
        return len(self._serving) >= self.wish or (self._ever and self.crash_loop)

    async def scale(self, count: int, *, choose: Choose | None = None) -> None:
        """Have so many from now on; returns at once. Of those that serve ``choose`` picks who leaves (default: the one
        with the fewest requests under way, of several the youngest); those that only start are ended first.
        """
        whole_number(count, "count")
        self._check("scale")
        self._roster.choose = choose or idlest
        self._roster.wish = count
        self._turn()

    async def roll(self) -> None:
        """Replace all workers, one after another, each new one ready before an old one leaves; returns when the last
        old one has gone. A call during another replaces what that one has started too, so that after it all run the
        code of now. A crash loop is forgotten.

        Raises `FleetError` when the new ones are in a crash loop, or the fleet is closed; the old ones serve on then,
        and the fleet keeps trying.
        """
        self._check("roll")
        old = {member.id for member in self._roster.outdate("replaced in a rolling restart")}
        self._turn()
        await self._until(lambda: self._rolled(old))

    def _rolled(self, old: set[str]) -> bool:
        if self._closing is not None:
            raise FleetError("the fleet was closed during a rolling restart")
        if self.crash_loop and old & self._lives.keys():
            why, words = self._failure
            raise FleetError(f"{self.options.app}: the new workers do not get ready ({why})", words)
        return not old & self._lives.keys()

    def replace(self, member: Member, why: str = "replaced") -> None:
        """Have another one take its place, which is ready before this one leaves; returns at once."""
        self._check("replace")
        if member.state in ("starting", "ready"):
            member.outdated = member.outdated or why
            self._turn()

    async def aclose(self) -> None:
        """Drain all within ``drain_timeout`` and end them, by force where they do not leave. Nothing is left: no
        process, no socket. May be called twice, and goes on to its end when the caller is cancelled.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="fleet close")
        await shielded(asyncio.wait((self._closing,)))
        self._closing.result()

    async def _close(self) -> None:
        self._roster.wish = 0
        try:
            self._turn()
            try:
                async with asyncio.timeout(self.options.seconds("drain_timeout") + 2 * LEAVE):
                    await self._until(lambda: not self._lives)
            except TimeoutError:
                _log.error("fleet: %s did not leave in time and are killed", ", ".join(self._lives))
        finally:
            try:
                await self._tasks.close()
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                if self._place is not None:
                    self._place.close()

    def _check(self, what: str) -> None:
        if self._place is None or self._closing is not None:
            raise MisuseError(f"{what}: expected a fleet that runs; call it between start() and aclose()")

    # -- acting -------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Do what the roster says now, and come back when it may say something else."""
        now = time.monotonic()
        if now >= self._next_look:
            self._look(now)
        wake = self._next_look
        try:
            plan = self._roster.plan(now)
            wake = min(wake, plan.wake)
            for member in plan.kill:
                self._lives[member.id].kill()
            for member in plan.leave:
                self._serving.discard(member.id)
                self._lives[member.id].leave.set_result(None)
            for _ in range(plan.start):
                self._launch(now)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wake - time.monotonic()), self._turn)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def _look(self, now: float) -> None:
        """See what the processes use."""
        self._next_look = now + TICK
        limit = self.options.memory_limit
        for member in self._roster.members:
            if member.state != "ready":
                continue
            self._roster.used(member, member.cpu_seconds() or 0.0, now)
            if limit is not None and not member.outdated and (held := member.memory() or 0) > int(limit):
                member.outdated = f"replaced at {format_size(held)} of memory"

    def _launch(self, now: float) -> None:
        assert self._place is not None  # nothing is planned before
        number, url = self._place.next()
        most = self.options.max_requests
        limit = float("inf") if most is None else round(most * self._random.uniform(1, 1 + _SPREAD))
        member = Member(number, url, now, limit=limit)
        self._roster.joined(member)
        life = self._lives[number] = Life(member, self.options, self._listener)
        self._tasks.spawn(self._live(life), name=f"worker {number}")

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            news = asyncio.get_running_loop().create_future()
            self._waiting.add(news)
            try:
                await news
            finally:
                self._waiting.discard(news)

    # -- one worker, from its start to its end ------------------------------------------------------------------------

    async def _live(self, life: Life) -> None:
        member = life.member
        try:
            await life.run(lambda: self._roster.ready(member, time.monotonic()), lambda: self._in_service(member))
        finally:
            # When this task is cancelled the fleet is closed, and what was to end well has had its time.
            await shielded(self._end(life))

    def _in_service(self, member: Member) -> None:
        self._serving.add(member.id)
        self._ever = True
        self._hub.emit(WorkerReady(member.id, member.pid, member.changed - member.started))
        self._turn()

    async def _end(self, life: Life) -> None:
        member = life.member
        ended = await life.close()
        assert self._place is not None  # it was launched there
        self._place.left(member.url)
        self._serving.discard(member.id)
        why = member.doomed or ((member.outdated or SURPLUS) if member.state == "draining" else ended)
        self._tell(life, why)
        self._turn()
        await life.gone(why)
        del self._lives[member.id]
        self._turn()

    def _tell(self, life: Life, why: str) -> None:
        """Take it off the roster, and say so."""
        member, now = life.member, time.monotonic()
        ending = self._roster.ended(member, now)
        if not ending.crash:
            self._hub.emit(WorkerLeft(member.id, member.pid, why))
            return
        self._failure = (why, life.words)
        backoff = self._roster.backoff
        self._hub.emit(WorkerCrashed(member.id, member.pid, why, life.words, max(0.0, backoff.not_before - now)))
        if ending.loop:
            _log.error("fleet: %s is in a crash loop (%s); it said:\n%s", self.options.app, why, life.words)
            self._hub.emit(CrashLoop(self.options.app, backoff.early, why, life.words))

    def __repr__(self) -> str:
        loop = " in a crash loop" if self.crash_loop else ""
        return f"<Fleet {self.options.app}: {len(self._serving)} of {self.wish} serve{loop}>"
