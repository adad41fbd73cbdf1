"""One server of the cluster as one event loop sees it: two pools of connections, what was seen of it, its health.

Connections belong to a *generation*. When the server turns out to be another than the one they were made to (another
role, another timeline, a "primary" that refuses to write), the generation is over: idle connections are cut at once,
those in use when they come back, and none of them is ever handed out again. A connection that still answers
``SELECT 1`` is no proof: to a demoted primary it does so for days.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tenfold._core.events import EVENTS, Hub
from tenfold._core.stats import Ewma
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.happenings import GenerationDropped
from tenfold.db.pool import Account, AccountedPool, bound_rollback, cut_idle
from tenfold.db.pool_policy import READ_ONLY
from tenfold.db.position import Position
from tenfold.db.refusals import NOT_THERE
from tenfold.db.replayed import Replayed
from tenfold.db.seen import NOTHING, Seen
from tenfold.db.taps import Taps
from tenfold.resilience import AdaptiveLimit, Breaker, BreakerOpen, Circuit, State
from tenfold.resilience.adaptive import AdaptivePlaces

_EVIDENCE: Final = 32.0  # readers in the last seconds; with fewer, one slow one would decide
_CLIP: Final = 4.0
# One failed connection is enough: the next reader has other servers to go to.
_BREAKER: Final = Breaker(ratio="off", consecutive=1, open=0.5, open_max=8.0, permits=1, ramp=0, lease=10.0)


class Node:
    """A server, its engines and its health. Belongs to one event loop.

    ``name`` is fixed and says nothing of the role, which changes. ``look`` is called when a connection
    broke, and ``doubt`` when a statement showed that the server is not what it was.
    """

    __slots__ = (
        "_reads",
        "_writes",
        "account",
        "adaptive",
        "circuit",
        "doubt",
        "epoch",
        "failures",
        "generation",
        "hub",
        "last_error",
        "latencies",
        "look",
        "name",
        "options",
        "pooled",
        "refused",
        "replayed",
        "seen",
        "silences",
        "stranger",
        "url",
        "used",
    )  # fmt: skip

    def __init__(
        self, name: str, url: URL, options: ClusterOptions, *, hub: Hub = EVENTS, random: Random | None = None
    ) -> None:
        self.name = name
        self.url = url
        self.hub = hub
        self.options = options
        self._writes: AsyncEngine | None = None
        self._reads: AsyncEngine | None = None
        self.account = Account()
        self.circuit = Circuit(name, _BREAKER, rng=random, hub=hub)
        most = int(options.pool_size)
        self.adaptive = AdaptivePlaces(AdaptiveLimit(initial=most, maximum=most), name=name, hub=hub)
        self.latencies = Ewma(half_life=2.0)  # towards 0 in silence: who was slow is tried again
        self.seen: Seen = NOTHING
        self.replayed = Replayed()
        """What is remembered of a replica's position, for readers with a token."""
        self.generation = 0
        self.epoch = 0
        """Counts the connections of the watch: while it stays, the server has not gone down."""
        self.refused = ""
        """Why it gets no writes although it says that it is a primary; "" where that is not so."""
        self.stranger = ""
        """Why it is none of this cluster; "" where that is not so, or not known."""
        self.pooled: bool | None = {"auto": None, "none": False, "transaction": True}[options.pooler]
        """Whether a pooler stands in between; None: not known yet."""
        self.silences = 0
        """Probes that were not answered in time. Connections made before the last one may be open at this end only (a
        router that forgot them says nothing), and are asked before they are handed out.
        """
        self.failures = 0
        self.last_error = ""
        self.used = False
        self.look: Callable[[Node], None] = lambda node: None
        self.doubt: Callable[[Node, str], None] = lambda node, reason: None

    # -- connections

    @property
    def engine(self) -> AsyncEngine:
        """For transactions."""
        if self._writes is None:
            self._writes = self._made(write=True, **self.options.engine())
        return self._writes

    @property
    def reads(self) -> AsyncEngine:
        """For reads: autocommit, and every transaction is read-only unless it says otherwise."""
        if self._reads is None:
            own = self.options.engine()
            own["connect_args"]["server_settings"] = {READ_ONLY: "on"}
            self._reads = self._made(write=False, isolation_level="AUTOCOMMIT", **own)
        return self._reads

    def advance(self, reason: str) -> None:
        """Begin another generation: no connection made so far is used again."""
        self.generation += 1
        for engine in (self._writes, self._reads):
            if engine is not None:
                pool = engine.sync_engine.pool
                assert isinstance(pool, AccountedPool)
                cut_idle(pool)
        if self.used:
            self.hub.emit(GenerationDropped(self.name, self.generation, reason))

    async def close(self) -> None:
        """Close all connections, within the time for a release; after that they are cut. Those in use are closed when
        they come back.
        """
        self.generation += 1
        for engine in (self._writes, self._reads):
            if engine is not None:
                pool = engine.sync_engine.pool  # `dispose` puts another in its place
                assert isinstance(pool, AccountedPool)
                try:
                    async with asyncio.timeout(float(self.options.release_timeout)):
                        await engine.dispose()
                except TimeoutError:
                    self.last_error = "it did not answer when its connections were closed, and they were cut"
                finally:
                    cut_idle(pool)
        self._writes = self._reads = None

    def made(self, *, write: bool) -> AsyncEngine | None:
        """The engine for transactions or for reads, if it was needed yet."""
        return self._writes if write else self._reads

    # -- health

    @property
    def in_flight(self) -> int:
        """Readers that it serves now, or that are on their way to a connection."""
        return self.account.readers + self.account.coming

    @property
    def shown(self) -> Position | None:
        """The newest position that it is known to have shown: to its readers with a token, or to the watch."""
        return self.replayed.position or self.seen.position

    @property
    def places(self) -> int:
        """Readers that its adaptive limit allows."""
        return self.adaptive.in_force

    def latency(self, now: float) -> float:
        """Expected seconds of a reader, from taking a connection to giving it back: the mean of the last ones, which
        fades while there are none; 0 while too few are known.
        """
        if self.latencies.weight(now) < _EVIDENCE:
            return 0.0
        return self.latencies.value(now)

    def observe(self, seconds: float, now: float) -> None:
        """A reader took so long. One that took far longer than usual counts as a bit longer: it says more about
        itself than about the server.
        """
        usual = self.latencies.mean
        self.latencies.observe(min(seconds, _CLIP * usual) if usual > 0 else seconds, now)

    def usable(self, now: float) -> bool:
        """Whether the breaker would let a call pass at the monotonic time ``now``."""
        state = self.circuit.current
        if state is State.OPEN:
            return self.circuit.state(now)["retry_after"] == 0.0
        return state is not State.FORCED_OPEN

    def fail(self, error: BaseException, now: float) -> None:
        """It did not answer."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        try:
            ticket = self.circuit.ticket or self.circuit.admit(now)
        except BreakerOpen:
            return  # it is known already
        self.circuit.failure(ticket, now, 0.0)

    def serves(self, now: float) -> None:
        """A reader got a connection: to the breaker, where it was open, a success."""
        circuit = self.circuit
        if circuit.current is not State.CLOSED:
            try:
                ticket = circuit.ticket or circuit.admit(now)
            except BreakerOpen:
                return
            circuit.success(ticket, now, 0.0)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Around the making or taking of a connection: tells the breaker how it went. Raises `BreakerOpen`."""
        began = time.monotonic()
        circuit = self.circuit
        ticket = circuit.ticket or circuit.admit(began)
        try:
            yield
        except NOT_THERE as error:
            self.failures += 1
            self.last_error = f"{type(error).__name__}: {error}"
            circuit.failure(ticket, time.monotonic(), 0.0)
            raise
        except BaseException:
            circuit.neutral(ticket, time.monotonic())
            raise
        now = time.monotonic()
        circuit.success(ticket, now, now - began)

    def __repr__(self) -> str:
        state = f", failed {self.failures} times, last: {self.last_error}" if self.failures else ""
        if self.refused:
            state += f", refused: {self.refused}"
        url = self.url.render_as_string(hide_password=True)
        use = f"{len(self.account.holders)} in use"
        return f"Node({self.name}, {url}, {self.seen.role}, generation {self.generation}, {use}{state})"

    # -- inside

    def _made(self, *, write: bool, **options: Any) -> AsyncEngine:
        engine = create_async_engine(self.url, poolclass=AccountedPool, **options)
        pool = engine.sync_engine.pool
        assert isinstance(pool, AccountedPool)
        pool.account, pool.label, pool.write = self.account, f"{self.name} ({'writes' if write else 'reads'})", write
        taps = Taps(self, write)
        for name in ("do_connect", "connect", "checkout", "checkin", "detach", "handle_error"):
            event.listen(engine.sync_engine, name, getattr(taps, name))
        if write:  # any listener of statements makes all of them dearer, and reads are many
            for name in ("before_cursor_execute", "commit", "rollback"):
                event.listen(engine.sync_engine, name, getattr(taps, name))
        bound_rollback(engine.dialect, float(self.options.release_timeout))
        return engine
