"""report.html and report.json: the story for those who were not there. One file each, no request to any other host."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from blackfriday.sentences import at_the_edge, on_replicas, over_shards, under_serve, without_payments
from blackfriday.story import Evidence, Integrity, RungOutcome, SameRate, ScaleOutcome, Story
from blackfriday.view import ADDS, cells, short, verdict
from tenfold import MisuseError
from tenfold.load import RunResult
from tenfold.load.report import Badge, Figure, Section, figures, page, save, tables

_COLOURS = ("var(--grey)", "var(--red)", "var(--orange)", "var(--violet)", "var(--teal)", "var(--blue)", "var(--green)")


def folder(path: Path) -> Path:
    """The folder, made where it is missing. Raises `MisuseError` where that, or writing into it, is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisuseError(f"--out: expected a folder that can be made, got {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise MisuseError(f"--out: expected a folder that can be written, got {path}")
    return path


def write(story: Story, out: Path) -> list[Path]:
    """Write both files into ``out`` and return their paths. Raises `MisuseError` where that is not possible."""
    paths = [folder(out) / "report.html", out / "report.json"]
    save(render(story), paths[0])
    save(story.to_json().decode(), paths[1])
    return paths


def render(story: Story) -> str:
    """The page."""
    if story.stopped_because:
        badge = Badge("partial: " + story.stopped_because[:60], "warn")
    else:
        badge = Badge("all kept", "good") if story.kept else Badge("broken", "bad")
    kind = "quick run" if story.quick else "full run"
    machine = f"{story.environment.get('cpu')}, {story.environment.get('cores')} cores"
    subtitle = f"{kind} of {story.started_at}, {story.seconds:.0f} s, {machine}. SLO: {story.slo}."
    return page("Black Friday: measure, find, fix, prove", sections(story), badge=badge, subtitle=subtitle)


def sections(story: Story) -> list[Section]:
    """Everything that was found out, in the order in which it was."""
    made = [Section("Promises", html=_promises(story), wide=True)]
    rates = {rung.title: rung.rate for rung in story.rungs}
    if any(rates.values()):
        made.append(
            Section(
                "The ladder: the highest rate that holds the SLO",
                figure=figures.ladder(rates),
                note="Every rung was measured by the same search with the same journeys, one after the other.",
                wide=True,
            )
        )
    if story.rungs:
        made.append(Section("Rungs", html=_rungs(story.rungs), wide=True))
    if any(rung.probes for rung in story.rungs):
        made.append(
            Section(
                "p95 against rate",
                figure=_probes(story.rungs),
                note="Every probe of every search. Filled: the SLO held. Probes end early once their verdict is sure.",
                wide=True,
                height=420,
            )
        )
    if story.evidence:
        made += _evidence(story.evidence)
    if story.same_rate:
        made.append(Section("The same rate, before and after", html=_same_rate(story.same_rate), wide=True))
    if story.before_run and story.after_run:
        made += [
            Section("Before: percentile spectrum", figure=figures.spectrum(story.before_run)),
            Section("After: percentile spectrum", figure=figures.spectrum(story.after_run)),
        ]
    if story.integrity:
        made.append(Section("Orders and stock", html=_integrity(story.integrity), wide=True))
    databases = [on_replicas(story.ten_times)] if story.ten_times and story.ten_times.replica_reads else []
    databases += [over_shards(found) for found in story.integrity.values() if found.spread]
    if databases:
        html = "".join(f"<li>{escape(line)}</li>" for line in databases)
        made.append(Section("Replicas and shards", html=f"<ul>{html}</ul>", wide=True))
    if story.edge:
        lines = "".join(f"<li>{escape(line)}</li>" for line in at_the_edge(story.edge))
        made.append(Section("The edge: the gateway's HTTP cache", html=f"<ul>{lines}</ul>", wide=True))
    if story.outage:
        made.append(
            Section("Ten seconds without payments", html=f"<p>{escape(without_payments(story.outage))}</p>", wide=True)
        )
    if story.scale is not None:
        made += _scale(story.scale, story.scale_run)
    run = story.ten_times_run
    if run is not None:
        made += [
            Section("Ten times the traffic", html=tables.cards(run), wide=True),
            Section("Steps", html=tables.steps(run), wide=True),
            Section("Percentile spectrum", figure=figures.spectrum(run), wide=True),
            Section("Latency over time", figure=figures.latency(run), wide=True),
            Section("Offered against achieved rate", figure=figures.rates(run)),
            Section("In flight", figure=figures.in_flight(run)),
            Section("Client health", html=tables.clients(run), wide=True),
        ]
    facts = [
        (name, str(value))
        for name, value in {**story.environment, "seed": story.seed, "Zipf exponent": story.zipf}.items()
    ]
    made.append(Section("Environment", html=_table(("fact", "value"), facts), wide=True))
    return made


def _promises(story: Story) -> str:
    rows = [(row.promise, row.target, row.measured, verdict(row)) for row in story.promises]
    return _table(("promise", "target", "measured on this machine", "verdict"), rows)


def _rungs(rungs: Sequence[RungOutcome]) -> str:
    fixed = next((rung.fixed.rate for rung in rungs if rung.fixed), None)
    head, rows = cells(rungs, fixed)
    return _table((*head, "why the search stopped"), [(*row, rung.why) for row, rung in zip(rows, rungs, strict=True)])


def _evidence(found: Evidence) -> list[Section]:
    names = list(found.endpoints[0].statements) if found.endpoints else []
    endpoints = [(one.name, *(f"{one.statements[name]:.1f}" for name in names)) for one in found.endpoints]
    top = [
        (short(row.text, 320), f"{row.share:.0%}", f"{row.mean * 1e3:.2f} ms", f"{row.calls_per_request:.2f}")
        for row in found.statements
    ]
    seen = [(finding.what, finding.evidence, finding.rung) for finding in found.findings]
    return [
        Section("Findings", html=_table(("finding", "evidence", "rung"), seen), wide=True),
        Section("Statements one request sends", html=_table(("request", *names), endpoints), wide=True),
        Section(
            "Statements of the baseline", html=_table(("statement", "share", "mean", "calls/request"), top), wide=True
        ),
    ]


def _same_rate(found: SameRate) -> str:
    row = (
        f"{found.rate:.0f}/s",
        f"{found.before * 1e3:.1f} ms",
        f"{found.after * 1e3:.1f} ms",
        f"{-found.reduction:+.1%}",
        found.interval,
        found.verdict,
    )
    return _table(("rate", f"p95 of {found.step} before", "after", "change", "95 % interval", "verdict"), [row])


def _integrity(found: dict[str, Integrity]) -> str:
    head = (
        "shop",
        "acknowledged",
        "stored",
        "lost",
        "oversold",
        "stock < 0",
        "miscounted",
        "twice",
        "reserved",
        "on shards",
        "stale own reads",
    )
    rows = [
        (
            name, one.acknowledged, one.stored, one.lost, one.oversold, one.negative_stock, one.miscounted,
            one.duplicates,
            one.leaked, ", ".join(f"{number:,}" for number in one.spread) or "-",
            f"{one.stale_own_reads} of {one.own_reads}" if one.own_reads else "not measured",
        )
        for name, one in found.items()
    ]  # fmt: skip
    return _table(head, rows)


def _probes(rungs: Sequence[RungOutcome]) -> Figure:
    """p95 against rate on logarithmic axes, a colour a rung."""
    base = figures.ladder({})
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": escape(rung.title),
            "x": [probe.rate for probe in rung.probes],
            "y": [probe.p95 * 1e3 if math.isfinite(probe.p95) else None for probe in rung.probes],
            "marker": {
                "color": _COLOURS[at % len(_COLOURS)],
                "size": 9,
                "symbol": ["circle" if probe.held else "circle-open" for probe in rung.probes],
            },
            "hovertemplate": "%{x:,.0f}/s: p95 %{y:.1f} ms",
        }
        for at, rung in enumerate(rungs)
        if rung.probes
    ]
    axis = {"gridcolor": "var(--grid)", "linecolor": "var(--line)", "type": "log", "dtick": "D2", "automargin": True}
    layout = base["layout"] | {
        "xaxis": axis | {"title": {"text": "requests a second"}},
        "yaxis": axis | {"title": {"text": "p95, ms"}},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}


def _scale(found: ScaleOutcome, run: RunResult | None) -> list[Section]:
    lines = "".join(f"<li>{escape(line)}</li>" for line in under_serve(found))
    made = [Section("Under tenfold serve: workers as the load grows", html=f"<ul>{lines}</ul>", wide=True)]
    if run is not None and run.intervals:
        made += [
            Section(
                "Workers and rate over time",
                figure=_workers(found, run),
                note="Steps, right: workers that are ready, and as many as are wished. Lines, left: requests a second.",
                wide=True,
            ),
            Section("Latency while it scales", figure=figures.latency(run), wide=True),
        ]
    return made


def _workers(found: ScaleOutcome, run: RunResult) -> Figure:
    """The rate that was offered and answered, and above it the workers in steps on an axis of their own."""
    base = figures.rates(run)
    steps = [
        {
            "type": "scatter", "mode": "lines", "name": name, "yaxis": "y2",
            "x": [look.at for look in found.looks], "y": [getattr(look, field) for look in found.looks],
            "line": {"color": colour, "width": 3, "dash": dash, "shape": "hv"}, "hovertemplate": "%{y}",
        }
        for name, field, colour, dash in (
            ("workers wished", "wished", "var(--violet)", "dot"),
            ("workers ready", "workers", "var(--green)", "solid"),
        )
    ]  # fmt: skip
    right = base["layout"]["yaxis"] | {
        "title": {"text": "workers", "font": {"size": 12}}, "overlaying": "y", "side": "right",
        "range": [0, found.most + 0.5], "dtick": 1, "showgrid": False,
    }  # fmt: skip
    margin = base["layout"]["margin"] | {"r": 60}
    return {"data": base["data"] + steps, "layout": base["layout"] | {"yaxis2": right, "margin": margin}}


_PROSE = {
    "promise", "target", "measured on this machine", "verdict", "rung", ADDS, "why the search stopped", "finding",
    "evidence", "statement", "request", "shop", "fact", "value",
}  # fmt: skip


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(head)
    kinds = [' class="text"' if name in _PROSE else "" for name in names]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, names, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
