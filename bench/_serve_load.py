"""Clients of `bench serve`: cheap, on uvloop, in this process. Latency counts from when a request was due."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Seen:
    """What came back: (due, seconds, status) of each request; status 0 is a broken connection."""

    answers: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Answers that are not 200."""
        return sum(1 for _, _, status in self.answers if status != 200)

    def quantile(self, q: float, since: float = 0.0, until: float = float("inf")) -> float:
        """Of the seconds of what was due in between."""
        several = sorted(took for due, took, _ in self.answers if since <= due < until)
        return several[min(len(several) - 1, int(q * len(several)))] if several else float("nan")


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. ``free`` is called when it may take another one."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.due = 0.0
        self.busy = False
        self.need = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, due: float) -> None:
        self.due, self.busy = due, True
        self.transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.need < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self.buffer.lower().find(b"content-length:")
            length = int(self.buffer[at + 15 : self.buffer.index(b"\r", at)]) if 0 <= at < end else 0
            self.need = end + 4 + length
        if len(self.buffer) >= self.need:
            status, buffer = int(self.buffer[9:12]), self.buffer
            closes = b"connection: close" in buffer[: buffer.find(b"\r\n\r\n")].lower()
            self.buffer, self.need, self.busy = b"", -1, False
            self.load.answered(self, status, closes=closes)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost(self)


class Load:
    """Requests to a port or a unix socket: `closed` by so many clients, or `open_loop` at a rate."""

    def __init__(self, where: int | str) -> None:
        self.where = where
        self.seen = Seen()
        self.idle: list[Connection] = []
        self.waiting: deque[float] = deque()
        self.under_way = 0
        self.clients = 0
        self.stopping = False
        self._opening: set[asyncio.Task[None]] = set()

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        if isinstance(self.where, str):
            return (await loop.create_unix_connection(lambda: Connection(self), self.where))[1]
        return (await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.where))[1]

    def answered(self, connection: Connection, status: int, *, closes: bool = False) -> None:
        now = time.perf_counter()
        self.seen.answers.append((connection.due, now - connection.due, status))
        self.under_way -= 1
        if closes:
            connection.transport.close()
            self._again()
        elif self.waiting:
            self.under_way += 1
            connection.send(self.waiting.popleft())
        elif self.clients and not self.stopping:
            self.under_way += 1
            connection.send(now)
        else:
            self.idle.append(connection)

    def _again(self) -> None:
        if self.clients and not self.stopping:
            self._fire(time.perf_counter())

    def lost(self, connection: Connection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.busy:
            connection.busy = False
            self.answered(connection, 0, closes=True)

    def _fire(self, due: float) -> None:
        self.under_way += 1
        if self.idle:
            self.idle.pop().send(due)
            return
        task = asyncio.ensure_future(self._fresh(due))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _fresh(self, due: float) -> None:
        try:
            (await self._open()).send(due)
        except OSError:
            self.under_way -= 1
            self.seen.answers.append((due, time.perf_counter() - due, 0))

    async def closed(self, clients: int, seconds: float) -> float:
        """So many clients, each asking as soon as it is answered. Answers of 200 a second."""
        self.clients, self.stopping, before = clients, False, len(self.seen.answers)
        for _ in range(clients):
            self._fire(time.perf_counter())
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        good = sum(1 for _, _, status in self.seen.answers[before:] if status == 200)
        self.stopping = True
        await self.rest()
        self.clients = 0
        return good / took

    async def open_loop(self, rate: float, seconds: float, draw: random.Random) -> None:
        """Poisson arrivals, whatever becomes of them."""
        due = time.perf_counter()
        until = due + seconds
        while True:
            due += draw.expovariate(rate)
            if due >= until:
                return
            left = due - time.perf_counter()
            if left > 0.0005:
                await asyncio.sleep(left)
            self._fire(due)

    async def rest(self, within: float = 30.0) -> None:
        """Until all is answered."""
        until = time.perf_counter() + within
        while self.under_way and time.perf_counter() < until:  # noqa: ASYNC110 - a bench; nothing depends on it
            await asyncio.sleep(0.01)

    async def reachable(self, within: float = 30.0) -> None:
        """Until somebody listens."""
        async with asyncio.timeout(within):
            while True:
                try:
                    (await self._open()).transport.abort()
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    return

    def close(self) -> None:
        """Close idle connections."""
        for each in list(self.idle):
            each.transport.abort()
