"""When a worker that died is replaced: at once, unless those before it died young too.

Theory. A worker that has served for long and dies (a bug that one request in a million meets, the kernel short of
memory) is replaced at once, because every second without it is a second with less capacity. One that dies soon after
its start will do so again; starting it over and over costs the processor that the others need. So each early death in a
row doubles the pause, from a tenth of a second up to half a minute, with jitter from above so that several numbers
that died of one cause do not start together (the schedule of Kubernetes' CrashLoopBackOff, whose pauses are 10 s to
5 min). `LOOP` of them in a row are a crash loop, which is told once, and told again at each death after it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tenfold.resilience.backoff import pause

YOUNG: Final = 10.0
"""Seconds of service before which a death is early."""
LOOP: Final = 5
_BASE: Final = 0.1
_CAP: Final = 30.0


@dataclass(slots=True)
class Lives:
    """The deaths of the processes of one number."""

    count: int = 0
    """How many processes there have been."""
    early: int = 0
    """How many of them died early, in a row."""

    def died(self, served: float | None, random: random.Random) -> float:
        """One has died after ``served`` seconds of service (None: it never came to serve): seconds to wait before the
        next one is started.
        """
        if served is not None and served >= YOUNG:
            self.early = 0
            return 0.0
        self.early += 1
        if self.early == 1 and served is not None:
            return 0.0
        longest = pause("none", self.early, 0.0, _BASE, _CAP, random)
        return random.uniform(longest / 2, longest)

    @property
    def looping(self) -> bool:
        """Whether these deaths are a crash loop."""
        return self.early >= LOOP
