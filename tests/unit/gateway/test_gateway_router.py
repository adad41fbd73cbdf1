"""Which route a request takes, who gets the canary, and that many routes cost what few cost."""

import time

import pytest

from tenfold.gateway.config import Canary, Route, Router, choose

ROUTES = (
    Route(name="root", path="/", respond=200),
    Route(name="api", path="/api", respond=200),
    Route(name="items", path="/api/items", methods=["GET"], respond=200),
    Route(name="exact", path="/api/items", exact=True, respond=200),
    Route(name="beta", path="/api", headers={"X-Beta": True}, respond=200),
    Route(name="beta2", path="/api", headers={"X-Beta": "2", "X-Debug": False}, respond=200),
    Route(name="shop", host="shop.example", path="/api", respond=200),
    Route(name="wild", host="*.shop.example", path="/", respond=200),
    Route(name="slash", path="/files/", respond=200),
    Route(name="v6", host="[::1]", path="/six", respond=200),
)


@pytest.mark.parametrize(
    ("method", "host", "path", "headers", "name"),
    [
        ("GET", "x", "/", {}, "root"),
        ("GET", "x", "/zzz", {}, "root"),
        ("GET", "x", "/api", {}, "api"),
        ("GET", "x", "/api/", {}, "api"),
        ("GET", "x", "/apix", {}, "root"),
        ("GET", "x", "/api/items", {}, "exact"),
        ("GET", "x", "/api/items/7", {}, "items"),
        ("PUT", "x", "/api/items/7", {}, "api"),
        ("GET", "x", "/api/1", {"x-beta": "1"}, "beta"),
        ("GET", "x", "/api/1", {"x-beta": "2"}, "beta2"),
        ("GET", "x", "/api/1", {"x-beta": "2", "x-debug": ""}, "beta"),
        ("GET", "SHOP.example.:8080", "/api/items/7", {}, "shop"),
        ("GET", "shop.example", "/other", {}, "root"),
        ("GET", "a.b.shop.example", "/other", {}, "wild"),
        ("GET", "xshop.example", "/other", {}, "root"),
        ("GET", "x", "/files/a", {}, "slash"),
        ("GET", "[::1]:80", "/six", {}, "v6"),
        ("OPTIONS", "x", "*", {}, "root"),
    ],
)
def test_the_route_that_says_most_wins(method, host, path, headers, name):
    assert Router(ROUTES).match(method, host, path, headers).name == name


def test_no_route_is_none():
    router = Router(ROUTES[1:3])
    assert router.match("GET", "x", "/", {}) is None
    assert repr(router) == "<Router of 2 routes, 0 hosts, 0 wildcards>"
    assert Router(()).match("GET", "", "", {}) is None


def test_a_path_of_slashes_without_end_is_cheap():
    router = Router(ROUTES)
    started = time.process_time()
    for _ in range(100):
        assert router.match("GET", "x", "/" * 1_000_000, {}).name == "root"
    assert time.process_time() - started < 2.0  # a walk over all of them takes minutes


def many(count):
    shapes = (
        lambda n: Route(name=f"r{n}", path=f"/service{n}/v1", respond=204),
        lambda n: Route(name=f"r{n}", path=f"/service{n}/v1/items", exact=True, respond=204),
        lambda n: Route(name=f"r{n}", host=f"h{n}.example", path="/api", respond=204),
        lambda n: Route(name=f"r{n}", host=f"*.t{n}.example", path=f"/x/{n}", respond=204),
    )
    requests = (
        lambda n: ("shop.example", f"/service{n}/v1/a/b"),
        lambda n: ("shop.example:80", f"/service{n}/v1/items"),
        lambda n: (f"h{n}.example", "/api/7"),
        lambda n: (f"a.t{n}.example", f"/x/{n}/y"),
    )
    return Router(shapes[n % 4](n) for n in range(count)), [requests[n % 4](n) for n in range(count)]


def cost(count):
    router, requests = many(count)
    assert [router.match("GET", host, path, {}).name for host, path in requests] == [f"r{n}" for n in range(count)]
    requests *= 2000 // count
    best = float("inf")
    for _ in range(7):
        started = time.process_time()
        for host, path in requests:
            router.match("GET", host, path, {})
        best = min(best, (time.process_time() - started) / len(requests))
    return best


def test_a_thousand_routes_cost_at_most_three_times_what_ten_cost():
    assert cost(1000) <= 3 * cost(10)


# The canary

CANARY = Canary(pool="new", weight=0.25, header="X-Canary", by="header:X-User")


@pytest.mark.parametrize(
    ("header", "pool", "why"),
    [("always", "new", "header"), (" Never ", "old", "header"), ("maybe", "old", "chance"), (None, "old", "chance")],
)
def test_the_header_wins(header, pool, why):
    found = choose(CANARY, "old", 0.5, header=header)
    assert (found.pool, found.why, found.canary) == (pool, why, pool == "new")


def test_chance_decides_where_there_is_no_user():
    assert choose(CANARY, "old", 0.2499).canary
    assert not choose(CANARY, "old", 0.25).canary


def test_a_share_of_users_gets_it_and_another_share_gets_the_next_one():
    users = [f"user-{n}" for n in range(4000)]
    first = {user for user in users if choose(CANARY, "old", 0.0, user=user).canary}
    assert 0.22 < len(first) / len(users) < 0.28
    other = Canary(pool="newer", weight=0.25, by="client")
    second = {user for user in users if choose(other, "old", 0.0, user=user).canary}
    assert 0.15 < len(first & second) / len(first) < 0.35  # the same ones would be 1


@pytest.mark.parametrize("cookie", [None, "", "forged", "0123456789ABCDEF", "0" * 15])
def test_a_visitor_without_a_good_cookie_gets_one(cookie):
    canary = Canary(pool="new", weight=0.5, cookie="side")
    found = choose(canary, "old", 0.75, cookie=cookie)
    assert found.mark == "c000000000000000"
    assert choose(canary, "old", 0.1, cookie=found.mark).pool == found.pool


def test_marks_are_spread_as_the_weight_says():
    canary = Canary(pool="new", weight=0.1, cookie="side")
    taken = sum(choose(canary, "old", n / 5000).canary for n in range(5000))
    assert 420 < taken < 580
