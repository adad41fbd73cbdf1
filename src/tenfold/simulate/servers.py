"""A server: ``workers`` that work, a queue of bounded length before them, and what may befall it.

Theory. This is G/G/k with a waiting room of ``queue`` places, first come, first served (Kendall's notation:
G/G/k/k+queue). Its state is its *pace*, by which the work left of everything in service shrinks: 1 is healthy, 0.1 a
machine that swaps, 0 one that is frozen (SIGSTOP: connections are taken, nothing is answered). A change of pace
reschedules what is in service by the work that is left, so that a slow minute delays exactly what runs into it. A
crashed one refuses at once, and resets what it had. A worker does not notice that a caller has given up unless
``cancels``: it works on for nobody, which is why overload feeds itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tenfold.simulate.events import Timeline
from tenfold.simulate.service import Sample

REFUSED: Final = "connection refused"
RESET: Final = "connection reset"
OVERFLOW: Final = "queue full"
NEVER: Final = -1.0


class Attempt:
    """One try of one request at one server.

    ``call`` and ``member`` are its client's; ``on_done(now, attempt, fault)`` is told once how it ended, unless the
    client gave up before: ``fault`` is "" for an answer. ``left`` is the work left in seconds at pace 1, ``due`` when
    that will be done.
    """

    __slots__ = ("call", "deadline", "done", "due", "gone", "left", "member", "on_done", "queued", "sent", "server")

    def __init__(
        self, call: Any, member: Any, server: Server, now: float, on_done: Callable[[float, Attempt, str], None]
    ) -> None:
        self.call = call
        self.member = member
        self.server = server
        self.sent = now
        self.queued = now
        self.on_done = on_done
        self.deadline = math.inf
        self.left = 0.0
        self.due = NEVER
        self.done = False
        self.gone = False


class Server:
    """One server on the timeline. Its counters are plain numbers, of attempts, for all clients together."""

    __slots__ = (
        "_area",
        "_busy_area",
        "_downs",
        "_freezes",
        "_since",
        "_slow",
        "_timeline",
        "answered",
        "busy",
        "cancels",
        "factor",
        "id",
        "in_system",
        "pace",
        "peak",
        "queue",
        "refused",
        "reset",
        "sample",
        "serving",
        "started",
        "taken",
        "up",
        "waited",
        "waiting",
        "wasted",
        "workers",
        "zone",
    )

    def __init__(
        self,
        id: str,
        timeline: Timeline,
        sample: Sample,
        *,
        workers: int = 1,
        queue: int = 1000,
        zone: str = "",
        factor: float = 1.0,
        cancels: bool = False,
    ) -> None:
        self.id: Final = id
        self.zone: Final = zone
        self.workers: Final = workers
        self.queue: Final = queue
        self.sample: Final = sample
        self.factor: Final = factor
        self.cancels: Final = cancels
        self.up = True
        self.pace = 1.0
        self.waiting: Final[deque[Attempt]] = deque()
        self.serving: Final[dict[Attempt, None]] = {}
        self.in_system = 0
        self.peak = 0
        self.taken = self.answered = self.refused = self.reset = self.wasted = self.started = 0
        self.waited = 0.0
        self._timeline = timeline
        self._downs = self._freezes = 0
        self._slow: Final[list[float]] = []
        self._since = 0.0
        self._area = self._busy_area = 0.0

    # -- what clients do ----------------------------------------------------------------------------------------

    def offer(self, now: float, attempt: Attempt) -> None:
        """Take the attempt in, or tell it at once why not."""
        if not self.up:
            self.refused += 1
            attempt.on_done(now, attempt, REFUSED)
            return
        serving = self.serving
        if len(serving) < self.workers:
            self._count(now, 1)
            attempt.queued = now
            attempt.left = self.sample() * self.factor
            self._start(now, attempt)
        elif len(self.waiting) < self.queue:
            self._count(now, 1)
            attempt.queued = now
            attempt.left = self.sample() * self.factor
            self.waiting.append(attempt)
        else:
            self.refused += 1
            attempt.on_done(now, attempt, OVERFLOW)

    def leave(self, now: float, attempt: Attempt) -> None:
        """The caller has given up. Unless this server notices, the work goes on for nobody.

        An attempt that waits keeps its place in the queue until its turn comes.
        """
        attempt.gone = True
        if self.cancels and attempt in self.serving:
            attempt.due = NEVER
            self._free(now, attempt)

    # -- what befalls it ----------------------------------------------------------------------------------------

    def crash(self, now: float) -> None:
        """From now on connections are refused; all that was here is reset."""
        self._downs += 1
        if not self.up:
            return
        self.up = False
        lost = [*self.serving, *self.waiting]
        self.serving.clear()
        self.waiting.clear()
        self._count(now, -len(lost))
        for attempt in lost:
            attempt.due = NEVER
            self.reset += 1
            if not attempt.gone:
                attempt.on_done(now, attempt, RESET)

    def start(self, now: float) -> None:
        """The end of one `crash`; the server is up again when all have ended."""
        self._downs -= 1
        self.up = not self._downs

    def freeze(self, now: float) -> None:
        """Take connections, do nothing."""
        self._freezes += 1
        self._turn(now)

    def thaw(self, now: float) -> None:
        """The end of one `freeze`."""
        self._freezes -= 1
        self._turn(now)

    def slow(self, now: float, factor: float) -> None:
        """From now on everything takes ``factor`` times as long."""
        self._slow.append(factor)
        self._turn(now)

    def recover(self, now: float, factor: float) -> None:
        """The end of one `slow`."""
        self._slow.remove(factor)
        self._turn(now)

    def _turn(self, now: float) -> None:
        pace = 0.0 if self._freezes else 1 / math.prod(self._slow)
        before, self.pace = self.pace, pace
        for attempt in self.serving:
            if before:
                attempt.left = max(0.0, attempt.due - now) * before
            attempt.due = NEVER
            if pace:
                attempt.due = now + attempt.left / pace
                self._timeline.at(attempt.due, self._finish, attempt)

    # -- the work -----------------------------------------------------------------------------------------------

    def _start(self, now: float, attempt: Attempt) -> None:
        self.serving[attempt] = None
        self.started += 1
        self.waited += now - attempt.queued
        pace = self.pace
        if pace:
            due = attempt.due = now + attempt.left / pace
            self._timeline.at(due, self._finish, attempt)

    def _finish(self, now: float, attempt: Attempt) -> None:
        if attempt.due != now:
            return  # rescheduled, reset or cancelled since
        attempt.due = NEVER
        if attempt.gone:
            self.wasted += 1
        else:
            self.answered += 1
        self._free(now, attempt)
        if not attempt.gone:
            attempt.on_done(now, attempt, "")

    def _free(self, now: float, attempt: Attempt) -> None:
        del self.serving[attempt]
        self._count(now, -1)
        waiting = self.waiting
        while waiting:
            following = waiting.popleft()
            if following.gone and self.cancels:
                self._count(now, -1)
                continue
            self._start(now, following)
            return

    def _count(self, now: float, change: int) -> None:
        """Keep the time integrals of what is here and of what is being worked on, for means over time."""
        held = self.in_system
        span = now - self._since
        self._area += held * span
        self._busy_area += (held if held < self.workers else self.workers) * span
        self._since = now
        held = self.in_system = held + change
        if change > 0:
            self.taken += change
            if held > self.peak:
                self.peak = held

    def mean_in_system(self, now: float) -> float:
        """How many attempts were here on average since the start, waiting or in service."""
        self._count(now, 0)
        return self._area / now if now else 0.0

    def utilisation(self, now: float) -> float:
        """The share of its workers' time that was spent, 0…1; a frozen worker counts as busy."""
        self._count(now, 0)
        return self._busy_area / (now * self.workers) if now else 0.0

    def __repr__(self) -> str:
        state = ("up" if self.pace else "frozen") if self.up else "down"
        return f"<Server {self.id!r} {state}, {len(self.serving)} in service, {len(self.waiting)} waiting>"
