"""The connections to one origin: a bounded keep-alive pool.

All journeys of a process share the pool, as users behind a proxy share the proxy's connections. A request
takes the connection used last (the warmest); where none is idle, one is opened up to ``limit``, and beyond
that requests wait while their intended time counts on. Whichever comes first, the new connection or a
returned one, serves the request that waited longest; only a journey that goes straight on to its next request
keeps the connection that it has, as a browser would.

Answers of one turn of the loop are taken together: first the loop reads all sockets, then all their journeys go on,
then all their next requests are written. Reading, running and writing by turns, an answer at a time, costs a busy
client more processor time, most of it in the kernel, which wakes the server once for each request.

Deadlines are looked at in one coarse sweep (`Pool.sweep`, every 20 ms) instead of a timer a request: a sweep
over 1,000 connections costs 40 µs, a thousand timers cost a thousand insertions into a heap for nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from os import write
from time import monotonic
from typing import TYPE_CHECKING, Final

from tenfold.load import wire
from tenfold.load.answer import Answer
from tenfold.load.connection import Connection, Failure
from tenfold.load.trampoline import PARKED, foreign, over, resume, running

if TYPE_CHECKING:
    from tenfold.load.user import User

CONNECT_TIMEOUT: Final = 5.0
"""Seconds until an unanswered connection attempt is given up; the request's own deadline may be sooner."""
_FULL_SWEEP: Final = 25
"""Every so many sweeps all waiting requests are looked at, not just the first."""


class Pool:
    """The connections to one origin, at most ``limit`` of them open or opening."""

    def __init__(
        self, scheme: str, host: str, port: int, *, limit: int, tls: ssl.SSLContext | None, user_agent: str
    ) -> None:
        self.scheme, self.host, self.port = scheme, host, port
        self.limit = limit
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.waiting: deque[User] = deque()
        """Those whose requests wait for a connection."""
        self.opened = 0
        self.requests = 0
        self.retries = 0
        self.bytes_in = 0
        self.outgoing: list[tuple[Connection, bytes]] | None = None
        """Requests to be written when all answers of this turn are handed out; None: nothing is being handed out."""
        self.arrived: list[tuple[Connection, bytes]] = []
        """What this turn of the loop has read so far."""
        self.now = 0.0
        """When the answers that are being handed out were read."""
        self.loop = asyncio.get_running_loop()
        self._sweeps = 0
        self._tls = tls if scheme == "https" else None
        self._address: str | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        shown = f"[{host}]" if ":" in host else host
        default = port == (443 if scheme == "https" else 80)
        self.authority = shown if default else f"{shown}:{port}"
        self.fields = f" HTTP/1.1\r\nHost: {self.authority}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\n"
        self.gets: dict[str, bytes] = {}
        """GET requests without fields of their own, by path."""

    async def warm(self, count: int) -> None:
        """Open ``count`` connections before the run. Raises `OSError` or `ssl.SSLError` where the target is
        not there.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        error: OSError | None = None
        for *_, address in found:
            try:
                self.put(await self._connect(str(address[0])))
            except OSError as problem:
                error = error or problem
            else:
                self._address = str(address[0])
                break
        else:
            raise error or OSError(f"{self.host} has no address")
        more = min(count, self.limit) - 1
        for made in await asyncio.gather(*(self._connect(self._address) for _ in range(more)), return_exceptions=True):
            if isinstance(made, Connection):
                self.put(made)

    async def _connect(self, address: str | None) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, protocol = await loop.create_connection(
                lambda: Connection(self),
                address or self.host,
                self.port,
                ssl=self._tls,
                server_hostname=self.host if self._tls is not None else None,
            )
        return protocol

    def want(self, user: User, fresh: bool) -> None:
        """Resume ``user`` with the next connection that is made or comes back, or with a `Failure`; the
        connection may have closed by then. ``fresh`` never takes a used one.
        """
        if fresh:
            self._open(user)
        else:
            self.waiting.append(user)
            if len(self.connections) < self.limit:
                self.refill()

    def hand_out(self) -> None:
        """Let the journeys go on whose answers have arrived, and write what they send next.

        The usual answer takes no call of ours here: it is cut by what `wire.cut` knows of the one before, its journey
        is resumed as `resume` does it, and its next request is written as `Connection.write` does it.
        """
        arrived = self.arrived
        if not arrived:
            return
        self.arrived = []
        self.now = monotonic()
        idle, waiting = self.idle, self.waiting
        outgoing = self.outgoing = []
        start, body, size, status, head, cookies = wire.cut()
        taken = requests = 0
        try:
            for connection, data in arrived:
                user = connection.user
                length = len(data)
                taken += length
                if user is None or connection.reader is not None or connection.head_only:
                    connection.take(data)
                    continue
                if length == size and data.startswith(start):
                    answer = Answer(status, head, data[body:], cookies)
                elif (found := wire.read_whole(data)) is not None:
                    answer = found
                    start, body, size, status, head, cookies = wire.cut()
                else:
                    connection.take(data)
                    continue
                connection.user = None
                connection.used = True
                requests += 1
                idle.append(connection)
                running.user = user
                try:
                    waits_for = user._coroutine.send(answer)
                except BaseException as error:  # noqa: BLE001 - `over` counts it, or raises it again
                    over(user, error)
                else:
                    running.user = None
                    if waits_for is not PARKED:
                        foreign(user, waits_for)
                if waiting:
                    self.serve()
                    waiting = self.waiting
        finally:
            self.outgoing = None
            self.bytes_in += taken
            self.requests += requests
            for connection, request in outgoing:
                if connection.open:  # else its end is on its way to the journey
                    try:
                        if write(connection.fd, request) == len(request):
                            continue
                    except OSError:
                        pass  # `Connection.write` meets it again
                    connection.write(request)

    def put(self, connection: Connection) -> None:
        """A connection is free: to the longest waiting request, or to the idle ones."""
        if self.waiting:
            self.give(connection)
        else:
            self.idle.append(connection)

    def serve(self) -> None:
        """Idle connections to those who wait, at once; for callbacks of the loop, where no journey runs."""
        while self.waiting and self.idle:
            user = self.waiting.popleft()
            if user._engine.alive(user):
                resume(user, self.idle.pop())

    def give(self, connection: Connection) -> None:
        """Hand over in the next turn of the loop, so that no journey runs inside another one's resumption."""
        user = self.waiting.popleft()
        asyncio.get_running_loop().call_soon(self._hand, user, connection)

    def _hand(self, user: User, connection: Connection) -> None:
        if user._engine.alive(user):
            resume(user, connection)
        elif connection.open:
            self.put(connection)

    def refill(self) -> None:
        """Open as many connections as requests wait for, within the limit."""
        wanted = len(self.waiting) - len(self._opening)
        room = self.limit - len(self.connections) - len(self._opening)
        for _ in range(min(wanted, room)):
            if self._closed:
                return
            self._open(None)

    def _open(self, waiter: User | None) -> None:
        task = asyncio.get_running_loop().create_task(self._open_for(waiter))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_for(self, waiter: User | None) -> None:
        try:
            made: Connection | Failure = await self._connect(self._address)
        except TimeoutError:
            made = Failure("connect timeout")
        except ConnectionRefusedError:
            made = Failure("connect refused")
        except ssl.SSLError:
            made = Failure("connect tls")
        except OSError:
            made = Failure("connect error")
        if waiter is not None:
            self._deliver(waiter, made)
        elif isinstance(made, Connection):
            if made.open:
                self.put(made)
        elif self.waiting:
            self._deliver(self.waiting.popleft(), made)

    def _deliver(self, user: User, made: Connection | Failure) -> None:
        if user._engine.alive(user):
            resume(user, made)
        elif isinstance(made, Connection) and made.open:
            self.put(made)

    def forget(self, connection: Connection) -> None:
        """Strike a connection that is closed or closing from the lists."""
        if connection.open:
            connection.open = False
            self.connections.discard(connection)
            if connection in self.idle:
                self.idle.remove(connection)

    def sweep(self) -> None:
        """Fail every request whose deadline has passed."""
        self.hand_out()
        now = monotonic()
        late = [c for c in self.connections if c.user is not None and c.user._deadline < now]
        for connection in late:
            connection.fail("timeout")
        # The head has waited longest; only where requests have time-outs of their own can another be due
        # first.
        self._sweeps += 1
        every = self._sweeps % _FULL_SWEEP == 0
        if self.waiting and (every or self.waiting[0]._deadline < now):
            kind = "timeout" if self.connections else "connect timeout"
            over = [user for user in self.waiting if user._deadline < now]
            if over:
                self.waiting = deque(user for user in self.waiting if user._deadline >= now)
            for user in over:
                resume(user, Failure(kind))

    def abandon(self) -> None:
        """Forget the requests under way and those that wait; the connections that carried them go."""
        self.waiting.clear()
        for connection in [each for each in self.connections if each.user is not None]:
            connection.user = None
            connection.drop()

    async def close(self) -> None:
        """Close everything; requests under way are forgotten, not resumed."""
        self._closed = True
        self.abandon()
        for connection in list(self.connections):
            connection.drop()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)

    def __repr__(self) -> str:
        busy = len(self.connections) - len(self.idle)
        counts = f"busy={busy}, idle={len(self.idle)}, waiting={len(self.waiting)}"
        return f"Pool({self.scheme}://{self.authority}, {counts})"
