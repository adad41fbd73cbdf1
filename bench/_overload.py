"""A simulated dependency under overload: what `AdaptiveLimit` makes of it, on a virtual clock.

The dependency works on ``capacity`` calls at once. ``discipline="fifo"``: what is beyond waits in its queue.
``"shared"``: everybody is worked on at once, each the slower (processor sharing). Callers give up after a
time-out, the dependency does not notice and works on: the worst case. Deterministic for a seed.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tenfold.resilience.adaptive import AdaptiveLimit, AdaptivePlaces
from tenfold.resilience.errors import Overloaded

Draw = Callable[[random.Random], float]
"""A service time in units of the mean."""


def _bimodal(rng: random.Random) -> float:
    return (0.2 if rng.random() < 0.9 else 8.2) * rng.uniform(0.8, 1.2)


SERVICES: dict[str, Draw] = {
    "constant": lambda rng: 1.0,
    "uniform": lambda rng: rng.uniform(0.5, 1.5),
    "exponential": lambda rng: rng.expovariate(1.0),
    "lognormal": lambda rng: rng.lognormvariate(-0.5, 1.0),  # coefficient of variation 1.31
    "pareto": lambda rng: 0.6 * rng.paretovariate(2.5),  # no finite third moment
    "bimodal": _bimodal,  # nine in ten take 0.2, one takes 8.2: coefficient of variation 2.4
}


@dataclass
class Span:
    """What happened in one span of virtual time."""

    offered: int = 0
    refused: int = 0
    lost: int = 0
    busy: float = 0.0  # the time in which calls arrived
    latencies: list[float] = field(default_factory=list)  # of admitted calls; a time-out is infinite
    lowest: float = math.inf
    highest: float = 0.0


class Dependency:
    """``capacity`` places, jobs of a given size; `finish` is when the next one ends."""

    def __init__(self, capacity: int, discipline: str) -> None:
        self.capacity, self.discipline = capacity, discipline
        self.speed = 1.0
        self._queue: deque[tuple[int, float]] = deque()
        self._jobs: list[tuple[float, int]] = []  # (virtual end, who)
        self._virtual = self._clock = 0.0

    def _rate(self) -> float:
        busy = len(self._jobs)
        return self.speed * (min(1.0, self.capacity / busy) if busy else 1.0)

    def advance(self, now: float) -> None:
        self._virtual += (now - self._clock) * self._rate()
        self._clock = now

    def start(self, who: int, size: float) -> None:
        if self.discipline == "fifo" and len(self._jobs) >= self.capacity:
            self._queue.append((who, size))
        else:
            heapq.heappush(self._jobs, (self._virtual + size, who))

    @property
    def next_end(self) -> float:
        if not self._jobs or not self.speed:
            return math.inf
        return self._clock + max(0.0, self._jobs[0][0] - self._virtual) / self._rate()

    def end(self) -> int:
        _, who = heapq.heappop(self._jobs)
        if self._queue:
            self.start(*self._queue.popleft())
        return who


def run(
    seed: int,
    *,
    capacity: int = 20,
    service: str = "exponential",
    discipline: str = "fifo",
    mean: float = 0.010,
    load: Callable[[float], float] = lambda now: 2.0,
    speed: Callable[[float], float] = lambda now: 1.0,
    timeout: float = 50.0,
    spans: tuple[float, ...] = (2000.0, 4000.0),
    bursts: float = 0.0,
    limit: AdaptiveLimit | None = None,
) -> tuple[list[Span], AdaptivePlaces]:
    """Simulate to the last of ``spans`` (their ends). Times in ``spans``, ``timeout``, ``load`` and ``speed`` are in
    units of ``mean``, the mean service time in seconds; ``load`` in units of the capacity.

    ``bursts`` above 0: arrivals come in spells of that mean length (units of ``mean``) at twice the rate, with
    spells of silence as long between them.
    """
    rng = random.Random(seed)
    draw = SERVICES[service]
    places = AdaptivePlaces(limit or AdaptiveLimit())
    server = Dependency(capacity, discipline)
    out = [Span() for _ in spans]
    timers: deque[tuple[float, int]] = deque()
    calls: dict[int, tuple[Any, float, Span]] = {}
    number, at, span = 0, 0, out[0]
    silent, turn = False, rng.expovariate(1 / bursts) if bursts else math.inf
    arrival = 0.0
    while True:
        while timers and timers[0][1] not in calls:
            timers.popleft()
        server.speed = speed(server._clock)
        end, give_up = server.next_end, timers[0][0] if timers else math.inf
        now = min(arrival, end, give_up, turn)
        while now >= spans[at]:
            at += 1
            if at == len(spans):
                return out, places
            span = out[at]
        if not silent:
            span.busy += now - server._clock
        server.advance(now)
        span.lowest, span.highest = min(span.lowest, places.limit), max(span.highest, places.limit)
        if now == end:
            call = calls.pop(server.end(), None)
            if call is not None:
                token, began, its = call
                places.leave(token, now * mean, True)
                its.latencies.append(now - began)
        elif now == give_up:
            token, _, its = calls.pop(timers.popleft()[1])
            places.leave(token, now * mean, False)
            its.lost += 1
            its.latencies.append(math.inf)
        elif now == turn:
            silent, turn = not silent, now + rng.expovariate(1 / bursts)
            arrival = math.inf if silent else now + rng.expovariate(capacity * load(now) * 2)
        else:
            rate = capacity * load(now) * (2 if bursts else 1)
            arrival = now + (rng.expovariate(rate) if rate else 1.0)
            if rate:
                span.offered += 1
                try:
                    token = places.enter(now * mean)
                except Overloaded:
                    span.refused += 1
                else:
                    number += 1
                    calls[number] = (token, now, span)
                    timers.append((now + timeout, number))
                    server.start(number, draw(rng))


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[math.ceil(q * len(values)) - 1] if values else math.nan


def unloaded_p99(service: str, seed: int = 0) -> float:
    """The 99th percentile of the service time alone, in units of its mean."""
    rng = random.Random(seed)
    return quantile([SERVICES[service](rng) for _ in range(50_000)], 0.99)


def simulate(seed: int, **options: Any) -> dict[str, float]:
    """Twice the capacity offered; the second half of the run counts.

    ``goodput_share`` is answers in time over what the capacity allows while calls arrive; ``p99_vs_unloaded`` the
    99th percentile of admitted calls (a time-out counts as infinite) over that of the service time alone.
    """
    capacity = options.get("capacity", 20)
    service = options.get("service", "exponential")
    options.setdefault("spans", (2000.0, 4000.0))
    found, places = run(seed, **options)
    last = found[-1]
    good = sum(1 for latency in last.latencies if math.isfinite(latency))
    return {
        "goodput_share": good / (last.busy * capacity),
        "p99_vs_unloaded": quantile(last.latencies, 0.99) / unloaded_p99(service),
        "limit": places.limit,
        "lowest_limit": last.lowest,
        "highest_limit": last.highest,
        "lost": last.lost,
    }
