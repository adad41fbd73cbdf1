"""Continuous detection: what each server is, where it stands, and who takes the writes.

Theory. Whoever learns of a promotion from failing statements learns it late and once for each connection. So each
server is asked over a connection of its own, every ``period`` less or more a fifth (so that many processes do not ask
in step), with a deadline on each probe. The end of that connection is noticed at once, without waiting for the next
probe, because the operating system tells.

Three things make a failover short. While no primary is seen, all servers are asked every 20 ms. A server that does not
answer is tried again after a pause that doubles (with full jitter) up to 2 s, but up to 100 ms only while there is no
primary, unless it is there and does not let us in (a wrong password costs both sides thousands of hashes). And
writers wait for the election instead of failing (`Watch.primary`), bounded in number and in time.

What is seen takes effect in one place, `Judge.judge`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import asyncpg

from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import shielded
from tenfold.db.cluster_errors import NoPrimary
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.election import Election
from tenfold.db.judge import Judge
from tenfold.db.lag import Trail
from tenfold.db.node import Node
from tenfold.db.pool_policy import POOLED, driver_arguments, is_pooled
from tenfold.db.position import Position
from tenfold.db.probe import APPLICATION, Found, probe, push
from tenfold.db.refusals import NOT_THERE, sqlstate
from tenfold.db.wal import identify
from tenfold.resilience.backoff import pause

_log: Final = logging.getLogger("tenfold.db.watch")
_URGENT: Final = 0.02
_SPREAD: Final = 0.2
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LONGEST_WITHOUT_PRIMARY: Final = 0.1
_SILENT_PROBES: Final = 2
_NOT_LET_IN: Final = "28"  # and not for lack of places (53300), say, which a failover has and which pass


class _Watched:
    """What the watch remembers of one node."""

    __slots__ = ("afresh", "half", "info", "minds", "silent", "sooner", "tries", "wake")

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.info: dict[Any, Any] = {}  # what lives as long as the connection
        self.afresh = False  # connect anew before the next probe
        self.minds = False  # it answered, and does not let us in: a wrong password, say
        self.half: Position | None = None  # where a primary's last probe found half a record
        self.silent = 0  # probes in a row that were not answered in time
        self.sooner = 0.0  # the last pause that was short because a lag was unknown; 0 when none is
        self.tries = 0  # failed ones since the last good one


class Watch:
    """Watches ``nodes``, of which ``nodes[0]`` is declared the primary. Belongs to one event loop.

    `start` it, and `close` it: it owns one task for each node.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        options: ClusterOptions,
        *,
        hub: Hub = EVENTS,
        random: Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes: Final = {node.name: node for node in nodes}
        self._options = options
        self._random = random or Random()
        self._monotonic = monotonic
        self._states = {node.name: _Watched() for node in nodes}
        self._judge = Judge(nodes, options, hub=hub, monotonic=monotonic, elected=self._look_around)
        self._tasks: list[asyncio.Task[None]] = []
        self._unasked = set(self._nodes)
        self._settled = asyncio.Event()
        self.waiting = 0
        """Writers that wait for a primary now."""
        self.probes = 0
        for node in nodes:
            node.look, node.doubt = self.look, self.doubt

    # -- its life

    def start(self) -> None:
        """Begin to watch. Needs the running loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(node), name=f"tenfold.db watch of {node.name}")
            for node in self._nodes.values()
        ]

    async def close(self) -> None:
        """End all tasks and their connections."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await shielded(_ended(tasks))

    # -- for readers and writers

    @property
    def winner(self) -> Node | None:
        """The node that takes the writes; None while there is none."""
        return self._judge.winner

    @property
    def election(self) -> Election:
        """Who was elected, and on which timeline."""
        return self._judge.election

    @property
    def elections(self) -> int:
        """Times that a server became the one that takes the writes; the first is no failover."""
        return self._judge.elections

    @property
    def trail(self) -> Trail:
        """Where the primary was lately."""
        return self._judge.trail

    @property
    def settled(self) -> bool:
        """Whether each node was asked once."""
        return not self._unasked

    async def settle(self) -> None:
        """Return when each node was asked once, whatever came of it; at the latest after the time for a connection."""
        if not self._settled.is_set():
            try:
                async with asyncio.timeout(float(self._options.connect_timeout)):
                    await self._settled.wait()
            except TimeoutError:
                return  # whoever has not answered by now is not known, and the choice goes by that

    async def primary(self, until: float) -> Node:
        """The node that takes the writes; waits for one until the monotonic time ``until``.

        Raises `NoPrimary`, also at once where ``held_writers`` wait already.
        """
        began = self._monotonic()
        if self.waiting >= self._options.held_writers and self.winner is None:
            await asyncio.sleep(0)  # whoever tries again at once must not keep the watch from its turn
            raise NoPrimary(self._judge.told(f"and {self.waiting} writers wait for one already", 0.0), retry_after=0.1)
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, until - began)):
                while True:
                    winner = self.winner
                    if winner is not None:
                        return winner
                    await self._judge.there.wait()
        except TimeoutError:
            waited = self._monotonic() - began
            raise NoPrimary(self._judge.told("was seen", waited), retry_after=0.5) from None
        finally:
            self.waiting -= 1

    def look(self, node: Node) -> None:
        """Ask ``node`` now, rather than when its turn comes."""
        self._states[node.name].wake.set()

    def doubt(self, node: Node, reason: str) -> None:
        """Somebody's statement showed that ``node`` is not what it was: ask it anew, over a new connection, and
        send no writes there until it has answered.
        """
        state = self._states[node.name]
        state.afresh = True
        state.wake.set()
        if node.seen.role == "primary":
            self._judge.judge(node, Found("unknown", None), reason)

    # -- watching

    async def _follow(self, node: Node) -> None:
        state = self._states[node.name]
        connection: asyncpg.Connection[Any] | None = None
        try:
            while True:
                state.wake.clear()
                if connection is not None and (state.afresh or connection.is_closed()):
                    connection.terminate()
                    connection = None
                state.afresh = False
                began = self._monotonic()
                try:
                    async with asyncio.timeout(float(self._options.connect_timeout)):
                        if connection is None:
                            connection = await self._connect(node, state)
                            state.info = {POOLED: True} if node.pooled else {}
                        began = self._monotonic()
                        found = await probe(connection)
                        if found.half and found.position == state.half:
                            await push(connection)  # it has stood there since the last probe
                        state.half = found.position if found.half else None
                        if found.role == "replica" and found.position is not None:
                            # `began` lies before the question: what was seen holds for connections older than that.
                            node.replayed.note(await identify(connection, state.info), found.position, began)
                except NOT_THERE as error:
                    if connection is not None:
                        connection.terminate()
                        connection = None
                    self._silent(node, state, error)
                except Exception as error:  # noqa: BLE001 - the watch goes on, and the log has it
                    if not state.tries:  # once, and not with every further try
                        _log.exception("the probe of %s failed in an unexpected way", node.name)
                    self._silent(node, state, error)
                else:
                    state.silent = state.tries = 0
                    if not state.afresh:  # else somebody doubted it meanwhile, and this answer may be of before
                        self._judge.judge(node, found, "its probe says so", began)
                self._asked(node)
                await self._rest(node, state)
        finally:
            if connection is not None:
                connection.terminate()

    async def _connect(self, node: Node, state: _Watched) -> asyncpg.Connection[Any]:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            **driver_arguments(node.url),
            timeout=float(self._options.connect_timeout),
            statement_cache_size=0,
            server_settings={"application_name": APPLICATION},
        )
        connection.add_termination_listener(lambda _: state.wake.set())
        if node.pooled is None:
            try:
                node.pooled = await is_pooled(connection)
            except BaseException:
                connection.terminate()
                raise
        node.epoch += 1
        return connection

    async def _rest(self, node: Node, state: _Watched) -> None:
        no_primary = self.winner is None
        if state.tries:
            cap = _LONGEST_WITHOUT_PRIMARY if no_primary and not state.minds else _LONGEST_PAUSE
            seconds = max(0.005, pause("full", state.tries, 0.0, _FIRST_PAUSE, cap, self._random))
        else:
            period = _URGENT if no_primary else self._period(node, state)
            seconds = period * self._random.uniform(1 - _SPREAD, 1 + _SPREAD)
        try:
            async with asyncio.timeout(seconds):
                await state.wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(0.002)  # however often it is woken

    def _period(self, node: Node, state: _Watched) -> float:
        """How long to rest while there is a primary and ``node`` answers."""
        longest, winner = float(self._options.watch_period), self.winner
        if not (any(map(_is_unsure, self._nodes.values())) if node is winner else _is_unsure(node)):
            state.sooner = 0.0
            return longest
        if not state.sooner and winner is not None and winner is not node:
            self.look(winner)  # where half a record was seen, its next sample is what the replica can reach
        state.sooner = min(longest, max(_URGENT, 2 * state.sooner))
        return state.sooner

    def _look_around(self) -> None:
        """The primary is lost, or another one: whoever is lost is looked for everywhere at once."""
        if self.winner is None:
            for state in self._states.values():
                state.wake.set()

    def _asked(self, node: Node) -> None:
        self.probes += 1
        if self._unasked:
            self._unasked.discard(node.name)
            if not self._unasked:
                self._settled.set()

    def _silent(self, node: Node, state: _Watched, error: BaseException) -> None:
        state.tries += 1
        state.silent += 1
        state.minds = sqlstate(error).startswith(_NOT_LET_IN)
        if isinstance(error, TimeoutError):
            node.silences += 1
        # A refused connection says that nobody is there. A probe that took too long may be the fault of a busy
        # machine, ours included, and one of them is not enough to stop the writes.
        slow = isinstance(error, TimeoutError) and state.silent < _SILENT_PROBES
        if not slow:
            reason = f"{type(error).__name__}: {error}"
            if node.seen.role != "unknown":
                node.fail(error, self._monotonic())
            node.last_error = reason
            self._judge.judge(node, Found("unknown", None), reason)


def _is_unsure(node: Node) -> bool:
    """Whether it is a replica of which nobody knows how far behind it is."""
    return node.seen.role == "replica" and node.seen.lag_state == "unknown" and not node.stranger


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            _log.error("a watch had failed", exc_info=result)
