"""Zones, priorities and apertures."""

import random
from collections import Counter

import pytest

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import Aperture, LeastRequest, Priority, Request, RoundRobin, ZoneAware


def members(spec):
    """``{"a": 2, "b": 3}``: so many in these zones; with whole numbers as keys, of these priorities."""
    found = []
    for group, count in spec.items():
        where = {"zone": group} if isinstance(group, str) else {"priority": group}
        found += [Member(Endpoint(f"{group}{number}", "http://x", **where)) for number in range(count)]
    return found


def shares(pick, request, by, picks=4000, seed=1):
    draw = random.Random(seed).random
    had = Counter(by(next(pick.order(0.0, draw, request))) for _ in range(picks))
    return {group: count / picks for group, count in sorted(had.items())}


def zone(member):
    return member.zone


def priority(member):
    return member.priority


# Zones


def test_a_zone_keeps_what_it_can_carry():
    pick = ZoneAware(zone="a")
    pick.rebuild(members({"a": 3, "b": 3, "c": 3}))
    assert shares(pick, Request(), zone) == {"a": 1.0}
    assert shares(pick, Request(zone="b"), zone) == {"b": 1.0}


def test_a_zone_that_is_too_small_spills_in_proportion_to_what_others_can_spare():
    """Capacity 1/10, 3/10, 6/10 and a third of the clients each: a keeps 0.3; b has nothing to spare, c has."""
    pick = ZoneAware(zone="a")
    pick.rebuild(members({"a": 1, "b": 3, "c": 6}))
    assert shares(pick, Request(), zone) == {"a": pytest.approx(0.3, abs=0.03), "c": pytest.approx(0.7, abs=0.03)}
    pick = ZoneAware(zone="a", clients={"a": 4, "b": 1, "c": 1})
    pick.rebuild(members({"a": 1, "b": 1, "c": 2}))
    # a: 1/4 of 2/3 stays, which is 3/8; b can spare 1/4 - 1/6, c 1/2 - 1/6: one part and four.
    got = shares(pick, Request(), zone)
    assert got == {zone: pytest.approx(share, abs=0.03) for zone, share in {"a": 3 / 8, "b": 1 / 8, "c": 1 / 2}.items()}


def test_clients_of_a_zone_whose_members_are_all_away_go_where_there_is_room():
    """They are still there: the others' spare part is measured against their own clients."""
    everyone = members({"a": 2, "b": 2, "c": 2})
    pick = ZoneAware(zone="c")
    pick.declare(everyone)
    pick.rebuild([one for one in everyone if one.zone != "c"])
    assert shares(pick, Request(), zone) == {"a": pytest.approx(0.5, abs=0.03), "b": pytest.approx(0.5, abs=0.03)}
    assert shares(pick, Request(zone="a"), zone) == {"a": 1.0}
    assert shares(pick, Request(zone="elsewhere"), zone).keys() == {"a", "b"}


def test_a_zone_nobody_has_heard_of_is_not_the_one_without_a_name():
    pick = ZoneAware(zone="a")
    pick.rebuild(members({"": 2, "a": 2}))
    assert shares(pick, Request(zone="elsewhere"), zone) == {
        "": pytest.approx(0.5, abs=0.03),
        "a": pytest.approx(0.5, abs=0.03),
    }


def test_slow_start_in_a_zone_makes_it_smaller():
    pick, fleet = ZoneAware(zone="a"), members({"a": 2, "b": 2})
    for one in fleet[:2]:
        one.weight = 0.5
    pick.rebuild(fleet)
    assert shares(pick, Request(), zone)["a"] == pytest.approx((1 / 3) / (1 / 2), abs=0.03)


def test_home_first_then_the_others_when_one_fails():
    pick = ZoneAware(RoundRobin(), zone="b")
    pick.rebuild(members({"a": 1, "b": 2, "c": 3}))
    for _ in range(20):
        order = [one.zone for one in pick.order(0.0, random.Random(1).random)]
        assert order in (["b", "b", "c", "c", "c", "a"], ["b", "b", "a", "c", "c", "c"])
    assert [reason.id[0] for reason in pick.explain(0.0)][:2] == ["b", "b"]
    assert "zone 'b' gets 100.0% of this zone's requests" in pick.explain(0.0)[0].because


def test_a_zone_that_goes_while_one_walks_through_it_is_left():
    pick = ZoneAware(zone="a")
    fleet = members({"a": 3, "b": 2})
    pick.rebuild(fleet)
    walk = pick.order(0.0, random.random)
    assert next(walk).zone == "a"
    pick.rebuild(fleet[3:])
    assert sorted(one.id for one in walk) == ["b0", "b1"]


def test_each_zone_has_its_own_policy_inside_and_it_is_told():
    pick = ZoneAware(LeastRequest(), zone="a")
    pick.rebuild(members({"a": 2, "b": 2}))
    had = []
    for _ in range(4):
        one = next(pick.order(0.0, random.random))
        one.in_flight += 1
        pick.started(one, 0.0)
        had.append(one)
    assert [one.id for one in had] == ["a0", "a1", "a0", "a1"]
    had[0].in_flight -= 1
    pick.finished(had[0], 0.0, 0.1, True)
    assert next(pick.order(0.0, random.random)) is had[0]
    assert next(pick.order(0.0, random.random, Request(zone="b"))).id == "b0"
    assert pick.inner.members == ()


# Priorities


def level(pick, fleet, usable):
    """The first ``usable[level]`` of each level may be used."""
    left = dict(usable)
    up = []
    for one in fleet:
        if left[one.priority] > 0:
            left[one.priority] -= 1
            up.append(one)
    pick.declare(fleet)
    pick.rebuild(up)
    return shares(pick, Request(), priority)


@pytest.mark.parametrize(
    ("usable", "expected"),
    [
        # Envoy's own tables: 1.4 × the healthy share, the rest to the next level.
        ({0: 100, 1: 100}, {0: 1.0}),
        ({0: 72, 1: 100}, {0: 1.0}),
        ({0: 71, 1: 71}, {0: 0.994, 1: 0.006}),
        ({0: 50, 1: 60}, {0: 0.7, 1: 0.3}),
        ({0: 25, 1: 100}, {0: 0.35, 1: 0.65}),
        ({0: 0, 1: 100}, {1: 1.0}),
        ({0: 25, 1: 25}, {0: 0.5, 1: 0.5}),
        ({0: 20, 1: 5}, {0: 0.8, 1: 0.2}),
    ],
)
def test_a_level_carries_what_it_can_and_the_next_the_rest(usable, expected):
    got = level(Priority(), members({0: 100, 1: 100}), usable)
    assert got == {group: pytest.approx(share, abs=0.02) for group, share in expected.items()}


def test_three_levels_and_another_factor():
    fleet = members({0: 10, 1: 10, 7: 10})
    assert level(Priority(overprovision=1), fleet, {0: 3, 1: 4, 7: 9}) == {
        0: pytest.approx(0.3, abs=0.03),
        1: pytest.approx(0.4, abs=0.03),
        7: pytest.approx(0.3, abs=0.03),
    }


def test_the_lower_levels_stand_in_in_their_order():
    pick = Priority(RoundRobin())
    pick.rebuild(members({0: 2, 1: 2, 2: 1}))
    assert [one.priority for one in pick.order(0.0, random.random)] == [0, 0, 1, 1, 2]
    assert [reason.because.split(";")[0] for reason in pick.explain(0.0)][::2] == [
        "priority 0 carries 100.0% of the load",
        "priority 1 carries 0.0% of the load",
        "priority 2 carries 0.0% of the load",
    ]


def test_without_being_told_of_the_others_a_level_counts_while_it_has_a_member():
    pick, fleet = Priority(), members({0: 10, 1: 10})
    pick.rebuild(fleet[9:])
    assert shares(pick, Request(), priority) == {0: 1.0}
    pick.rebuild(fleet[10:])
    assert shares(pick, Request(), priority) == {1: 1.0}


def test_starting_slowly_is_no_reason_to_spill():
    pick, fleet = Priority(), members({0: 4, 1: 4})
    for one in fleet:
        one.weight = 0.1
    assert level(pick, fleet, {0: 4, 1: 4}) == {0: 1.0}


def test_priorities_hold_zones_and_tell_them_who_is_there():
    spec = [("a", 0), ("a", 0), ("b", 0), ("b", 0), ("a", 1), ("b", 1)]
    fleet = [Member(Endpoint(f"{z}{p}-{at}", "http://x", zone=z, priority=p)) for at, (z, p) in enumerate(spec)]
    pick = Priority(ZoneAware(zone="a"))
    pick.declare(fleet)
    pick.rebuild(fleet)
    assert shares(pick, Request(), lambda one: (one.priority, one.zone)) == {(0, "a"): 1.0}
    pick.rebuild([one for one in fleet if one.priority or one.zone == "b"])  # half of level 0 is away
    got = shares(pick, Request(), lambda one: (one.priority, one.zone))
    assert got == {(0, "b"): pytest.approx(0.7, abs=0.03), (1, "a"): pytest.approx(0.3, abs=0.03)}


# Apertures


def test_a_client_keeps_to_its_piece_and_goes_beyond_when_all_there_have_failed():
    pick = Aperture(index=3, clients=20, least=12)
    pick.rebuild(members({"a": 100}))
    inside = set(pick.shares())
    assert 12 <= len(inside) <= 17  # the piece is a whole number of twentieths, and may cut two members
    draw = random.Random(1).random
    assert {next(pick.order(0.0, draw)).id for _ in range(2000)} == inside
    order = [one.id for one in pick.order(0.0, draw)]
    assert set(order[: len(inside)]) == inside
    assert len(order) == 100
    assert [reason.id in inside for reason in pick.explain(0.0)] == [True] * len(inside) + [False] * (100 - len(inside))


def test_idle_members_get_their_part_of_the_piece():
    for index in range(5):
        pick = Aperture(index=index, clients=5, least=3)
        pick.rebuild(members({"a": 13}))
        got = shares(pick, Request(), lambda one: one.id, picks=20_000)
        assert got == {who: pytest.approx(part, abs=0.012) for who, part in pick.shares().items()}


def test_all_clients_together_load_everyone_alike():
    """Requests that stay, from 40 clients that know nothing of each other: within a few per cent."""
    had = Counter()
    for index in range(40):
        pick = Aperture(index=index, clients=40, least=10)
        fleet = members({"a": 70})
        pick.rebuild(fleet)
        draw = random.Random(index).random
        for _ in range(700):
            one = next(pick.order(0.0, draw))
            one.in_flight += 1
            had[one.id] += 1
    assert len(had) == 70
    assert min(had.values()) > 0.93 * 400
    assert max(had.values()) < 1.07 * 400


def test_load_within_the_piece_is_minded():
    pick = Aperture(index=0, clients=1, least=12)
    pick.rebuild(members({"a": 4}))
    pick.members[1].in_flight = 50
    assert "a1" not in shares(pick, Request(), lambda one: one.id)
