"""Whatever stands for a key, the answer is a configuration or sentences with lines; never a surprise."""

# ruff: noqa: E501 - a row is a line

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.gateway.config import GatewayConfigError, read_config, write_config
from tenfold.gateway.config.reference import FOREIGN, TABLES
from tenfold.gateway.config.tables import keys

HEAD = '[gateway]\nlisten = "127.0.0.1:8080"\n[[pool]]\nname = "b"\nendpoints = ["http://b:1"]\n[[pool]]\nname = "c"\nendpoints = ["http://c:1"]\n'
PLACES = {
    "Certificate": "[[route]]\npool = 'b'\n[[gateway.tls]]\n{line}",
    "Endpoint": "[[pool]]\nname = 'a'\nendpoints = [{{ {line} }}]\n[[route]]\npool = 'b'",
    "HttpCheck": "check = {{ {line} }}\n[[route]]\npool = 'b'",
    "TcpCheck": "check = {{ tcp = true, {line} }}\n[[route]]\npool = 'b'",
    "OutlierEjection": "ejection = {{ {line} }}\n[[route]]\npool = 'b'",
    "SlowStart": "slow_start = {{ {line} }}\n[[route]]\npool = 'b'",
    "Breaker": "breaker = {{ {line} }}\n[[route]]\npool = 'b'",
    "Source": "[[pool]]\nname = 'a'\ndiscovery = {{ {line} }}\n[[route]]\npool = 'b'",
    "UpstreamTls": "tls = {{ {line} }}\n[[route]]\npool = 'b'",
    "Pool": "[[pool]]\n{line}\n[[route]]\npool = 'b'",
    "Route": "[[route]]\n{line}",
    "Canary": "[[route]]\npool = 'b'\ncanary = {{ {line} }}",
    "Redirect": "[[route]]\nredirect = {{ {line} }}",
    "Respond": "[[route]]\nrespond = {{ {line} }}",
    "HeaderChanges": "[[route]]\npool = 'b'\nrequest_headers = {{ {line} }}",
    "Retry": "[[route]]\npool = 'b'\nretries = {{ {line} }}",
    "Budget": "[[route]]\npool = 'b'\nretries = {{ budget = {{ {line} }} }}",
    "RateLimit": "[[route]]\npool = 'b'\nrate_limit = {{ {line} }}",
    "AdaptiveLimit": "[[route]]\npool = 'b'\nadaptive = {{ {line} }}",
    "Edge": "[[route]]\npool = 'b'\n[edge]\n{line}",
    "Admin": "[[route]]\npool = 'b'\n[admin]\n{line}",
    "Engine": "[[route]]\npool = 'b'\n[engine]\n{line}",
    "AccessLog": "[[route]]\npool = 'b'\n[gateway.access_log]\n{line}",
}
KEYS = [(cls.__name__, name) for _, cls in TABLES for name, _ in keys(cls)]
KEYS += [(cls.__name__, name) for _, cls, kind in FOREIGN for name in kind.known]
VALUES = st.recursive(
    st.sampled_from(
        [
            "0",
            "1",
            "-1",
            "2.5",
            "inf",
            "-inf",
            "nan",
            "1e308",
            "99999999999999999999",
            "true",
            "false",
            "''",
            "'a'",
            "'off'",
            "'${A}'",
            "'${B}'",
            "'10s'",
            "'5%'",
            "'200%'",
            "'1/s'",
            "'1/0'",
            "'64MB'",
            "'GET'",
            "'client'",
            "'/x'",
            "'\\n'",
            "'http://[::1'",
            "'http://a:x'",
            "'unix:/a'",
            "1979-05-27",
            "07:32:00",
            "'embedded'",
            "'haproxy'",
            '"\\u0000"',
        ]
    ),
    lambda values: (
        st.lists(values, max_size=2).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(
            st.sampled_from(["name", "path", "x", "tcp", "url", "inner", "secret"]), values, max_size=2
        ).map(lambda each: "{ " + ", ".join(f"{key} = {value}" for key, value in each.items()) + " }")
    ),
    max_leaves=4,
)


BESIDE = {
    "Certificate": {"certificate": "'a'", "key": "'b'"},
    "Endpoint": {"url": "'http://a:1'"},
    "Source": {"dns": "'a'", "port": "1"},
    "Pool": {"name": "'a'", "endpoints": "['http://a:1']"},
    "Route": {"pool": "'b'"},
    "Canary": {"pool": "'c'", "weight": "0.5"},
    "Redirect": {"to": "'/'"},
    "RateLimit": {"rate": "1"},
    "Admin": {"token": "'0123456789abcdef'"},
}
"""What a table must have besides the key in question."""


def written(table, key, value):
    line = f"{key} = {value}"
    if table == "Gateway":
        text = HEAD.replace('listen = "127.0.0.1:8080"', line) + "[[route]]\npool = 'b'"
        return text if key == "listen" else text.replace("[gateway]", "[gateway]\nlisten = '127.0.0.1:8080'")
    beside = [f"{name} = {each}" for name, each in BESIDE.get(table, {}).items() if name != key]
    between = ", " if "{{" in PLACES[table] else "\n"
    return HEAD + PLACES[table].format(line=between.join([*beside, line]))


@pytest.mark.parametrize(("table", "key", "value"), [
    ("Gateway", "listen", "'a:1'"), ("Gateway", "processes", "2"), ("Certificate", "names", "['a.b']"), ("Endpoint", "weight", "2"),
    ("Source", "least", "2"), ("Pool", "idle", "1"), ("Route", "deadline", "'1s'"), ("Canary", "by", "'client'"),
    ("Redirect", "status", "301"), ("RateLimit", "burst", "3"), ("Admin", "public", "true"), ("HttpCheck", "path", "'/x'"),
    ("TcpCheck", "rise", "2"), ("Breaker", "ratio", "0.2"), ("Retry", "attempts", "2"), ("Budget", "burst", "2"), ("Edge", "ttl", "1"),
    ("Engine", "name", "'haproxy'"), ("AccessLog", "sample", "0.5"), ("HeaderChanges", "remove", "['A']"), ("Respond", "status", "204"),
    ("AdaptiveLimit", "initial", "3"), ("SlowStart", "window", "3"), ("OutlierEjection", "share", "0.2"), ("UpstreamTls", "ca", "'a'"),
])  # fmt: skip
def test_each_table_is_reached(table, key, value):
    """Or the test below would only ever see refusals."""
    read_config(written(table, key, value), environ={})


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table}-{key}" for table, key in KEYS])
@settings(max_examples=15, deadline=None)
@given(value=VALUES)
def test_any_value_is_taken_or_refused_in_a_sentence(table, key, value):
    text = written(table, key, value)
    try:
        config = read_config(text, "g.toml", environ={"A": "hunter22", "B": "7"})
    except GatewayConfigError as error:
        lines = text.count("\n") + 1
        for problem in error.found:
            assert 1 <= problem.line <= lines
            assert "\n" not in str(problem)
            assert len(problem.text.split()) >= 3
            assert "hunter22" not in str(problem)
    else:
        assert read_config(write_config(config, secrets=True), environ={}) == config
