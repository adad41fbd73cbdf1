"""`FaultProxy`: a TCP proxy between a client and a real server that behaves badly on command."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.tasks import Tasks
from tenfold._core.units import Duration, Size, duration, share, size, whole_number
from tenfold.testing.proxy_lane import Faults, Lane
from tenfold.testing.proxy_listener import Listener, parse_upstream, url_at
from tenfold.testing.proxy_relay import Relay, close

Direction = Literal["upstream", "downstream", "both"]
_log: Final = logging.getLogger("tenfold.testing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """What has gone through a `FaultProxy` since it was started."""

    connections: int
    """Accepted."""
    active: int
    """Open now."""
    unreachable: int
    """Accepted, then reset because the upstream could not be reached."""
    rejected: int
    """Reset at once because ``max_connections`` were open."""
    bytes_upstream: int
    """Delivered from clients to the upstream."""
    bytes_downstream: int
    """Delivered from the upstream to clients."""


class FaultProxy:
    """A TCP proxy whose network fails on command, while connections are open::

        async with FaultProxy(upstream="127.0.0.1:5432") as proxy:
            connection = await asyncpg.connect(host=proxy.host, port=proxy.port)
            proxy.delay("50ms", jitter="10ms")
            proxy.cut()

    Commands are plain calls, take effect on live connections at once and last until `heal`. ``direction`` is
    ``"upstream"`` (client to server), ``"downstream"`` (server to client) or ``"both"`` (the default).

    ``upstream`` is ``"host:port"`` or a URL; then `url` is that URL with the proxy's own host and port. The
    proxy listens on loopback only, at ``port`` (default: a free one). ``seed`` fixes jitter and corruption.
    ``buffer`` bounds the bytes held for each direction of a connection (default 256 KiB); with a delay ``d``
    it also bounds throughput to ``buffer / d``. Above ``max_connections`` (default 1000) new ones are reset.
    Time is the event loop's, so a `FakeClock` drives it too.
    """

    def __init__(
        self,
        upstream: str,
        *,
        port: int = 0,
        seed: int = 0,
        buffer: Size = "256KiB",
        max_connections: int = 1000,
        connect_timeout: Duration = 10.0,
    ) -> None:
        self._target = parse_upstream(upstream)
        self._upstream = upstream
        self._wanted_port = port
        self._seed = seed
        self._buffer = whole_number(size(buffer, "buffer"), "buffer", least=1)
        self._connect_timeout = duration(connect_timeout, "connect_timeout")
        self._tasks = Tasks(
            f"fault proxy for {upstream}", limit=whole_number(max_connections, "max_connections", least=1)
        )
        self._lanes: Final = (Lane("upstream"), Lane("downstream"))
        self._relays: dict[asyncio.Task[None], Relay] = {}
        self._listener: Listener | None = None
        self._accepted = self._unreachable = self._rejected = 0

    # Where it is

    @property
    def host(self) -> str:
        """Where the proxy listens."""
        return self._running().address[0]

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return self._running().address[1]

    @property
    def address(self) -> str:
        """``"host:port"`` of the proxy."""
        return "{}:{}".format(*self._running().address)

    @property
    def url(self) -> str:
        """``upstream`` with the proxy's host and port in place of its own; ``"tcp://…"`` if it was no URL."""
        return url_at(self._upstream, self.address)

    @property
    def upstream(self) -> str:
        """Where new connections go.

        May be set at any time; open ones stay where they are (`cut` them to move them).
        """
        return self._upstream

    @upstream.setter
    def upstream(self, value: str) -> None:
        self._target = parse_upstream(value)
        self._upstream = value

    def stats(self) -> ProxyStats:
        """The counters as they stand."""
        up, down = self._lanes
        return ProxyStats(
            connections=self._accepted,
            active=len(self._relays),
            unreachable=self._unreachable,
            rejected=self._rejected,
            bytes_upstream=up.passed,
            bytes_downstream=down.passed,
        )

    # Faults that last

    def delay(self, delay: Duration, *, jitter: Duration = 0.0, direction: Direction = "both") -> None:
        """Add ``delay`` ± ``jitter`` (uniform) to every piece of data.

        Making the connection itself is not delayed.
        """
        self._set(direction, delay=duration(delay, "delay"), jitter=duration(jitter, "jitter"))

    def throttle(self, per_second: Size, *, direction: Direction = "both") -> None:
        """Let each connection pass at most that many bytes a second: ``"64kB"`` or ``"64kB/s"``."""
        text = per_second.removesuffix("/s") if isinstance(per_second, str) else per_second
        self._set(direction, bytes_per_second=float(whole_number(size(text, "throttle"), "throttle", least=1)))

    def freeze(self, *, direction: Direction = "both") -> None:
        """Let nothing pass, not even an end of stream; connections stay open and new ones are accepted."""
        self._set(direction, frozen=True)

    def thaw(self, *, direction: Direction = "both") -> None:
        """Undo `freeze`; what was held passes now, in order."""
        self._set(direction, frozen=False)

    def corrupt(self, probability: str | float, *, seed: int | None = None, direction: Direction = "both") -> None:
        """Replace each byte by another with that probability (``"0.1%"`` or 0.001).

        The same seed (default: the proxy's) hits the same places of the n-th connection.
        """
        chance = share(probability, "probability")
        for lane in self._chosen(direction):
            lane.corrupt_round += 1
        self._set(direction, corrupt=chance, corrupt_seed=self._seed if seed is None else seed)

    def cut_after(self, count: Size, *, direction: Direction = "both") -> None:
        """Reset each connection, open or yet to come, once ``count`` more bytes of it have passed in a
        direction.
        """
        limit = size(count, "cut_after")
        for lane in self._chosen(direction):
            lane.cut_round += 1
        self._set(direction, cut_after=limit)

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); the port stays ours. Open ones live on."""
        self._running().refuse()

    def accept(self) -> None:
        """Undo `refuse`."""
        self._running().accept()

    def heal(self) -> None:
        """Undo every fault in force, `refuse` included. Connections that were cut stay cut."""
        for lane in self._lanes:
            lane.cut_round += 1
            lane.corrupt_round += 1
            lane.set(Faults())
        self.accept()

    # Faults that happen

    def cut(self) -> int:
        """Reset every open connection, both ways (RST: the peers see "connection reset"). How many."""
        return self._end("reset")

    def close_connections(self) -> int:
        """End every open connection in order, both ways (FIN: the peers see the end of the stream).

        How many.
        """
        return self._end("finish")

    # Inside

    async def __aenter__(self) -> FaultProxy:
        if self._listener is not None:
            raise MisuseError("FaultProxy is entered already; make one proxy for each block")
        self._listener = Listener(self._wanted_port, self._on_client)
        self._listener.accept()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._end("reset")
        await self._tasks.__aexit__(kind, error, trace)

    def _on_client(self, client: socket.socket) -> None:
        self._accepted += 1
        if len(self._tasks) >= self._tasks.limit:
            self._rejected += 1
            close(client, reset=True)
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        relay = Relay(
            client,
            self._target,
            self._lanes,
            number=self._accepted,
            seed=self._seed,
            buffer=self._buffer,
            connect_timeout=self._connect_timeout,
        )
        task = self._tasks.spawn(relay.run(), name=f"connection {self._accepted}")
        self._relays[task] = relay
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        relay = self._relays.pop(task)
        relay.close()  # a task that is cancelled before its first step never gets to its own clean-up
        if relay.failed_to_connect:
            self._unreachable += 1
            _log.warning("fault proxy: cannot reach the upstream %s", self._upstream)

    def _end(self, how: Literal["reset", "finish"]) -> int:
        for relay in self._relays.values():
            relay.end(how)
        return len(self._relays)

    def _running(self) -> Listener:
        if self._listener is None:
            raise MisuseError("FaultProxy is not running; use it as `async with FaultProxy(...) as proxy:`")
        return self._listener

    def _chosen(self, direction: str) -> tuple[Lane, ...]:
        if direction == "both":
            return self._lanes
        chosen = tuple(lane for lane in self._lanes if lane.name == direction)
        if not chosen:
            raise MisuseError(f'direction: expected "upstream", "downstream" or "both", got {direction!r}')
        return chosen

    def _set(self, direction: Direction, **changes: Any) -> None:
        for lane in self._chosen(direction):
            lane.set(replace(lane.faults, **changes))

    def __repr__(self) -> str:
        where = "stopped" if self._listener is None else self.address
        state = " refusing" if self._listener is not None and not self._listener.listening else ""
        faults = "".join(f" {lane.name}={lane.faults!r}" for lane in self._lanes if lane.faults != Faults())
        return f"<FaultProxy {where} -> {self._upstream}{state} active={len(self._relays)}{faults}>"
