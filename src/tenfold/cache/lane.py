"""One connection, many packets under way: written when they come, answered in the order they were written.

RESP answers in order, so a connection is a queue: whoever writes takes a place at its end, and the next answer
belongs to the place at its head (implicit pipelining). That saves what an exchange costs beyond the exchange: no
task, no stream, no lock, one timer a packet.

A packet that is not answered in time breaks the connection, since its answers may still come and would be taken for
somebody else's. When the timer itself comes late, it is this event loop that was busy and not the server: then the
answer gets the same time again, at most three times.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from tenfold.cache.errors import LevelTwoDown

Command = tuple[str | bytes | int, ...]
Answered = Callable[[list[Any] | LevelTwoDown], None]

_EXTENSIONS: Final = 3


class Packet:
    """Commands that were written together, and who is told of their answers."""

    __slots__ = ("answered", "answers", "due", "extensions", "missing", "patience", "timer")

    def __init__(self, count: int, patience: float, answered: Answered) -> None:
        self.missing = count
        self.answers: list[Any] = []
        self.answered = answered
        self.patience = patience
        self.due = 0.0
        self.extensions = 0
        self.timer: asyncio.TimerHandle | None = None


class Lane(asyncio.Protocol):
    """Takes over the transport of a connection that is set up; ``lost`` once nothing can be sent any more.

    An error answer stands as an exception object in its place.
    """

    def __init__(self) -> None:
        import hiredis

        self._loop = asyncio.get_running_loop()
        self._nothing = object()
        self._reader = hiredis.Reader(notEnoughData=self._nothing)
        self._pack = cast("Callable[[Command], bytes]", hiredis.pack_command)
        self._bad_protocol = hiredis.ProtocolError
        self._packets: deque[Packet] = deque()
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def __repr__(self) -> str:
        return f"<Lane {'lost' if self.lost else 'open'} packets={len(self._packets)}>"

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """From now on the answers come here."""
        self._transport = cast("asyncio.Transport", transport)
        if transport.is_closing():
            self.give_up("the connection was closed")
            return
        transport.set_protocol(self)

    def send(self, commands: Sequence[Command], patience: float, answered: Answered) -> None:
        """Write ``commands``; ``answered`` is called with their answers, or with `LevelTwoDown` after ``patience`` s
        or when the connection is lost. Not before this method has returned.
        """
        packet = Packet(len(commands), patience, answered)
        if self.lost or self._transport is None:
            self._loop.call_soon(answered, LevelTwoDown("the connection is lost"))
            return
        pack = self._pack
        data = b"".join([pack(command) for command in commands])  # first: what cannot be packed takes no place
        packet.due = self._loop.time() + patience
        packet.timer = self._loop.call_at(packet.due, self._expire, packet)
        self._packets.append(packet)
        self._transport.write(data)

    def give_up(self, why: str) -> None:
        """Close without waiting; whoever still waits is told ``why``."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()
        while self._packets:
            packet = self._packets.popleft()
            if packet.timer is not None:
                packet.timer.cancel()
            packet.answered(LevelTwoDown(why))

    def data_received(self, data: bytes) -> None:
        """The transport's word."""
        reader, packets, nothing = self._reader, self._packets, self._nothing
        try:
            reader.feed(data)
            while packets:
                packet = packets[0]
                answer = reader.gets()
                if answer is nothing:
                    return
                packet.answers.append(answer)
                packet.missing -= 1
                if not packet.missing:
                    packets.popleft()
                    if packet.timer is not None:
                        packet.timer.cancel()
                    packet.answered(packet.answers)
            if not self.lost and reader.gets() is not nothing:
                self.give_up("an answer that nobody asked for")
        except (self._bad_protocol, UnicodeDecodeError) as error:
            self.give_up(f"not an answer of Redis's protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport's word."""
        self.give_up(f"the connection was closed ({exc})" if exc else "the connection was closed")

    def _expire(self, packet: Packet) -> None:
        now = self._loop.time()
        if now - packet.due > packet.patience / 4 and packet.extensions < _EXTENSIONS:
            packet.extensions += 1
            packet.due = now + packet.patience
            packet.timer = self._loop.call_at(packet.due, self._expire, packet)
        else:
            self.give_up(f"no answer within {packet.patience * 1000:.0f} ms")
