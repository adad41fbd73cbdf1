"""Sticky sessions: the cookie is honoured, and nothing but a good one."""

import random

import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.pick import LeastRequest, Request, RoundRobin, Sticky

SECRET = b"sixteen bytes or more"


def members(*names):
    return [Member(Endpoint(name, "http://x")) for name in names]


def pick_of(*names, secret=SECRET, inner=None):
    pick = Sticky(inner or RoundRobin(), secret=secret)
    pick.rebuild(members(*names))
    return pick


def order(pick, cookie=""):
    return [one.id for one in pick.order(0.0, lambda: 0.0, Request(cookie=cookie))]


def test_a_cookie_brings_its_client_back():
    pick = pick_of("a", "b", "10.0.0.1:8000 ä;,")
    for name in ("a", "b", "10.0.0.1:8000 ä;,"):
        cookie = pick.cookie(name)
        assert cookie.isascii()
        assert cookie.replace("-", "").replace("_", "").replace(".", "").isalnum()
        for _ in range(3):
            assert order(pick, cookie)[0] == name
        assert sorted(order(pick, cookie)) == sorted(one.id for one in pick.members)
    assert pick.explain(0.0)[0].because != "named by the client's cookie"


def test_the_cookie_is_explained():
    pick = pick_of("a", "b", "c")
    reasons = pick.explain(0.0, Request(cookie=pick.cookie("c")))
    assert [reason.id for reason in reasons] == ["c", "a", "b"]
    assert reasons[0].because == "named by the client's cookie"


def test_without_a_good_cookie_the_inner_policy_chooses():
    pick = pick_of("a", "b", "c")
    good = pick.cookie("c")
    text, mac = good.split(".")
    other = pick.cookie("b").split(".")[1]
    for forged in (
        "",
        ".",
        "nonsense",
        text,
        text + ".",
        f"{text}.{other}",
        f"{text}.{mac[:-1]}",
        f"{text}.{mac}x",
        f"{text}={mac}",
        good + ".",
        good.upper(),
        "ü.ü",
        "\udcff." + mac,
        f"{text}.\udcff",
        pick_of("c", secret=b"quite another secret").cookie("c"),
    ):
        # Round robin takes its turns: nobody is stuck to anything.
        request = Request(cookie=forged)
        assert {next(pick.order(0.0, lambda: 0.0, request)).id for _ in range(3)} == {"a", "b", "c"}
        assert pick.named(forged) is None
    assert pick.named(good).id == "c"


def test_a_member_that_has_gone_is_replaced_and_welcome_back():
    pick = pick_of("a", "b", "c")
    cookie = pick.cookie("b")
    assert order(pick, cookie)[0] == "b"
    pick.rebuild(members("a", "c"))
    assert sorted(order(pick, cookie)) == ["a", "c"]
    pick.rebuild(members("a", "b", "c"))
    assert order(pick, cookie)[0] == "b"


def test_secrets_rotate():
    old = pick_of("a", "b", secret="the secret of last year").cookie("b")
    both = pick_of("a", "b", secret=["the secret of this year", "the secret of last year"])
    new = both.cookie("b")
    assert new != old
    assert both.named(old).id == both.named(new).id == "b"
    only = pick_of("a", "b", secret="the secret of this year")
    assert only.named(old) is None
    assert only.named(new).id == "b"


def test_the_inner_policy_learns_what_is_under_way():
    pick = pick_of("a", "b", inner=LeastRequest())
    to_a = Request(cookie=pick.cookie("a"))
    for _ in range(3):
        one = next(pick.order(0.0, random.random, to_a))
        one.in_flight += 1
        pick.started(one, 0.0)
    assert order(pick)[0] == "b"
    one.in_flight = 0
    pick.finished(one, 0.0, 0.1, True)
    assert pick.explain(0.0)[0].score == 1.0


@pytest.mark.parametrize("secret", ["short", b"short", "", [], [b"long enough, this one", "short"], 7, [7]])
def test_a_secret_that_is_none_is_refused_without_being_told(secret):
    with pytest.raises(MisuseError, match=r"^Sticky secret: expected") as error:
        Sticky(secret=secret)
    assert "short" not in str(error.value)
