"""The table of promises and what is written about a run: pure functions of a story."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from blackfriday.acts import FULL, QUICK, blank
from blackfriday.acts.find import findings
from blackfriday.acts.prove import block_seconds
from blackfriday.acts.scale import outcome, rates, scale_ups, stairs
from blackfriday.promises import promises
from blackfriday.report import render, write
from blackfriday.sentences import at_the_edge, under_serve
from blackfriday.served import Served
from blackfriday.story import (
    Cost,
    EdgeOutcome,
    Endpoint,
    Evidence,
    Integrity,
    Look,
    Outage,
    Prices,
    Probe,
    Promise,
    RungOutcome,
    SameRate,
    ScaleOutcome,
    ScaleUp,
    Statement,
    Story,
    TenTimes,
)
from blackfriday.view import Console, View, short
from tenfold.autoscale import Behavior, ScalePolicy, Target
from tenfold.load import Interval, RunResult


def whole() -> Story:
    """A story with every act, all promises kept."""
    story = blank(QUICK, seed=7)
    story.rungs = [
        RungOutcome("draft", "draft", "N+1", 10.0),
        RungOutcome(
            "baseline", "baseline", "eager", 100.0, probes=(Probe(100.0, 0.08, True), Probe(130.0, math.inf, False))
        ),
        RungOutcome("replicas", "+ replicas", "two workers", 2500.0, fixed=Probe(200.0, 0.004, True)),
    ]
    story.evidence = Evidence(
        500,
        (Statement("SELECT name FROM product WHERE name ILIKE $1", 0.1, 0.02, 0.6),),
        (Endpoint("listing", {"draft": 42.0, "baseline": 2.0}),),
        (),
    )
    story.same_rate = SameRate(70.0, "browsing", 0.050, 0.005, -0.92, -0.88, "better", 4000)
    story.ten_times = TenTimes(1000.0, 30.0, 0.020, 0.0, True, (), 30_000, 28_500, 700, 1_200, 340, 5)
    story.outage = Outage(10.0, 28_500, 0, 70, 69, 0, 2.5, 0)
    story.edge = edge()
    story.integrity = {"tuned": Integrity(800, 801, 0, 0, 0, 0, 0, 200, 0, 0, (390, 411))}
    story.promises = promises(story)
    return story


def edge(**prices: float) -> EdgeOutcome:
    """The gateway's part of that story."""
    seen = {"changes": 3, "reads": 250, "late": 0, "longest": 0.0, "confirmed_within": 0.05, "promised": 30.0, **prices}
    alone, behind = Cost(4_000, 0.021, 500e-6, 0.0), Cost(30_000, 0.020, 200e-6, 110e-6)
    return EdgeOutcome(1000.0, alone, behind, 28_000, 21_000, Prices(**seen))  # type: ignore[arg-type]


def scaled(**changed: object) -> ScaleOutcome:
    """A ramp in which a second worker came at 12 s."""
    looks = tuple(Look(at / 5, 1 if at < 60 else 2, 1 if at < 50 else 2, at / 30) for at in range(125))
    seen = {
        "most": 2, "target_cpu": 0.3, "target_in_flight": 20.0, "low": 236.0, "high": 660.0, "seconds": 25.0,
        "complete": True, "looks": looks, "ups": scale_ups(looks), "requests": 13_821, "errors": 3, "refused": 2,
        "p95": 0.02, "settled_from": 17.0, "settled_requests": 4_648, "settled_errors": 1, "settled_p95": 0.011,
        "code": 0,
    }  # fmt: skip
    return ScaleOutcome(**{**seen, **changed})  # type: ignore[arg-type]


def row(story: Story, start: str) -> Promise:
    return next(found for found in promises(story) if found.promise.startswith(start))


def test_a_story_that_kept_everything_says_what_it_measured_and_what_not() -> None:
    story = whole()
    assert story.kept
    assert [found.kept for found in story.promises] == [True, True, True, None, None, True]
    assert "50.0 ms to 5.0 ms at 70/s: -90%" in row(story, "response").measured
    assert "10.0 × 100/s = 1000/s" in row(story, "ten times").measured
    assert "breaks at 25.0 ×" in row(story, "ten times").measured
    assert "97.5% of 28,500 reads" in row(story, "hit rate").measured
    assert "10 s without payments: 0 requests failed, 69 orders pending, 0 never paid" in row(story, "nothing").measured
    assert "orders on 2 shards, 0 reservations left over" in row(story, "nothing").measured
    assert all("not measured" in found.measured for found in story.promises if found.kept is None)


def test_a_story_in_which_nothing_happened_keeps_nothing_and_breaks_nothing() -> None:
    story = blank(QUICK, seed=1)
    story.promises = promises(story)
    assert {found.kept for found in story.promises} == {None}
    assert not story.kept


def test_too_few_answers_to_compare_neither_keep_nor_break_the_promise() -> None:
    story = whole()
    story.same_rate = SameRate(3.0, "browsing", 0.030, 0.0093, math.nan, math.inf, "inconclusive", 256)
    story.promises = promises(story)
    found = row(story, "response")
    assert found.kept is None
    assert found.measured.endswith("(95 % interval none: 256 answers are too few)")


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        # The point estimate is -51 %, but the interval reaches -49 %: half is not shown.
        ("response", {"same_rate": SameRate(70.0, "browsing", 0.1, 0.049, -0.53, -0.49, "better", 4000)}),
        ("response", {"same_rate": SameRate(70.0, "browsing", 0.1, math.inf, math.nan, math.inf, "inconclusive", 40)}),
        ("ten times", {"ten_times": TenTimes(1000.0, 30.0, 0.2, 0.0, False, (), 30_000, 28_500, 700)}),
        ("hit rate", {"ten_times": TenTimes(1000.0, 30.0, 0.02, 0.0, True, (), 30_000, 28_500, 2_850)}),
        ("nothing lost", {"integrity": {"tuned": Integrity(800, 799, 1, 0, 0, 0, 0, 200, 0)}}),
        ("nothing lost", {"integrity": {"tuned": Integrity(800, 800, 0, 1, 0, 0, 0, 200, 0)}}),
        ("nothing lost", {"integrity": {"tuned": Integrity(800, 800, 0, 0, 0, 1, 0, 200, 0)}}),
        ("nothing lost", {"integrity": {"tuned": Integrity(800, 800, 0, 0, 0, 0, 0, 200, 1)}}),
        ("nothing lost", {"integrity": {"tuned": Integrity(0, 0, 0, 0, 0, 0, 0, 0, 0)}}),
        ("nothing lost", {"integrity": {"tuned": Integrity(800, 800, 0, 0, 0, 0, 0, 200, 0, 1, (400, 400))}}),
        ("nothing lost", {"outage": Outage(10.0, 28_500, 1, 70, 70, 0, 2.5, 0)}),
        ("nothing lost", {"outage": Outage(10.0, 28_500, 0, 70, 70, 1, 2.5, 0)}),
        ("nothing lost", {"outage": Outage(10.0, 28_500, 0, 70, 70, 0, None, 0)}),
        ("nothing lost", {"outage": Outage(10.0, 28_500, 0, 70, 70, 0, 2.5, 1)}),
        ("nothing lost", {"edge": edge(late=9, longest=30.5)}),
        ("nothing lost", {"edge": edge(changes=0)}),
    ],
)
def test_a_broken_promise_is_broken(promise: str, change: dict[str, object]) -> None:
    story = whole()
    for name, value in change.items():
        setattr(story, name, value)
    story.promises = promises(story)
    assert row(story, promise).kept is False
    assert not story.kept


def test_a_shop_that_gave_itself_workers_has_scaled() -> None:
    story = blank(FULL, seed=7)
    assert row(story, "scales").measured == "not measured"
    assert row(blank(QUICK, seed=7), "scales").measured == "not measured in a quick run"
    story.scale = scaled()
    assert row(story, "scales").kept
    assert row(story, "scales").measured == (
        "1 to 2 of 2 workers, 236/s to 660/s; 1 of 4,648 requests failed once settled, p95 11.0 ms; none cut at the end"
    )
    assert scaled().ups == (ScaleUp(10.0, 2, 12.0),)
    assert under_serve(scaled())[1] == "2 workers wished at 10.0 s, ready at 12.0 s"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"settled_errors": 5}, "5 of 4,648 requests failed once settled"),
        ({"settled_from": None}, "too little time was left"),
        ({"code": 1}, "its end was not clean: exit code 1"),
        ({"code": -9}, "its end was not clean: exit code -9"),
        ({"looks": (Look(0.0, 1, 1, 0.5), Look(0.2, 1, 2, 9.0))}, "1 to 1 of 2 workers"),
        ({"looks": (Look(0.0, 2, 2, 0.5),)}, "1 to 2 of 2 workers"),
        ({"looks": ()}, "1 to 0 of 2 workers"),
    ],
)
def test_a_shop_that_did_not_scale_or_failed_then_breaks_the_promise(changed: dict[str, object], says: str) -> None:
    story = blank(FULL, seed=7)
    story.scale = scaled(**changed)
    assert row(story, "scales").kept is False
    assert says in row(story, "scales").measured


def test_a_ramp_that_was_cut_short_is_no_verdict() -> None:
    story = blank(FULL, seed=7)
    story.scale = scaled(complete=False)
    assert row(story, "scales").kept is None


@pytest.mark.parametrize("most", range(2, 9))
def test_the_ramp_begins_below_one_worker_and_asks_for_the_last_one_beyond_the_tolerance(most: int) -> None:
    low, high = rates(0.0008, most, 0.4)
    policy = ScalePolicy(least=1, most=most, targets=(Target.cpu("40%"),), behavior=Behavior.local())
    assert low * 0.0008 < 0.4
    for workers in range(1, most):
        each = high * 0.0008 / workers
        assert each / 0.4 > 1 + policy.behavior.tolerance.up
    assert high * 0.0008 / most < 1  # and all of them can bear it
    steps = stairs(low, high, 25.0)
    assert len(steps) == 25
    assert steps[0] == low
    assert set(steps[10:]) == {high}
    assert list(steps) == sorted(steps)


def test_a_worker_that_came_and_went_and_one_that_never_came() -> None:
    looks = (
        Look(1.0, 1, 1, 1.0), Look(2.0, 1, 3, 9.0), Look(3.0, 2, 3, 9.0), Look(4.0, 3, 3, 9.0),
        Look(5.0, 3, 2, 1.0), Look(6.0, 2, 4, 9.0), Look(7.0, 3, 4, 9.0),
    )  # fmt: skip
    assert scale_ups(looks) == (ScaleUp(2.0, 3, 4.0), ScaleUp(6.0, 4, None))
    assert "4 workers wished at 6.0 s, never all of them ready" in under_serve(scaled(ups=scale_ups(looks)))


def test_what_is_judged_begins_five_seconds_after_the_last_worker_came() -> None:
    served = Served("shop:app", {}, most=2, cpu=0.4)
    served.code = 0
    looks = (Look(0.1, 1, 1, 1.0), Look(2.0, 1, 2, 9.0), Look(3.2, 2, 2, 9.0))

    def made(seconds: int) -> ScaleOutcome:
        intervals = [
            Interval(at=at, intended=100, errors=int(at == 8), kinds={"status 503": 1} if at == 8 else {})
            for at in range(seconds + 1)
        ]
        result = RunResult(scenario="", target="", schedule={}, duration=float(seconds), intervals=intervals)
        return outcome(served, 1.0, 2.0, looks, result)

    assert (made(14).settled_from, made(14).settled_requests, made(14).settled_errors) == (9.0, 500, 0)
    assert made(14).refused == 1
    assert made(14).kept
    assert made(13).settled_from is None  # four seconds are too few


def test_a_price_that_was_late_within_what_was_promised_is_told_and_breaks_nothing() -> None:
    story = whole()
    story.edge = edge(late=9, longest=0.42)
    assert row(story, "nothing lost").kept
    assert "the edge had the old one for 0.42 s at most (30 s promised)" in row(story, "nothing lost").measured
    assert "9 of 250 reads after that had the old one, for 0.42 s at most" in at_the_edge(story.edge)[2]


def test_the_rate_at_which_it_breaks_is_that_of_the_last_rung() -> None:
    story = whole()
    story.rungs.append(RungOutcome("edge", "+ edge", "a gateway", 3100.0))
    assert "breaks at 31.0 ×" in row(story, "ten times").measured


def test_an_invalid_run_is_no_verdict() -> None:
    story = whole()
    story.ten_times = TenTimes(1000.0, 30.0, 0.02, 0.0, False, ("the client was saturated",), 30_000, 28_500, 700)
    assert row(story, "ten times").kept is None
    assert "the client was saturated" in row(story, "ten times").measured


def test_a_story_that_was_cut_short_is_not_kept_however_good_it_was() -> None:
    story = whole()
    story.stopped_because = "interrupted"
    assert not story.kept


def test_findings_point_at_the_rung_that_acts_on_them() -> None:
    top = (
        Statement("SELECT … WHERE name ILIKE $1", 0.1, 0.03, 0.55),
        Statement("SELECT … LIMIT $1 OFFSET $2", 0.5, 0.01, 0.4),
        Statement("SELECT review …", 0.9, 0.0003, 0.02),
    )
    endpoints = (
        Endpoint("product", {"draft": 12.0, "baseline": 4.0}),
        Endpoint("listing", {"draft": 42.0, "baseline": 2.0}),
    )
    found = {finding.what: finding for finding in findings(top, endpoints)}
    assert "42 statements a request, 2 when loaded eagerly" in found["N+1"].evidence
    assert found["search reads the whole table"].rung == "+ indexes"
    assert "product: 4" in found["several statements a page"].evidence
    assert "40% of the database" in found["pages by OFFSET"].evidence
    assert "same reads" in " ".join(found)


def test_no_evidence_makes_no_findings() -> None:
    assert findings((), ()) == []
    quiet = (Endpoint("product", {"draft": 1.0, "baseline": 1.0}),)
    assert findings((), quiet) == []


def test_the_console_tells_every_part_and_fits_eighty_columns() -> None:
    out = io.StringIO()
    view = Console(RichConsole(file=out, width=80, force_terminal=False))
    story = whole()
    with view.bar("a piece of work") as bar:
        bar.update(0.5, "half way")
    view.act("measure", "why")
    assert story.evidence is not None
    view.evidence(story.evidence)
    view.ladder(story.rungs, 200.0)
    assert story.same_rate is not None
    view.same_rate(story.same_rate)
    assert story.edge is not None
    view.edge(story.edge)
    assert story.outage is not None
    view.outage(story.outage)
    assert story.ten_times is not None
    view.ten_times(story.ten_times)
    view.scale(scaled())
    view.integrity(story.integrity)
    view.promises(story)
    text = out.getvalue()
    for expected in (
        "half way",
        "42.0",
        "2,500/s",
        "25.0",
        "4.0 ms",
        "held",
        "0 of 200",
        "kept",
        "not measured",
        "75.0% of 28,000",
        "500 µs alone",
        "workers 200 + gateway 110 µs",
        "none of 250 reads",
        "replicas answered 1,200 statements, 340 of them",
        "2 workers wished at 10.0 s, ready at 12.0 s",
        "3 of 13,821 requests failed, 2 of them answered 503",
        "drained with exit code 0: no request was cut",
        "2 shards: 390, 411; 0 reservations",
    ):
        assert expected in text
    tables = [line for line in text.splitlines() if "─" in line]
    assert max(map(len, tables)) <= 80


def test_the_null_view_has_every_method_of_the_console() -> None:
    for name in vars(Console):
        if not name.startswith("_"):
            assert hasattr(View, name)


def test_the_report_is_one_inert_page_and_the_json_reads_back(tmp_path: Path) -> None:
    story = whole()
    story.scale = scaled()
    story.rungs.append(RungOutcome("evil", "<script>alert(1)</script>", "<b>", 1.0))
    page = render(story)
    assert "<script>alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "the edge answered 75.0% of 28,000 requests" in page
    paths = write(story, tmp_path / "new folder")
    data = json.loads(paths[1].read_text())
    assert data["ten_times"]["rate"] == 1000.0
    assert data["scale"]["looks"][60] == {"at": 12.0, "workers": 2, "wished": 2, "in_flight": 2.0}
    assert data["scale"]["ups"] == [{"at": 10.0, "workers": 2, "ready": 12.0}]
    assert data["rungs"][1]["probes"][1]["p95"] is None  # infinite has no number in JSON
    assert [path.name for path in paths] == ["report.html", "report.json"]


def test_a_partial_story_makes_a_report_too(tmp_path: Path) -> None:
    story = blank(QUICK, seed=1)
    story.stopped_because = "interrupted"
    story.promises = promises(story)
    assert "partial: interrupted" in render(story)
    assert write(story, tmp_path)[0].stat().st_size > 1000


def test_a_statement_is_shown_by_what_it_reads() -> None:
    text = "SELECT product.id,\n product.name FROM product LEFT JOIN category ON true LIMIT $1 OFFSET $2"
    assert short(text, 200) == "SELECT … FROM product LEFT JOIN category ON true LIMIT $1 OFFSET $2"
    assert short("WITH b(id) AS (SELECT c.id AS id FROM c) SELECT x, y FROM b", 200).count("…") == 2
    assert len(short(text, 40)) == 40


@pytest.mark.parametrize(
    ("rate", "left", "seconds"),
    [
        (43.0, 60.0, 6),  # as much time as is wanted
        (43.0, 10.0, 5),  # no time is left: as short as an interval allows
        (21.0, 60.0, 11),  # a slow shop takes longer blocks
        (21.0, 10.0, 8),  # and as its samples allow
        (2.0, 20.0, 25),  # and never longer than this
    ],
)
def test_a_block_is_as_long_as_there_is_time_and_as_its_samples_need(rate: float, left: float, seconds: float) -> None:
    assert block_seconds(rate, QUICK, left) == seconds
