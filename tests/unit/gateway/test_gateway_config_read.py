"""Files that are right: what they become, what the environment puts in, and what is warned of."""

# ruff: noqa: E501 - a row is a line

import pytest

import tenfold.balance.pick
from tenfold._core.errors import MisuseError
from tenfold.balance.checks import HttpCheck, TcpCheck
from tenfold.gateway.config import (
    Address,
    Admin,
    Edge,
    Gateway,
    GatewayConfigError,
    HeaderChanges,
    Pool,
    Route,
    Secret,
    Source,
    read_config,
    write_config,
)
from tenfold.gateway.config.picks import PICKS, PickKind
from tenfold.gateway.config.positions import Positions
from tenfold.resilience import Breaker, Budget, Retry

SMALL = """
[gateway]
listen = "127.0.0.1:8080"
[[pool]]
name = "app"
endpoints = ["http://127.0.0.1:9001"]
[[route]]
pool = "app"
"""
EXAMPLE = """
[gateway]
listen = ["0.0.0.0:8080", "unix:/run/gateway.sock"]
processes = "${PROCESSES:-2}"
tls = { certificate = "${CERTS}/a.pem", key = "${CERTS}/a.key" }
body_max = "10MB"
access_log = true

[admin]
token = "${TENFOLD_ADMIN_TOKEN}"

[edge]
max_bytes = "64MiB"
ttl = "1s"

[[pool]]
name = "app"
pick = { name = "ring_hash", key = "header:X-User" }
endpoints = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9002", weight = 2 }]
check = { path = "/health", interval = "2s", expect = [200, 204] }
breaker = { ratio = "25%" }

[[pool]]
name = "next"
discovery = { dns = "next.internal", port = 8000 }
check = { tcp = true }

[[route]]
path = "/api"
host = "shop.example"
pool = "app"
canary = { pool = "next", weight = "5%", by = "header:X-User" }
retries = { attempts = 2, budget = { share = "10%" } }
rate_limit = "100/s"
edge = { largest = "1MiB" }

[[route]]
path = "/"
pool = "app"
edge = true
"""
ENVIRON = {"CERTS": "/etc/certs", "TENFOLD_ADMIN_TOKEN": "a very secret token"}


@pytest.fixture
def config():
    return read_config(EXAMPLE, environ=ENVIRON)


def test_an_example_becomes_typed_options(config):
    assert config.gateway.listen == (Address("0.0.0.0", 8080), Address(path="/run/gateway.sock"))
    assert config.gateway.body_max == 10_000_000
    assert config.gateway.access_log.sample == 1.0
    app, following = config.pools
    assert [(each.id, each.weight) for each in app.endpoints] == [("127.0.0.1:9001", 1.0), ("127.0.0.1:9002", 2)]
    assert app.check == HttpCheck(path="/health", interval=2.0, expect=frozenset({200, 204}))
    assert app.breaker == Breaker(ratio=0.25)
    assert app.pick.name == "ring_hash"
    assert app.pick.key == "header:X-User"
    assert following.discovery == Source(dns="next.internal", port=8000)
    assert following.check == TcpCheck()
    api, rest = config.routes
    assert (api.name, rest.name) == ("route-1", "route-2")
    assert api.canary.weight == 0.05
    assert api.retries == Retry(2, budget=Budget(share=0.1))
    assert api.rate_limit.cells_a_second == 100.0
    assert config.pool("next") is following
    assert repr(config) == "<Config embedded on 0.0.0.0:8080, unix:/run/gateway.sock; pools=2 routes=2>"
    with pytest.raises(KeyError):
        config.pool("other")


def test_a_route_says_what_is_other_than_in_edge(config):
    api, rest = config.routes
    assert rest.edge == config.edge == Edge(max_bytes=64 * 2**20, ttl=1.0)
    assert api.edge == Edge(max_bytes=64 * 2**20, ttl=1.0, largest=2**20)


def test_values_come_from_the_environment(config):
    assert config.gateway.processes == 2
    assert read_config(EXAMPLE, environ={**ENVIRON, "PROCESSES": "3"}).gateway.processes == 3
    assert config.gateway.tls[0].certificate == "/etc/certs/a.pem"
    assert config.admin.token == Secret("a very secret token")


@pytest.mark.parametrize(
    ("text", "value"),
    [("${A}", "x"), ("<${A}${B:-y}>", "<xy>"), ("$${A}", "${A}"), ("${E:-z}", "z"), ("${E:-}", ""), ("$A {}", "$A {}")],
)
def test_the_rules_of_the_shell_hold(text, value):
    found = read_config(
        f'{SMALL}[[route]]\npath = "/x"\nrespond = {{ body = "{text}" }}\n', environ={"A": "x", "E": ""}
    )
    assert found.routes[1].respond.body == value


def test_flags_and_numbers_may_come_from_the_environment_into_any_table():
    text = f"{SMALL}preserve = 1\n".replace(
        "preserve = 1", 'exact = "${X}"\nretries = { attempts = "${N}" }\ndeadline = "${S}"'
    )
    (route,) = read_config(text, environ={"X": "true", "N": "4", "S": "2"}).routes
    assert (route.exact, route.retries.attempts, route.deadline) == (True, 4, 2.0)


def test_secrets_are_not_shown(config):
    shown = [repr(config.admin), str(config.admin.token), write_config(config), str(config.document())]
    assert not any("secret token" in each for each in shown)
    assert config.document()["admin"]["token"] == "…"
    assert "a very secret token" in write_config(config, secrets=True)


def test_a_store_loses_its_password_where_it_is_shown():
    text = f'{SMALL}rate_limit = {{ rate = "9/s", store = "redis://user:pass@cache:6379/0" }}\n'
    config = read_config(text, environ={})
    assert config.routes[0].rate_limit.store == "redis://user:pass@cache:6379/0"
    assert "pass" not in repr(config.routes) + str(config.document()).replace("password", "")


def test_what_came_from_the_environment_is_in_no_error():
    text = f'{SMALL}host = "${{HOST}}"\nlimit_by = "${{HOST}}!"\n'
    with pytest.raises(GatewayConfigError) as caught:
        read_config(text, environ={"HOST": "p4ss word"})
    assert "p4ss" not in str(caught.value)
    assert "${HOST}!" in str(caught.value)
    assert "p4ss" not in repr(caught.value.found)


WARNINGS = [
    ("[[pool]]\nname = 'b'\nendpoints = ['http://b:1']", 10, "pool 2 name", "no route uses 'b'"),
    ("[[pool]]\nname = 'b'\nendpoints = ['http://b:1', 'http://c:1']\n[[route]]\npath='/b'\npool='b'", 10, "pool 2 name", "nothing notices"),
    ("canary = { pool = 'app2', weight = 1 }\n[[pool]]\nname = 'app2'\nendpoints = ['http://b:1']", 9, "route 1 canary.weight", "everybody"),
    ("edge = true\nbody_max = 0", 10, "route 1 body_max", "never invalidates what the edge keeps"),
    ("edge = true\nmethods = 'POST'\n[[route]]\nrespond = 404", 9, "route 1 edge", "keeps nothing"),
    ("path = '/x'", 7, "route", "answered 404"),
    ("retries = true\ndeadline = '5s'", 9, "route 1 retries", "waits 60 s for it"),
    ("retries = true\ndeadline = '61s'", None, "", ""),
    ("[gateway.access_log]\nsample = 1", None, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("more", "line", "key", "sentence"), WARNINGS)
def test_what_is_hardly_meant_is_warned_of(more, line, key, sentence):
    warnings = read_config(f"{SMALL}{more}\n", environ={}).warnings
    if line is None:
        assert warnings == ()
    else:
        (warning,) = warnings
        assert (warning.line, warning.key) == (line, key)
        assert sentence in warning.text


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("idle = '5s'", "many backends close them after 5 s"),
        ("tls = true", "no endpoint is https"),
        ("slow_start = '10s'", "endpoints never come back here"),
    ],
)
def test_pools_are_warned_of(line, sentence):
    (warning,) = read_config(SMALL.replace("[[route]]", f"{line}\n[[route]]"), environ={}).warnings
    assert warning.line == 7
    assert sentence in warning.text


def test_everybody_trusted_is_warned_of():
    text = SMALL.replace("[[pool]]", "trusted = '0.0.0.0/0'\n[[pool]]")
    assert [each.key for each in read_config(text, environ={}).warnings] == ["gateway.trusted"]


def test_a_small_file_has_no_warnings():
    assert read_config(SMALL, environ={}).warnings == ()


# Options made in code are checked by the same kinds


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Gateway(listen="nowhere"),
            "gateway listen: expected a list of addresses|gateway listen: expected an address",
        ),
        (lambda: Gateway(listen="a:1", tls={"certificate": "a"}), "gateway tls: expected key, got none"),
        (lambda: Gateway(listen="a:1", tls={"certificate": "a", "key": "b", "nmes": 1}), "did you mean names"),
        (lambda: Admin(token="short"), "admin token: expected a secret of 16"),
        (lambda: Pool(name="a"), "expected either endpoints or discovery, got neither"),
        (lambda: Pool(name="a", endpoints=["http://a:1"], check="/x"), "pool check: expected an HttpCheck"),
        (
            lambda: Pool(name="a", endpoints=["http://a:1"], breaker="x"),
            "pool breaker: expected a Breaker, true or false",
        ),
        (lambda: Route(pool="a", deadline="soon"), "route deadline: expected a duration"),
        (lambda: Route(pool="a", headers={"A": 3}), "route headers: expected true"),
        (lambda: HeaderChanges(), "expected remove, set or add, got none"),
    ],
)
def test_options_made_in_code_are_refused_in_a_sentence(make, sentence):
    with pytest.raises(MisuseError, match=sentence):
        make()


def test_options_made_in_code_are_as_those_of_a_file():
    made = Pool(name="app", endpoints=["http://127.0.0.1:9001"], idle="3s")
    text = SMALL.replace("[[route]]", "idle = '3s'\n[[route]]")
    assert read_config(text, environ={}).pools == (made,)


# Places


def test_places_are_told_in_all_shapes_of_toml():
    text = 'a.b = 1\n[t."x y"]\nk = [\n  1, # ]\n  { c = """\n]\n""", d = 2 },\n]\n[[t.u]]\n[[t.u]]\nz = \'\'\'[\'\'\'\n[t.u.w]\nlast = 1'
    lines = Positions(text)
    wanted = {
        ("a",): 1,
        ("a", "b"): 1,
        ("t", "x y"): 2,
        ("t", "x y", "k"): 3,
        ("t", "x y", "k", 0): 4,
        ("t", "x y", "k", 1, "c"): 5,
        ("t", "x y", "k", 1, "d"): 7,
        ("t", "u", 0): 9,
        ("t", "u", 1): 10,
        ("t", "u", 1, "z"): 11,
        ("t", "u", 1, "w", "last"): 13,
    }
    assert {path: lines.line(path) for path in wanted} == wanted
    assert lines.line(("t", "u", 1, "z", "missing")) == 11
    assert lines.line(("nowhere",)) == 1


# Picks and sources become live parts


@pytest.mark.skipif(not hasattr(tenfold.balance.pick, "P2C"), reason="the picks are not here")
@pytest.mark.parametrize("name", PICKS)
def test_every_pick_can_be_made(name):
    given = {"sticky": {"secret": "s" * 16}, "zone_aware": {"zone": "eu-1"}, "aperture": {"index": 0, "clients": 2}}
    assert PickKind().value({"name": name, **given.get(name, {})}).make().name == name


def test_a_watched_file_can_be_made_a_source(tmp_path):
    made = Source(file=str(tmp_path / "e.toml"), every="2s").make(random=lambda: 0.5)
    assert made.name == f"file {tmp_path / 'e.toml'}"
