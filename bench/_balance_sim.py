"""The simulator against the clock and against the books, for `bench.balance`.

Each ``theory_*`` entry has what was ``measured`` with tenfold's own picks, what was ``expected`` and by which formula,
and the ``relative_error``. All seeds are fixed, so that only ``simulate_*`` depends on the machine.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import P2C, Maglev, Pick, Random, Request, RingHash, WeightedRandom, WeightedRoundRobin
from tenfold.simulate import PolicyResult, from_dict, simulate
from tenfold.simulate import theory as books

Entry = dict[str, Any]


def measure(quick: bool) -> dict[str, Any]:
    """All numbers; ``quick`` takes a tenth of the requests and of the trials."""
    found: dict[str, Any] = {}
    requests = 100_000 if quick else 1_000_000
    began, worked = time.perf_counter(), time.process_time()
    big = _run("p2c", servers=1000, load=0.9, requests=requests, warmup=20 if quick else 100)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    found["simulate_seconds_1000x1e6" if not quick else "simulate_seconds_1000x1e5"] = round(seconds, 2)
    found["simulate_cpu_us_per_request"] = round(worked / requests * 1e6, 2)
    found["simulate_peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    found["theory_p2c_time_in_system"] = _entry(
        (big.latency.mean or 0.0), books.two_choices_time(0.9), "sum of 0.9^(2^i - 2), n -> infinity (Mitzenmacher)"
    )
    found |= _waits(quick)
    found |= _bins(quick)
    found |= _disruption(quick)
    found |= _fairness(quick)
    return found


def _run(pick: str, *, servers: int = 1, workers: int = 1, load: float, requests: int, warmup: float = 500.0,
         service: Entry | None = None) -> PolicyResult:  # fmt: skip
    """Work of one second on average, so that all times are in service times."""
    scenario = from_dict(
        {
            "seed": 5,
            "requests": requests,
            "warmup": warmup,
            "policies": [pick],
            "arrivals": {"kind": "poisson", "rate": load * servers * workers},
            "service": service or {"kind": "exponential", "mean": 1},
            "servers": [{"count": servers, "workers": workers, "queue": 1_000_000}],
            "clients": {"timeout": 1_000_000, "attempts": 1},
        }
    )
    return simulate(scenario).policies[0]


def _waits(quick: bool) -> dict[str, Entry]:
    requests = 200_000 if quick else 400_000
    one = _run("round_robin", load=0.7, requests=requests)
    eight = _run("round_robin", workers=8, load=0.8, requests=requests)
    fixed = _run("round_robin", load=0.7, requests=requests, service={"kind": "deterministic", "mean": 1})
    skewed = {"kind": "lognormal", "mean": 1, "cv": 1.5}
    varied = _run("round_robin", load=0.5, requests=requests, service=skewed)
    return {
        "theory_mm1_wait": _entry(one.mean_wait, books.mmk_wait(0.7, 1), "M/M/1, load 0.7"),
        "theory_mm8_wait": _entry(eight.mean_wait, books.mmk_wait(6.4, 1, 8), "M/M/8, load 0.8, Erlang C"),
        "theory_md1_wait": _entry(fixed.mean_wait, books.mg1_wait(0.7, 1, 0), "M/D/1, load 0.7, Pollaczek-Khinchine"),
        "theory_mg1_wait": _entry(
            varied.mean_wait, books.mg1_wait(0.5, 1, 1.5), "M/G/1 log-normal cv 1.5, load 0.5, Pollaczek-Khinchine"
        ),
    }


def _bins(quick: bool) -> dict[str, Entry]:
    """Balls into bins: n requests that never end, to n servers."""
    found = {}
    for n, trials in ((100, 200), (1000, 20)) if quick else ((100, 1000), (1000, 100), (10_000, 10)):
        found[f"theory_max_load_random_{n}"] = _entry(
            _fullest(Random, n, trials), books.random_max_load(n), "exact for finite n"
        ) | {"growth_term": round(books.random_growth(n), 3)}
        found[f"theory_max_load_p2c_{n}"] = _entry(
            _fullest(P2C, n, trials), books.two_choices_max_load(n), "fluid limit, Poisson layers"
        ) | {"growth_term": round(books.two_choices_growth(n), 3)}
    return found


def _fullest(kind: Callable[[], Pick], n: int, trials: int) -> float:
    draw, total = random.Random(7).random, 0
    for _ in range(trials):
        pick, members = _filled(kind, n)
        for _ in range(n):
            member = next(pick.order(0.0, draw))
            member.in_flight += 1
            pick.started(member, 0.0)
        total += max(member.in_flight for member in members)
    return total / trials


def _disruption(quick: bool) -> dict[str, Entry]:
    """The share of keys that another server gets when one leaves, each leaving once.

    The leaver's own keys are 1/n on average; ``beyond`` is how many of the others' moved, as a share of all keys. A
    ring moves none. Maglev moves some, the more the fewer slots each server has of its table (65,537): for many
    servers that is more than 1/n, by its construction.
    """
    keys = 2_000 if quick else 10_000
    found = {}
    for name, kind, n in (("ring", RingHash, 50), ("maglev", Maglev, 10), ("maglev", Maglev, 50)):
        pick, members = _filled(kind, n)
        asked = [Request(key=f"key-{k}") for k in range(keys)]
        before = _firsts(pick, asked)
        moved = own = 0
        for gone in members:
            pick.rebuild([member for member in members if member is not gone])
            moved += sum(a is not b for a, b in zip(before, _firsts(pick, asked), strict=True))
            own += sum(member is gone for member in before)
        entry = _entry(moved / (keys * n), 1 / n, f"1/n, each of {n} leaving once")
        label = f"theory_{name}_disruption_{n}" if name == "ring" or n == 10 else f"{name}_disruption_{n}"
        found[label] = entry | {"beyond": round((moved - own) / (keys * n), 5)}
    return found


def _fairness(quick: bool) -> dict[str, Entry]:
    """Counts against weights: chance by chi-square, turns exactly."""
    weights = [float(1 + number % 5) for number in range(20)]
    picks = 30_000 if quick else 300_000
    found = {}
    for name, kind in (("weighted_random", WeightedRandom), ("weighted_round_robin", WeightedRoundRobin)):
        pick, members = _filled(kind, len(weights), weights)
        draw = random.Random(11).random
        counts = dict.fromkeys((member.id for member in members), 0)
        for _ in range(picks):
            counts[next(pick.order(0.0, draw)).id] += 1
        seen = list(counts.values())
        statistic, chance = books.chi_square(seen, weights)
        worst = max(abs(s * sum(weights) / (w * picks) - 1) for s, w in zip(seen, weights, strict=True))
        found[f"theory_fairness_{name}"] = {
            "measured": round(statistic, 3),
            "expected": f"chi-square with {len(weights) - 1} degrees of freedom",
            "p_value": round(chance, 4),
            "relative_error": round(worst, 5),
            "by": "largest deviation of a share from its weight",
        }
    return found


def _firsts(pick: Pick, asked: Sequence[Request]) -> list[Member]:
    draw = random.Random(0).random
    return [next(pick.order(0.0, draw, request)) for request in asked]


def _filled(kind: Callable[[], Pick], n: int, weights: Sequence[float] | None = None) -> tuple[Pick, list[Member]]:
    pick = kind()
    members = [
        Member(Endpoint(f"s{number:05}", "http://s.invalid", weight=weights[number] if weights else 1.0))
        for number in range(n)
    ]
    pick.rebuild(members)
    return pick, members


def _entry(measured: float, expected: float, by: str) -> Entry:
    return {
        "measured": round(measured, 5),
        "expected": round(expected, 5),
        "relative_error": round(measured / expected - 1, 5),
        "by": by,
    }


if __name__ == "__main__":
    import sys

    print(json.dumps(measure("--quick" in sys.argv), indent=1))
