"""One connection through a `FaultProxy`: two pumps, each a reader and a writer around a bounded buffer.

A reader stamps each piece with its time of arrival, a writer lets it go when its delay has passed: so a delay
adds latency without taking throughput, as distance does. When the buffer is full the reader stops reading,
the sender's window closes, and the sender feels the slow receiver as it would without a proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Any, Final, Literal

from tenfold._core.rng import derive
from tenfold.testing.proxy_lane import Corrupter, Lane

Ending = Literal["reset", "finish"]

_PIECE: Final = 16_384
# A throttled stream moves in slices of this length, so that it looks like a slow line and not like a stutter.
_SLICE_SECONDS: Final = 0.02
_FINISH_SECONDS: Final = 1.0  # how long both peers get to answer our FIN with theirs


class CutError(ConnectionError):
    """``cut_after`` has been reached."""


class Pump:
    """Carries one direction from ``source`` to ``sink``."""

    def __init__(
        self, lane: Lane, source: socket.socket, sink: socket.socket, *, number: int, seed: int, buffer: int
    ) -> None:
        self._lane = lane
        self._source = source
        self._sink = sink
        self._number = number
        self._limit = buffer
        self._luck = derive(seed, "jitter", number, lane.name)
        self._pieces: deque[tuple[float, float, bytes]] = deque()
        self._held = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._free_at = 0.0
        self._corrupter: tuple[int, Corrupter] | None = None
        # A cut ordered before this connection was made holds for it from its first byte.
        self._cut_round = 0
        self._cut_left: int | None = None

    async def run(self) -> None:
        """Until the end of the stream has been passed on.

        Raises what either socket raises, and `CutError`.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            while self._held >= self._limit:
                self._room.clear()
                await self._room.wait()
            data = await loop.sock_recv(self._source, min(_PIECE, self._limit))
            self._held += len(data)
            self._pieces.append((loop.time(), self._luck.uniform(-1.0, 1.0), data))
            self._arrived.set()

    async def _write(self) -> None:
        while True:
            while not self._pieces:
                self._arrived.clear()
                await self._arrived.wait()
            arrived, luck, data = self._pieces[0]
            await self._let_go(arrived, luck)
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await self._send(data)
            self._pieces.popleft()
            self._held -= len(data)
            self._room.set()

    async def _let_go(self, arrived: float, luck: float) -> None:
        """Wait until the piece is due, by the faults as they are then."""
        loop = asyncio.get_running_loop()
        while True:
            faults = self._lane.faults
            due = arrived + max(0.0, faults.delay + faults.jitter * luck)
            left = float("inf") if faults.frozen else due - loop.time()
            if left <= 0:
                return
            await self._lane.pause(left)

    async def _send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        sent = 0
        while sent < len(data):
            faults = self._lane.faults
            wait = float("inf") if faults.frozen else self._free_at - loop.time()
            if wait > 0 and (faults.frozen or faults.bytes_per_second != float("inf")):
                await self._lane.pause(wait)
                continue
            pace = faults.bytes_per_second
            length = len(data) - sent
            if pace != float("inf"):
                length = min(length, max(1, int(pace * _SLICE_SECONDS)))
            budget = self._cut_budget()
            if budget is not None:
                if budget == 0:
                    raise CutError("cut_after reached")
                length = min(length, budget)
            await loop.sock_sendall(self._sink, self._maybe_corrupted(data[sent : sent + length]))
            sent += length
            self._lane.passed += length
            if self._cut_left is not None:
                self._cut_left -= length
                if self._cut_left == 0:
                    raise CutError("cut_after reached")
            self._free_at = max(self._free_at, loop.time()) + length / pace

    def _cut_budget(self) -> int | None:
        if self._cut_round != self._lane.cut_round:
            self._cut_round = self._lane.cut_round
            self._cut_left = self._lane.faults.cut_after
        return self._cut_left

    def _maybe_corrupted(self, data: bytes) -> bytes:
        faults = self._lane.faults
        if faults.corrupt == 0.0:
            return data
        if self._corrupter is None or self._corrupter[0] != self._lane.corrupt_round:
            corrupter = Corrupter(faults.corrupt, faults.corrupt_seed, self._number, self._lane.name)
            self._corrupter = (self._lane.corrupt_round, corrupter)
        return self._corrupter[1].apply(data)


class Relay:
    """One client's connection and the one to the upstream that belongs to it."""

    def __init__(
        self,
        client: socket.socket,
        upstream: tuple[str, int],
        lanes: tuple[Lane, Lane],
        *,
        number: int,
        seed: int,
        buffer: int,
        connect_timeout: float,
    ) -> None:
        self.failed_to_connect = False
        self._client = client
        self._upstream = upstream
        self._lanes = lanes
        self._number = number
        self._seed = seed
        self._buffer = buffer
        self._connect_timeout = connect_timeout
        self._server: socket.socket | None = None
        self._stop: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, how: Ending) -> None:
        """End the connection: ``reset`` sends RST both ways, ``finish`` FIN."""
        if not self._stop.done():
            self._stop.set_result(how)

    async def run(self) -> None:
        """Carry bytes until both directions have ended, one of them breaks or `end` is called.

        Then close both.
        """
        ending: Ending = "reset"
        pumps = asyncio.get_running_loop().create_task(self._pump(), name=f"pumps of connection {self._number}")
        try:
            await asyncio.wait((pumps, self._stop), return_when=asyncio.FIRST_COMPLETED)
            await _cancelled(pumps)
            if self._stop.done():
                ending = self._stop.result()
            elif not pumps.cancelled() and pumps.result():
                ending = "finish"
            if ending == "finish" and self._stop.done():
                await self._finish()
        finally:
            try:
                await _cancelled(pumps)  # first: a socket must not be closed under a loop that watches it
            finally:
                self.close(reset=ending == "reset")

    def close(self, *, reset: bool = True) -> None:
        """Close both sockets, if they are not closed already."""
        for end in (self._client, self._server):
            if end is not None:
                close(end, reset=reset)

    async def _pump(self) -> bool:
        """Whether both directions came to their end.

        False: a socket broke, or the upstream could not be reached.
        """
        up, down = self._lanes
        try:
            self._server = await self._connect()
        except OSError:  # a TimeoutError is one
            self.failed_to_connect = True
            return False
        options = {"number": self._number, "seed": self._seed, "buffer": self._buffer}
        whole = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(Pump(up, self._client, self._server, **options).run())
                group.create_task(Pump(down, self._server, self._client, **options).run())
        except* OSError:
            whole = False
        return whole

    async def _connect(self) -> socket.socket:
        """A socket to the first of the upstream's addresses that answers. Raises `OSError` if none does."""
        async with asyncio.timeout(self._connect_timeout):
            addresses = await _resolved(*self._upstream)
            for family, address in addresses[:-1]:
                with contextlib.suppress(OSError):
                    return await _connected(family, address)
            return await _connected(*addresses[-1])

    async def _finish(self) -> None:
        """Send FIN and read on until the peers have sent theirs: closing with bytes unread would send RST."""
        ends = [end for end in (self._client, self._server) if end is not None]
        try:
            async with asyncio.timeout(_FINISH_SECONDS), asyncio.TaskGroup() as group:
                for end in ends:
                    group.create_task(self._drain(end))
        except TimeoutError:
            return

    async def _drain(self, end: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            end.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(end, _PIECE):
                pass
        except OSError:
            return  # the peer is gone already


async def _resolved(host: str, port: int) -> list[tuple[int, Any]]:
    """Families and addresses to try; a host that is an address already needs no look-up in a thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(each[0], each[4]) for each in found]
    return [(family, (host, port))]


async def _connected(family: int, address: Any) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setblocking(False)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(server, address)
    except BaseException:
        server.close()
        raise
    return server


async def _cancelled(task: asyncio.Task[bool]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))


def close(end: socket.socket, *, reset: bool) -> None:
    """Close a TCP socket.

    With ``reset`` by RST: SO_LINGER with a time of zero drops what is unsent (POSIX, tcp(7)).
    """
    if reset and end.fileno() != -1:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
