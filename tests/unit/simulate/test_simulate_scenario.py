"""Scenarios: what is wrong in one is told with its place; what is right does what it says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tenfold.simulate import Result, ScenarioError, from_dict, load, parse, run, simulate
from tenfold.simulate.policies import Place, factory, known
from tenfold.simulate.report import HEAD, figures, rows, subtitle

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "how-to" / "scenarios").glob("*.toml"))


def scenario(**changes):
    table = {
        "requests": 2000,
        "policies": ["p2c"],
        "arrivals": {"kind": "poisson", "rate": 200},
        "service": {"kind": "exponential", "mean": "10ms"},
        "servers": [{"id": "s", "count": 4}],
    }
    return {**table, **changes}


def only(**changes):
    return simulate(from_dict(scenario(**changes))).policies[0]


BAD = [
    ({"requests": "many"}, "requests", "expected `int | null`, got `str`"),
    ({"nonsense": 1}, "", "no field 'nonsense'"),
    ({"servers": []}, "servers", "length >= 1"),
    ({"servers": [{"workers": 0}]}, "servers[0].workers", "`int` >= 1, got 0"),
    ({"servers": [{"id": "a"}, {"id": "a"}]}, "", "different ids, got a twice"),
    ({"servers": [{"weight": 0}]}, "", "weight above 0"),
    ({"service": {"kind": "cauchy"}}, "service.kind", "lognormal, bimodal, empirical, got 'cauchy'"),
    ({"service": {"kind": "exponential"}}, "service", "field 'mean', got none"),
    ({"service": {"kind": "exponential", "mean": "soon"}}, "service", "expected a duration"),
    ({"arrivals": {"kind": "poisson", "rate": 0}}, "arrivals", "more than 0 arrivals"),
    ({"arrivals": {"kind": "steps", "steps": [{"at": 5, "rate": 1}]}}, "arrivals", "begin at 0 and rise"),
    ({"requests": None}, "", "got neither"),
    ({"duration": 0}, "", "duration above 0"),
    ({"policies": []}, "", "at least one"),
    ({"clients": {"count": 3000}, "servers": [{"count": 1000}]}, "", "at most 2,000,000"),
    ({"policies": ["p2c", "p2c"]}, "", "give them labels"),
    ({"clients": {"budget": "120%"}}, "clients", "between 0 and 1"),
    ({"fault": [{"kind": "crash", "at": "1s"}]}, "fault[0]", "field 'servers'"),
    ({"fault": [{"kind": "slow", "at": "1s", "servers": ["s-0"], "factor": -1}]}, "fault[0]", "above 0 such as 20"),
    ({"fault": [{"kind": "slow", "at": "soon", "servers": ["s-0"], "factor": 2}]}, "fault[0]", "expected a duration"),
]


@pytest.mark.parametrize(("changes", "where", "words"), BAD, ids=[words for _, _, words in BAD])
def test_a_mistake_is_told_with_its_place_what_was_expected_and_what_came(changes, where, words):
    with pytest.raises(ScenarioError) as caught:
        from_dict(scenario(**changes))
    assert caught.value.where == where
    assert words in caught.value.problem
    assert "\n" not in str(caught.value)


LATE = [
    ({"policies": ["best"]}, "expected one of aperture, "),
    ({"policies": [{"pick": "ring_hash", "colour": 1}]}, "got 'colour'"),
    ({"policies": [{"pick": "peak_ewma", "tau": "0s"}]}, "tau"),
    ({"policies": ["ring_hash"]}, "keys = 10000 under [clients]"),
    ({"servers": [{"id": ""}]}, "expected an id such as"),
    ({"eject": {"consecutiv": 3}}, "eject: expected one of consecutive, "),
    ({"slow_start": {"window": "0s"}}, "slow_start"),
    (
        {"fault": [{"kind": "crash", "at": "1s", "servers": ["nobody"]}]},
        "(there are s-0, s-1, s-2, s-3), got ['nobody']",
    ),
    ({"fault": [{"kind": "zone_loss", "at": "1s", "zone": "x"}]}, "got the zone 'x'"),
]


@pytest.mark.parametrize(("changes", "words"), LATE, ids=[words for _, words in LATE])
def test_names_that_nobody_has_are_refused(changes, words):
    with pytest.raises(ScenarioError) as caught:
        only(**changes)
    assert words in str(caught.value)


def test_bad_toml_is_one_sentence():
    with pytest.raises(ScenarioError, match="expected TOML, got"):
        parse("a = = 1")


@pytest.mark.parametrize("name", sorted(set(known()) - {"sticky"}))
def test_every_pick_of_the_balancer_can_be_simulated(name):
    servers = [{"id": "s", "count": 6, "zone": "a"}, {"id": "t", "count": 6, "zone": "b", "priority": 1}]
    found = only(policies=[name], servers=servers, clients={"keys": 1000, "zones": ["a"], "count": 2})
    assert found.answered == 2000
    assert found.error_share == 0


def test_a_pick_is_told_which_client_it_belongs_to():
    made = factory({"pick": "aperture", "least": 3})(Place(client=2, clients=5))
    assert (made.index, made.clients, made.least) == (2, 5, 3)
    inner = factory({"pick": "zone_aware", "zone": "$zone", "inner": {"pick": "random"}})(Place(zone="eu-1"))
    assert inner.name == "zone_aware"


def test_a_crashed_server_is_not_tried_again_by_the_same_request():
    # Four tries over four servers of which three are down: any endpoint tried twice would be a failed request.
    faults = [{"kind": "crash", "at": 0, "servers": ["s-0", "s-1", "s-2"]}]
    arrivals = {"kind": "poisson", "rate": 20}
    clients = {"attempts": 4, "budget": "100%"}
    found = only(policies=["random"], fault=faults, arrivals=arrivals, clients=clients)
    assert found.failed == found.refused == 0
    refused = [server.refused for server in found.servers]
    assert found.retries == sum(refused) > 2000
    assert found.servers[3].answered == found.arrived


def test_a_refused_connection_costs_no_budget():
    faults = [{"kind": "crash", "at": 0, "servers": ["*"]}]
    found = only(fault=faults, clients={"attempts": 4, "budget": "1%"})
    assert (found.failed, found.retries) == (2000, 3 * 2000)


def test_the_budget_bounds_the_retries():
    faults = [{"kind": "freeze", "at": 0, "servers": ["*"]}]
    clients = {"attempts": 4, "budget": "10%", "timeout": "100ms"}
    found = only(fault=faults, clients=clients)
    assert found.failed == 2000
    assert 200 <= found.retries <= 200 + 20 + found.seconds + 1  # a tenth, the burst, and one a second


def test_a_frozen_server_costs_its_callers_the_timeout_until_it_is_ejected():
    faults = [{"kind": "freeze", "at": "2s", "servers": ["s-0"]}]
    clients = {"timeout": "200ms", "attempts": 1}
    plain = only(policies=["round_robin"], fault=faults, clients=clients)
    kept = only(policies=["round_robin"], fault=faults, clients=clients, eject={"consecutive": 5, "base": "60s"})
    assert set(plain.faults) == {"timeout"}
    assert plain.failed > 300  # a quarter of what comes in 8 s at 200/s
    assert 5 <= kept.failed < 30
    assert [(change.endpoint, change.what) for change in kept.changes] == [("s-0", "ejected: 5 failures in a row")]


def test_checks_take_a_crashed_server_out_and_slow_start_brings_it_back_little_by_little():
    faults = [{"kind": "crash", "at": "2s", "lasts": "2s", "servers": ["s-0"]}]
    check = {"interval": "200ms", "rise": 2, "fall": 2}
    both = {}
    for name, changes in (("plain", {}), ("slow", {"slow_start": {"window": "5s"}})):
        both[name] = only(policies=["weighted_random"], fault=faults, check=check, **changes)
    assert [change.what for change in both["plain"].changes] == ["down", "up"]
    down, up = both["plain"].changes
    assert 2.0 < down.at <= 2.4
    assert 4.0 < up.at <= 4.4
    assert both["slow"].servers[0].answered < 0.8 * both["plain"].servers[0].answered


def test_with_too_few_usable_endpoints_all_are_used():
    faults = [{"kind": "crash", "at": 0, "servers": ["s-0", "s-1", "s-2"]}]
    check = {"interval": "100ms", "fall": 1}
    found = only(policies=["random"], fault=faults, check=check, clients={"attempts": 1, "panic": "50%"})
    assert "panic" in {change.what for change in found.changes}
    assert all(server.refused > 300 for server in found.servers[:3])
    calm = only(policies=["random"], fault=faults, check=check, clients={"attempts": 1, "panic": 0})
    assert all(server.refused < 30 for server in calm.servers[:3])


def test_the_way_to_another_zone_takes_its_time():
    servers = [{"id": "a", "zone": "a"}, {"id": "b", "zone": "b"}]
    found = only(
        policies=["round_robin"],
        servers=servers,
        service={"kind": "deterministic", "mean": "1ms"},
        arrivals={"kind": "constant", "rate": 10},
        clients={"zones": ["a"]},
        network={"same_zone": "1ms", "cross_zone": "20ms"},
    )
    assert found.latency.mean == pytest.approx((0.003 + 0.041) / 2, rel=1e-6)
    assert found.cross_zone == pytest.approx(0.5)


def test_aperture_makes_few_connections_of_many_clients():
    clients = {"count": 20}
    servers = [{"id": "s", "count": 40}]
    wide = only(policies=["p2c"], servers=servers, clients=clients)
    narrow = only(policies=[{"pick": "aperture", "least": 4}], servers=servers, clients=clients)
    assert wide.answered == narrow.answered == 2000
    assert narrow.imbalance < 2


def test_percentiles_leave_the_warm_up_out_and_take_failures_for_infinitely_slow():
    faults = [{"kind": "crash", "at": 0, "lasts": "5s", "servers": ["*"]}]
    cold = only(fault=faults, clients={"attempts": 1})
    warm = only(fault=faults, clients={"attempts": 1}, warmup="5s")
    assert cold.latency.samples == 2000
    assert cold.latency.p99 is None
    assert warm.latency.samples < 1200
    assert warm.latency.p99 is not None
    assert warm.failed == cold.failed > 0


def test_no_arrivals_within_the_duration_is_an_empty_result():
    found = only(requests=None, duration="1s", arrivals={"kind": "constant", "rate": 0.1})
    assert (found.arrived, found.latency.samples, found.latency.p50) == (0, 0, None)


def test_a_rate_that_falls_silent_for_good_ends_the_run():
    steps = [{"at": 0, "rate": 100}, {"at": "5s", "rate": 0}]
    found = only(arrivals={"kind": "steps", "steps": steps})
    assert 400 < found.arrived == found.answered < 600
    assert found.seconds < 6


def test_curves_have_a_bound_however_fine_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(run, "MOST_POINTS", 100)
    found = only(interval="1ms")
    assert 500 < len(found.series) < 800  # 10 s are 10,000 ms: doublings of 100 points each
    assert found.series[-1].at - found.series[-2].at == pytest.approx(0.064, rel=1e-6)


def test_a_result_comes_back_from_its_file(tmp_path):
    result = simulate(from_dict(scenario(policies=["p2c", "random"])))
    result.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == result
    (tmp_path / "bad.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match="expected a result of tenfold simulate"):
        Result.load(tmp_path / "bad.json")


def test_the_table_has_a_line_for_each_policy_and_figures_are_plain_data():
    result = simulate(from_dict(scenario(policies=["p2c", {"pick": "random", "label": "<any>"}])))
    assert [row[0] for row in rows(result)] == ["p2c", "<any>"]
    assert all(len(row) == len(HEAD) for row in rows(result))
    assert subtitle(result) == "4 servers · 2,000 requests · seed 1"
    for _, _, figure in figures(result):
        assert [line["name"] for line in figure["data"]] == ["p2c", "&lt;any&gt;"]
        msgspec.json.encode(figure)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_the_documentation_run(path):
    asked = msgspec.structs.replace(load(path), duration="25s")
    for found in simulate(asked).policies:
        assert found.arrived > 5000
        assert found.error_share < 0.05


def test_there_are_examples():
    assert [path.stem for path in EXAMPLES] == ["one-slow-server", "zone-loss"]
