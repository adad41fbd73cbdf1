"""Looking after the load processes while they run: progress, early ends, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from tenfold.load.frames import Stop
from tenfold.load.processes import LoadProcess
from tenfold.load.progress import Merged, Progress, Snapshot, progress
from tenfold.load.result import RunResult

INTERRUPTED: Final = "interrupted"
_TICK: Final = 0.2
_GRACE: Final = 5.0
_STOP_DRAIN: Final = 1.0


class Watch:
    """Looks after the processes from the start to the last word of each."""

    def __init__(
        self, children: list[LoadProcess], merged: Merged, result: RunResult, start: float, drain: float
    ) -> None:
        self.reason = ""
        """Why the run ended before its schedule did; empty when it did not."""
        self.early = False
        self._children = children
        self._merged = merged
        self._result = result
        self._start = start
        self._drain = drain
        self._deadline = start + result.duration + drain + _GRACE

    async def until_the_end(
        self,
        interrupted: asyncio.Event,
        on_progress: Callable[[Progress], object] | None,
        stop_early: Callable[[Snapshot], str | None] | None,
    ) -> None:
        """Returns when every process has ended or the deadline has passed."""
        ends = asyncio.gather(*(child.ended.wait() for child in self._children))
        stop = asyncio.ensure_future(interrupted.wait())
        try:
            while not ends.done():
                waits: set[asyncio.Future[Any]] = {ends} if self.reason else {ends, stop}
                await asyncio.wait(waits, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
                now = monotonic()
                if now > self._deadline:
                    self.reason = self.reason or "a load process did not end in time"
                    return
                if on_progress is not None and now >= self._start:
                    on_progress(progress(self._merged, now - self._start, self._result.duration))
                if not self.reason:
                    self._decide(now, interrupted.is_set(), stop_early)
        finally:
            ends.cancel()
            stop.cancel()
            await asyncio.gather(ends, stop, return_exceptions=True)

    def _decide(self, now: float, interrupted: bool, stop_early: Callable[[Snapshot], str | None] | None) -> None:
        drain = _STOP_DRAIN
        if interrupted:
            self.reason = INTERRUPTED
        elif lost := next((child.failure for child in self._children if child.failure), ""):
            self.reason = lost
        elif stop_early is not None and now >= self._start and not all(c.ended.is_set() for c in self._children):
            self._result.steps = list(self._merged.steps.values())
            self._result.started = sum(self._merged.started)
            self._result.elapsed = now - self._start
            merged = self._merged
            self.reason = stop_early(Snapshot(self._result, sum(merged.in_flight), merged.most)) or ""
            self.early = bool(self.reason)
            drain = self._drain
        if self.reason:
            for child in self._children:
                child.say(Stop(drain))
            self._deadline = min(self._deadline, now + drain + _GRACE)
