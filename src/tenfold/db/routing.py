"""Which server gets the next reader: power of two choices, and an order for those that come after a failure.

Two usable replicas are drawn at random and the one with fewer connections in use comes first (Mitzenmacher,
"The Power of Two Choices in Randomized Load Balancing", 2001); the others follow in random order. The result
is an *ordering*, so failing over is part of choosing.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def in_flight(self) -> int: ...

    def usable(self, now: float) -> bool: ...


C = TypeVar("C", bound=Candidate)


def order(replicas: Sequence[C], now: float, random: Random) -> list[C]:
    """The usable replicas, best first."""
    usable = [replica for replica in replicas if replica.usable(now)]
    random.shuffle(usable)
    if len(usable) > 1 and usable[1].in_flight < usable[0].in_flight:
        usable[0], usable[1] = usable[1], usable[0]
    return usable
