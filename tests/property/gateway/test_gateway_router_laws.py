"""The router against one that tries every route, and the canary against arithmetic."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.gateway.config import Canary, Route, Router, choose

HOSTS = [
    "shop.example",
    "a.shop.example",
    "b.a.shop.example",
    "*.shop.example",
    "*.a.shop.example",
    "*.example",
    "other",
]
PATHS = ["/", "/api", "/api/", "/api/v1", "/api/v1/items", "/apix", "/static/a.css"]

ROUTES = st.lists(
    st.builds(
        lambda host, path, exact, methods, headers: (host, path, exact, methods, headers),
        st.lists(st.sampled_from(HOSTS), unique=True, max_size=2).map(tuple),
        st.sampled_from(PATHS),
        st.booleans(),
        st.sampled_from([(), ("GET",), ("POST", "PUT")]),
        st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2", True, False]), max_size=2),
    ),
    max_size=12,
)


def naive(routes, method, host, path, headers):
    """Every route is tried, and of those that fit the highest rank wins."""
    host = host.lower()
    best = None
    for number, route in enumerate(routes):
        ranks = [0] if not route.host else []
        for each in route.host:
            if each == host:
                ranks.append(1000)
            elif each.startswith("*.") and host.endswith(each[1:]) and len(host) > len(each) - 1:
                ranks.append(len(each))
        segments = route.path.rstrip("/")
        fits = path == route.path if route.exact else path == segments or path.startswith(segments + "/")
        fits = fits and bool(ranks) and (not route.methods or method in route.methods)
        for name, wanted in route.headers.items():
            has = headers.get(name)
            fits = fits and ((has is not None) is wanted if isinstance(wanted, bool) else has == wanted)
        if fits:
            rank = (max(ranks), route.exact, len(segments), len(route.headers), bool(route.methods), -number)
            if best is None or rank > best[0]:
                best = rank, route
    return None if best is None else best[1]


@given(
    ROUTES,
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.sampled_from(
        ["shop.example", "A.shop.example", "b.a.shop.example", "x.y.example", "other", "example", "none", ""]
    ),
    st.sampled_from([*PATHS, "/api/v1/items/7", "/api/v2", "/zzz", "//api", "/api//v1", "*"]),
    st.dictionaries(st.sampled_from(["x-a", "x-b", "x-c"]), st.sampled_from(["1", "2"])),
)
@settings(max_examples=1500, deadline=None)
def test_the_router_agrees_with_one_that_tries_every_route(rows, method, host, path, headers):
    routes = [
        Route(name=f"r{n}", host=host_, path=path_, exact=exact, methods=methods, headers=fields, respond=204)
        for n, (host_, path_, exact, methods, fields) in enumerate(rows)
    ]
    router = Router(routes)
    expected = naive(routes, method, host, path, headers)
    assert router.match(method, host, path, headers) is expected
    if host:
        assert router.match(method, f"{host}.:8080", path, headers) is expected


@given(st.text(max_size=20), st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0, 1, exclude_max=True))
def test_a_growing_weight_never_takes_a_user_back(user, one, other, draw):
    less, more = sorted((one, other))
    small = Canary(pool="new", weight=less, by="client")
    large = Canary(pool="new", weight=more, by="client")
    first = choose(small, "old", draw, user=user or "u")
    assert choose(small, "old", 1 - draw - 1e-9, user=user or "u") == first  # chance has no say
    assert choose(large, "old", draw, user=user or "u").canary >= first.canary


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.floats(0.001, 1))
def test_the_cookie_keeps_a_visitor_where_they_are(draw, later, weight):
    canary = Canary(pool="new", weight=weight, cookie="side")
    first = choose(canary, "old", draw)
    again = choose(canary, "old", later, cookie=first.mark)
    assert len(first.mark) == 16
    assert (again.pool, again.mark) == (first.pool, "")
