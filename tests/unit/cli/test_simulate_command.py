"""``tenfold simulate``: table, files, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCENARIO = """
name = "small"
requests = 2000
policies = ["p2c", "random"]
[arrivals]
kind = "poisson"
rate = "300/s"
[service]
kind = "exponential"
mean = "10ms"
[[servers]]
count = 5
"""


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return path


def tenfold(*words):
    command = [sys.executable, "-m", "tenfold", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_scenario_becomes_a_table_and_two_files(scenario, tmp_path):
    done = tenfold("simulate", scenario, "--out", tmp_path / "r.json", "--report", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    assert "small: 5 servers · 2,000 requests · seed 1" in done.stdout
    for word in ("p2c", "random", "p50", "p99", "errors", "imbalance", "retries"):
        assert word in done.stdout
    assert "…" not in done.stdout
    assert [one["policy"] for one in json.loads((tmp_path / "r.json").read_text())["policies"]] == ["p2c", "random"]
    page = (tmp_path / "r.html").read_text()
    assert "p99 over time" in page
    assert "default-src 'none'" in page
    assert "<script src" not in page


def test_json_is_the_whole_result_and_the_same_every_time(scenario):
    one, two = (tenfold("simulate", scenario, "--json", "--seed", "7") for _ in range(2))
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert json.loads(one.stdout)["seed"] == 7


def test_policies_may_be_chosen_and_added(scenario):
    done = tenfold("simulate", scenario, "--policy", "p2c", "--policy", "least_request", "--requests", "500", "--json")
    assert [one["policy"] for one in json.loads(done.stdout)["policies"]] == ["p2c", "least_request"]
    assert json.loads(done.stdout)["policies"][0]["arrived"] == 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("count = 5", "count = 0"), "servers[0].count: expected `int` >= 1, got 0"),
        (('"p2c", ', '"best", '), "expected one of aperture"),
        (("rate =", "speed ="), "expected no field 'speed'"),
        (("[arrivals]", "[arrivals"), "expected TOML"),
    ],
)
def test_a_bad_scenario_is_one_sentence_and_exit_code_two(scenario, change, words):
    scenario.write_text(SCENARIO.replace(*change))
    done = tenfold("simulate", scenario)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tenfold: scenario: ")
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [("absent.toml",), ()])
def test_no_scenario_is_exit_code_two(words):
    done = tenfold("simulate", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_options_that_make_no_sense_are_refused_as_in_the_file(scenario):
    for words in (("--requests", "0"), ("--policy", "p2c", "--policy", "p2c")):
        done = tenfold("simulate", scenario, *words)
        assert done.returncode == 2, done.stdout
        assert done.stderr.startswith("tenfold: scenario: ")
