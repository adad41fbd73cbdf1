"""What an engine cannot do is refused at its line; the reference says what the classes say; the command tells both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenfold.gateway.config import CAPABILITIES, GatewayConfigError, engines_table, read_config
from tenfold.gateway.config.picks import PICKS
from tenfold.gateway.config.reference import FOREIGN, TABLES, reference
from tenfold.gateway.config.tables import keys

ROOT = Path(__file__).parents[3]
TEXT = """
[gateway]
listen = "127.0.0.1:8080"
{gateway}
[[pool]]
name = "app"
endpoints = ["http://127.0.0.1:9001"]
check = {{ tcp = true }}
{pool}
[[pool]]
name = "next"
endpoints = ["http://127.0.0.1:9002"]
[[route]]
pool = "app"
{route}
[[route]]
path = "/next"
pool = "next"
"""


def read(where="route", line="", engine="haproxy"):
    return read_config(
        TEXT.format(**{"gateway": "", "pool": "", "route": "", where: line}), "g.toml", environ={}, engine=engine
    )


REFUSED = [
    ("pool", "pick = 'maglev'", "has no such pick; it has round_robin"),
    ("pool", "pick = { name = 'ring_hash', points = 7 }", "has values of its own"),
    ("pool", "breaker = true", "has no circuit breaker"),
    ("pool", "ejection = true", 'does not compare endpoints; say "off"'),
    ("pool", "slow_start = { aggression = 2 }", "in a straight line"),
    ("route", "priority = 'critical'", "in the order of arrival"),
    ("route", "adaptive = true", "has fixed limits"),
    ("route", "rate_limit = { rate = '1/s', store = 'redis://a' }", "counts in its own memory"),
    ("route", "canary = { pool = 'next', weight = 0.1, cookie = 'c' }", "sets no such cookie"),
    ("route", "edge = { stale_if_error = '1m' }", "has no such setting in its cache"),
    ("route", "edge = { headers = ['X-A'] }", "has no such setting in its cache"),
    ("route", "retry_statuses = 503\nretries = 2", "tries again only what got no answer"),
    ("pool", "pick = { name = 'sticky', secret = '0123456789abcdef' }", "has no such pick; it has round_robin"),
]


@pytest.mark.parametrize(("where", "line", "sentence"), REFUSED)
def test_what_haproxy_cannot_do_is_refused_and_the_embedded_engine_does_it(where, line, sentence):
    with pytest.raises(GatewayConfigError) as caught:
        read(where, line)
    (problem,) = caught.value.found
    assert problem.line == {"pool": 9, "route": 15}[where]
    assert f"the engine haproxy {sentence}" in problem.text or sentence in problem.text
    assert read(where, line, engine="embedded").engine.name == "embedded"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("", "say initial"), ("preserve_host = false", "the same Host")],
)
def test_what_haproxy_has_one_of_is_refused_where_several_are_asked_for(line, sentence):
    text = TEXT.format(gateway="", pool=line, route="").replace('["http', '["http://127.0.0.1:9009", "http')
    if not line:
        text = text.replace("tcp = true", "tcp = true, initial = 'down'")
    with pytest.raises(GatewayConfigError, match=sentence):
        read_config(text, "g.toml", environ={}, engine="haproxy")


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("gateway", "tls = { certificate = 'a', key = 'b' }"),
        ("gateway", "proxy_protocol = true"),
        ("gateway", "request_id = 'X-Trace'"),
        ("gateway", "trusted_hops = 2"),
        ("pool", "tls = true"),
    ],
)
def test_both_engines_do_these(where, line):
    assert read(where, line).engine.name == "haproxy"
    assert read(where, line, engine="embedded").engine.name == "embedded"


def test_endpoints_of_https_are_taken():
    text = TEXT.format(gateway="", pool="", route="").replace("http://127.0.0.1:9001", "https://127.0.0.1:9001")
    assert read_config(text, "g.toml", environ={}, engine="embedded").engine.name == "embedded"


def test_what_the_embedded_engine_cannot_do_is_refused_and_haproxy_does_it():
    line = "http2 = true\ntls = { certificate = 'a', key = 'b' }"
    with pytest.raises(GatewayConfigError, match=r"4: gateway\.http2: the engine embedded speaks HTTP/1\.1"):
        read("gateway", line, engine=None)
    assert read("gateway", line).gateway.http2


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("pool", "pick = { name = 'ring_hash', key = 'client' }"),
        ("pool", "slow_start = '10s'"),
        ("route", "canary = { pool = 'next', weight = 0.1 }"),
    ],
)
def test_what_haproxy_does_is_taken(where, line):
    assert read(where, line).warnings == ()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("retries = 2", "without a budget"),
        ("retries = { budget = false }", "without a pause"),
        ("canary = { pool = 'next', weight = 0.1, by = 'client' }", "in its own way"),
        ("rate_limit = '1/s'", "sliding window"),
        ("body_max = 1", "411"),
        ("deadline = '1s'", "gives every try the whole of it"),
        ("edge = true", "small responses"),
    ],
)
def test_what_haproxy_does_in_another_way_is_warned_of(line, sentence):
    (warning,) = read("route", line).warnings
    assert warning.line == 15
    assert sentence in warning.text


@pytest.mark.parametrize(
    ("where", "line", "sentence"),
    [
        ("gateway", "header_max = '64KiB'", "answers 400"),
        ("pool", "ejection = { deviations = 'off' }", "until the check has said yes"),
        ("pool", "first_byte_timeout = '5s'", "the longer of the two"),
    ],
)
def test_what_haproxy_does_in_another_way_for_all_is_warned_of(where, line, sentence):
    assert any(sentence in warning.text for warning in read(where, line).warnings)


def test_the_table_says_why_wherever_an_engine_does_not_do_all():
    for each in CAPABILITIES:
        assert bool(each.why) is ({each.embedded, each.haproxy} != {"yes"}), each.name
    assert engines_table().count("\n") == len(CAPABILITIES) + 1
    assert all(f"`{name}`" in engines_table() for name in PICKS)


def test_the_reference_is_what_the_classes_say():
    """Run ``python -m tenfold.gateway.config.reference > docs/reference/gateway.md`` after a change."""
    assert (ROOT / "docs/reference/gateway.md").read_text(encoding="utf-8") == reference()


def test_the_reference_has_every_key_with_its_meaning():
    page = reference()
    for _, cls in TABLES:
        section = page.partition(f"\n## {cls.__name__}\n")[2].partition("\n## ")[0]
        for name, _ in keys(cls):
            cells = next(line for line in section.splitlines() if line.startswith(f"| `{name}` |")).split(" | ")
            assert len(cells) >= 4
            assert all(cell.strip(" |") for cell in cells)
    for _, cls, kind in FOREIGN:
        section = page.partition(f"\n## {cls.__name__}\n")[2].partition("\n## ")[0]
        assert all(f"| `{name}` |" in section for name in kind.known)


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "tenfold", "gateway", "check", *words],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "g.toml"
    path.write_text(TEXT.format(gateway="", pool="idle = '9s'", route="retries = 2"), encoding="utf-8")
    return path


def test_the_command_sums_up_a_file_that_is_right(file):
    done = command(str(file))
    assert done.returncode == 0, done.stderr
    assert "listen   127.0.0.1:8080 (http)" in done.stdout
    assert "route-1  /…       pool app   retries" in done.stdout
    assert "app   p2c   1: http://127.0.0.1:9001  tcp" in done.stdout
    assert done.stderr.startswith(f"{file}:9: pool 1 idle: connections are kept for 9 s")
    assert command(str(file), "--strict").returncode == 2


def test_the_command_tells_every_problem_with_its_line(file):
    file.write_text(file.read_text(encoding="utf-8").replace("9s", "9").replace("idle", "idel").replace("'/next'", "3"))
    done = command(str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == f"{file}:9: pool 1 idel: unknown key; did you mean idle?\ntenfold: 1 problem; nothing was run\n"
    )


def test_the_command_judges_for_another_engine_and_speaks_json(file):
    file.write_text(file.read_text(encoding="utf-8").replace("retries = 2", "priority = 'batch'"))
    assert json.loads(command(str(file), "--json").stdout)["ok"]
    done = command(str(file), "--engine", "haproxy", "--json")
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["line"], problem["key"]) == (15, "route 1 priority")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    done = command(str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert "expected a file to read, got: No such file or directory" in done.stderr
