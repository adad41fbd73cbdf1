"""What can be set, and what is told while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event
from tenfold._core.units import Duration, duration, whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardOptions:
    """``batch`` (2,000): rows that are read at a time. ``switch_rows`` (10,000): rows that one switch moves, while
    writers of the giving shard wait; a bucket is never divided. ``rest`` (250 ms): the pause after a switch, in which
    writers catch up. ``lock_wait`` (2 s): how long a switch waits for
    transactions under way, during which writers wait behind it. ``attempts`` (30): how often it tries. ``connect``
    (10 s): to connect, and for another tool to end. ``statement`` (10 min): the longest statement.
    """

    batch: int = 2000
    switch_rows: int = 10_000
    rest: Duration = "250ms"
    lock_wait: Duration = "2s"
    attempts: int = 30
    connect: Duration = "10s"
    statement: Duration = "10m"

    def __post_init__(self) -> None:
        for name in ("batch", "switch_rows", "attempts"):
            whole_number(getattr(self, name), name, least=1)
        for name in ("rest", "lock_wait", "connect", "statement"):
            seconds = duration(getattr(self, name), name)
            if seconds <= 0 and name != "rest":
                raise MisuseError(f"{name}: expected a duration above 0, got {getattr(self, name)!r}")
            object.__setattr__(self, name, seconds)


@dataclass(frozen=True, slots=True)
class Progress:
    """``point``: what has just happened. ``done`` of ``total`` rows of leg number ``leg``, or buckets in a switch."""

    point: str
    leg: int = 0
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class BucketsSwitched(Event):
    """``buckets`` live on ``taker`` now, and the map says so."""

    giver: str
    taker: str
    buckets: tuple[int, ...]
