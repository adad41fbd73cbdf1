"""One server of the cluster as one event loop sees it: two pools of connections, what was seen of it, its health.

Connections belong to a *generation*. When the server turns out to be another than the one they were made to (another
role, another timeline, a "primary" that refuses to write), the generation is over: idle connections are cut at once,
those in use when they come back, and none of them is ever handed out again. A connection that still answers
``SELECT 1`` is no proof: to a demoted primary it does so for days.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from tenfold._core.events import EVENTS, Hub
from tenfold._core.stats import Ewma
from tenfold.db import pool_policy
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.happenings import GenerationDropped
from tenfold.db.pool import Account, AccountedPool, Holder, cut
from tenfold.db.seen import NOTHING, Seen
from tenfold.resilience import AdaptiveLimit, Breaker, BreakerOpen, Circuit, Overloaded, State
from tenfold.resilience.adaptive import AdaptivePlaces

_TURNS_TO_NOTICE: Final = 5
# By which a server says that it cannot be reached or does not accept connections; anything else is the
# caller's error.
NOT_THERE: Final = (OSError, TimeoutError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)
_LEAST_LATENCY: Final = 1e-4
_EVIDENCE: Final = 32.0  # statements in the last seconds; with fewer, one slow one would decide
_CLIP: Final = 4.0
_MADE_IN: Final = "tenfold_generation"
_HELD: Final = "tenfold_holder"
_PLACE: Final = "tenfold_place"
# A connection past its first use, in which it loads types and prepares every statement.
_WARM: Final = "tenfold_warm"
_READ_ONLY: Final = "25006"
# One failed connection is enough: the next reader has other servers to go to.
_BREAKER: Final = Breaker(ratio="off", consecutive=1, open=0.5, open_max=8.0, permits=1, ramp=0, lease=10.0)


class Node:
    """A server, its engines and its health. Belongs to one event loop.

    ``name`` is fixed and says nothing of the role, which changes. ``look`` is called when a connection
    broke, and ``doubt`` when a statement showed that the server is not what it was.
    """

    __slots__ = (
        "_options",
        "_reads",
        "_used",
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
        "pooled",
        "refused",
        "seen",
        "stranger",
        "url",
    )  # fmt: skip

    def __init__(
        self, name: str, url: URL, options: ClusterOptions, *, hub: Hub = EVENTS, random: Random | None = None
    ) -> None:
        self.name = name
        self.url = url
        self.hub = hub
        self._options = options
        self._writes: AsyncEngine | None = None
        self._reads: AsyncEngine | None = None
        self.account = Account()
        self.circuit = Circuit(name, _BREAKER, rng=random, hub=hub)
        most = int(options.pool_size)
        self.adaptive = AdaptivePlaces(AdaptiveLimit(initial=most, maximum=most), name=name, hub=hub)
        self.latencies = Ewma(half_life=2.0)  # towards 0 in silence: who was slow is tried again
        self.seen: Seen = NOTHING
        self.generation = 0
        self.epoch = 0
        """Counts the connections of the watch: while it stays, the server has not gone down."""
        self.refused = ""
        """Why it gets no writes although it says that it is a primary; "" where that is not so."""
        self.stranger = False
        self.pooled: bool | None = {"auto": None, "none": False, "transaction": True}[options.pooler]
        """Whether a pooler stands in between; None: not known yet."""
        self.failures = 0
        self.last_error = ""
        self._used = False
        self.look: Callable[[Node], None] = lambda node: None
        self.doubt: Callable[[Node, str], None] = lambda node, reason: None

    # -- connections

    @property
    def engine(self) -> AsyncEngine:
        """For transactions."""
        if self._writes is None:
            self._writes = self._made(write=True, **self._options.engine())
        return self._writes

    @property
    def reads(self) -> AsyncEngine:
        """For reads: autocommit, and every transaction is read-only unless it says otherwise."""
        if self._reads is None:
            own = self._options.engine()
            own["connect_args"]["server_settings"] = {"default_transaction_read_only": "on"}
            self._reads = self._made(write=False, isolation_level="AUTOCOMMIT", **own)
        return self._reads

    def advance(self, reason: str) -> None:
        """Begin another generation: no connection made so far is used again."""
        self.generation += 1
        for engine in (self._writes, self._reads):
            if engine is not None:
                pool = engine.sync_engine.pool
                assert isinstance(pool, AccountedPool)
                pool.cut_idle()
        if self._used:
            self.hub.emit(GenerationDropped(self.name, self.generation, reason))

    async def close(self) -> None:
        """Close all connections, within the time for a release; after that they are cut."""
        for engine in (self._writes, self._reads):
            if engine is not None:
                pool = engine.sync_engine.pool  # `dispose` puts another in its place
                assert isinstance(pool, AccountedPool)
                try:
                    async with asyncio.timeout(float(self._options.release_timeout)):
                        await engine.dispose()
                except TimeoutError:
                    self.last_error = "it did not answer when its connections were closed, and they were cut"
                finally:
                    pool.cut_idle()
        self._writes = self._reads = None

    # -- health

    @property
    def in_flight(self) -> int:
        """Readers that it serves now."""
        return self.account.readers

    @property
    def places(self) -> int:
        """Readers that its adaptive limit allows."""
        return self.adaptive.in_force

    def latency(self, now: float) -> float:
        """Expected seconds of a statement: the mean of the last ones, which fades while there are none; the least there
        is while too few are known, so that they get known.
        """
        if self.latencies.weight(now) < _EVIDENCE:
            return _LEAST_LATENCY
        return max(self.latencies.value(now), _LEAST_LATENCY)

    def observe(self, seconds: float, now: float) -> None:
        """A statement took so long. One that took far longer than usual counts as a bit longer: it says more about
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

    # -- what SQLAlchemy's engines tell

    def _made(self, *, write: bool, **options: Any) -> AsyncEngine:
        engine = create_async_engine(self.url, poolclass=AccountedPool, **options)
        pool = engine.sync_engine.pool
        assert isinstance(pool, AccountedPool)
        pool.account, pool.label, pool.write = self.account, f"{self.name} ({'writes' if write else 'reads'})", write
        taps = _Taps(self, write)
        for name in ("do_connect", "connect", "checkout", "checkin", "detach", "before_cursor_execute", "handle_error"):
            event.listen(engine.sync_engine, name, getattr(taps, name))
        if not write:
            event.listen(engine.sync_engine, "after_cursor_execute", taps.after_cursor_execute)
        return engine


class _Taps:
    """The listeners of one engine."""

    __slots__ = ("node", "write")

    def __init__(self, node: Node, write: bool) -> None:
        self.node, self.write = node, write

    def do_connect(self, dialect: object, record: Any, cargs: object, cparams: dict[str, Any]) -> None:
        node = self.node
        node._used = True
        # Noted before the connection is made: what changes meanwhile makes it one of the old.
        record.info[_MADE_IN] = node.generation
        timeout = float(node._options.connect_timeout)
        node.pooled = pool_policy.obey(cparams, lambda: node.pooled, lambda: pool_policy.asked(node.url, timeout))

    def connect(self, connection: Any, record: object) -> None:
        if self.node.pooled and not self.write:
            connection.set_isolation_level("read_committed")
            connection.readonly = True

    def checkout(self, connection: Any, record: Any, proxy: object) -> None:
        node = self.node
        if record.info.get(_MADE_IN) != node.generation:
            raise DisconnectionError("the server is not the one that this connection was made to")
        if _is_dead(connection.driver_connection):
            raise DisconnectionError("the server closed this connection while it lay in the pool")
        now = time.monotonic()
        record.info[_HELD] = node.account.take(record, now, self.write)
        if not self.write:
            try:
                record.info[_PLACE] = node.adaptive.enter(now)
            except Overloaded:
                record.info[_PLACE] = None  # it got here because nobody was better off

    def checkin(self, connection: object, record: Any) -> None:
        node = self.node
        held = node.account.give_back(record)
        now = time.monotonic()
        if held is not None and not held.write and not held.statement and _WARM in record.info:
            node.observe(now - held.since, now)  # used through the driver, which tells nothing
        place = record.info.pop(_PLACE, None)
        if place is not None:
            node.adaptive.leave(place, now, True)
        record.info[_WARM] = True
        if record.info.get(_MADE_IN) != node.generation:
            cut(record)

    def detach(self, connection: object, record: Any) -> None:
        if self.node.account.give_back(record) is not None:
            self.node.account.lost += 1
        place = record.info.pop(_PLACE, None)
        if place is not None:
            self.node.adaptive.leave(place, time.monotonic(), None)

    def before_cursor_execute(
        self, connection: Any, cursor: object, statement: str, parameters: object, context: Any, many: bool
    ) -> None:
        held: Holder | None = connection.info.get(_HELD)
        if held is not None:
            held.statement = statement
        if context is not None and not self.write:
            context.tenfold_began = time.monotonic()

    def after_cursor_execute(
        self, connection: Any, cursor: object, statement: str, parameters: object, context: Any, many: bool
    ) -> None:
        if context is not None and _WARM in connection.info:
            now = time.monotonic()
            self.node.observe(now - context.tenfold_began, now)

    def handle_error(self, context: ExceptionContext) -> None:
        node, error = self.node, context.original_exception
        if context.is_disconnect and not isinstance(error, asyncio.CancelledError):
            node.look(node)  # one broken connection says little; whether the server is there, the watch finds out
        if self.write and getattr(error, "sqlstate", None) == _READ_ONLY and not _asked_for(context):
            node.advance("it was taken for the primary and refused to write")
            node.doubt(node, "it refused to write")


def _asked_for(context: ExceptionContext) -> bool:
    """Whether the transaction is read-only because its owner said so (``postgresql_readonly``)."""
    connection = context.connection
    return connection is None or bool(getattr(connection.connection.dbapi_connection, "readonly", False))


def _is_dead(connection: Any) -> bool:
    """Whether the server has closed this idle connection.

    The driver knows once the loop has read the end of the stream. In a busy loop that may lie unread in the
    socket; so when something is there to read, the loop is given the few turns that it needs to take it in.
    """
    if connection.is_closed():
        return True
    socket = connection._transport.get_extra_info("socket")
    waiting = select.poll()
    waiting.register(socket.fileno(), select.POLLIN)
    if waiting.poll(0):
        for _ in range(_TURNS_TO_NOTICE):
            await_only(asyncio.sleep(0))
            if connection.is_closed():
                return True
    return False
