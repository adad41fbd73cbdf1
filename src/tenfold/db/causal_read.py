"""A connection that shows what the reader must see: a replica that has it, one that has it soon, or the primary.

The order is that of cost. First a replica that is *known* to be there (no round trip). Else the first replica gets
``wait`` to arrive: replay usually trails by a millisecond or two, which is less than the primary's time is worth. Then
the others are asked once each, and last comes the primary, which always has it. The deadline bounds it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.db.causality import CAUSALITY, Causality, after_commit
from tenfold.db.lineage import History
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE
from tenfold.db.replayed import Reach, Replayed, reach
from tenfold.db.token import NOWHERE
from tenfold.db.wal import driver_of, insert_position, read_history, replayed_position
from tenfold.resilience import remaining


class Server(Protocol):
    """What is needed of a node."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> AsyncEngine: ...


@asynccontextmanager
async def undivided(connection: AsyncConnection | Connection) -> AsyncIterator[None]:
    """A connection that was stopped in the middle of an answer must not go back to the pool as if it were whole."""
    try:
        yield
    except BaseException:
        driver_of(connection)[0].terminate()  # at once: a server that is frozen would not take part in a farewell
        if isinstance(connection, AsyncConnection):
            await connection.invalidate()
        else:
            connection.invalidate()
        raise


async def wait_for(
    connection: AsyncConnection | Connection,
    wanted: Position,
    replayed: Replayed,
    *,
    wait: float,
    answer: float,
    clock: Clock = SYSTEM_CLOCK,
) -> Reach:
    """`reach` on an open SQLAlchemy connection that is outside of a transaction: up to ``wait`` seconds for the replica
    to arrive, and ``answer`` beyond that for it to say anything at all.

    After an exception (`TimeoutError`, or what the driver raises) the connection is ended, and the pool replaces it.
    """
    driver, info = driver_of(connection)
    async with undivided(connection), asyncio.timeout(wait + answer):
        return await reach(driver, info, wanted, replayed, within=wait, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalOptions:
    """``wait`` (20 ms): how long the first replica gets to arrive at the position. ``answer`` (250 ms): how long any
    replica gets to give a connection, and then beyond ``wait`` to say where it is, before that connection is dropped.
    ``avoid`` (100 ms): how long one that did not arrive in time comes after the others. ``monotonic`` (off): reads of a
    scope never go back, for one more round trip after each read of a session on a replica, and at the end of each use
    of a connection for reads.
    """

    wait: Duration = "20ms"
    answer: Duration = "250ms"
    avoid: Duration = "100ms"
    monotonic: bool = False

    def __post_init__(self) -> None:
        for name in ("wait", "answer", "avoid"):
            object.__setattr__(self, name, duration(getattr(self, name), name))
        if not self.answer:
            raise MisuseError('answer: expected a duration above 0 such as "250ms", got 0')


@dataclass(slots=True)
class CausalCounters:
    """Where reads ended, and why: ``free`` wanted nothing, ``at_once`` and ``there`` are reads on a replica with a
    token, ``primary`` those that went to the primary; ``behind``, ``unknown`` and ``foreign`` are verdicts on single
    replicas (`Reach`), ``failed`` replicas that did not answer.
    """

    free: int = 0
    at_once: int = 0
    there: int = 0
    primary: int = 0
    behind: int = 0
    unknown: int = 0
    failed: int = 0
    foreign: int = 0


class CausalReads:
    """Reads on ``primary`` (over connections that refuse to write) and its ``replicas``; ``writer`` is where positions
    are captured. ``order`` puts the replicas in order for one read; ``failed`` is told of one that did not answer.
    """

    def __init__(
        self,
        writer: Server,
        primary: Server,
        replicas: Sequence[Server],
        options: CausalOptions | None = None,
        *,
        order: Callable[[Sequence[Server]], Sequence[Server]] = lambda replicas: replicas,
        failed: Callable[[Server, BaseException], None] = lambda server, error: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.options = options or CausalOptions()
        self.counters = CausalCounters()
        self.replayed = {server.name: Replayed() for server in replicas}
        self.writer, self._primary, self._replicas = writer, primary, tuple(replicas)
        self._order, self._failed, self._clock = order, failed, clock
        self._system: int | None = None

    # -- writing

    async def capture(self) -> Position:
        """The primary's position now, in one round trip over a pooled connection."""
        async with self.writer.engine.connect() as connection:
            driver, info = driver_of(connection)
            async with undivided(connection):
                position = await insert_position(driver, info)
        self._system = position.system
        return position

    async def history(self, timeline: int) -> History | None:
        """The ancestry of ``timeline``, from the primary."""
        async with self.writer.engine.connect() as connection:
            driver, info = driver_of(connection)
            async with undivided(connection):
                return await read_history(driver, info, timeline)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction on the primary whose commit counts in the present scope, also if its outcome is not known."""
        committing = False
        try:
            async with self.writer.engine.begin() as connection:
                yield connection
                committing = True
        finally:
            if committing:
                after_commit(self.capture, self.history, self._system)

    # -- reading

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection that shows what the present scope wants."""
        scope = CAUSALITY.get()
        wanted = None if scope is None else await self._wanted(scope)
        connection, server = await self._find(wanted)
        try:
            yield connection
            if scope is not None and self.options.monotonic:
                await self._note_what_was_seen(scope, connection, server)
        finally:
            await connection.close()

    async def _wanted(self, scope: Causality) -> Position | None:
        try:
            await scope.settle(self._system)
        except NOT_THERE:
            return NOWHERE  # unknown: the primary answers, or says itself why not
        return scope.wanted_on(self._system)

    async def _find(self, wanted: Position | None) -> tuple[AsyncConnection, Server]:
        if wanted is not NOWHERE:
            for number, server in enumerate(self._in_order(wanted)):
                connection = await self._try(server, wanted, float(self.options.wait) if number == 0 else 0.0)
                if connection is not None:
                    return connection, server
        self.counters.primary += 1
        return await self._primary.engine.connect(), self._primary

    def _in_order(self, wanted: Position | None) -> Sequence[Server]:
        """Those that were seen at the position first (whether that may be relied on shows on the connection), those
        that came late just now last.
        """
        replicas = self._order(self._replicas)
        if wanted is None:
            return replicas
        now = self._clock.monotonic()

        def rank(server: Server) -> int:
            replayed = self.replayed[server.name]
            seen = replayed.position
            if seen is not None and seen.covers(wanted):
                return 0
            return 2 if now < replayed.late_until else 1

        return sorted(replicas, key=rank)

    async def _try(self, server: Server, wanted: Position | None, wait: float) -> AsyncConnection | None:
        left = remaining(self._clock)
        if left is not None:
            wait = min(wait, left / 2)  # what is left is the primary's
        try:
            async with asyncio.timeout(float(self.options.answer)):
                connection = await server.engine.connect()
        except NOT_THERE as error:
            self._did_not_answer(server, error)
            return None
        if wanted is None:
            self.counters.free += 1
            return connection
        there = False
        try:
            there = (await self._reach(connection, server, wanted, wait)).there
        except NOT_THERE as error:
            self._did_not_answer(server, error)
        finally:
            if not there:
                await connection.close()
        return connection if there else None

    async def _reach(self, connection: AsyncConnection, server: Server, wanted: Position, wait: float) -> Reach:
        replayed, answer = self.replayed[server.name], float(self.options.answer)
        verdict = await wait_for(connection, wanted, replayed, wait=wait, answer=answer, clock=self._clock)
        counters = self.counters
        if verdict is Reach.AT_ONCE:
            counters.at_once += 1
        elif verdict is Reach.THERE:
            counters.there += 1
        elif verdict is Reach.BEHIND:
            counters.behind += 1
            if wait:
                replayed.late_until = self._clock.monotonic() + float(self.options.avoid)
        elif verdict is Reach.FOREIGN:
            counters.foreign += 1
        else:
            counters.unknown += 1
        return verdict

    def _did_not_answer(self, server: Server, error: BaseException) -> None:
        self.counters.failed += 1
        self._failed(server, error)

    async def _note_what_was_seen(self, scope: Causality, connection: AsyncConnection, server: Server) -> None:
        """After the data, so at or behind its snapshot."""
        driver, info = driver_of(connection)
        on_primary = server is self._primary
        async with undivided(connection):
            seen = await (insert_position(driver, info) if on_primary else replayed_position(driver, info))
            if seen is None:
                return  # promoted meanwhile: there is no going back from that
            at, history = scope.wanted_on(seen.system), None
            if at is not None and at.timeline < seen.timeline:
                history = await read_history(driver, info, seen.timeline)
        scope.saw(seen, history)

    def __repr__(self) -> str:
        counters: Any = self.counters
        return f"<CausalReads on {len(self._replicas)} replicas {counters}>"
