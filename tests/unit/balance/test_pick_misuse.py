"""What makes no sense is refused in a sentence: what was expected, what came, what to do."""

import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance import pick as picks
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import (
    P2C,
    Aperture,
    IPHash,
    Maglev,
    PeakEWMA,
    Pick,
    Priority,
    Rendezvous,
    Request,
    RingHash,
    Sticky,
    ZoneAware,
)

SECRET = "of sixteen bytes, or more"


def in_use():
    pick = P2C()
    pick.rebuild([Member(Endpoint("a", "http://x"))])
    return pick


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PeakEWMA(tau=0), 'PeakEWMA tau: expected a time to forget in, such as "10s", got 0'),
        (lambda: PeakEWMA(tau="soon"), 'PeakEWMA tau: expected a duration such as "250ms"'),
        (lambda: PeakEWMA(penalty=-1), "PeakEWMA penalty: expected a finite number that is not negative"),
        (lambda: RingHash(points=0), "RingHash points: expected a whole number of 1 or more, got 0"),
        (lambda: RingHash(bound=1), "RingHash bound: expected more than 1, such as 1.25, or None, got 1"),
        (lambda: Maglev(bound=float("nan")), "Maglev bound: expected more than 1"),
        (lambda: Maglev(bound=True), "Maglev bound: expected more than 1"),
        (lambda: Maglev(table=65536), "Maglev table: expected a prime number of slots, such as 65537, got 65536"),
        (lambda: Rendezvous(table=2), "Rendezvous table: expected a prime number"),
        (lambda: IPHash(table=1.5), "IPHash table: expected a prime number"),
        (lambda: IPHash(v4=33), "IPHash v4: expected a number of bits from 1 to 32, got 33"),
        (lambda: IPHash(v6=0), "IPHash v6: expected a number of bits from 1 to 128, got 0"),
        (lambda: Sticky(P2C, secret=SECRET), r"Sticky: expected a pick such as P2C\(\) inside, got <class"),
        (lambda: Sticky(in_use(), secret=SECRET), r"Sticky: expected a fresh pick inside, got P2C\(1 members\), which"),
        (lambda: ZoneAware("a"), r"ZoneAware: expected a pick such as P2C\(\) inside, got 'a'"),
        (lambda: ZoneAware(zone=1), 'ZoneAware zone: expected a zone such as "eu-1", got 1'),
        (lambda: ZoneAware(clients={}), "ZoneAware clients: expected a share for each zone"),
        (lambda: ZoneAware(clients={"a": -1, "b": 2}), "ZoneAware clients: expected a share for each zone"),
        (lambda: Priority(overprovision=0.9), "Priority overprovision: expected 1 or more, such as 1.4, got 0.9"),
        (lambda: Aperture(index=5, clients=5), "Aperture index: expected 0 to 4 of 5 clients, got 5"),
        (lambda: Aperture(index=0, clients=0), "Aperture clients: expected a whole number of 1 or more, got 0"),
        (lambda: Aperture(index=-1, clients=1), "Aperture index: expected a whole number of 0 or more, got -1"),
        (lambda: Aperture(index=0, clients=1, least=0), "Aperture least: expected a whole number of 1 or more"),
    ],
)
def test_options(make, sentence):
    with pytest.raises(MisuseError, match=f"^{sentence}"):
        make()


@pytest.mark.parametrize(
    ("pick", "request_", "sentence"),
    [
        (
            RingHash(),
            Request(client="1.2.3.4"),
            r"RingHash: expected a key to choose by, got none; give Request\(key=…\)",
        ),
        (Maglev(), Request(), "Maglev: expected a key to choose by"),
        (Rendezvous(bound=2), Request(), "Rendezvous: expected a key to choose by"),
        (IPHash(), Request(key="k"), "IPHash: expected the caller's address to choose by, got ''"),
        (IPHash(), Request(client="[::1]:80"), r"IPHash: expected the caller's address to choose by, got '\[::1\]:80'"),
        (IPHash(v4=24), Request(client="localhost"), "IPHash: expected the caller's address to choose by"),
        (ZoneAware(), Request(key="k"), "ZoneAware: expected to know where the caller stands, got no zone; give"),
        (Priority(RingHash()), Request(), "RingHash: expected a key"),
        (Sticky(Maglev(), secret=SECRET), Request(cookie="forged"), "Maglev: expected a key"),
    ],
)
def test_requests_that_lack_something(pick, request_, sentence):
    """At the first member, not before, and also when the choice is to be explained."""
    pick.rebuild([Member(Endpoint(name, "http://x")) for name in "ab"])
    walk = pick.order(0.0, random.random, request_)
    with pytest.raises(MisuseError, match=f"^{sentence}"):
        next(walk)
    with pytest.raises(MisuseError, match=f"^{sentence}"):
        pick.explain(0.0, request_)


def test_every_policy_has_a_name_of_its_own_and_is_exported():
    found = [
        value for name in picks.__all__ if isinstance(value := getattr(picks, name), type) and issubclass(value, Pick)
    ]
    names = [policy.name for policy in found if policy is not Pick]
    assert len(names) == len(set(names)) == 15
    assert all(name.isidentifier() and name.islower() for name in names)


@pytest.mark.parametrize("make", [P2C, lambda: Sticky(secret=SECRET), Priority, RingHash])
def test_a_repr_says_what_it_is_and_keeps_secrets(make):
    pick = make()
    pick.rebuild([Member(Endpoint(name, "http://x")) for name in "ab"])
    assert "2 members" in repr(pick)
    assert SECRET not in repr(pick)
