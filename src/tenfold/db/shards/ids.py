"""Ids that many processes make without asking each other: UUIDv7 and Snowflake, safe against a clock that steps.

UUIDv7 (RFC 9562, 5.7 and 6.2 method 1 with a 42-bit counter, as CPython 3.14 has it): 48 bits of milliseconds, then a
counter that starts at a random number below 2⁴¹ in each new millisecond and goes up by one within it, then 32 random
bits. When the clock steps back, the last millisecond is kept and the counter goes on, so the ids of one process always
ascend.

Snowflake (Twitter, 2010): 41 bits of milliseconds since 2020, 10 bits of worker, 12 bits of sequence; fits a bigint
until 2089. Unique only if no two processes hold one worker number at once (`lease`) and no worker uses a millisecond
twice, so a clock that steps back is waited for when it is short and refused when it is not; never guessed over.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import ShardError

SNOWFLAKE_EPOCH_MS: Final = 1_577_836_800_000
"""2020-01-01T00:00:00Z."""
WORKERS: Final = 1024
_SEQUENCES: Final = 4096
_COUNTER: Final = 1 << 42


class ClockWentBack(ShardError):
    """The clock is behind the last id by more than is worth waiting for. ``behind`` in seconds."""

    def __init__(self, behind: float) -> None:
        super().__init__(
            f"the clock is {behind:.3f} s behind the last id that this worker number has made; repair the clock, or "
            "claim another worker number"
        )
        self.behind: Final = behind


class Uuid7:
    """A source of UUIDs of version 7 that ascend, whatever the clock does. Thread-safe.

    ``clock``: seconds since the Unix epoch. ``randbits``: n → n random bits, from the system by default.
    """

    __slots__ = ("_clock", "_counter", "_last", "_lock", "_randbits")

    def __init__(
        self, *, clock: Callable[[], float] = time.time, randbits: Callable[[int], int] = secrets.randbits
    ) -> None:
        self._clock, self._randbits = clock, randbits
        self._lock = threading.Lock()
        self._last = -1
        self._counter = 0

    def __call__(self) -> uuid.UUID:
        with self._lock:
            now = int(self._clock() * 1000)
            if now > self._last:
                self._last, self._counter = now, self._randbits(41)
            else:
                self._counter += 1
                if self._counter == _COUNTER:
                    self._last, self._counter = self._last + 1, self._randbits(41)
            stamp, counter = self._last, self._counter
        value = (stamp & (1 << 48) - 1) << 80 | 0x7 << 76 | counter >> 30 << 64
        value |= 0b10 << 62 | (counter & (1 << 30) - 1) << 32 | self._randbits(32)
        return uuid.UUID(int=value)

    def forget(self) -> None:
        """Start anew, as a child after a fork must: it has its parent's counter."""
        self._lock = threading.Lock()
        self._last, self._counter = -1, 0


uuid7: Final = Uuid7()
"""This process's source: ``uuid7()``."""
os.register_at_fork(after_in_child=uuid7.forget)


@dataclass(frozen=True, slots=True)
class Wait:
    """No id yet: ask again in that many ``seconds``."""

    seconds: float


class Snowflake:
    """The decision which id comes next, without clock or I/O. ``worker``: 0 to 1023, held by nobody else.

    ``last_ms``: the highest millisecond (Unix) that the worker number may have used before. ``patience``: how far
    behind it the clock may be to be waited for, in seconds. ``horizon_ms``: no id at or after it, see `lease`.
    """

    __slots__ = ("_last", "_next", "horizon_ms", "patience", "worker")

    def __init__(self, worker: int, *, last_ms: int = 0, patience: float = 0.1, horizon_ms: int | None = None) -> None:
        if type(worker) is not int or not 0 <= worker < WORKERS:
            raise MisuseError(f"worker: expected 0 to {WORKERS - 1}, got {worker!r}")
        self.worker = worker
        self.patience = patience
        self.horizon_ms = horizon_ms
        self._last = last_ms
        self._next = _SEQUENCES

    @property
    def last_ms(self) -> int:
        """The highest millisecond of which an id may have been given out."""
        return self._last

    def take(self, now_ms: int) -> int | Wait:
        """An id for the wall-clock time ``now_ms``, or how long to wait. Raises `ClockWentBack`."""
        if now_ms < self._last:
            behind = (self._last - now_ms) / 1000
            if behind > self.patience:
                raise ClockWentBack(behind)
            return Wait(behind)
        if self.horizon_ms is not None and now_ms >= self.horizon_ms:
            return Wait(self.patience)
        if now_ms > self._last:
            self._last, self._next = now_ms, 0
        if self._next == _SEQUENCES:
            return Wait(0.001)
        stamp = now_ms - SNOWFLAKE_EPOCH_MS
        if not 0 <= stamp < 1 << 41:
            raise MisuseError(f"clock: expected a time between 2020 and 2089, got {now_ms} ms")
        self._next += 1
        return stamp << 22 | self.worker << 12 | self._next - 1


def snowflake_parts(value: int) -> tuple[int, int, int]:
    """(milliseconds since the Unix epoch, worker, sequence) of a Snowflake id."""
    return (value >> 22) + SNOWFLAKE_EPOCH_MS, value >> 12 & WORKERS - 1, value & _SEQUENCES - 1
