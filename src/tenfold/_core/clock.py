"""Time as an argument: whoever waits or measures takes a `Clock`, so that a test can hand in its own."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol


class Clock(Protocol):
    """The two clocks of a program and the way to wait on the first."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never jumps. Durations and deadlines come from here alone."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch; may jump. For showing and storing, never for measuring."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long on the monotonic clock."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK: Final[Clock] = SystemClock()
