"""Results as points for a plan: which rate held the SLO, where it is a lower bound, and what cannot be judged."""

from __future__ import annotations

import json

import msgspec
import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.histogram import Histogram
from tenfold.autoscale import Measured, NoPlan, Plan, plan
from tenfold.autoscale.usl import USL
from tenfold.cli._plan_results import objectives_of, read
from tenfold.load import Objective, Probe, RunResult, SearchResult, StepResult


def search(*probes, stopped="precision"):
    passed = max((probe.rate for probe in probes if probe.vote == "pass"), default=0.0)
    return SearchResult(
        highest_passing=passed, lowest_failing=None, client_limit=None, stopped=stopped, why="", knee=None,
        probes=list(probes),
    )  # fmt: skip


def probe(rate, p95, vote=None, **more):
    return Probe(rate=rate, vote=vote or ("pass" if p95 <= 0.1 else "fail"), p95=p95, in_flight=rate * 0.05, **more)


@pytest.fixture
def saved(tmp_path):
    def save(result, name="result.json"):
        path = tmp_path / name
        path.write_bytes(result.to_json() if isinstance(result, RunResult) else msgspec.json.encode(result))
        return str(path)

    return save


SEARCH = search(
    probe(100, 0.02), probe(200, 0.08), probe(400, 0.3), probe(280, 0.12), probe(230, 0.09),
    probe(250, 0.11), probe(250, 0.09), probe(250, 0.13),
)  # fmt: skip
P95 = "p95<100ms"


@pytest.mark.parametrize(
    ("found", "slo", "rate", "at_least"),
    [
        (SEARCH, P95, 230, False),
        (SEARCH, None, 230, False),
        (SEARCH, "p95<50ms", 100, False),
        (SEARCH, "p95<121ms", 280, False),
        (SEARCH, "p95<1s", 400, True),
        (search(probe(100, 0.02), probe(200, 0.05, "invalid")), P95, 100, True),
        # a pass beyond the first rate that missed is luck
        (search(probe(100, 0.02), probe(200, 0.2), probe(400, 0.02)), P95, 100, False),
        (search(probe(100, 0.02, error_share=0.02), probe(50, 0.02)), "p95<100ms, errors<0.1%", 50, False),
        (search(probe(100, 0.02, error_share=0.02), probe(50, 0.02)), "errors<0", 50, False),
        # ended early for an SLO that was stricter than this one: it says nothing
        (search(probe(100, 0.02), probe(200, 0.2, early=True)), "p95<300ms", 100, True),
        (search(probe(100, 0.02), probe(200, 0.4, early=True)), "p95<300ms", 100, False),
    ],
)
def test_the_rate_is_the_highest_below_the_first_that_missed(saved, found, slo, rate, at_least):
    evidence = read([f"4={saved(found)}"], objectives_of(slo) if slo else [])
    assert evidence.points == (Measured(4, rate, 0.05, at_least=at_least),)
    assert len(evidence.notes) == at_least


def test_a_number_of_workers_that_never_held_the_slo_is_told_and_left_out(saved):
    evidence = read([f"2={saved(search(probe(100, 0.2)))}"], objectives_of(P95))
    assert evidence.points == ()
    assert evidence.notes == ("2 workers never held the SLO, so nothing is known of them.",)


def run(rate, *milliseconds, kind="constant", **more):
    """A run of ten seconds with samples of these times."""
    times = Histogram([int(each * 1000) for each in milliseconds])
    step = StepResult(name="one", attempts=times.count, corrected=times, uncorrected=times)
    return RunResult(
        scenario="s", target="t", schedule={"kind": kind, "rate": rate}, duration=10, elapsed=10,
        planned=times.count, started=times.count, steps=[step], **more,
    )  # fmt: skip


def test_runs_of_one_number_of_workers_make_one_point_with_the_response_time_by_littles_law(saved):
    files = [
        f"2={saved(run('10/s', *[40] * 100), 'a.json')}",
        f"2={saved(run('20/s', *[50] * 200), 'b.json')}",
        f"2={saved(run(40, *[500] * 400), 'c.json')}",
    ]
    (point,) = read(files, objectives_of(P95)).points
    assert (point.workers, point.rate, point.at_least) == (2, 20, False)
    assert point.response_time == pytest.approx(0.05)


def test_a_bare_file_is_one_worker_and_that_is_told(saved):
    evidence = read([saved(search(probe(100, 0.02), probe(200, 0.2)))], objectives_of(P95))
    assert evidence.points[0].workers == 1
    assert evidence.notes == ("result.json was measured with 1 worker. (With four it is --from 4=result.json.)",)


def test_four_breakpoints_give_the_law_and_a_plan_beyond_them(saved):
    law = USL(250, 0.02, 0.0005, 0)
    files = [
        f"{n}={saved(search(probe(law.rate(n), 0.09), probe(law.rate(n) * 1.05, 0.2)), f'{n}.json')}"
        for n in (1, 2, 4, 8)
    ]
    points = read(files, objectives_of(P95)).points
    found = plan(1500, points)
    assert isinstance(found, Plan)
    assert law.rate(found.workers) >= 1500 / 0.7 > law.rate(found.workers - 1)
    assert found.in_flight == pytest.approx(75)
    assert isinstance(plan("12000/s", points), NoPlan), "forty-eight times one worker is more than the law goes"


@pytest.mark.parametrize(
    ("slo", "limits"),
    [
        ("p95<100ms", Objective(p95="100ms")),
        (" p99 <= 1s , errors < 0.1% ", Objective(p99="1s", errors="0.1%")),
        ("p50<10ms,p999<2s", Objective(p50="10ms", p999="2s")),
    ],
)
def test_an_slo_is_written_as_limits(slo, limits):
    assert objectives_of(slo) == [limits]


def test_or_it_is_the_file_of_the_load_tests(tmp_path):
    (tmp_path / "slo.toml").write_text('[[objective]]\np95 = "100ms"\n')
    assert objectives_of(str(tmp_path / "slo.toml")) == [Objective(p95="100ms")]


@pytest.mark.parametrize("slo", ["p94<1s", "p95<", "p95<1s,p95<2s", "p95<soon", "errors<200%", "absent.toml", "<"])
def test_an_slo_that_makes_no_sense_is_refused(slo):
    with pytest.raises(MisuseError):
        objectives_of(slo)


@pytest.mark.parametrize(
    ("result", "slo", "words"),
    [
        (SEARCH, "p999<1s", "cannot be judged by p999"),
        (run(10, 1, invalid=["the client lagged"]), P95, "proves nothing: the client lagged"),
        (run(10, 1, kind="spike"), P95, "at one rate"),
        (run(10, 1), None, "give --slo"),
        ({"highest_passing": "much"}, P95, "tenfold load breakpoint"),
        ({"anything": 1}, P95, "JSON of a load run"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_file(saved, result, slo, words):
    with pytest.raises(MisuseError, match=words) as caught:
        read([f"2={saved(result)}"], objectives_of(slo) if slo else [])
    assert "result.json" in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "text").write_text("no JSON")
    for word in ("absent.json", "2=absent.json", str(tmp_path / "text"), f"0={tmp_path / 'text'}"):
        with pytest.raises(MisuseError, match="--from: "):
            read([word], [])


def test_a_result_without_the_newer_field_is_still_read(saved, tmp_path):
    told = json.loads(msgspec.json.encode(SEARCH))
    for one in told["probes"]:
        del one["in_flight"]
    (tmp_path / "old.json").write_text(json.dumps(told))
    (point,) = read([f"1={tmp_path / 'old.json'}"], objectives_of(P95)).points
    assert (point.rate, point.response_time) == (230, None)
