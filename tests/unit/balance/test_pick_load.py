"""Least request and peak EWMA."""

import random

import pytest

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import LeastRequest, PeakEWMA


def members(*weights):
    return [Member(Endpoint("abcdefghij"[at], "http://x", weight=weight)) for at, weight in enumerate(weights)]


def start(pick, now=0.0, draw=lambda: 0.0):
    member = next(pick.order(now, draw))
    member.in_flight += 1
    pick.started(member, now)
    return member


def finish(pick, member, now=0.0, elapsed=0.1, ok=True):
    member.in_flight -= 1
    pick.finished(member, now, elapsed, ok)


def test_least_request_fills_by_weight():
    pick = LeastRequest()
    pick.rebuild(members(1, 2, 4))
    for _ in range(70):
        start(pick)
    assert [member.in_flight for member in pick.members] == [10, 20, 40]
    finish(pick, pick.members[0])
    assert start(pick) is pick.members[0]


def test_least_request_gives_equals_their_turns():
    pick = LeastRequest()
    pick.rebuild(members(1, 1, 1))
    had = []
    for _ in range(9):
        member = start(pick)
        had.append(member.id)
        finish(pick, member)
    assert "".join(had) == "abcabcabc"
    pick.rebuild(members(1, 1, 1, 1)[1:])
    assert [reason.id for reason in pick.explain(0.0)] == ["d", "b", "c"]


def test_least_request_agrees_with_looking_at_everyone_and_its_heap_stays_small():
    pick, chance, under_way = LeastRequest(), random.Random(1), []
    pick.rebuild(members(*[chance.choice([0.5, 1, 2, 3]) for _ in range(10)]))
    for _ in range(20_000):
        least = min((member.in_flight + 1) / member.weight for member in pick.members)
        if chance.random() < 0.05:
            loads = [(member.in_flight + 1) / member.weight for member in pick.order(0.0, chance.random)]
            assert loads == sorted(loads)
        if under_way and chance.random() < 0.5:
            finish(pick, under_way.pop(chance.randrange(len(under_way))))
        else:
            member = next(pick.order(0.0, chance.random))
            assert (member.in_flight + 1) / member.weight == least
            under_way.append(start(pick))
            assert under_way[-1] is member
        assert len(pick._heap) <= 2 * 10 + 64


def test_what_ends_at_a_member_that_has_left_does_not_matter():
    pick = LeastRequest()
    old = members(1, 1)
    pick.rebuild(old)
    for _ in range(4):
        start(pick)
    pick.rebuild([old[1], *members(1)])  # a new member that has the name of the old one
    finish(pick, old[0])
    pick.started(old[0], 0.0)
    assert [(reason.id, reason.score) for reason in pick.explain(0.0)] == [("a", 1.0), ("b", 3.0)]


# Peak EWMA


def choose(pick, now, picks=200, seed=1):
    draw = random.Random(seed).random
    had = [next(pick.order(now, draw)).id for _ in range(picks)]
    return {member.id: had.count(member.id) for member in pick.members}


def answer(pick, member, now, elapsed, ok=True):
    pick.finished(member, now, elapsed, ok)


def test_one_slow_answer_turns_the_traffic_away_and_silence_brings_it_back():
    pick = PeakEWMA(tau="10s")
    pick.rebuild(members(1, 1))
    fast, slow = pick.members
    for tenth in range(100):
        for member in (fast, slow):
            answer(pick, member, tenth / 10, 0.010)
    assert min(choose(pick, 10.0).values()) > 60
    answer(pick, slow, 10.0, 1.0)
    assert choose(pick, 10.0) == {"a": 200, "b": 0}
    # The fast one answers on; of the slow one nothing is heard, since nothing is asked.
    now, asked = 10.0, None
    while asked is None and now < 120.0:
        now += 0.1
        if choose(pick, now, 4)["b"]:
            asked = now
        answer(pick, fast, now, 0.010)
    assert asked == pytest.approx(10 + 10 * 4.6, abs=2)  # ln(1 s / 10 ms) = 4.6 times tau
    answer(pick, slow, now, 0.010)
    assert min(choose(pick, now + 0.001).values()) > 60


def test_a_peak_counts_at_once_and_goes_slowly():
    pick = PeakEWMA(tau=10)
    pick.rebuild(members(1))
    only = pick.members[0]
    answer(pick, only, 0.0, 0.1)
    assert pick.cost(only, 0.0) == pytest.approx(0.1)
    answer(pick, only, 1.0, 2.0)
    assert pick.cost(only, 1.0) == pytest.approx(2.0)
    answer(pick, only, 2.0, 0.1)
    assert 1.6 < pick.cost(only, 2.0) < 1.8
    assert pick.cost(only, 2.0) > pick.cost(only, 3.0) > pick.cost(only, 100.0) > 0
    assert pick.cost(only, 1e9) == 0.0


def test_cost_counts_what_is_under_way_and_the_weight():
    pick = PeakEWMA()
    pick.rebuild(members(1, 1, 4))
    for member in pick.members:
        answer(pick, member, 0.0, 0.1)
    pick.members[1].in_flight = 2
    pick.members[2].in_flight = 3
    assert [pick.cost(member, 0.0) for member in pick.members] == pytest.approx([0.1, 0.3, 0.1])


def test_a_member_that_never_answered_is_tried_once_and_not_by_everybody():
    pick = PeakEWMA()
    pick.rebuild(members(1, 1))
    answer(pick, pick.members[0], 0.0, 0.05)
    assert choose(pick, 0.0) == {"a": 0, "b": 200}
    pick.members[1].in_flight = 1
    assert choose(pick, 0.0) == {"a": 200, "b": 0}
    assert pick.explain(0.0)[1].because == "has not answered yet, 1 in flight at weight 1"


def test_a_server_that_fails_fast_does_not_look_fast():
    pick = PeakEWMA(penalty="1s")
    pick.rebuild(members(1, 1))
    answer(pick, pick.members[0], 0.0, 0.050)
    answer(pick, pick.members[1], 0.0, 0.001, ok=False)
    assert choose(pick, 0.0) == {"a": 200, "b": 0}


def test_what_was_given_up_took_at_least_so_long():
    pick = PeakEWMA()
    pick.rebuild(members(1))
    only = pick.members[0]
    answer(pick, only, 0.0, 0.1)
    answer(pick, only, 1.0, 0.01, ok=None)
    assert pick.cost(only, 0.0) == pytest.approx(0.1)
    answer(pick, only, 2.0, 3.0, ok=None)
    assert pick.cost(only, 2.0) == pytest.approx(3.0)


def test_an_earlier_clock_and_a_new_set_do_no_harm():
    pick = PeakEWMA()
    pick.rebuild(members(1, 1))
    a = pick.members[0]
    answer(pick, a, 1e9, 0.1)
    assert pick.cost(a, 0.0) == pytest.approx(0.1)
    answer(pick, a, 0.0, 0.2)
    assert pick.cost(a, 1e9) == pytest.approx(0.2)
    pick.rebuild([a, *members(1, 1, 1)[1:]])
    assert pick.cost(a, 1e9) == pytest.approx(0.2)
    answer(pick, members(1)[0], 0.0, 1.0)  # no member of this set, nothing known of it
    assert "about 200 ms" in next(reason.because for reason in pick.explain(1e9) if reason.id == "a")
