"""The leases that this process holds: renewed while their loads run, given up when a load comes to nothing.

A lease is *held* from its opening, and *begun* once a load runs under it. Only begun ones are renewed, and no longer
than the longest load, so that whatever goes wrong here ends with the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tenfold._core.clock import Clock
from tenfold.cache.batch import Batcher
from tenfold.cache.scripts import GIVE_UP, KEEP
from tenfold.cache.tasks import Spawn

LEASE_MS: Final = 10_000  # after this long a dead loader is noticed
LONGEST_LOAD: Final = 120.0  # seconds after which its lease is renewed no more


class _Held:
    __slots__ = ("begun", "name", "since")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.since = since
        self.begun = False


class Leases:
    """By nonce. Belongs to one event loop."""

    def __init__(self, batcher: Batcher, channel: str, *, clock: Clock, spawn: Spawn, life_ms: int = LEASE_MS) -> None:
        self._batcher = batcher
        self._channel = channel
        self._clock = clock
        self._spawn = spawn
        self._held: dict[bytes, _Held] = {}
        self._keeper: asyncio.Task[Any] | None = None
        self.life_ms = life_ms

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, nonce: bytes, name: str) -> None:
        """It was opened here."""
        self._held[nonce] = _Held(name, self._clock.monotonic())

    def begin(self, nonce: bytes) -> bool:
        """A load begins under it. False if it is another process's."""
        held = self._held.get(nonce)
        if held is None:
            return False
        held.begun = True
        if self._keeper is None or self._keeper.done():
            self._keeper = self._spawn(self._keep())
        return True

    def stored(self, nonce: bytes) -> None:
        """Its load is settled."""
        self._held.pop(nonce, None)

    def release(self, nonce: bytes | None) -> None:
        """Its load has ended, and if it is still held, without a value that was stored."""
        if nonce is None or (held := self._held.pop(nonce, None)) is None or self._batcher.down:
            return
        self._batcher.run(GIVE_UP, [held.name], [nonce, self._channel, settled(held.name)])

    def abandon(self, names: Sequence[str]) -> None:
        """Whoever opened leases of ``names`` has gone before it loaded."""
        for nonce in [nonce for nonce, held in self._held.items() if not held.begun and held.name in names]:
            self.release(nonce)

    async def _keep(self) -> None:
        while self._held:
            await self._clock.sleep(self.life_ms / 3000)
            now = self._clock.monotonic()
            for nonce, held in list(self._held.items()):
                age = now - held.since
                if age > (LONGEST_LOAD if held.begun else self.life_ms / 1000):
                    del self._held[nonce]  # it runs out by itself
                elif held.begun and age > self.life_ms / 6000 and not self._batcher.down:
                    self._batcher.run(KEEP, [held.name], [nonce, self.life_ms])


def settled(name: str) -> bytes:
    """The message for those who wait for a load; from nobody, for all."""
    return msgspec.msgpack.encode((b"", ["s:" + name[2:]]))
