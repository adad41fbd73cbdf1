"""Who gets a place, who waits and who is turned away: the decisions of a `Shedder`, without a clock or a loop.

Theory. Beyond its capacity a service that takes everybody serves nobody: all wait in one queue until their
callers have given up, and the work then done for them is thrown away. Four rules keep the useful output at
capacity while the demand is above it.

1. *A bound.* ``limit`` run, ``queue`` wait, the rest is turned away at once, while the refusal is still cheap.
2. *Queue age, not queue length* (CoDel: Nichols & Jacobson, "Controlling queue delay", ACM Queue 2012; in the
   form for servers of Maurer, "Fail at scale", ACM Queue 2015). A burst is absorbed, a *standing* queue is not:
   who queues may wait ``max_wait`` as long as the queue has been empty within the last ``interval``, and only
   ``target`` once it has not. "Empty" means that a place was free or that the last who waited got one: a queue
   that is empty because its people were turned away is not. CoDel does not drop below one packet in the queue;
   likewise the allowed wait is never shorter than the time between two places that become free (``gap``), or
   a service with few places and long calls would let places stand empty.
3. *Adaptive LIFO* (Maurer as well). In a standing queue the newest goes first: its caller is the one who surely
   still waits. Otherwise first come, first served.
4. *Priorities are strict.* The highest priority that waits gets the next place. When the queue is full, the
   lowest that waits gives way to a higher one. So each priority has only those of its own and higher ones
   before it, and whether the queue is standing is measured for each of them by these: a heap of batch jobs
   does not shorten the wait of the critical ones.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.stats import Ratio
from tenfold._core.units import Duration, duration, whole_number
from tenfold.resilience.wire import Priority

State = Literal["running", "waiting", "shed", "gone", "done"]
Reason = Literal["", "full", "evicted", "age", "deadline"]

_FOREVER: Final = math.inf
_SMOOTHING: Final = 1 / 8  # as TCP smooths its round-trip time (RFC 6298)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shed:
    """What a `Shedder` allows.

    ``limit`` is how many run at a time (default 100) and ``queue`` how many may wait (default 200; 0: nobody
    waits). ``max_wait`` (500 ms) bounds every wait, and ``target`` (5 ms) is all that is allowed once the queue
    has not been empty for ``interval`` (100 ms). ``max_retry_after`` (30 s) bounds what a refusal tells the
    client. Raises `MisuseError` for values that make no sense together.
    """

    limit: int = field(default=100, kw_only=False)
    queue: int = 200
    max_wait: Duration = 0.5
    target: Duration = 0.005
    interval: Duration = 0.1
    max_retry_after: Duration = 30.0

    def __post_init__(self) -> None:
        whole_number(self.limit, "Shed.limit", least=1)
        whole_number(self.queue, "Shed.queue")
        for name in ("max_wait", "target", "interval", "max_retry_after"):
            seconds = duration(getattr(self, name), f"Shed.{name}")
            if seconds == 0:
                raise MisuseError(f'Shed.{name}: expected a duration above zero such as "100ms", got 0')
            object.__setattr__(self, name, seconds)
        if self.seconds("target") > self.seconds("max_wait"):
            raise MisuseError(
                f"Shed.target: expected at most max_wait ({self.max_wait} s), got {self.target} s; "
                "the wait under overload is the shorter one"
            )

    def seconds(self, name: str) -> float:
        """A duration of these options as the number that it is once they are made."""
        return float(getattr(self, name))


class Waiter:
    """One who asked for a place. ``state`` says what became of it and ``reason`` why it was turned away."""

    __slots__ = ("future", "line", "priority", "reason", "since", "state", "timer", "until", "within_deadline")

    def __init__(self, line: Line, priority: Priority, since: float, until: float) -> None:
        self.line: Final = line
        self.priority: Final = priority
        self.since: Final = since
        self.until = until
        """When the wait ends at the latest, in monotonic seconds."""
        self.within_deadline = True
        """Whether the caller's own deadline lies after that, so that its end is our doing."""
        self.state: State = "waiting"
        self.reason: Reason = ""
        self.future: Any = None  # the shell's
        self.timer: Any = None

    def __repr__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"<Waiter {self.priority.label} {self.state}{why}>"


class Line:
    """The places and those who wait for them. Every ``now`` is in monotonic seconds and never goes back.

    A method that changes what became of *others* returns them; whoever drives the line tells them.
    """

    __slots__ = (
        "_ahead",
        "_busy_since",
        "_calm",
        "_gap",
        "_interval",
        "_lanes",
        "_last_leave",
        "_max_wait",
        "_outcomes",
        "_target",
        "admitted",
        "gone",
        "options",
        "queued",
        "running",
        "shed",
        "waiting",
    )

    def __init__(self, options: Shed) -> None:
        self.running = 0
        self.waiting = 0
        self.admitted = [0] * len(Priority)
        """Places given, for each priority."""
        self.shed: dict[Reason, list[int]] = {
            reason: [0] * len(Priority) for reason in ("full", "evicted", "age", "deadline")
        }
        self.queued = 0
        self.gone = 0
        """How many left the queue because their caller had gone."""
        self._lanes: tuple[OrderedDict[Waiter, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._ahead = [0] * len(Priority)  # how many of this priority or a higher one wait
        self._busy_since = [_FOREVER] * len(Priority)  # since when that number has not been empty, in rule 2's sense
        self._calm = True  # a place was free, or nobody waited for the one that became free: no queue stands
        self._gap = 0.0
        self._last_leave: float | None = None
        self._outcomes = Ratio(2.0)
        self.reconfigure(options, 0.0)

    # What happens

    def arrive(self, now: float, priority: Priority, until: float = _FOREVER) -> tuple[Waiter, Waiter | None]:
        """Ask for a place: ``running`` with one, ``waiting`` in the queue or ``shed``; and who was evicted for
        it.

        ``until`` is the caller's deadline.
        """
        waiter = Waiter(self, priority, now, until)
        if until <= now:
            waiter.state, waiter.reason = "shed", "deadline"  # no sign of overload here: not in the outcomes
            self.shed["deadline"][priority] += 1
            return waiter, None
        if self.running < self.options.limit:
            self._admit(waiter, now)
            return waiter, None
        victim: Waiter | None = None
        if self.waiting >= self.options.queue:
            victim = self._victim(priority, now)
            if victim is None:
                self._turn_away(waiter, "full", now)
                return waiter, None
            self._remove(victim)
            self._turn_away(victim, "evicted", now)
        limit = now + self.allowed_wait(priority, now)
        if limit < until:
            waiter.until = limit
        else:
            waiter.within_deadline = False
        if self.waiting == 0:
            self._last_leave = now
        self._lanes[priority][waiter] = None
        self.waiting += 1
        self.queued += 1
        self._calm = False
        for level in range(priority + 1):
            self._ahead[level] += 1
            if self._busy_since[level] == _FOREVER:
                self._busy_since[level] = now
        return waiter, victim

    def leave(self, waiter: Waiter, now: float) -> list[Waiter]:
        """The one that ran has ended, or the one that waited has gone; who got its place, and whose time was
        over.

        A waiter that is neither (left already, turned away) changes nothing.
        """
        if waiter.state == "waiting":
            self._remove(waiter)
            waiter.state = "gone"
            self.gone += 1
            return []
        if waiter.state != "running":
            return []
        waiter.state = "done"
        self.running -= 1
        if self.waiting and self._last_leave is not None:
            sample = max(0.0, now - self._last_leave)
            self._gap = self._gap + (sample - self._gap) * _SMOOTHING if self._gap else sample
        self._last_leave = now
        return self._fill(now)

    def expire(self, waiter: Waiter, now: float) -> bool:
        """Its wait is over. False if it does not wait any more."""
        if waiter.state != "waiting":
            return False
        self._remove(waiter)
        self._turn_away(waiter, "age" if waiter.within_deadline else "deadline", now)
        return True

    def reconfigure(self, options: Shed, now: float) -> list[Waiter]:
        """Other bounds from now on; those whose fate this changes. A lower limit lets the running ones end."""
        self.options = options
        self._interval = options.seconds("interval")
        self._target = options.seconds("target")
        self._max_wait = options.seconds("max_wait")
        changed = self._fill(now)
        while self.waiting > options.queue:
            victim = self._last(next(each for each in Priority if self._lanes[each]), now)
            self._remove(victim)
            self._turn_away(victim, "evicted", now)
            changed.append(victim)
        return changed

    # What is known

    def standing(self, priority: Priority, now: float) -> bool:
        """Whether those of this priority and higher have had a queue for longer than ``interval``."""
        return now - self._busy_since[priority] >= self._interval

    def allowed_wait(self, priority: Priority, now: float) -> float:
        """How long one who arrives now may wait, in seconds."""
        if not self.standing(priority, now):
            return self._max_wait
        return min(self._max_wait, max(self._target, self._gap))

    def retry_after(self, now: float) -> float:
        """When those who wait now will have been served at the present pace, in seconds; bounded."""
        stalled = 0.0 if self._last_leave is None or not self.waiting else now - self._last_leave
        estimate = (self.waiting + 1) * max(self._gap, stalled)
        return min(max(estimate, self._interval), self.options.seconds("max_retry_after"))

    def pressure(self, now: float) -> float:
        """The share of places taken plus the share of callers turned away in the last 2 s: above 1 is overload."""
        return min(1.0, self.running / self.options.limit) + 1.0 - self._outcomes.ratio(now, 1.0)

    @property
    def turned_away(self) -> int:
        """How many did not get a place, for whatever reason but their own going."""
        return sum(map(sum, self.shed.values()))

    def successor(self) -> Line:
        """An empty line with the same options that goes on counting where this one stands."""
        line = Line(self.options)
        line.admitted, line.shed, line.queued, line.gone = self.admitted, self.shed, self.queued, self.gone
        return line

    # How

    def _admit(self, waiter: Waiter, now: float) -> None:
        waiter.state = "running"
        self.running += 1
        self.admitted[waiter.priority] += 1
        self._outcomes.add(True, now)

    def _turn_away(self, waiter: Waiter, reason: Reason, now: float) -> None:
        waiter.state, waiter.reason = "shed", reason
        self.shed[reason][waiter.priority] += 1
        self._outcomes.add(False, now)

    def _remove(self, waiter: Waiter) -> None:
        del self._lanes[waiter.priority][waiter]
        self.waiting -= 1
        for level in range(waiter.priority + 1):
            self._ahead[level] -= 1

    def _fill(self, now: float) -> list[Waiter]:
        changed: list[Waiter] = []
        while self.running < self.options.limit and self.waiting:
            priority = next(each for each in reversed(Priority) if self._lanes[each])
            lane = self._lanes[priority]
            waiter = next(reversed(lane) if self.standing(priority, now) else iter(lane))
            self._remove(waiter)
            if waiter.until <= now:
                self._turn_away(waiter, "age" if waiter.within_deadline else "deadline", now)
            else:
                self._admit(waiter, now)
                # Those above the one who got it had nobody waiting: a place was theirs for the asking.
                for level in Priority:
                    if not self._ahead[level]:
                        self._busy_since[level] = _FOREVER
            changed.append(waiter)
        if not self._calm and self.running < self.options.limit:
            self._calm = True
            self._busy_since = [_FOREVER] * len(Priority)
        return changed

    def _victim(self, newcomer: Priority, now: float) -> Waiter | None:
        """Who gives way to one of that priority when the queue is full; None: the newcomer itself."""
        lowest = next((each for each in Priority if self._lanes[each]), None)
        if lowest is None or lowest > newcomer or (lowest == newcomer and not self.standing(newcomer, now)):
            return None
        return self._last(lowest, now)

    def _last(self, priority: Priority, now: float) -> Waiter:
        """Who of that priority would be served last."""
        lane = self._lanes[priority]
        return next(iter(lane) if self.standing(priority, now) else reversed(lane))

    def __repr__(self) -> str:
        return (
            f"<Line running={self.running}/{self.options.limit} waiting={self.waiting}/{self.options.queue} "
            f"shed={self.turned_away}>"
        )
