"""Random, weighted random, power of two choices, against what theory says of them. Seeds are fixed."""

import math
import random
from collections import Counter
from itertools import pairwise

import pytest

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import P2C, PeakEWMA, Random, WeightedRandom
from tenfold.balance.pick.weighted import alias_table


def members(weights):
    return [Member(Endpoint(f"s{at:04}", "http://x", weight=weight)) for at, weight in enumerate(weights)]


def chi_square(counts, expected):
    return sum((counts[who] - want) ** 2 / want for who, want in expected.items())


def critical(degrees):
    """Of chi squared, at one in a thousand (Wilson and Hilferty 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3


def first_two(pick, draws, seed):
    draw = random.Random(seed).random
    one, two = Counter(), Counter()
    for _ in range(draws):
        walk = pick.order(0.0, draw)
        one[next(walk).id] += 1
        two[next(walk).id] += 1
    return one, two


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_takes_everyone_as_often_first_and_second(seed):
    pick = Random()
    pick.rebuild(members([1, 5, 1, 0.1, 9]))
    expected = {one.id: 2000.0 for one in pick.members}
    for counts in first_two(pick, 10_000, seed):
        assert chi_square(counts, expected) < critical(4)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_weighted_random_honours_weights_first_and_second(seed):
    weights = [1, 5, 1, 0.5, 2.5]
    pick = WeightedRandom()
    pick.rebuild(members(weights))
    shares = [weight / sum(weights) for weight in weights]
    # Second: drawn from the others by their weights, whoever was first.
    seconds = [
        sum(first * share / (1 - first) for other, first in enumerate(shares) if other != at)
        for at, share in enumerate(shares)
    ]
    assert sum(seconds) == pytest.approx(1)
    for counts, expected in zip(first_two(pick, 20_000, seed), (shares, seconds), strict=True):
        wanted = {one.id: 20_000 * share for one, share in zip(pick.members, expected, strict=True)}
        assert chi_square(counts, wanted) < critical(4)


def test_weighted_random_ends_though_one_has_nearly_all_the_weight():
    """The others are found by a race, not by drawing until they come up."""
    pick, draws, chance = WeightedRandom(), 0, random.Random(1)
    pick.rebuild(members([1e9, *[1e-6] * 50]))

    def draw():
        nonlocal draws
        draws += 1
        return chance.random()

    assert len(list(pick.order(0.0, draw))) == 51
    assert draws < 200


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [1, 2, 3, 4], [1e-9, 1, 1e9], [0.1] * 7 + [3]])
def test_an_alias_table_adds_up_to_the_weights(weights):
    height, alias = alias_table(weights)
    share = [0.0] * len(weights)
    for column, (part, other) in enumerate(zip(height, alias, strict=True)):
        assert 0 <= part <= 1 + 1e-9
        share[column] += part / len(weights)
        share[other] += (1 - part) / len(weights)
    assert share == pytest.approx([weight / sum(weights) for weight in weights])


def fullest(pick, bins, seed):
    """The most that one member has after as many requests as there are members, none of which ends."""
    pick.rebuild(members([1] * bins))
    draw = random.Random(seed).random
    for _ in range(bins):
        next(pick.order(0.0, draw)).in_flight += 1
    return max(one.in_flight for one in pick.members)


def expected_fullest(bins, tails):
    """The mean of the maximum, from the shares of members with 1, 2, … or more; their numbers being Poisson."""
    return sum(1 - math.exp(-bins * tail) for tail in tails)


def test_two_choices_have_the_maximum_load_of_theory_and_random_has_its_own():
    bins, seeds = 1000, range(40)
    # At random: Poisson. Two choices: ds_k/dt = s_{k-1}² - s_k² from 0 to 1 (Mitzenmacher 2001, theorem 2).
    poisson = [1 - sum(math.exp(-1) / math.factorial(i) for i in range(k)) for k in range(1, 15)]
    tails, steps = [1.0] + [0.0] * 10, 4000
    for _ in range(steps):
        tails[1:] = [s + (before**2 - s**2) / steps for before, s in pairwise(tails)]
    by_chance = sum(fullest(Random(), bins, seed) for seed in seeds) / len(seeds)
    by_two = sum(fullest(P2C(), bins, seed) for seed in seeds) / len(seeds)
    assert by_chance == pytest.approx(expected_fullest(bins, poisson), rel=0.05)
    assert by_two == pytest.approx(expected_fullest(bins, tails[1:]), rel=0.05)
    assert by_two < 0.65 * by_chance


def test_two_choices_share_by_weight_under_load():
    """What is under way settles in proportion to the weights."""
    weights = [1, 2, 3, 4] * 5
    pick, draw = P2C(), random.Random(5).random
    pick.rebuild(members(weights))
    for _ in range(5000):
        next(pick.order(0.0, draw)).in_flight += 1
    for one in pick.members:
        assert one.in_flight == pytest.approx(5000 * one.weight / sum(weights), rel=0.05)


@pytest.mark.parametrize("make", [P2C, PeakEWMA])
def test_two_choices_draw_every_pair_as_often(make):
    """Among idle equals the one drawn first wins, and nobody is compared with itself."""
    pick = make()
    pick.rebuild(members([1] * 5))
    one, two = first_two(pick, 10_000, 4)
    expected = {member.id: 2000.0 for member in pick.members}
    assert chi_square(one, expected) < critical(4)
    assert chi_square(two, expected) < critical(4)
    pick.members[2].in_flight = 9
    one, _ = first_two(pick, 2000, 4)
    assert one[pick.members[2].id] == 0


def test_two_choices_explain_by_load_for_the_weight():
    pick = P2C()
    pick.rebuild(members([1, 4, 1]))
    pick.members[1].in_flight = 5
    pick.members[2].in_flight = 2
    assert [(reason.id, reason.score) for reason in pick.explain(0.0)] == [
        ("s0000", 1.0),
        ("s0001", 1.5),
        ("s0002", 3.0),
    ]
    assert "5 in flight at weight 4" in pick.explain(0.0)[1].because
