"""The simulator and tenfold's own picks against published results. Seeds are fixed; the tolerance is 5 % throughout,
two to four standard errors at these lengths.
"""

from __future__ import annotations

import math
from itertools import product
from random import Random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance import pick as picks
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import Request
from tenfold.simulate import from_dict, simulate, theory

WITHIN = 0.05


def waits(load, *, workers=1, requests=150_000, service=None, servers=1, policy="round_robin", warmup=200):
    table = {
        "seed": 5,
        "requests": requests,
        "warmup": warmup,
        "policies": [policy],
        "arrivals": {"kind": "poisson", "rate": load * workers * servers},
        "service": service or {"kind": "exponential", "mean": 1},
        "servers": [{"count": servers, "workers": workers, "queue": 1_000_000}],
        "clients": {"timeout": 1_000_000, "attempts": 1},
    }
    return simulate(from_dict(table)).policies[0]


@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (1, 0.7), (2, 0.7), (8, 0.7)])
def test_waiting_times_are_those_of_erlang(workers, load):
    found = waits(load, workers=workers)
    assert found.mean_wait == pytest.approx(theory.mmk_wait(load * workers, 1, workers), rel=WITHIN)
    assert found.servers[0].utilisation == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize(
    ("service", "cv"),
    [
        ({"kind": "deterministic", "mean": 1}, 0.0),
        ({"kind": "lognormal", "mean": 1, "cv": 1.3}, 1.3),
        ({"kind": "bimodal", "fast": 0.5, "slow": 5.5, "slow_share": "10%"}, 1.5),
    ],
)
def test_waiting_times_are_those_of_pollaczek_and_khinchine(service, cv):
    assert waits(0.5, service=service).mean_wait == pytest.approx(theory.mg1_wait(0.5, 1, cv), rel=WITHIN)


def test_two_choices_over_time_are_those_of_mitzenmacher_and_one_choice_is_not():
    two = waits(0.9, servers=200, requests=150_000, policy="p2c", warmup=100)
    assert two.latency.mean == pytest.approx(theory.two_choices_time(0.9), rel=WITHIN)
    one = waits(0.7, servers=200, requests=150_000, policy="random", warmup=100)
    assert one.latency.mean == pytest.approx(theory.two_choices_time(0.7, 1), rel=WITHIN)


def fullest(kind, n, trials):
    draw, total = Random(7).random, 0
    for _ in range(trials):
        pick, members = kind(), [Member(Endpoint(f"s{number:05}", "http://s.invalid")) for number in range(n)]
        pick.rebuild(members)
        for _ in range(n):
            member = next(pick.order(0.0, draw))
            member.in_flight += 1
            pick.started(member, 0.0)
        total += max(member.in_flight for member in members)
    return total / trials


@pytest.mark.parametrize(("n", "trials"), [(100, 200), (1000, 30)])
def test_the_fullest_of_n_servers_is_as_the_theory_of_balls_into_bins_has_it(n, trials):
    one, two = fullest(picks.Random, n, trials), fullest(picks.P2C, n, trials)
    assert one == pytest.approx(theory.random_max_load(n), rel=WITHIN)
    assert two == pytest.approx(theory.two_choices_max_load(n), rel=WITHIN)


def test_the_growth_terms_grow_as_the_expectations_do():
    """What ln n / ln ln n and ln ln n / ln 2 say is how the expectation *grows*: a constant lies between."""
    sizes = (100, 1000, 10_000)
    random = [theory.random_max_load(n) - theory.random_growth(n) for n in sizes]
    chosen = [theory.two_choices_max_load(n) - theory.two_choices_growth(n) for n in sizes]
    assert all(0 <= gap < 3 for gap in random)
    assert all(-0.5 < gap < 1 for gap in chosen)
    # From a hundred servers to ten thousand: two and a half more with one choice, half a request more with two.
    assert theory.random_max_load(10_000) - theory.random_max_load(100) > 2
    assert theory.two_choices_max_load(10_000) - theory.two_choices_max_load(100) < 0.6


@pytest.mark.parametrize(("kind", "n"), [(picks.RingHash, 20), (picks.Maglev, 10)])
def test_one_leaves_and_one_in_n_keys_moves(kind, n):
    pick, members = kind(), [Member(Endpoint(f"s{number:02}", "http://s.invalid")) for number in range(n)]
    asked = [Request(key=f"key-{number}") for number in range(3000)]

    def firsts(present):
        pick.rebuild(present)
        return [next(pick.order(0.0, Random(0).random, request)) for request in asked]

    before = firsts(members)
    moved = 0
    for gone in members:
        after = firsts([member for member in members if member is not gone])
        moved += sum(a is not b for a, b in zip(before, after, strict=True))
    assert moved / (len(asked) * n) == pytest.approx(1 / n, rel=WITHIN)


def test_weighted_chance_is_fair_by_chi_square():
    weights = [float(1 + number % 5) for number in range(20)]
    members = [Member(Endpoint(f"s{n:02}", "http://s.invalid", weight=weight)) for n, weight in enumerate(weights)]
    pick, draw = picks.WeightedRandom(), Random(11).random
    pick.rebuild(members)
    counts = dict.fromkeys((member.id for member in members), 0)
    for _ in range(100_000):
        counts[next(pick.order(0.0, draw)).id] += 1
    assert theory.chi_square(list(counts.values()), weights)[1] > 0.01
    assert theory.chi_square(list(counts.values()), weights[::-1])[1] < 1e-6  # and it would see what is unfair


# -- the formulas themselves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_the_exact_fullest_bin_is_that_of_counting_all_throws(n):
    throws = list(product(range(n), repeat=n))
    mean = sum(max(throw.count(bin) for bin in range(n)) for throw in throws) / len(throws)
    assert theory.random_max_load(n) == pytest.approx(mean, rel=1e-9)


def test_formulas_agree_where_they_meet():
    assert theory.erlang_c(1, 0.3) == pytest.approx(0.3)
    assert theory.erlang_c(2, 1.0) == pytest.approx(1 / 3)  # worked by hand
    assert theory.mmk_wait(0.8, 1.0) == pytest.approx(4.0)
    assert theory.mg1_wait(0.8, 1.0, 1.0) == pytest.approx(theory.mmk_wait(0.8, 1.0))
    assert theory.two_choices_time(0.5, 1) == pytest.approx(1 + theory.mmk_wait(0.5, 1.0))
    assert theory.two_choices_time(0.9) == pytest.approx(1 + 0.9**2 + 0.9**6 + 0.9**14 + 0.9**30 + 0.9**62, rel=1e-5)
    statistic, chance = theory.chi_square([60, 40, 50], [1.0, 1.0, 1.0])
    assert statistic == pytest.approx(4.0)
    assert chance == pytest.approx(math.exp(-2.0), rel=0.02)  # two degrees of freedom have a closed form


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.erlang_c(2, 2.0),
        lambda: theory.mg1_wait(1.0, 1.0, 1.0),
        lambda: theory.two_choices_time(1.0),
        lambda: theory.random_max_load(3, 4),
    ],
)
def test_formulas_refuse_what_has_no_answer(call):
    with pytest.raises(MisuseError, match="expected"):
        call()
