"""Laws that hold for every scenario: nothing is lost, one seed gives one result, Little's law."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold.simulate import from_dict, simulate

SECONDS = st.sampled_from([0.0, 0.3, 1.0, 2.5])
NAMES = st.sampled_from([["a-0"], ["a-*"], ["b-1"], ["*"]])
FAULTS = st.lists(
    st.one_of(
        st.builds(lambda at, lasts, names: {"kind": "crash", "at": at, "lasts": lasts + 0.2, "servers": names},
                  SECONDS, SECONDS, NAMES),
        st.builds(lambda at, lasts, names: {"kind": "freeze", "at": at, "lasts": lasts + 0.2, "servers": names},
                  SECONDS, SECONDS, NAMES),
        st.builds(lambda at, names, factor: {"kind": "slow", "at": at, "servers": names, "factor": factor},
                  SECONDS, NAMES, st.sampled_from([0.5, 3.0, 30.0])),
        st.builds(lambda at: {"kind": "zone_loss", "at": at, "zone": "z"}, SECONDS),
    ),
    max_size=4,
)  # fmt: skip
SCENARIOS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "duration": st.just(4),
        "drain": st.sampled_from([0, 0.5, 10]),
        "policies": st.just(["p2c", "round_robin", "least_request", "peak_ewma"]),
        "arrivals": st.fixed_dictionaries({"kind": st.just("poisson"), "rate": st.sampled_from([20, 100, 300])}),
        "service": st.fixed_dictionaries({"kind": st.just("lognormal"), "mean": st.just("20ms"), "cv": st.just(2.0)}),
        "servers": st.just(
            [
                {"id": "a", "count": 2, "workers": 2, "queue": 3, "weight": 2},
                {"id": "b", "count": 2, "queue": 20, "zone": "z", "cancels": True},
            ]
        ),
        "clients": st.fixed_dictionaries(
            {
                "count": st.integers(1, 3),
                "timeout": st.sampled_from(["50ms", "1s"]),
                "attempts": st.integers(1, 5),
                "budget": st.sampled_from([0, 0.2, 1]),
            }
        ),
        "network": st.sampled_from([{}, {"same_zone": "1ms", "cross_zone": "30ms"}]),
        "fault": FAULTS,
    },
    optional={
        "check": st.just({"interval": "300ms", "timeout": "100ms"}),
        "eject": st.just({"consecutive": 3, "base": "1s"}),
        "slow_start": st.just({"window": "1s"}),
    },
)


@settings(max_examples=60, deadline=None)
@given(SCENARIOS)
def test_nothing_is_lost(table):
    for found in simulate(from_dict(table)).policies:
        assert found.arrived == found.answered + found.failed + found.refused + found.in_flight
        assert sum(found.errors.values()) == found.failed + found.refused
        assert found.retries <= sum(found.faults.values())
        answered = sum(server.answered for server in found.servers)
        assert answered >= found.answered  # an answer may be under way still, or come too late
        for server in found.servers:
            left = server.taken - server.answered - server.reset - server.wasted
            assert left >= 0
            workers, queue = (2, 3) if server.id.startswith("a") else (1, 20)
            assert server.peak <= workers + queue
            assert 0 <= server.utilisation <= 1 + 1e-9


@settings(max_examples=15, deadline=None)
@given(SCENARIOS)
def test_one_seed_is_one_result_byte_for_byte(table):
    scenario = from_dict(table)
    assert simulate(scenario).to_json() == simulate(scenario).to_json()


def test_the_bytes_do_not_depend_on_the_process_and_its_hash_seed():
    code = (
        "import sys; from tenfold.simulate import from_dict, simulate\n"
        "table = dict(requests=3000, policies=['p2c', 'peak_ewma', 'ring_hash', 'maglev'],\n"
        "  clients=dict(keys=100, count=3),\n"
        "  arrivals=dict(kind='poisson', rate=300), service=dict(kind='exponential', mean='10ms'),\n"
        "  servers=[dict(count=7)], eject={}, check={}, fault=[dict(kind='crash', at=1, servers=['server-3'])])\n"
        "sys.stdout.buffer.write(simulate(from_dict(table)).to_json())"
    )
    seen = set()
    for seed in ("0", "1", "2"):
        source = os.path.dirname(os.path.dirname(tenfold.__file__))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(msgspec.json.decode(seen.pop())["policies"]) == 4


def test_another_seed_is_another_result_with_the_same_traffic_for_all_policies():
    table = {
        "requests": 2000,
        "policies": ["p2c", "random"],
        "arrivals": {"kind": "poisson", "rate": 300},
        "service": {"kind": "exponential", "mean": "10ms"},
        "servers": [{"count": 8}],
    }
    one, two = (simulate(from_dict({**table, "seed": seed})) for seed in (1, 2))
    assert one.to_json() != two.to_json()
    busy = [sum(s.utilisation for s in policy.servers) * policy.seconds for policy in one.policies]
    assert busy[0] == pytest.approx(busy[1])  # the same work came, wherever it went


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.7, 0.95]), st.sampled_from(["p2c", "random", "round_robin"]))
def test_littles_law(seed, load, policy):
    """L = λ W, an identity for every run that starts and ends empty."""
    table = {
        "seed": seed,
        "requests": 1500,
        "policies": [policy],
        "arrivals": {"kind": "poisson", "rate": 500 * load},
        "service": {"kind": "exponential", "mean": "10ms"},
        "servers": [{"count": 5}],
    }
    found = simulate(from_dict(table)).policies[0]
    held = sum(server.mean_in_system for server in found.servers)
    assert found.answered == 1500
    assert held == pytest.approx(found.answered / found.seconds * found.latency.mean, rel=1e-9)
