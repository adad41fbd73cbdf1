"""One direction of a `FaultProxy`: which faults are in force on it, and who has to hear when that changes."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass

from tenfold._core.rng import derive


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is done to the bytes of one direction; the defaults do nothing."""

    delay: float = 0.0
    """Seconds added to each piece."""
    jitter: float = 0.0
    """Up to that many seconds more or less, uniformly; pieces never overtake each other."""
    bytes_per_second: float = math.inf
    """Throughput of each connection."""
    frozen: bool = False
    """Nothing passes, not even the end of the stream."""
    corrupt: float = 0.0
    """Probability that a byte is replaced by another."""
    corrupt_seed: int = 0
    cut_after: int | None = None
    """Bytes that each connection may still pass before it is reset."""


class Lane:
    """The faults of one direction, shared by all connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults = Faults()
        self.passed = 0
        """Bytes delivered."""
        self.cut_round = 0
        self.corrupt_round = 0
        self._changed = asyncio.Event()

    def set(self, faults: Faults) -> None:
        """Put ``faults`` in force and wake every pump that waits because of the old ones."""
        self.faults = faults
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def pause(self, seconds: float) -> None:
        """Wait that long (for ever if infinite), or until the faults change, whichever comes first."""
        changed = self._changed
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await changed.wait()
        except TimeoutError:
            return


class Corrupter:
    """Replaces bytes at random places, the same places for the same seed however the stream is cut into
    pieces.

    Draws the distance to the next hit from the geometric distribution, so that sound bytes cost nothing.
    """

    def __init__(self, probability: float, seed: int, *labels: str | int) -> None:
        self._probability = probability
        self._random: random.Random = derive(seed, "corrupt", *labels)
        self._next = self._distance()

    def apply(self, data: bytes) -> bytes:
        """``data`` with this piece's hits."""
        if self._next >= len(data):
            self._next -= len(data)
            return data
        damaged = bytearray(data)
        while self._next < len(damaged):
            damaged[self._next] ^= self._random.randrange(1, 256)
            self._next += 1 + self._distance()
        self._next -= len(damaged)
        return bytes(damaged)

    def _distance(self) -> int:
        if self._probability >= 1.0:
            return 0
        # 1 - random() lies in (0, 1]; log1p keeps its precision for tiny probabilities.
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self._probability))
