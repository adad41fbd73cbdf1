"""How a process hears that another one has invalidated something: slim messages over Pub/Sub.

A message names what was invalidated, or which awaited load is settled (`settle`), and carries no value.
Pub/Sub forgets who is not connected, so each (re)connection counts as a *gap*: whatever level 1 holds may
have been invalidated unheard, and is dropped. A connection that has been silent is pinged; one that does not
answer the ping is taken for lost, which is how a frozen peer or a cut cable shows. What cannot be read counts
as a gap as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tenfold._core.clock import Clock
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.level_two import Source
from tenfold.cache.settle import Settlements

SILENCE: Final = 2.0

_decoder: Final = msgspec.msgpack.Decoder(tuple[bytes, list[str]])


class Backplane:
    """Listens on ``channel`` until its task is cancelled; ``connected`` is set while it hears."""

    def __init__(
        self,
        link: Source,
        channel: str,
        *,
        sender: bytes,
        on_message: Callable[[list[str]], None],
        on_gap: Callable[[], None],
        settlements: Settlements,
        clock: Clock,
        backoff: float,
    ) -> None:
        self._link = link
        self._channel = channel
        self._sender = sender
        self._on_message = on_message
        self._on_gap = on_gap
        self._settlements = settlements
        self._clock = clock
        self._backoff = backoff
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Connect, listen, and connect again after ``backoff`` seconds; for ever."""
        while True:
            try:
                await self._listen()
            except self._link.failures:
                pass  # lost or not there: heard again after the back-off, and then a gap
            finally:
                self.connected.clear()
                self._settlements.hears(False)
            await self._clock.sleep(self._backoff)

    async def _listen(self) -> None:
        connection = await self._link.dedicated()
        try:
            await connection.send_command("SUBSCRIBE", self._channel)
            pinged = False
            while True:
                answer = await connection.read_response(timeout=SILENCE)  # None: silence
                if answer is not None:
                    self._receive(answer)
                elif pinged:
                    raise LevelTwoDown("the subscribed connection does not answer a ping")
                else:
                    await connection.send_command("PING")
                pinged = answer is None
        finally:
            await connection.disconnect(nowait=True)

    def _receive(self, answer: Any) -> None:
        kind = answer[0] if isinstance(answer, list) and answer else b""
        if kind == b"subscribe":
            self._on_gap()
            self.connected.set()
            self._settlements.hears(True)
        elif kind == b"message":
            try:
                sender, names = _decoder.decode(answer[2])
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, IndexError):
                self._on_gap()  # something was invalidated, and we cannot tell what
                self._settlements.wake()
                return
            self._settlements.heard(names)
            names = [name for name in names if not name.startswith("s:")]
            if names and sender != self._sender:
                self._on_message(names)
        elif kind != b"pong":
            raise LevelTwoDown("the subscribed connection says what nobody understands")
