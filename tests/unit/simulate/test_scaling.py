"""Scaling on the virtual clock: what goes in comes out, costs add up, and exported policies decide as the local one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Behavior, ScalePolicy, Target
from tenfold.autoscale.export import Workload, kubernetes, parse
from tenfold.cli.simulate import simulate
from tenfold.simulate import (
    ScalingResult,
    ScenarioError,
    first_difference,
    load_scaling,
    scaling_from_dict,
    simulate_scaling,
)
from tenfold.simulate.scaling_report import HEAD, figures, rows, subtitle

STEP = Path(__file__).parents[3] / "docs" / "how-to" / "scenarios" / "scaling" / "step.toml"
LOCAL = {"label": "local", "most": 8, "in_flight": 8}


def scenario(**changes):
    table = {
        "duration": "60s",
        "slo": "200ms",
        "arrivals": {
            "kind": "steps",
            "steps": [{"at": 0, "rate": 100}, {"at": 10, "rate": 600}, {"at": 30, "rate": 50}],
        },
        "service": {"kind": "deterministic", "mean": "50ms"},
        "workers": {"limit": 10, "queue": 50},
        "scale": [LOCAL],
    }
    return {**table, **changes}


def only(**changes):
    return simulate_scaling(scaling_from_dict(scenario(**changes))).policies[0]


@pytest.mark.parametrize("queue", [0, 50, 5000])
def test_every_request_ends_once_whoever_comes_and_goes(queue):
    one = only(workers={"limit": 10, "queue": queue})
    assert one.arrived > 10_000
    assert one.good + one.late + one.refused == one.arrived
    assert one.changes > 1
    assert one.worker_seconds >= 60


def test_scale_in_loses_nothing():
    """Down from eight to one under load: who leaves ends what it has."""
    one = only(
        duration="200s",
        workers={"limit": 10, "begin": 8},
        arrivals={"kind": "poisson", "rate": 120},
        service={"kind": "exponential", "mean": "50ms"},
    )
    assert one.points[-1].wanted == 1
    assert (one.refused, one.good + one.late) == (0, one.arrived)


def test_a_number_that_never_changes_costs_what_it_says():
    one = only(scale=[{"label": "three", "least": 3, "most": 3, "in_flight": 8}])
    end = one.worker_seconds / 3
    assert 59 < end < 62
    assert (one.changes, one.turns, one.most) == (0, 0, 3)
    assert {point.ready for point in one.points} == {3}


def test_in_flight_is_littles_law():
    one = only(arrivals={"kind": "constant", "rate": 100}, scale=[{**LOCAL, "least": 2}])
    assert [point.in_flight for point in one.points[2:]] == pytest.approx([5.0] * (len(one.points) - 2), abs=0.3)
    assert one.share == 1


def test_a_worker_is_ready_when_it_has_started_and_not_before():
    slow = only(workers={"limit": 10, "queue": 50, "starts_in": "5s"})
    grown = next(point.at for point in slow.points if point.wanted > 1)
    assert next(point.at for point in slow.points if point.ready > 1) == pytest.approx(grown + 5, abs=1)
    assert only().share > slow.share, "the longer it takes, the more is late"


def test_a_schedule_has_the_workers_there_before_the_load():
    hours = {"start": "0 8 * * *", "end": "0 9 * * *", "workers": 5}
    early = {**LOCAL, "schedules": [hours]}
    traffic = {"kind": "steps", "steps": [{"at": 0, "rate": 100}, {"at": 15, "rate": 700}]}
    without = only(arrivals=traffic)
    with_it = only(arrivals=traffic, scale=[early], begins="2026-01-05T07:59:50Z")
    assert {point.wanted for point in with_it.points if 10 <= point.at < 15} == {5}
    assert with_it.refused + with_it.late == 0 < without.refused + without.late
    assert next(point.why for point in with_it.points if point.at >= 10) == "scheduled"


def test_p95_is_a_target_too():
    one = only(scale=[{"label": "p95", "most": 8, "p95": "80ms"}])
    assert one.most > 1


def test_the_same_seed_gives_the_same_bytes_and_another_another():
    table = scenario(duration="20s")
    one, two = (simulate_scaling(scaling_from_dict(table)).to_json() for _ in range(2))
    assert one == two
    assert simulate_scaling(scaling_from_dict({**table, "seed": 2})).to_json() != one


@pytest.fixture(scope="module")
def step():
    return simulate_scaling(load_scaling(STEP))


def test_the_exported_autoscaler_decides_as_the_local_policy_on_the_series_of_each(step):
    by_label = {one.label: one for one in step.policies}
    assert (by_label["local"].agrees, by_label["kubernetes"].agrees, by_label["keda"].agrees) == (None, True, True)
    # and on the series of the local one too, a second at a time
    policy = ScalePolicy(most=10, targets=(Target.in_flight(8),), behavior=Behavior.local())
    there = parse(kubernetes(Workload(name="app", image="x"), policy).documents)
    series = [(point.at, {"in_flight": point.in_flight}) for point in by_label["local"].points]
    assert first_difference(policy, there, series) is None
    other = ScalePolicy(most=10, targets=(Target.in_flight(20),), behavior=Behavior.local())
    assert 60 < first_difference(policy, other, series).at < 70, "the comparison sees another target"


def test_azure_differs_on_the_way_down_because_its_behaviour_is_fixed(step):
    azure = next(one for one in step.policies if one.label == "azure")
    assert azure.agrees is False
    assert azure.difference.startswith("at 240 s: 10 -> 9 workers")
    assert "because of higher wishes before" in azure.difference
    assert len(azure.points) == 480 / 30


def test_a_slower_clock_is_late_for_longer(step):
    shares = [one.share for one in step.policies]
    assert shares[0] > shares[1] > shares[3]


def test_the_report_has_a_row_and_a_line_for_each(step):
    assert [row[0] for row in rows(step)] == ["local", "kubernetes", "keda", "azure"]
    assert {len(row) for row in rows(step)} == {len(HEAD)}
    assert [row[-1] for row in rows(step)] == ["", "the same", "the same", "differs"]
    assert all(len(figure["data"]) == 4 for _, _, figure in figures(step))
    assert subtitle(step).endswith("good within 1.00 s · seed 1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": []}, "length >= 1"),
        ({"scale": [LOCAL, LOCAL]}, "each label once"),
        ({"scale": [{**LOCAL, "least": 9}]}, "expected at most 8 as the least"),
        ({"scale": [{"label": "a", "most": 8}]}, "a target or a schedule"),
        ({"scale": [{**LOCAL, "export": "azure"}]}, "goes by a rate"),
        ({"scale": [{**LOCAL, "export": "nomad"}]}, "invalid enum value"),
        ({"scale": [{**LOCAL, "period": "1ms"}]}, "100 ms or more"),
        ({"slo": 0}, "slo: expected a duration above 0"),
        ({"workers": {"limit": 0}}, "`int` >= 1"),
        ({"begins": "2026-01-05T07:50:00"}, "a time with its offset"),
        ({"scale": [{**LOCAL, "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "workers": 2}]}]}, "begins"),
        ({"speed": 1}, "unknown field `speed`"),
    ],
)
def test_a_mistake_is_told(changes, words):
    with pytest.raises(ScenarioError, match=words):
        scaling_from_dict(scenario(**changes))


def tenfold(*words):
    command = [sys.executable, "-m", "tenfold", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_tells_a_scenario_of_scaling_by_its_policies(tmp_path):
    short = STEP.read_text().replace('duration = "8m"', 'duration = "70s"')
    (tmp_path / "short.toml").write_text(short)
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    done = tenfold("simulate", tmp_path / "short.toml", "--policy", "kubernetes", "--out", out, "--report", page)
    assert done.returncode == 0, done.stderr
    assert "in the SLO" in done.stdout
    assert "the same" in done.stdout
    assert "…" not in done.stdout
    assert [one["label"] for one in json.loads(out.read_text())["policies"]] == ["kubernetes"]
    assert all(title in page.read_text() for title in ("Workers", "Arrivals", "In the SLO"))
    for options in ({"requests": 5}, {"policy": ("absent",)}):
        with pytest.raises(MisuseError, match=r"^--"):
            simulate(tmp_path / "short.toml", **options)


def test_what_is_no_scenario_of_scaling_is_left_to_the_other_reader(tmp_path):
    assert load_scaling(STEP.parents[1] / "one-slow-server.toml") is None
    assert load_scaling(tmp_path / "absent.toml") is None
    assert isinstance(simulate_scaling(scaling_from_dict(scenario(duration="2s"))), ScalingResult)
