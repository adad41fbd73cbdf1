"""What all event loops and threads of one cache have in common."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tenfold._core.clock import Clock
from tenfold.cache.counters import Counters
from tenfold.cache.memory import Memory
from tenfold.cache.tags import Barriers


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Level 1, what was invalidated in it, what is counted, and where time and chance come from."""

    memory: Memory
    barriers: Barriers
    counters: Counters
    clock: Clock
    random: Random
