from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load import report
from tenfold.load.report import Section, figures, page
from tenfold.load.result import Interval, RunResult
from tenfold.load.search import Probe, SearchResult
from tenfold.load.slo import Objective, judge

MakeRun = Callable[..., RunResult]
NASTY = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


@pytest.mark.parametrize(
    ("objectives", "spoil", "word"),
    [
        ([Objective(p95="100ms")], False, "passed"),
        ([Objective(p95="1ms")], False, "missed"),
        ([], False, "no objectives"),
        ([Objective(p95="1ms")], True, "invalid run"),
    ],
)
def test_the_header_carries_the_verdict(make_run: MakeRun, objectives: list[Objective], spoil: bool, word: str) -> None:
    run = make_run()
    if spoil:
        run.clients[0].cpu_share = 0.99
    judge(run, objectives)
    html = report.render(run)
    assert re.search(rf'<h1>Load test: shop<span class="badge \w+">{word}</span></h1>', html)
    assert ("was saturated: 99% of a core" in html) == spoil


def test_every_string_from_outside_is_inert(make_run: MakeRun) -> None:
    run = make_run(errors=0.05, step=NASTY, scenario=NASTY)
    run.target = run.stopped_because = NASTY
    run.environment = {NASTY: {NASTY: NASTY}}
    run.notes, run.tracebacks = [NASTY], {NASTY: NASTY}
    run.steps[0].errors[NASTY] = run.steps[0].errors.pop("status 503")
    for second in run.intervals:
        second.kinds = {NASTY: second.errors}
    run.schedule[NASTY] = NASTY
    judge(run, [Objective(step=NASTY, p95="1ms")])
    run.invalid = [NASTY]
    seen = parsed(report.render(run, NASTY))
    assert sum(tag == "script" for tag, _ in seen.tags) == 2  # plotly and the figures
    assert not [tag for tag, attrs in seen.tags if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert NASTY in seen.text  # shown as text, not lost


def test_the_page_asks_no_other_host(make_run: MakeRun) -> None:
    seen = parsed(report.render(make_run()))
    assert not [tag for tag, attrs in seen.tags if {"src", "href", "action"} & set(attrs)]
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_summary_has_every_step_and_the_numbers(make_run: MakeRun) -> None:
    text = " ".join(parsed(report.render(make_run(median=0.02, sigma=0.0))).text)
    for expected in (
        "product",
        "all steps",
        "warm-up (not counted)",
        "2,700",
        "100.0/s",
        "20.0 ms",
        "0.000%",
    ):
        assert expected in text


def figure_json(figure: dict[str, object]) -> str:
    return json.dumps(figure, allow_nan=False)  # what the page embeds must be JSON without NaN


def test_the_spectrum_ends_where_the_failures_begin(make_run: MakeRun) -> None:
    run = make_run(errors=0.1)
    judge(run, [Objective(p95="100ms"), Objective(step="product", p99="1s")])
    figure = figures.spectrum(run)
    corrected, uncorrected, objective = figure["data"]
    share = run.totals.error_share
    for x, y in zip(corrected["x"], corrected["y"], strict=True):
        assert (y is None) == (1 - 1 / x > 1 - share)
    assert None not in uncorrected["y"]
    assert objective["x"] == [pytest.approx(20)]  # p95 of all steps; the step's own objective is in the table
    assert objective["y"] == [100]
    figure_json(figure)


def test_latency_over_time_shades_the_warmup_and_draws_the_objective(make_run: MakeRun) -> None:
    run = make_run()
    judge(run, [Objective(p95="100ms")])
    figure = figures.latency(run)
    assert [trace["name"] for trace in figure["data"]] == ["p50", "p95", "p99"]
    shade, line = figure["layout"]["shapes"]
    assert (shade["x0"], shade["x1"]) == (0, 3)
    assert line["y0"] == 100
    figure_json(figure)


def test_errors_are_stacked_and_rare_kinds_are_put_together(make_run: MakeRun) -> None:
    run = make_run()
    run.intervals[5].kinds = {f"kind {n}": n for n in range(1, 10)}
    run.intervals[5].errors = 45
    traces = figures.errors(run)["data"]
    assert [trace["name"] for trace in traces] == [*(f"kind {n}" for n in range(9, 3, -1)), "other"]
    assert traces[-1]["y"][5] == 6


def test_a_long_run_is_folded_without_losing_a_sample(make_run: MakeRun) -> None:
    run = make_run()
    run.intervals = [Interval(at=at, intended=10, sent=10, answered=10, in_flight_max=at % 7) for at in range(7200)]
    figure = figures.rates(run)
    assert len(figure["data"][0]["x"]) == 600
    assert set(figure["data"][0]["y"]) == {10}
    assert max(figures.in_flight(run)["data"][0]["y"]) == 6


def test_a_run_without_any_sample_still_makes_a_page() -> None:
    empty = RunResult(
        scenario="s",
        target="t",
        schedule={},
        complete=False,
        stopped_because="connection refused",
        elapsed=0.2,
    )
    html = report.render(empty)
    assert "invalid run" in html
    assert "connection refused" in html


def test_a_search_makes_a_page_of_its_own() -> None:
    found = SearchResult(
        highest_passing=100, lowest_failing=105, client_limit=None, stopped="precision",
        why="100/s passes", knee=80,
        probes=[Probe(rate=100, vote="pass", p95=0.05), Probe(rate=105, vote="fail", p95=None, note=NASTY)],
    )  # fmt: skip
    html = report.render_breakpoint(found)
    assert '<span class="badge good">100/s</span>' in html
    assert NASTY not in html
    assert [trace["name"] for trace in figures.breakpoint(found)["data"]] == ["passes"]
    figure_json(figures.breakpoint(found))


def test_building_blocks_stand_alone(make_run: MakeRun, tmp_path: Path) -> None:
    ladder = figures.ladder({"baseline": 77.0, "<b>cache</b>": None})
    assert ladder["data"][0]["text"] == ["77", "not measured"]
    html = page("Two <runs>", [Section("Ladder", figure=ladder), Section("Words", html="<p>ok</p>")])
    assert "<title>Two &lt;runs&gt;</title>" in html
    assert "<p>ok</p>" in html
    assert len(page("Words only", [Section("Words", html="<p>ok</p>")])) < 10_000  # no figure, no plotly
    report.save(html, tmp_path / "report.html")
    with pytest.raises(MisuseError, match="report: cannot write"):
        report.save(html, tmp_path / "none" / "report.html")
    with pytest.raises(ValueError, match="JSON compliant"):
        page("NaN", [Section("x", figure={"data": [{"y": [float("nan")]}], "layout": {}})])


def test_a_figure_cannot_end_its_script_element() -> None:
    """Figures escape their names; a foreign figure that does not must not break out either."""
    figure = {"data": [{"name": "</script><script>alert(1)</script>"}], "layout": {}}
    seen = parsed(page("Foreign", [Section("x", figure=figure)]))
    assert sum(tag == "script" for tag, _ in seen.tags) == 2
    assert "\\u003c/script\\u003e" in "".join(seen.text)
