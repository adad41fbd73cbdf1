"""Adaptive concurrency: as many requests at once for a pool as its endpoints answer without queueing.

Theory. How many that is, `resilience.AdaptivePlaces` finds out by an experiment that runs all the time, without ever
draining the pool to see an unloaded latency. Routes to one pool with the same options share one estimate, because what
it is about is the pool; each process has its own. A place is held from the first try until the head of the final
answer: how long the client takes to read the rest is no load of the endpoint's, and a WebSocket holds none.

Who is turned away when the places are used up is a question of priority. Refusing whoever comes last would refuse
most of those who come most often, important or not. Circuit networks answer it by *trunk reservation* (P. Key, "Optimal
control and trunk reservation in loss networks", 1990): calls of the lower class are taken only while more than r lines
are free. Here r is not a setting. When a request finds no place, the room that is kept free for its priority grows by
`_STEP` of the limit, once in a round trip, because what was kept takes so long to have its effect; and what is kept
decays with the time constant `_FADE`. So without important requests the
others may use every place; with them, they give way by as much as it takes for hardly any important one to be refused,
the least important first, and a burst is forgotten.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.engine import problem
from tenfold.gateway.engine.problem import Fault
from tenfold.resilience.adaptive import AdaptiveLimit, AdaptivePlaces, Token
from tenfold.resilience.errors import Overloaded

if TYPE_CHECKING:
    from tenfold.gateway.engine.sending import Sending

_STEP: Final = 0.05
_FADE: Final = 5.0
_UNKNOWN: Final = 0.1
"""Seconds that a round trip is taken for before there was one."""
_MOST: Final = 0.9
"""The share of the places that is kept free at most: who matters least is not locked out for good."""
_OVERLOAD: Final = (429, 503, 504)
_LOST: Final = frozenset({"first_byte_timeout", "deadline", "connect_timeout", "upstream_stalled"})

Place = tuple["PoolPlaces", Token]


class PoolPlaces:
    """The places of one pool. ``names`` are the priorities, the most important first."""

    __slots__ = ("_again", "_kept", "_names", "_since", "places", "pool", "refused")

    def __init__(self, pool: str, options: AdaptiveLimit, names: tuple[str, ...]) -> None:
        self.pool = pool
        self.places = AdaptivePlaces(options, name=f"gateway.{pool}")
        self._names = names
        self._kept = [0.0] * len(names)
        """The share of the places that each priority has free of those below it."""
        self._since = 0.0
        self._again = [0.0] * len(names)
        """When that share may grow again."""
        self.refused = [0] * len(names)

    def enter(self, now: float, priority: int) -> Token | Fault:
        """A place for a request of that priority, 0 being the most important; or why there is none."""
        places = self.places
        reserved = self._reserved(now, priority) if priority else 0.0
        if reserved and places.in_flight < places.in_force <= places.in_flight + round(reserved * places.in_force):
            wait = self._refuse(priority, now)
            detail = f"{places.in_flight} of {places.in_force} places are taken, and the rest is kept for others"
            return problem.fault("concurrency_priority", detail, retry_after=wait, value=self._names[priority])
        try:
            return places.enter(now)
        except Overloaded:
            wait = self._refuse(priority, now)
            detail = f"{places.in_flight} requests are under way in the pool, as many as it answers without queueing"
            return problem.fault("concurrency", detail, retry_after=wait, value=places.in_force)

    def _refuse(self, priority: int, now: float) -> float:
        """Keep more free of those below; the usual round trip, after which it may be worth to come again."""
        self.refused[priority] += 1
        usual: Any = self.places.state()["latency"]
        self._fade(now)
        if now >= self._again[priority]:
            self._again[priority] = now + (usual or _UNKNOWN)
            self._kept[priority] = min(_MOST, self._kept[priority] + _STEP)
        return float(usual or 1.0)

    def _reserved(self, now: float, priority: int) -> float:
        """The share of the places that is not for that priority."""
        self._fade(now)
        return min(_MOST, sum(self._kept[:priority]))

    def _fade(self, now: float) -> None:
        passed, self._since = now - self._since, now
        if passed > 0.0 and any(self._kept):
            by = math.exp(-passed / _FADE)
            self._kept = [each * by if each > 0.01 else 0.0 for each in self._kept]

    def state(self) -> dict[str, object]:
        """The limit's numbers, and per priority who was refused and how much is kept free of those below."""
        return {
            **self.places.state(),
            "refused_by_priority": dict(zip(self._names, self.refused, strict=True)),
            "kept": {name: round(each, 3) for name, each in zip(self._names, self._kept, strict=True)},
        }


class Concurrency:
    """The adaptive limits of a configuration: one for each pool and set of options."""

    __slots__ = ("_before", "_names", "of")

    def __init__(self, names: tuple[str, ...], before: Concurrency | None) -> None:
        self._names = names
        self._before = {} if before is None else dict(before.of)
        self.of: dict[tuple[str, AdaptiveLimit], PoolPlaces] = {}

    def places(self, pool: str, options: AdaptiveLimit) -> PoolPlaces:
        """The places of that pool; the estimate of an earlier configuration goes on, within new bounds."""
        key = (pool, options)
        found = self.of.get(key)
        if found is None:
            found = self._before.pop(key, None)
            if found is None:
                old = next((each for each in self._before if each[0] == pool), None)
                if old is not None:
                    found = self._before.pop(old)
                    found.places.reconfigure(options)
            if found is None:
                found = PoolPlaces(pool, options, self._names)
            self.of[key] = found
        return found


def enter(places: PoolPlaces, exchange: Sending) -> bool:
    """Take a place for the exchange; False: there was none, and it is answered."""
    found = places.enter(exchange.site.clock(), exchange.route.priority)
    if isinstance(found, Fault):
        exchange.site.counters.shed += 1
        exchange.give_up(found)
        return False
    exchange.place = (places, found)
    return True


def answered(exchange: Sending, status: int) -> None:
    """The head of the final answer is here: give the place back, with what it says of the load."""
    place, exchange.place = exchange.place, None
    if place is not None:
        ok = False if status in _OVERLOAD else True if status < 500 and exchange.attempt <= 1 else None
        place[0].places.leave(place[1], exchange.site.clock(), ok)


def ended(place: Place, fault: str, now: float) -> None:
    """It ended without such a head: for want of time, which is a loss, or for a reason that says nothing of load."""
    place[0].places.leave(place[1], now, False if fault in _LOST else None)
