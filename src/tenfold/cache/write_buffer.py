"""What waits to be written behind: a decision without I/O, told the time; and the terms. The theory is in `write`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Buffer(Generic[K, V]):
    """What waits to be stored: the newest value of each key, in the order in which the keys came first."""

    __slots__ = ("_batch", "_delay", "_max", "_out", "_waiting", "coalesced")

    def __init__(self, batch: int, delay: float, max_pending: int) -> None:
        self._batch, self._delay, self._max = batch, delay, max_pending
        self._waiting: dict[K, tuple[V, float]] = {}
        self._out: dict[K, V] = {}
        self.coalesced = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._out)

    def put(self, key: K, value: V, now: float) -> bool:
        """Take a write. False: no room."""
        waits = self._waiting.get(key)
        if waits is not None:
            self._waiting[key] = (value, waits[1])  # a key that is written all the time must not wait for ever
            self.coalesced += 1
            return True
        if len(self) >= self._max:
            return False
        self._waiting[key] = (value, now)
        return True

    def get(self, key: K, default: Any) -> Any:
        """The newest value that is not stored yet."""
        waits = self._waiting.get(key)
        return self._out.get(key, default) if waits is None else waits[0]

    def due(self, now: float) -> float | None:
        """In how many seconds a batch should go out; None where nothing waits."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._batch:
            return 0.0
        since = next(iter(self._waiting.values()))[1]
        return max(0.0, since + self._delay - now)

    def take(self) -> dict[K, V]:
        """The oldest keys as a batch. It is out until `done` or `give_back`."""
        keys = [key for key, _ in zip(self._waiting, range(self._batch), strict=False)]
        self._out = {key: self._waiting.pop(key)[0] for key in keys}
        return self._out

    def drop_superseded(self) -> None:
        """Leave out of the batch what a newer write of the same key waits to replace."""
        for key in [key for key in self._out if key in self._waiting]:
            del self._out[key]
            self.coalesced += 1

    def done(self) -> None:
        """The batch is stored or given up."""
        self._out = {}

    def give_back(self, now: float) -> None:
        """The batch was not tried to the end: it waits again, ahead of the others."""
        self.drop_superseded()
        self._waiting = {key: (value, now - self._delay) for key, value in self._out.items()} | self._waiting
        self._out = {}

    def drain(self) -> dict[K, V]:
        """Everything that is not stored; the buffer is empty then."""
        everything = {**self._out, **{key: value for key, (value, _) in self._waiting.items()}}
        self._waiting, self._out = {}, {}
        return everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The options of `Cache.write_behind`, checked. Seconds all."""

    batch: int
    delay: float
    max_pending: int
    timeout: float
    retry_for: float
    patience: float

    @classmethod
    def of(
        cls, batch: int, delay: Duration, max_pending: int, timeout: Duration, retry_for: Duration, patience: Duration
    ) -> Terms:
        whole_number(batch, "batch", least=1)
        whole_number(max_pending, "max_pending", least=1)
        if batch > max_pending:
            raise MisuseError(f"batch: expected at most max_pending ({max_pending}), got {batch}")
        limit = duration(timeout, "timeout")
        if limit == 0:
            raise MisuseError('timeout: expected a duration above zero such as "10s", got 0')
        return cls(
            batch=batch,
            delay=duration(delay, "delay"),
            max_pending=max_pending,
            timeout=limit,
            retry_for=duration(retry_for, "retry_for"),
            patience=duration(patience, "patience"),
        )
