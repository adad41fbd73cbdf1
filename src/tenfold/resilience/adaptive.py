"""`AdaptiveLimit`: how many calls at once a dependency can take, found out by watching it.

Theory. A dependency that works on c calls in parallel queues what is beyond c. By Little's law (1961) the
calls in flight are N = X · R (throughput × latency). Below c more calls in flight mean more throughput at the
same latency; above it the same throughput at a latency that grows with N. The *elasticity*
e = d ln R / d ln N tells which side we are on: 0 before the knee, 1 behind it, more than 1 where crowding makes
the work itself slower. The "power" X / R of Kleinrock (1979) is highest where e = 1/2.

Netflix's *Gradient2* (concurrency-limits, 2018) estimates the gradient by comparing a short average of the
latency with a long one. Under lasting overload the long average becomes the short one and the limit climbs;
when the dependency gets slower of its own accord the limit shrinks for nothing. Here the gradient is
measured instead, by an experiment that runs all the time:

* The limit in force alternates between a bit less and a bit more than the estimate (±12 %, at least one
  place). Nothing is ever drained to see the "unloaded" latency.
* Only calls admitted at the brim, where the limit in force was used up or nearly, count. A dependency that is
  not fully used gives no evidence, so the limit neither grows nor shrinks: the guard against growth when idle.
* Of each pair of phases, e = ln(R_high / R_low) / ln(N_high / N_low). *We* set N, so what correlates with it is
  our doing; a dependency that became slower for everybody is slower in both phases and moves nothing: the
  correlation guard. The order of the phases alternates (low high, high low, …), which cancels a trend.
* ln(limit) moves by step · (tolerance − e) / (1 + variance of e), the difference cut to ±1: a dependency that changes
  in the middle of an experiment moves the limit a little and once. The step doubles, to four times, while the latest
  differences agree more than noise would, and starts again when they turn (after Kesten 1958); while they say that the
  limit is too low, the upper level is 30 % up. So it is fast far from the knee and calm near it.
* Between two experiments, unless the knee is far, calls may have √limit places more, Gradient2's room for a queue:
  a place that is freed then finds a call waiting.

A *time-out or overload answer is a loss*, not a latency. Once they are more than a few in a hundred, each takes half a
place away, which within a round trip in which everything is lost is a factor of about 0.6, and no experiment raises the
limit. (In Gradient2 a time-out is a sample like another, and constant time-outs make the limit climb. A limit that
takes every single loss for overload is crushed by one time-out in a hundred, as the window of TCP Reno is.)
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold._core.units import share, whole_number
from tenfold.resilience.elasticity import Pace, Side, measure
from tenfold.resilience.errors import Overloaded

_SWING: Final = 0.12  # the experiment's levels are this much below and above the estimate
_REACH: Final = 0.3  # and this much above while it grows: a wider experiment is a clearer one
_BRIM: Final = 0.9  # a call counts as at the brim above this share of the limit in force
_SAMPLES: Final = 40  # samples of a phase, at least; otherwise so many for each place:
_ROUNDS: Final = 2
_WORK: Final = 8  # round trips between two experiments
_CLIP: Final = 4.0  # a latency counts up to this many times the usual one: tails say little about queues
_MEMORY: Final = 1 / 64  # weight of a new latency in the usual one
_LOSS: Final = 0.5  # places that a loss takes away
_LOSS_SHARE: Final = 0.03  # losses up to this share of the answers of late are the dependency's habit, not overload
_LOSS_MEMORY: Final = 1 / 256
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimit:
    """As many calls at once as the dependency answers without queueing; the rest is turned away at once.

    ``initial`` is where the search begins (default 20) and ``minimum`` and ``maximum`` are its bounds (1 and
    1000). ``tolerance`` (0…1, default 0.75) is how much of a rise in concurrency may turn into latency rather than
    throughput before the limit counts as too high: more of it queues more and wastes less. ``smoothing`` (0…0.5,
    default 0.1) is how far ln(limit) moves for one measurement at first: less is calmer and slower.

    Raises `MisuseError` for bounds that make no sense.
    """

    initial: int = 20
    minimum: int = 1
    maximum: int = 1000
    tolerance: float | str = 0.75
    smoothing: float | str = 0.1

    def __post_init__(self) -> None:
        whole_number(self.minimum, "adaptive limit: minimum", least=1)
        whole_number(self.initial, "adaptive limit: initial", least=1)
        whole_number(self.maximum, "adaptive limit: maximum", least=1)
        if not self.minimum <= self.initial <= self.maximum:
            raise MisuseError(
                "adaptive limit: expected minimum <= initial <= maximum, "
                f"got {self.minimum}, {self.initial} and {self.maximum}"
            )
        tolerance = share(self.tolerance, "adaptive limit: tolerance")
        if not 0.1 <= tolerance <= 0.95:
            raise MisuseError(
                f"adaptive limit: expected a tolerance of 0.1 … 0.95, got {self.tolerance!r}; "
                "0.5 favours latency, 0.8 throughput"
            )
        smoothing = share(self.smoothing, "adaptive limit: smoothing")
        if not 0 < smoothing <= 0.5:
            raise MisuseError(f"adaptive limit: expected a smoothing above 0 and up to 0.5, got {self.smoothing!r}")
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "smoothing", smoothing)


@dataclass(frozen=True, slots=True)
class LimitMoved(Event):
    """An adaptive limit has moved by a place or more since the last such event."""

    policy: str
    before: float
    after: float


Token = tuple[float, int, Side | None]
"""When the call was admitted, as which one in flight, and in which phase, if it counts for one."""

# The stages, each of which ends after a number of admissions at the brim. Calls admitted in _FIRST and _SECOND are the
# experiment. In _COOL and _TAIL the level stays, so that calls that are still out do not see the next one; in _SETTLE
# and _RETURN the next level takes hold. _WORK is what is in between, with room for a queue.
_FIRST, _COOL, _SETTLE, _SECOND, _TAIL, _WORKING, _RETURN = range(7)


class AdaptivePlaces:
    """An `AdaptiveLimit` at work: `enter`, and exactly one `leave` for each token. Thread-safe."""

    __slots__ = (
        "_brim",
        "_high",
        "_hub",
        "_is_high",
        "_left",
        "_lock",
        "_lossy",
        "_low",
        "_name",
        "_options",
        "_pace",
        "_side",
        "_stage",
        "_told",
        "_usual",
        "admitted",
        "elasticity",
        "experiments",
        "in_flight",
        "in_force",
        "limit",
        "lost",
        "refused",
    )

    def __init__(self, options: AdaptiveLimit, *, name: str = "", hub: Hub = EVENTS) -> None:
        self._lock = threading.Lock()
        self._hub = hub
        self._name = name
        self._options = options
        self.limit = float(options.initial)
        """The estimate. What is in force at the moment (`in_force`) is a bit less or a bit more."""
        self.elasticity = math.nan
        """What the last experiment found; NaN before the first."""
        self._told = self.limit
        self._usual = self._lossy = 0.0
        self._pace = Pace(float(options.smoothing))
        self._is_high = False
        self.in_flight = self.admitted = self.refused = self.lost = self.experiments = 0
        self._begin()

    # -- calls

    def enter(self, now: float) -> Token:
        """A place, or `Overloaded`; its ``retry_after`` is a usual round trip, None while nobody knows one."""
        lock = self._lock
        lock.acquire()
        try:
            crowd = self.in_flight + 1
            if crowd <= self.in_force:
                self.in_flight = crowd
                self.admitted += 1
                if crowd < self._brim:
                    return (now, crowd, None)
                side = self._side
                if side is not None:
                    side.open += 1
                self._left -= 1
                if self._left <= 0:
                    self._next_stage()
                return (now, crowd, side)
            self.refused += 1
            usual = self._usual
        finally:
            lock.release()
        raise Overloaded("all places of the adaptive limit are taken", policy=self._name, retry_after=usual or None)

    def leave(self, token: Token, now: float, ok: bool | None) -> None:
        """Give the place back.

        ``ok`` is True for an answer, whose latency counts; False for a time-out or an overload answer; None for
        what says nothing about load, such as a cancellation or a mistake of the caller.
        """
        start, crowd, side = token
        lock = self._lock
        lock.acquire()
        try:
            self.in_flight -= 1
            if ok:
                latency = max(now - start, _TINY)
                usual = self._usual or latency
                if latency > _CLIP * usual:
                    latency = _CLIP * usual
                self._usual = usual + (latency - usual) * _MEMORY
                self._lossy -= self._lossy * _LOSS_MEMORY
                if side is not None:
                    side.add(latency, crowd)
            elif ok is False:
                self.lost += 1
                self._lossy += (1.0 - self._lossy) * _LOSS_MEMORY
                if self._lossy > _LOSS_SHARE:
                    self._pace.rest()
                    self._move(self.limit - _LOSS)
            if side is not None:
                side.open -= 1
                if self._stage == _TAIL and not self._low.open and not self._high.open:
                    self._conclude()
            before, after = self._told, self.limit
            if abs(after - before) < 1.0:
                return
            self._told = after
        finally:
            lock.release()
        if self._hub.wants(LimitMoved):
            self._hub.emit(LimitMoved(self._name, before, after))

    # -- the experiment (under the lock)

    def _begin(self) -> None:
        self._low, self._high = Side(), Side()
        self._enter_stage(_FIRST)

    def _enter_stage(self, stage: int) -> None:
        self._stage = stage
        if stage == _SETTLE:
            self._is_high = not self._is_high
        self._enforce()
        self._side = None
        self._left = self.in_force
        if stage in (_FIRST, _SECOND):
            self._side = self._high if self._is_high else self._low
            self._left = max(_SAMPLES, _ROUNDS * self.in_force)
        elif stage == _WORKING:
            self._left = _WORK * self.in_force

    def _next_stage(self) -> None:
        if self._stage == _TAIL:
            self._conclude()
        elif self._stage == _RETURN:
            self._begin()
        else:
            self._enter_stage(self._stage + 1)

    def _enforce(self) -> None:
        options = self._options
        low = round(self.limit * (1 - _SWING))
        high = max(round(self.limit * (1 + (_REACH if self._pace.eager else _SWING))), low + 1)
        wanted = high if self._is_high else low
        if self._stage == _WORKING:
            wanted = math.ceil(self.limit + math.sqrt(self.limit))
        self.in_force = min(max(wanted, options.minimum), options.maximum)
        self._brim = math.floor(self.in_force * _BRIM) + 1

    def _move(self, limit: float) -> None:
        self.limit = min(max(limit, float(self._options.minimum)), float(self._options.maximum))
        self._enforce()

    def _conclude(self) -> None:
        found = measure(self._low, self._high)
        far = False
        if found is not None:
            self.elasticity, doubt = found
            self.experiments += 1
            wish = float(self._options.tolerance) - self.elasticity
            if wish > 0 and self._lossy > _LOSS_SHARE:
                self._pace.rest()
            else:
                by, far = self._pace.move(wish, doubt)
                self._move(self.limit * math.exp(by))
        if far:
            self._begin()
        else:
            self._enter_stage(_WORKING)

    # -- for its owner

    @property
    def options(self) -> AdaptiveLimit:
        """The options in force."""
        return self._options

    def reconfigure(self, options: AdaptiveLimit) -> None:
        """Go on with other options from the present estimate, as far as the new bounds allow."""
        with self._lock:
            self._options = options
            self._pace = Pace(float(options.smoothing))
            self._move(self.limit)

    def state(self) -> dict[str, object]:
        """The estimate, what is in force and the counters."""
        return {
            "limit": round(self.limit, 3),
            "in_force": self.in_force,
            "in_flight": self.in_flight,
            "elasticity": None if math.isnan(self.elasticity) else round(self.elasticity, 4),
            "latency": self._usual or None,
            "admitted": self.admitted,
            "refused": self.refused,
            "lost": self.lost,
            "experiments": self.experiments,
        }

    def __repr__(self) -> str:
        return f"<AdaptivePlaces {self._name!r} {self.in_flight} of {self.in_force} in flight, limit={self.limit:.1f}>"
