"""Laws of the configuration: places agree with tomllib, what is written is read again, differences lead to the new."""

import tomllib
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenfold.balance.checks import HttpCheck, TcpCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.slow_start import SlowStart
from tenfold.gateway.config import (
    AccessLog,
    Address,
    Admin,
    Canary,
    Certificate,
    Config,
    Edge,
    Gateway,
    HeaderChanges,
    PickSpec,
    Pool,
    Redirect,
    Respond,
    Route,
    Source,
    UpstreamTls,
    diff,
    read_config,
    write_config,
)
from tenfold.gateway.config.compound import Frozen
from tenfold.gateway.config.picks import PICKS, PickKind
from tenfold.gateway.config.positions import Positions, paths
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

# Places

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6) | st.sampled_from(
    ["]", "}", "#", ",", "a.b", "[[x]]", "=", "'", '"', "\\"]
)


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def strings(draw):
    text = draw(TEXTS)
    kind = draw(st.integers(0, 3))
    if kind == 1 and "'" not in text:
        return f"'{text}'"
    if kind == 2:
        return f'"""\n{quoted(text)[1:-1]}\n#no\n{draw(st.sampled_from(["", "x", "x]", "[a]"]))}"""'
    if kind == 3 and "'" not in text:
        return f"'''{text}\n# no'''{draw(st.sampled_from(['', chr(39), chr(39) * 2]))}"
    return quoted(text)


SCALARS = strings() | st.sampled_from(
    ["1", "-2.5e3", "true", "inf", "0x1F", "1979-05-27 07:32:00", "1979-05-27", "07:32:00"]
)
GAPS = st.sampled_from(["", " ", "  # ] } ,\n", "\n", "\t", "\r\n"])


@st.composite
def arrays(draw, values):
    items = draw(st.lists(values, max_size=3))
    gap = draw(GAPS)
    return f"[{gap}" + ",".join(f"{gap}{each} {draw(GAPS)}" for each in items) + "]"


KEYS = st.from_regex(r"[a-zA-Z0-9_-]{1,4}", fullmatch=True) | TEXTS.map(quoted)


@st.composite
def inlines(draw, values):
    names = draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3))
    dotted = st.sampled_from(["", ".x", ' . y."z.w"'])
    pairs = [f"{name}{draw(dotted)} = {draw(values)}" for name in names]
    return "{ " + ", ".join(pairs) + " }"


VALUES = st.recursive(SCALARS, lambda values: arrays(values) | inlines(values), max_leaves=6)


@st.composite
def documents(draw):
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        name = draw(st.sampled_from(["a", "b", "a.b", "a.b.c", "c", 'c . "d e"', "d"]))
        many = draw(st.booleans())
        lines.append(f"[[{name}]]" if many else f"[ {name} ]" if draw(st.booleans()) else f"[{name}] # [x]")
        lines += [
            f"{draw(KEYS)}{draw(st.sampled_from(['', '.q', ' . q . r']))} = {draw(VALUES)}"
            for _ in range(draw(st.integers(0, 3)))
        ]
        lines += draw(st.sampled_from([[], [""], ["# comment = 1", "  "]]))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


@given(documents())
@settings(max_examples=600, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_the_places_are_of_the_paths_that_tomllib_reads(text):
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # two tables of one name: no document at all
    found = Positions(text).lines
    assert set(found) == set(paths(document))
    lines = text.replace("\r\n", "\n").split("\n")
    for path, line in found.items():
        if isinstance(path[-1], str) and path[-1].isalnum():
            assert path[-1] in lines[line - 1]
        assert line >= max((found[path[:n]] for n in range(1, len(path)) if path[:n] in found), default=1) or any(
            each.startswith("[") for each in lines
        )


@given(st.lists(st.sampled_from(["a = 1", "[t]", "[[u]]", "b.c = [1,\n2,\n3]", "# x", ""]), max_size=8, unique=True))
def test_a_key_is_on_the_line_where_a_person_finds_it(lines):
    """Against a naive search: each of these keys stands in the text once."""
    text = "\n".join(lines)
    found = Positions(text)
    naive = {}
    for number, line in enumerate(text.split("\n"), start=1):
        for key, start in (("a", "a ="), ("t", "[t"), ("u", "[[u"), ("c", "b.c")):
            if line.startswith(start):
                naive[key] = number
    assert {str(path[-1]): line for path, line in found.lines.items() if path[-1] in ("a", "t", "u", "c")} == naive


# Written and read

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
SPANS = st.floats(0.001, 10_000).map(lambda number: round(number, 3))
HEADERS = st.sampled_from(["X-A", "X-B", "Via", "X-User"])
PRINTABLE = st.from_regex(r"[!-~]{1,8}", fullmatch=True)
SELECTORS = st.sampled_from(["client", "header:X-User", "cookie:session"])


def maybe(strategy):
    return st.none() | strategy


ENDPOINTS = st.builds(
    Endpoint,
    NAMES,
    st.integers(1, 65535).map(lambda port: f"http://10.0.0.1:{port}")
    | st.just("https://[::1]:8000")
    | st.just("unix:/run/a.sock"),
    weight=st.integers(1, 9) | st.floats(0.1, 4),
    zone=st.sampled_from(["", "eu-1"]),
    priority=st.integers(0, 2),
    metadata=st.dictionaries(NAMES, TEXTS, max_size=2),
)
ENDPOINT_SETS = st.lists(ENDPOINTS, min_size=1, max_size=4, unique_by=lambda each: each.id).map(
    lambda found: tuple(sorted(found, key=lambda each: each.id))
)
PARAMETERS = {
    "key": SELECTORS,
    "bound": st.floats(1.01, 4),
    "points": st.integers(1, 999),
    "table": st.integers(2, 9999),
    "tau": SPANS,
    "penalty": SPANS,
    "v4": st.integers(1, 32),
    "v6": st.integers(1, 128),
    "cookie": st.sampled_from(["where", "__Host-app"]),
    "secret": st.just(("s" * 16, "t" * 20)),
    "zone": st.just("eu-1"),
    "overprovision": st.floats(1, 3),
    "index": st.just(1),
    "clients": st.integers(2, 5),
    "least": st.integers(1, 20),
    "inner": st.sampled_from(["p2c", "random"]),
}


@st.composite
def picks(draw):
    name = draw(st.sampled_from(sorted(PICKS)))
    needed = {"sticky": ["secret"], "zone_aware": ["zone"], "aperture": ["index", "clients"]}.get(name, [])
    chosen = [each for each in PICKS[name][1] if each in needed or draw(st.booleans())]
    return PickKind().value({"name": name, **{each: draw(PARAMETERS[each]) for each in chosen}})


CHECKS = st.builds(
    HttpCheck,
    path=st.sampled_from(["/", "/health"]),
    interval=SPANS,
    expect=st.sampled_from([range(200, 400), range(200, 300), frozenset({200, 204})]),
    load_header=st.sampled_from(["Tenfold-Load", "X-Load"]),
) | st.builds(TcpCheck, rise=st.integers(1, 5))
SOURCES = st.sampled_from(
    [
        Source(file="a.toml", every=2.0),
        Source(dns="app.internal", port=80, least=2.0),
        Source(dns="_http._tcp.app", record="SRV"),
        Source(kubernetes="app", namespace="shop", port=80, scheme="https"),
    ]
)


@st.composite
def pools(draw, name):
    declared = draw(st.booleans())
    bound = draw(maybe(st.integers(1, 99)))
    return Pool(
        name=name,
        endpoints=draw(ENDPOINT_SETS) if declared else (),
        discovery=None if declared else draw(SOURCES),
        pick=draw(picks()),
        check=draw(maybe(CHECKS)),
        ejection=draw(
            maybe(st.builds(OutlierEjection, consecutive=st.integers(1, 9), deviations=st.sampled_from(["off", 1.5])))
        ),
        slow_start=draw(maybe(st.builds(SlowStart, SPANS, floor=st.floats(0.01, 1)))),
        breaker=draw(maybe(st.builds(Breaker, ratio=st.sampled_from(["off", 0.25]), slow_call=maybe(SPANS)))),
        max_in_flight=bound,
        queue=0 if bound is None else draw(st.integers(0, 9)),
        idle=draw(SPANS),
        tls=draw(maybe(st.sampled_from([UpstreamTls(), UpstreamTls(ca="ca.pem"), UpstreamTls(verify=False)]))),
        preserve_host=draw(st.booleans()),
    )


CHANGES = st.builds(
    HeaderChanges,
    remove=st.just(("X-C",)),
    set=st.dictionaries(st.just("X-A"), PRINTABLE),
    add=st.dictionaries(st.just("X-B"), PRINTABLE),
)


@st.composite
def routes(draw, name, path, names, base):
    common = {
        "name": name,
        "path": path,
        "host": draw(st.sampled_from([(), ("shop.example",), ("*.shop.example", "b.c")])),
        "exact": draw(st.booleans()),
        "methods": draw(st.sampled_from([(), ("GET",), ("GET", "POST")])),
        "headers": draw(st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.booleans() | PRINTABLE, max_size=2)),
        "priority": draw(st.sampled_from(["critical", "normal"])),
        "response_headers": draw(maybe(CHANGES)),
    }
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return Route(
            **common,
            redirect=Redirect(
                to=draw(st.sampled_from(["/a", "https://{host}{path}{query}"])),
                status=draw(st.sampled_from([301, 308])),
            ),
        )
    if kind == 1:
        return Route(**common, respond=Respond(status=draw(st.sampled_from([200, 404])), body=draw(TEXTS)))
    limit = draw(maybe(st.builds(RateLimit, st.floats(0.5, 900), burst=maybe(st.integers(1, 9)))))
    pool = draw(st.sampled_from(names))
    others = [each for each in names if each != pool]
    canary = None
    if others and draw(st.booleans()):
        canary = Canary(
            pool=draw(st.sampled_from(others)),
            weight=draw(st.floats(0.01, 1)),
            header=draw(maybe(HEADERS)),
            by=draw(maybe(SELECTORS)),
        )
    budgets = st.sampled_from([True, False, Budget(share=0.1)])
    retries = draw(maybe(st.builds(Retry, st.integers(1, 5), cap=st.just(9.0), budget=budgets)))
    return Route(
        **common,
        pool=pool,
        canary=canary,
        retries=retries,
        retry_statuses=() if retries is None else draw(st.sampled_from([(), (503,), (429, 502)])),
        deadline=draw(maybe(SPANS)),
        rate_limit=limit,
        limit_by=None if limit is None else draw(maybe(SELECTORS)),
        adaptive=draw(maybe(st.builds(AdaptiveLimit, initial=st.integers(1, 99)))),
        body_max=draw(maybe(st.integers(0, 10**9))),
        edge=draw(st.sampled_from([None, base, replace(base, ttl=base.ttl + 1, largest=1000)])),
        request_headers=draw(maybe(CHANGES)),
        strip_prefix=path != "/" and draw(st.booleans()),
    )


@st.composite
def configs(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    base = draw(
        st.sampled_from(
            [Edge(), Edge(max_bytes=10**6, largest=10**5, name="e", query=("q",), cookies=("c",), stale_if_error=9.0)]
        )
    )
    paths_ = draw(st.lists(st.sampled_from(["/", "/a", "/a/b", "/c", "/d/"]), min_size=1, max_size=4, unique=True))
    gateway = Gateway(
        listen=draw(st.sampled_from(["127.0.0.1:80", ["[::1]:80", "unix:/run/g.sock"], "h.example:0"])),
        processes=draw(st.integers(1, 9)),
        tls=draw(st.sampled_from([(), (Certificate(certificate="a.pem", key="${x", names=("*.a.b",)),)])),
        trusted=draw(st.sampled_from([(), ("10.0.0.0/8", "fd00::/8")])),
        body_max=draw(maybe(st.integers(0, 10**12))),
        header_timeout=draw(SPANS),
        access_log=draw(
            maybe(st.builds(AccessLog, sample=st.floats(0, 1), path=st.sampled_from(["-", "log/a b.json"])))
        ),
    )
    return Config(
        gateway=gateway,
        admin=draw(
            maybe(
                st.builds(
                    Admin,
                    token=st.just("${TOKEN}" * 3),
                    listen=st.sampled_from([Address("127.0.0.1", 9), Address(path="/run/a")]),
                )
            )
        ),
        edge=base,
        pools=tuple(draw(pools(name)) for name in names),
        routes=tuple(draw(routes(f"r{n}", path, names, base)) for n, path in enumerate(paths_)),
    )


@given(configs())
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
def test_what_is_written_is_read_again(config):
    assert read_config(write_config(config, secrets=True), environ={}) == config


@given(configs())
@settings(max_examples=50, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_secret_is_in_what_is_shown(config):
    for text in (repr(config), repr(config.admin), repr(config.pools), write_config(config), str(config.document())):
        assert "${TOKEN}" not in text
        assert "s" * 16 not in text


# A difference leads from the old to the new


def applied(old, changes):
    """What a gateway holds that starts with ``old`` and does as it is told."""
    pools_ = {each.name: each for each in old.pools}
    for each in changes.pools_removed:
        del pools_[each.name]
    for each in changes.pools_added:
        assert each.name not in pools_
        pools_[each.name] = each
    for change in changes.pools_changed:
        pool = pools_[change.name]
        endpoints = {each.id: each for each in pool.endpoints}
        for each in change.removed:
            del endpoints[each.id]
        for each in change.weights:
            old_one = endpoints[each.id]
            endpoints[each.id] = replace(old_one, weight=each.weight)
        for each in (*change.added, *change.changed):
            endpoints[each.id] = each
        parts = {each.key: each.after for each in change.settings}
        pools_[change.name] = replace(pool, endpoints=tuple(endpoints[id] for id in sorted(endpoints)), **parts)
    routes_ = {each.name: each for each in old.routes}
    for each in changes.routes_removed:
        del routes_[each.name]
    for each in changes.routes_added:
        routes_[each.name] = each
    for change in changes.routes_changed:
        routes_[change.name] = replace(routes_[change.name], **{each.key: each.after for each in change.settings})
    tables = {name: getattr(old, name) for name in ("gateway", "admin", "edge", "engine")}
    for table in tables:
        for each in changes.settings:
            if each.key == table:
                tables[table] = each.after
        parts = {
            each.key.partition(".")[2]: each.after for each in changes.settings if each.key.startswith(f"{table}.")
        }
        tables[table] = replace(tables[table], **parts) if parts else tables[table]  # together: one may need the other
    return pools_, routes_, tables


@given(configs(), configs(), st.booleans())
@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_difference_leads_from_the_old_to_the_new(old, new, alike):
    if alike and old.pools[0].endpoints:  # little differs, so that small changes are seen as such
        first = old.pools[0]
        heavier = tuple(replace(each, weight=each.weight + 1) for each in first.endpoints)
        new = replace(old, pools=(replace(first, endpoints=heavier), *old.pools[1:]), routes=old.routes[::-1])
    changes = diff(old, new)
    pools_, routes_, tables = applied(old, changes)
    assert pools_ == {each.name: each for each in new.pools}
    assert routes_ == {each.name: each for each in new.routes}
    assert tables == {name: getattr(new, name) for name in tables}
    assert all("${TOKEN}" not in line and "s" * 16 not in line for line in changes.lines())
    if alike and old.pools[0].endpoints:
        (change,) = changes.pools_changed
        assert (change.added, change.removed, change.changed, change.settings) == ((), (), (), ())
        assert changes.order is (len(old.routes) > 1)


@given(configs())
@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
def test_there_is_no_difference_from_oneself(config):
    assert not diff(config, read_config(write_config(config, secrets=True), environ={}))


def test_frozen_options_can_be_compared_and_hashed():
    assert hash(Frozen({"a": 1})) == hash(Frozen({"a": 1}))
    assert {PickSpec(), PickSpec()} == {PickSpec()}
