"""What a pick costs at 10 endpoints and at 1000, in microseconds.

``pick_us`` is ``next(pick.order(...))``, less the loop around it. ``pick_turn_us`` is a whole turn as a balancer has
it: the order, its first member, `started`, and `finished` of the request that has been under way for longest, so that
loads are uneven and no heap stands still; less the loop, the counting and two empty calls. ``pick_growth`` is the worse
of both at 1000 over 10. Policies and sizes take turns, round after round, and the minimum over the rounds counts.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from bench._timing import minima, no_collector
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import (
    ANY,
    P2C,
    Aperture,
    Draw,
    IPHash,
    LeastRequest,
    Maglev,
    PeakEWMA,
    Pick,
    Priority,
    Random,
    Reason,
    Rendezvous,
    Request,
    RingHash,
    RoundRobin,
    Sticky,
    WeightedRandom,
    WeightedRoundRobin,
    ZoneAware,
)

SIZES = (10, 1000)
ZONES = 3
UNDER_WAY = 64
REQUESTS = 1024
SECRET = "a secret for the bench, not for use"
Timer = Callable[[int], float]


class _Nothing(Pick):
    """The same member over and over: what is left of a turn without a policy."""

    name = "nothing"

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        return iter(self.members)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return []


def policies() -> dict[str, Callable[[], Pick]]:
    """Every policy, and some in the forms that cost more."""
    return {
        "round_robin": RoundRobin,
        "weighted_round_robin": WeightedRoundRobin,
        "random": Random,
        "weighted_random": WeightedRandom,
        "least_request": LeastRequest,
        "p2c": P2C,
        "peak_ewma": PeakEWMA,
        "ring_hash": RingHash,
        "ring_hash_bounded": lambda: RingHash(bound=1.25),
        "maglev": Maglev,
        "maglev_bounded": lambda: Maglev(bound=1.25),
        "rendezvous": Rendezvous,
        "ip_hash": IPHash,
        "sticky": lambda: Sticky(secret=SECRET),
        "zone_aware": lambda: ZoneAware(zone="z0"),
        "priority": Priority,
        "aperture": lambda: Aperture(index=3, clients=10),
    }


def measure(quick: bool) -> dict[str, Any]:
    """``pick_us_10``, ``pick_us_1000``, ``pick_growth``, ``pick_turn_us_*`` and ``pick_rebuild_ms_*`` by policy."""
    rounds, seconds = (15, 0.0015) if quick else (60, 0.003)
    timers: dict[str, Timer] = {}
    rebuilds: dict[int, dict[str, float]] = {size: {} for size in SIZES}
    for size in SIZES:
        for name, make in policies().items():
            pick, members, requests = make(), _members(size), _requests(size)
            rebuilds[size][name] = min(_rebuilt(make(), members) for _ in range(3 if quick else 7))
            pick.rebuild(members)
            _verify(pick, members, requests)
            timers[f"{name} {size}"] = _turns(pick, members, requests)
            timers[f"{name} {size} order"] = _orders(pick, requests)
        nothing = _Nothing()
        nothing.rebuild(_members(size))
        timers[f"nothing {size}"] = _turns(nothing, nothing.members, _requests(size))
        timers[f"nothing {size} order"] = _loop(_requests(size))
    best = minima(timers, rounds, seconds, 1e6)
    # `nothing` hands out an iterator that C makes: what that costs is not taken off, it stands for the generator.
    order = {s: {n: best[f"{n} {s} order"] - best[f"nothing {s} order"] for n in policies()} for s in SIZES}
    turn = {s: {n: best[f"{n} {s}"] - best[f"nothing {s}"] for n in policies()} for s in SIZES}
    small, large = SIZES
    return {
        f"pick_us_{small}": order[small],
        f"pick_us_{large}": order[large],
        "pick_growth": {
            name: max(order[large][name] / order[small][name], turn[large][name] / turn[small][name])
            for name in policies()
        },
        f"pick_turn_us_{small}": turn[small],
        f"pick_turn_us_{large}": turn[large],
        f"pick_rebuild_ms_{small}": rebuilds[small],
        f"pick_rebuild_ms_{large}": rebuilds[large],
        "pick_rounds": rounds,
    }


def _members(size: int) -> list[Member]:
    return [
        Member(
            Endpoint(
                f"server-{number:04}",
                f"http://10.0.{number >> 8}.{number & 255}:8000",
                weight=1 + number % 5,
                zone=f"z{number % ZONES}",
                priority=number % 2,
            )
        )
        for number in range(size)
    ]


def _requests(size: int) -> list[Request]:
    """Many keys and callers, and good cookies for all of them."""
    signs = Sticky(secret=SECRET)
    return [
        Request(
            key=f"user-{number}",
            client=f"192.0.{number >> 8}.{number & 255}",
            cookie=signs.cookie(f"server-{number % size:04}"),
        )
        for number in range(REQUESTS)
    ]


def _rebuilt(pick: Pick, members: list[Member]) -> float:
    """Milliseconds until a fresh pick is ready."""
    with no_collector():
        began = time.perf_counter()
        pick.rebuild(members)
        return (time.perf_counter() - began) * 1e3


def _turns(pick: Pick, members: Any, requests: list[Request]) -> Timer:
    draw, under_way, now, place = random.Random(7).random, deque[Member](), 1000.0, 0

    def turns(count: int) -> float:
        nonlocal now, place
        began = time.perf_counter()
        for _ in repeat(None, count):
            place = (place + 1) & (REQUESTS - 1)
            now += 0.0001
            member = next(pick.order(now, draw, requests[place]))
            member.in_flight += 1
            pick.started(member, now)
            under_way.append(member)
            if len(under_way) > UNDER_WAY:
                member = under_way.popleft()
                member.in_flight -= 1
                pick.finished(member, now, 0.0064, True)
        return (time.perf_counter() - began) / count * 1e6

    return turns


def _orders(pick: Pick, requests: list[Request]) -> Timer:
    draw = random.Random(7).random

    def orders(count: int) -> float:
        turns, rest = divmod(count, REQUESTS)
        began = time.perf_counter()
        for _ in repeat(None, turns):
            for request in requests:
                next(pick.order(2000.0, draw, request))
        for request in requests[:rest]:
            next(pick.order(2000.0, draw, request))
        return (time.perf_counter() - began) / count * 1e6

    return orders


def _loop(requests: list[Request]) -> Timer:
    def loop(count: int) -> float:
        turns, rest = divmod(count, REQUESTS)
        began = time.perf_counter()
        for _ in repeat(None, turns):
            for _request in requests:
                pass
        for _request in requests[:rest]:
            pass
        return (time.perf_counter() - began) / count * 1e6

    return loop


def _verify(pick: Pick, members: list[Member], requests: list[Request]) -> None:
    """What is timed does its work: all members, each once, and not always the same one first."""
    draw = random.Random(3).random
    if sorted(member.id for member in pick.order(0.0, draw, requests[0])) != [member.id for member in members]:
        raise RuntimeError(f"{pick.name}: the order was to hold every member once")
    # Idle members of one weight may share all that a policy by load gives out while nothing is under way.
    if len({next(pick.order(0.0, draw, request)).id for request in requests}) < 2 and pick.name != "least_request":
        raise RuntimeError(f"{pick.name}: {REQUESTS} requests all went to one member")
