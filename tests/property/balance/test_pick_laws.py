"""What holds for every policy, whatever the membership and whenever it changes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import (
    P2C,
    Aperture,
    IPHash,
    LeastRequest,
    Maglev,
    PeakEWMA,
    Priority,
    Random,
    Rendezvous,
    Request,
    RingHash,
    RoundRobin,
    Sticky,
    WeightedRandom,
    WeightedRoundRobin,
    ZoneAware,
)

SECRET = "of sixteen bytes, or more"
POLICIES = {
    "round robin": RoundRobin,
    "weighted round robin": WeightedRoundRobin,
    "random": Random,
    "weighted random": WeightedRandom,
    "least request": LeastRequest,
    "p2c": P2C,
    "peak ewma": PeakEWMA,
    "ring": lambda: RingHash(points=20),
    "ring, bounded": lambda: RingHash(points=20, bound=1.25),
    "maglev": lambda: Maglev(table=251),
    "maglev, bounded": lambda: Maglev(table=251, bound=1.1),
    "rendezvous": lambda: Rendezvous(table=251),
    "rendezvous, bounded": lambda: Rendezvous(table=251, bound=2),
    "ip hash": lambda: IPHash(table=251),
    "sticky": lambda: Sticky(secret=SECRET),
    "sticky over round robin": lambda: Sticky(WeightedRoundRobin(), secret=SECRET),
    "zones": lambda: ZoneAware(zone="z1"),
    "zones of least request": lambda: ZoneAware(LeastRequest(), clients={"z0": 1, "z1": 3}),
    "priorities": Priority,
    "priorities of zones": lambda: Priority(ZoneAware(WeightedRoundRobin(), zone="z0")),
    "aperture": lambda: Aperture(index=2, clients=7, least=3),
    "aperture of one client": lambda: Aperture(index=0, clients=1),
}
every = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)

WEIGHTS = st.sampled_from([0.001, 0.1, 0.5, 1, 1, 1, 2, 3, 7, 256])
FLEETS = st.dictionaries(st.integers(0, 40), WEIGHTS, max_size=25)


def member(number, weight=1.0):
    return Member(
        Endpoint(f"s{number}", f"http://10.0.0.{number}:80", weight=weight, zone=f"z{number % 3}", priority=number % 2)
    )


def fleet(weights):
    return [member(number, weight) for number, weight in weights.items()]


def request(number=0):
    return Request(
        key=f"user-{number}",
        client=f"192.0.2.{number % 256}",
        zone=f"z{number % 4}",
        cookie=Sticky(secret=SECRET).cookie(f"s{number}") if number % 3 else "",
    )


@every
@settings(max_examples=40, deadline=None)
@given(FLEETS, st.integers(0, 99), st.integers(0, 2**32))
def test_an_order_holds_every_member_once_and_so_does_its_explanation(make, weights, number, seed):
    pick, members, chance = make(), fleet(weights), random.Random(seed)
    for one in members:
        one.in_flight = chance.randrange(4)
    chance.shuffle(members)
    pick.declare(members)
    pick.rebuild(members)
    for _ in range(3):
        got = list(pick.order(1.0, chance.random, request(number)))
        assert len(got) == len(members)
        assert {id(one) for one in got} == {id(one) for one in members}
    reasons = pick.explain(1.0, request(number))
    assert sorted(reason.id for reason in reasons) == sorted(one.id for one in members)
    scores = [reason.score for reason in reasons]
    assert scores == sorted(scores)
    assert all(reason.because for reason in reasons)


@every
def test_an_empty_set_yields_nothing_whatever_the_request(make):
    pick = make()
    assert list(pick.order(0.0, random.random, request())) == []
    assert list(pick.order(0.0, random.random)) == []
    pick.rebuild([member(1)])
    assert len(list(pick.order(0.0, random.random, request()))) == 1
    pick.rebuild([])
    assert list(pick.order(0.0, random.random)) == []
    assert pick.explain(0.0) == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pick"), st.integers(0, 99)),
        st.tuples(st.just("pick"), st.integers(0, 99)),
        st.tuples(st.just("walk"), st.integers(0, 99)),
        st.tuples(st.just("ask on"), st.integers(0, 9)),
        st.tuples(st.just("ask on"), st.integers(0, 9)),
        st.tuples(st.just("finish"), st.integers(0, 99)),
        st.tuples(st.just("come"), st.integers(0, 15)),
        st.tuples(st.just("go"), st.integers(0, 15)),
        st.tuples(st.just("weigh"), st.integers(0, 15)),
        st.tuples(st.just("wait"), st.integers(0, 60)),
    ),
    max_size=60,
)


@every
@settings(max_examples=40, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_the_set_may_change_at_any_point(make, steps, seed):
    """Also in the middle of a walk: it never raises, never repeats, never yields one who is not there."""
    chance = random.Random(seed)
    pick, there, under_way, walks, over, now = make(), {}, [], [], set(), 100.0

    def rebuild():
        members = list(there.values())
        chance.shuffle(members)
        pick.declare(members)
        pick.rebuild(members)

    def take(walk, had):
        got = next(walk, None)
        if got is None:
            if walk not in over:  # the first time; a generator that has ended never goes on
                assert had >= set(there)
            over.add(walk)
            return
        assert there.get(got.id) is got
        assert got.id not in had
        had.add(got.id)
        got.in_flight += 1
        pick.started(got, now)
        under_way.append(got)

    for what, number in steps:
        if what == "pick":
            take(pick.order(now, chance.random, request(number)), set())
            continue
        if what == "walk":
            walks.append((pick.order(now, chance.random, request(number)), set()))
        elif what == "ask on" and walks:
            take(*walks[number % len(walks)])
        elif what == "finish" and under_way:
            one = under_way.pop(number % len(under_way))
            one.in_flight -= 1
            pick.finished(one, now, number / 50, (True, True, False, None)[number % 4])
        elif what == "come" and f"s{number}" not in there:
            there[f"s{number}"] = member(number)
            rebuild()
        elif what == "go" and there.pop(f"s{number}", None):
            rebuild()
        elif what == "weigh" and f"s{number}" in there:
            there[f"s{number}"].weight = chance.choice([0.1, 0.5, 1.0, 3.0])
            rebuild()
        elif what == "wait":
            now += number
    for walk, had in walks:
        for _ in range(len(there) + 1):
            take(walk, had)
        assert walk in over


@every
def test_a_walk_goes_on_over_a_set_that_was_replaced(make):
    """Others of the same names, of which the first was had; then others altogether, and at last nobody."""
    pick, numbers = make(), range(0, 12, 2)
    pick.rebuild([member(number) for number in numbers])
    walk = pick.order(0.0, random.Random(1).random, request())
    had = [next(walk).id]
    again = [member(number) for number in numbers]
    pick.rebuild(again)
    for _ in range(2):
        one = next(walk)
        assert one in again
        had.append(one.id)
    # Of other zones and priorities, so that whole groups are gone.
    others = [member(number) for number in (1, 7)]
    pick.rebuild(others)
    had += [next(walk).id]
    assert had[-1] in ("s1", "s7")
    assert len(set(had)) == 4
    pick.rebuild([])
    assert list(walk) == []


# Turns


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_weighted_turns_are_exact_and_never_off_by_more_than_one(weights):
    pick = WeightedRoundRobin()
    members = [member(number, weight) for number, weight in enumerate(weights)]
    pick.rebuild(members)
    total, had = sum(weights), dict.fromkeys(members, 0)
    for count in range(1, 3 * total + 1):
        had[next(pick.order(0.0, random.random))] += 1
        for one in members:
            assert abs(had[one] - count * one.weight / total) < 1 + 1e-6
        if count % total == 0:
            assert [had[one] for one in members] == [count // total * weight for weight in weights]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=9), st.integers(1, 300), st.integers(1, 40))
def test_weighted_turns_taken_out_of_turn_are_paid_back(weights, picks, walks):
    pick, chance = WeightedRoundRobin(), random.Random(walks)
    members = [member(number, weight) for number, weight in enumerate(weights)]
    pick.rebuild(members)
    had, total = dict.fromkeys(members, 0), sum(weights)
    for _ in range(walks):
        for taken, one in enumerate(pick.order(0.0, chance.random)):
            had[one] += 1
            if taken == chance.randrange(len(weights)):
                break
    extra = sum(had.values())
    for _ in range(picks + extra * total):  # long enough for everyone's debts to be paid
        had[next(pick.order(0.0, chance.random))] += 1
    count = sum(had.values())
    for one in members:
        assert abs(had[one] - count * one.weight / total) < 1 + 1e-6


# The same key, the same member

TABLES = {
    "ring": lambda: RingHash(points=40),
    "maglev": lambda: Maglev(table=1009),
    "rendezvous": lambda: Rendezvous(table=1009),
}
tables = pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
KEYS = [Request(key=f"key-{number}") for number in range(400)]


def owners(make, members):
    pick = make()
    pick.rebuild(members)
    return [next(pick.order(0.0, random.random, key)).id for key in KEYS]


@tables
@settings(max_examples=20, deadline=None)
@given(FLEETS.filter(len), st.randoms(use_true_random=False))
def test_a_table_depends_neither_on_the_order_of_the_list_nor_on_the_past(make, weights, chance):
    members = fleet(weights)
    expected = owners(make, members)
    chance.shuffle(members)
    assert owners(make, members) == expected
    pick = make()
    for count in (len(members) // 2, 0, len(members)):
        pick.rebuild(members[:count])
    assert [next(pick.order(0.0, random.random, key)).id for key in KEYS] == expected


@pytest.mark.parametrize("make", [TABLES["ring"], TABLES["rendezvous"]], ids=["ring", "rendezvous"])
@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=2, max_size=20), st.data())
def test_who_leaves_takes_only_its_own_keys_along(make, numbers, data):
    """Monotone: what moves when one leaves was its own, what moves when it comes back goes to it."""
    gone = f"s{data.draw(st.sampled_from(sorted(numbers)))}"
    members = [member(number) for number in numbers]
    before, after = owners(make, members), owners(make, [one for one in members if one.id != gone])
    assert all(was == now for was, now in zip(before, after, strict=True) if was != gone)
    assert gone not in after


@settings(max_examples=30, deadline=None)
@given(FLEETS.filter(lambda weights: len(weights) > 1), st.data())
def test_rendezvous_is_exact_whatever_the_weights(weights, data):
    """A key goes to the next in its order when the first leaves, and only to who weighs more when one weighs more."""
    members = fleet(weights)
    changed = data.draw(st.sampled_from(members))
    make = TABLES["rendezvous"]
    pick = make()
    pick.rebuild(members)
    orders = [[one.id for one in pick.order(0.0, random.random, key)] for key in KEYS[:100]]
    pick.rebuild([one for one in members if one is not changed])
    for key, before in zip(KEYS, orders, strict=False):
        after = [one.id for one in pick.order(0.0, random.random, key)]
        assert after == [who for who in before if who != changed.id]
    changed.weight *= data.draw(st.sampled_from([1.5, 4, 100]))
    pick.rebuild(members)
    for key, before in zip(KEYS, orders, strict=False):
        assert next(pick.order(0.0, random.random, key)).id in (before[0], changed.id)


@tables
@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.integers(0, 40), st.sampled_from([0.5, 1, 2, 5]), min_size=1, max_size=15),
    st.lists(st.integers(0, 6), min_size=1, max_size=150),
    st.sampled_from([1.1, 1.25, 2.0]),
)
def test_bounded_load_holds_however_hot_a_key_is(make, weights, keys, bound):
    pick = make()
    pick.bound = bound
    members = fleet(weights)
    pick.rebuild(members)
    total = sum(one.weight for one in members)
    under_way = []
    for number in keys:
        if number == 0 and under_way:
            one = under_way.pop(0)
            one.in_flight -= 1
            pick.finished(one, 0.0, 0.1, True)
            continue
        one = next(pick.order(0.0, random.random, Request(key=f"hot-{number}")))
        one.in_flight += 1
        pick.started(one, 0.0)
        under_way.append(one)
        assert one.in_flight <= math.ceil(bound * len(under_way) * one.weight / total + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.sampled_from([3, 5, 11, 31, 101, 499]))
def test_the_rendezvous_table_is_what_looking_at_all_scores_gives(weights, table):
    pick = Rendezvous(table=table)
    pick.rebuild([member(number, weight) for number, weight in enumerate(weights)])
    assert pick._slots == [min(pick._scores(slot))[1] for slot in range(table)]


# Groups and subsets


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.integers(0, 60), st.sampled_from([0.5, 1, 2, 5]), min_size=1, max_size=40),
    st.integers(1, 30),
    st.integers(1, 20),
)
def test_apertures_together_give_everybody_its_share(weights, clients, least):
    members = fleet(weights)
    total, got = sum(one.weight for one in members), {one.id: 0.0 for one in members}
    for index in range(clients):
        pick = Aperture(index=index, clients=clients, least=least)
        pick.rebuild(members)
        shares = pick.shares()
        assert sum(shares.values()) == pytest.approx(1)
        for who, part in shares.items():
            got[who] += part
    for one in members:
        assert got[one.id] == pytest.approx(clients * one.weight / total)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.lists(st.integers(1, 8), min_size=5, max_size=5))
def test_zones_spill_so_that_every_member_has_the_same_load(sizes, callers):
    """All the zones' plans together, weighted by where the clients are, are what each zone can carry."""
    members = [
        Member(Endpoint(f"s{zone}-{number}", "http://x", zone=f"z{zone}"))
        for zone, size in enumerate(sizes)
        for number in range(size)
    ]
    clients = {f"z{zone}": callers[zone] for zone in range(len(sizes))}
    pick = ZoneAware(clients=clients)
    pick.rebuild(members)
    if not members:
        return
    got = dict.fromkeys(clients, 0.0)
    for zone, count in clients.items():
        shares = pick._shares(Request(zone=zone))
        assert sum(share for _, share in shares) == pytest.approx(1)
        for target, share in shares:
            got[target] += count / sum(clients.values()) * share
    for zone, size in enumerate(sizes):
        assert got[f"z{zone}"] == pytest.approx(size / len(members), abs=1e-9)
