"""When a worker that died is replaced: at once, unless those before it died early too.

Theory. A worker that served for long and dies is replaced at once: each second without it is a second with less
capacity. One that dies before it was ready, or soon after, will do so again, and starting it over and over costs the
processor that the others need. All workers of a fleet run one app, so what kills one early kills all: the pause is the
fleet's and not a worker's. Each early death in a row doubles it, with jitter from above (the schedule of Kubernetes'
CrashLoopBackOff). Workers that were started together and die together are *one* failure: a death counts only when its
worker was started after the last death that counted. After a failure one worker is started at a time until one is
ready.

`LOOP` failures in a row are a crash loop, which is told once. One worker that serves for `YOUNG` seconds ends it.
"""

from __future__ import annotations

from random import Random
from typing import Final

YOUNG: Final = 10.0
"""Seconds of service before which a death is early."""
LOOP: Final = 5
"""Early deaths in a row that are a crash loop."""


class Backoff:
    """The early deaths of a fleet. ``first`` and ``cap`` are the shortest and the longest pause, in seconds."""

    __slots__ = ("_cap", "_failed", "_first", "_random", "early", "not_before", "probing")

    def __init__(self, first: float, cap: float, random: Random) -> None:
        self._first = first
        self._cap = cap
        self._random = random
        self._failed = float("-inf")
        self.early = 0
        """Early deaths in a row."""
        self.not_before = float("-inf")
        """When the next worker may be started."""
        self.probing = False
        """Whether the last one failed before it was ready, so that one is tried at a time."""

    @property
    def looping(self) -> bool:
        """Whether this is a crash loop."""
        return self.early >= LOOP

    def died(self, started: float, served: float | None, now: float) -> bool:
        """A worker that was started then has died after ``served`` seconds of service (None: it was never ready).
        True if that makes it a crash loop.
        """
        if served is not None and served >= YOUNG:
            return False
        self.probing = self.probing or served is None
        if started < self._failed:
            return False
        self._failed = now
        self.early += 1
        if self.early > 1 or served is None:
            longest = min(self._cap, self._first * 2.0 ** min(self.early - 1, 60))
            self.not_before = now + self._random.uniform(longest / 2, longest)
        return self.early == LOOP

    def ready(self) -> None:
        """A worker is ready."""
        self.probing = False

    def served(self, started: float) -> None:
        """A worker that was started then has served for `YOUNG` seconds."""
        if started >= self._failed:
            self.early = 0

    def forget(self) -> None:
        """Begin anew, because what is started next is not what failed."""
        self.early = 0
        self.not_before = float("-inf")
        self.probing = False
