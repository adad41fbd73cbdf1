"""Causality on the nodes of a cluster: where a commit's position is read, and whether a connection shows a wanted one.

A connection to a replica is asked after it was taken and before its first statement (`replayed`): nothing where memory
covers the position, which the watch keeps fresh; else the first replica gets ``wait`` to arrive, the next ones are
asked once each, and the primary, which has it, comes last. Which stands where is `choose`'s business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import asyncpg
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from tenfold._core.units import Duration, format_duration
from tenfold.db.causal_read import CausalCounters, CausalOptions, undivided, wait_for
from tenfold.db.causality import CAUSALITY, after_commit
from tenfold.db.lineage import History
from tenfold.db.node import Node
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE
from tenfold.db.replayed import Reach
from tenfold.db.token import NOWHERE
from tenfold.db.wal import Info, driver_of, insert_position, known_identity, read_history, replayed_position
from tenfold.resilience import remaining

T = TypeVar("T")


class Host(Protocol):
    """What is needed of the cluster."""

    @property
    def system(self) -> int | None: ...

    async def writer(self, wait: float | None = None) -> Node: ...

    def patience(self) -> float: ...

    async def stand_by(self, node: Node, error: Exception, until: float) -> None: ...


class ClusterCausality:
    """See the module. ``counters`` counts reads with a token alone; `Router` counts all."""

    __slots__ = ("_host", "counters", "options")

    def __init__(self, host: Host, options: CausalOptions | None = None) -> None:
        self._host = host
        self.options = options or CausalOptions()
        self.counters = CausalCounters()

    # -- writing

    async def capture(self) -> Position:
        """The primary's position now, in one round trip over a pooled connection. Waits for a primary as writers do."""
        return await self._ask(insert_position)

    async def history(self, timeline: int) -> History | None:
        """The ancestry of ``timeline``, from the primary."""
        return await self._ask(lambda driver, info: read_history(driver, info, timeline))

    async def _ask(self, question: Callable[[Any, Info], Awaitable[T]]) -> T:
        """The primary's answer. It may be asked again: of the next primary too, which has whatever was not lost."""
        until = self._host.patience()
        while True:
            node = await self._host.writer()
            try:
                async with node.engine.connect() as connection:
                    driver, info = driver_of(connection)
                    async with undivided(connection):
                        return await question(driver, info)
            except NOT_THERE as error:
                await self._host.stand_by(node, error, until)

    def committed(self) -> None:
        """A transaction that may have written is over: the present scope, if there is one, counts it."""
        if CAUSALITY.get() is not None:
            after_commit(self.capture, self.history, self._host.system)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a connection to the primary: the present scope counts what was written over it when it is given back,
        and until then nobody is told where.
        """
        scope, system = CAUSALITY.get(), self._host.system
        if scope is None:
            yield
            return
        scope.begun(system)
        try:
            yield
        finally:
            self.committed()
            scope.ended(system)

    # -- reading

    async def wanted(self) -> Position | None:
        """What a read must see: None for anything, `NOWHERE` for the primary."""
        scope = CAUSALITY.get()
        if scope is None:
            return None
        system = self._host.system
        if scope.unsettled:
            try:
                await scope.settle(system)
            except NOT_THERE:
                return NOWHERE  # unknown: the primary answers, or says itself why not
        wanted = scope.wanted_on(system)
        if wanted is NOWHERE:
            scope.relearn(self.capture, self.history, system)
        return wanted

    def shows(self, connection: Connection, node: Node, wanted: Position, patient: bool) -> bool:
        """As `reach`, from within SQLAlchemy's greenlet, and without leaving it where memory covers ``wanted``."""
        driver, info = driver_of(connection)
        who = known_identity(info)
        if who is not None and node.replayed.covers(who, wanted):
            self.counters.at_once += 1
            return True
        if driver.is_in_transaction():
            return False  # a cursor is being read from it
        return await_only(self.reach(connection, node, wanted, patient))

    async def reach(
        self, connection: AsyncConnection | Connection, node: Node, wanted: Position, patient: bool
    ) -> bool:
        """Whether a fresh connection to a replica shows ``wanted``; if ``patient``, up to ``wait`` from now."""
        options, counters, replayed = self.options, self.counters, node.replayed
        wait = float(options.wait) if patient and time.monotonic() >= replayed.late_until else 0.0
        left = remaining()
        if left is not None:
            wait = max(0.0, min(wait, left / 2))  # what is left is the primary's
        try:
            verdict = await wait_for(connection, wanted, replayed, wait=wait, answer=float(options.answer))
        except NOT_THERE as error:
            counters.failed += 1
            node.fail(error, time.monotonic())
            return False
        if verdict is Reach.AT_ONCE:
            counters.at_once += 1
        elif verdict is Reach.THERE:
            counters.there += 1
        elif verdict is Reach.FOREIGN:
            counters.foreign += 1
        elif verdict is Reach.UNKNOWN:
            counters.unknown += 1
        else:
            counters.behind += 1
            if wait:
                replayed.late_until = time.monotonic() + float(options.avoid)
        return verdict.there

    # -- having read, where reads are monotonic

    def saw_primary(self) -> None:
        """The primary was read: later reads must not show less. Where it stood is asked when somebody needs it, as
        after a commit: any position read later is at or behind it.
        """
        if self.options.monotonic:
            self.committed()

    def saw(self, connection: Connection) -> None:
        """A read over this connection to a replica was answered. As `note`, from within SQLAlchemy's greenlet."""
        if self.options.monotonic and CAUSALITY.get() is not None:
            await_only(self.note(connection))

    async def note(self, connection: AsyncConnection | Connection) -> None:
        """Later reads of the present scope must show what the last read over this connection to a replica has shown.

        One round trip, after the data, so that the position is at or behind its snapshot. Raises what the driver
        raises, also when there is no answer: then nobody may rely on that read, for nothing is known of what it showed.
        """
        scope = CAUSALITY.get()
        if scope is None or not self.options.monotonic:
            return
        driver, info = driver_of(connection)
        async with undivided(connection), _answered(self.options.answer):
            seen = await replayed_position(driver, info)
            if seen is None:  # it was promoted meanwhile
                self.committed()
                return
            at, history = scope.wanted_on(seen.system), None
            if at is not None and at.timeline < seen.timeline:
                history = await read_history(driver, info, seen.timeline)
        scope.saw(seen, history)

    def __repr__(self) -> str:
        return f"<ClusterCausality {self.counters}>"


@asynccontextmanager
async def _answered(within: Duration) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(float(within)):
            yield
    except TimeoutError as error:
        raise asyncpg.InterfaceError(
            f"the replica did not say within {format_duration(float(within))} what it had shown"
        ) from error
