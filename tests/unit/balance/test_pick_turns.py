"""Round robin and its smooth weighted form."""

import itertools
import random

import pytest

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import RoundRobin, WeightedRoundRobin


def members(**weights):
    return [Member(Endpoint(name, f"http://{name}:80", weight=weight)) for name, weight in weights.items()]


def firsts(pick, count, draw=lambda: 0.0):
    return "".join(next(pick.order(0.0, draw)).id for _ in range(count))


@pytest.mark.parametrize(("draw", "expected"), [(0.0, "abcabc"), (0.4, "bcabca"), (0.999, "cabcab")])
def test_turns_begin_where_chance_says(draw, expected):
    pick = RoundRobin()
    pick.rebuild(members(a=1, b=5, c=1))
    assert pick.explain(0.0)[0].because == "none had a turn yet: the first is drawn"
    assert firsts(pick, 6, lambda: draw) == expected


def test_turns_go_on_where_they_were_when_the_set_changes():
    pick = RoundRobin()
    pick.rebuild(members(a=1, b=1, c=1, d=1))
    assert firsts(pick, 2) == "ab"
    pick.rebuild(members(a=1, c=1, d=1))  # the one served last has gone
    assert firsts(pick, 1) == "c"
    pick.rebuild(members(a=1, b=1, c=1, cc=1, d=1))
    assert [reason.id for reason in pick.explain(0.0)] == ["cc", "d", "a", "b", "c"]
    assert firsts(pick, 4) == "ccdab"


def test_the_neighbour_of_a_dead_one_does_not_get_twice_as_much():
    """A member taken because the one before it failed has had its turn."""
    pick = RoundRobin()
    pick.rebuild(members(a=1, b=1, c=1, d=1))
    had = [next(one.id for one in pick.order(0.0, lambda: 0.0) if one.id != "b") for _ in range(300)]
    assert {name: had.count(name) for name in "acd"} == {"a": 100, "c": 100, "d": 100}


def test_asking_for_an_order_takes_nothing():
    for pick in (RoundRobin(), WeightedRoundRobin()):
        pick.rebuild(members(a=1, b=1))
        for _ in range(5):
            pick.order(0.0, lambda: 0.0)
            pick.explain(0.0)
        assert firsts(pick, 2) == "ab"


def test_five_one_one_is_as_smooth_as_in_nginx():
    pick = WeightedRoundRobin()
    pick.rebuild(members(a=5, b=1, c=1))
    assert firsts(pick, 14) == "abaacaa" * 2


def test_one_heavy_member_is_spread_between_a_thousand_light_ones():
    """Half the weight is one member's: it never comes twice in a row, nor do the others."""
    pick = WeightedRoundRobin()
    pick.rebuild(members(heavy=1000, **{f"light{number}": 1 for number in range(1000)}))
    had = [next(pick.order(0.0, lambda: 0.0)).id == "heavy" for _ in range(4000)]
    assert sum(had) == 2000
    assert max(len(list(run)) for _, run in itertools.groupby(had)) <= 2


def test_fractions_are_honoured_and_equals_take_turns():
    pick = WeightedRoundRobin()
    pick.rebuild(members(a=0.3, b=0.3, c=0.6))
    had = firsts(pick, 400)
    assert [had.count(name) for name in "abc"] == [100, 100, 200]
    pick.rebuild(members(a=0.1, b=0.1, c=0.1))
    had = firsts(pick, 300)
    assert {"".join(sorted(had[at : at + 3])) for at in range(0, 300, 3)} == {"abc"}


def test_a_change_of_weight_keeps_the_turns_waited_for():
    """However often the set is rebuilt, nobody is served anew from the start."""
    pick = WeightedRoundRobin()
    had = ""
    for _ in range(700):
        pick.rebuild(members(a=5, b=1, c=1))
        had += firsts(pick, 1)
    assert [had.count(name) for name in "abc"] == pytest.approx([500, 100, 100], abs=2)


def test_a_newcomer_gets_its_share_and_no_more():
    pick = WeightedRoundRobin()
    pick.rebuild(members(a=1, b=1))
    firsts(pick, 1001)
    pick.rebuild(members(a=1, b=1, c=2))
    had = firsts(pick, 400)
    assert [had.count(name) for name in "abc"] == pytest.approx([100, 100, 200], abs=1)


def test_weighted_turns_taken_for_a_dead_one_are_shared_by_weight():
    pick = WeightedRoundRobin()
    pick.rebuild(members(a=2, b=4, c=1, d=3))
    had = [next(one.id for one in pick.order(0.0, random.random) if one.id != "b") for _ in range(3000)]
    assert [had.count(name) for name in "acd"] == pytest.approx([1000, 500, 1500], rel=0.12)


def test_an_explanation_says_who_is_next_and_why():
    pick = WeightedRoundRobin()
    pick.rebuild(members(a=5, b=1, c=1))
    for _ in range(20):
        reasons = pick.explain(0.0)
        assert "due within" in reasons[0].because
        assert reasons[0].id == firsts(pick, 1)
