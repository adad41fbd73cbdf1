"""Figures of a run as plotly.js dictionaries. Each function is independent; a report puts them where it
wants.

Names of steps and kinds of errors come from outside. plotly.js reads a little markup in texts, so they are
escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from tenfold.load.report.page import Figure
from tenfold.load.result import Counts, Interval, RunResult
from tenfold.load.search import SearchResult
from tenfold.load.slo import QUANTILES

_MAX_POINTS: Final = 600
_MAX_STEPS: Final = 12
_MAX_KINDS: Final = 6
_COLOURS: Final = (
    "var(--blue)",
    "var(--orange)",
    "var(--violet)",
    "var(--teal)",
    "var(--green)",
    "var(--red)",
)
_NINES: Final = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


def spectrum(result: RunResult) -> Figure:
    """Corrected and uncorrected latency against the percentile, each step's corrected line, and the latency
    objectives."""
    totals = result.totals
    traces = [_spectrum_line(totals, "corrected", "var(--blue)", 3)]
    plain = Counts(attempts=totals.uncorrected.count, corrected=totals.uncorrected)
    traces.append(_spectrum_line(plain, "uncorrected", "var(--orange)", 2, dash="dash"))
    if len(result.steps) > 1:
        for at, step in enumerate(result.steps[:_MAX_STEPS]):
            line = _spectrum_line(step, escape(step.name), _COLOURS[(at + 2) % len(_COLOURS)], 1.5)
            traces.append({**line, "visible": "legendonly"})
    # A mark of one step's objective would seem to speak of the thick lines, which are all steps together.
    limits = [line for line in result.objectives if line.metric in QUANTILES and line.step == "*"]
    if limits:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": "objective",
                "x": [1 / (1 - QUANTILES[line.metric]) for line in limits],
                "y": [line.limit * 1e3 for line in limits],
                "text": [f"{line.metric} ≤ {line.limit * 1e3:g} ms" for line in limits],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"symbol": "line-ew-open", "size": 34, "color": "var(--red)",
                           "line": {"width": 3}},
            }
        )  # fmt: skip
    # From the median on, where one looks: a freeze spans decades and needs the logarithm.
    values = [y for trace in traces[:2] for x, y in zip(trace["x"], trace["y"], strict=True) if y and x >= 2]
    tall = bool(values) and max(values) / min(values) > 30
    most = max(100.0, float(totals.attempts))
    ticks = [q for q in _NINES if 1 / (1 - q) <= most * 1.01]
    layout = _layout("percentile", "latency, ms")
    layout["xaxis"] |= {
        "type": "log", "range": [0, math.log10(most)],
        "tickvals": [1 / (1 - q) for q in ticks], "ticktext": [f"{q * 100:.6g} %" for q in ticks],
    }  # fmt: skip
    layout["yaxis"] |= {"type": "log", "dtick": "D2"} if tall else {"rangemode": "tozero"}
    layout["hovermode"] = "closest"
    return {"data": traces, "layout": layout}


def latency(result: RunResult) -> Figure:
    """p50, p95 and p99 of each second; the warm-up shaded, the latency objectives of all steps as lines."""
    seconds = _folded(result.intervals)
    at = [second.at for second in seconds]
    rows = [second.corrected.quantiles((0.5, 0.95, 0.99), beyond=second.errors) for second in seconds]
    traces = [
        _line(at, [_ms(row[index]) for row in rows], name, colour)
        for index, (name, colour) in enumerate(
            (("p50", "var(--green)"), ("p95", "var(--blue)"), ("p99", "var(--violet)"))
        )
    ]
    layout = _time_layout(result, "latency, ms")
    for line in result.objectives:
        if line.metric in QUANTILES and line.step == "*":
            layout["shapes"].append(_across(line.limit * 1e3))
            layout["annotations"].append(
                {
                    "xref": "paper", "x": 1, "y": line.limit * 1e3, "xanchor": "right", "yanchor": "bottom",
                    "text": f"{line.metric} ≤ {line.limit * 1e3:g} ms", "showarrow": False,
                    "font": {"color": "var(--red)", "size": 12},
                }
            )  # fmt: skip
    return {"data": traces, "layout": layout}


def rates(result: RunResult) -> Figure:
    """Samples intended, sent and answered a second."""
    seconds, fold = _folded(result.intervals), _fold(result.intervals)
    at = [second.at for second in seconds]
    return {
        "data": [
            _line(at, [s.intended / fold for s in seconds], "intended", "var(--grey)", dash="dash"),
            _line(at, [s.sent / fold for s in seconds], "sent", "var(--orange)"),
            _line(at, [s.answered / fold for s in seconds], "answered", "var(--blue)"),
        ],
        "layout": _time_layout(result, "a second"),
    }


def in_flight(result: RunResult) -> Figure:
    """The most requests in flight in each second."""
    seconds = _folded(result.intervals)
    line = _line([s.at for s in seconds], [s.in_flight_max for s in seconds], "in flight", "var(--teal)")
    return {
        "data": [{**line, "fill": "tozeroy", "fillcolor": "var(--shade)", "showlegend": False}],
        "layout": _time_layout(result, "requests"),
    }


def errors(result: RunResult) -> Figure:
    """Failed samples of each second, stacked by kind; rare kinds together as "other"."""
    seconds = _folded(result.intervals)
    sums: dict[str, int] = {}
    for second in seconds:
        for kind, n in second.kinds.items():
            sums[kind] = sums.get(kind, 0) + n
    named = sorted(sums, key=lambda kind: -sums[kind])[:_MAX_KINDS]
    colours = ("var(--red)", "var(--orange)", "var(--violet)", "var(--teal)", "var(--blue)", "var(--green)")
    at = [second.at for second in seconds]
    traces = [
        _bars(at, [s.kinds.get(kind, 0) for s in seconds], escape(kind), colours[index])
        for index, kind in enumerate(named)
    ]
    rest = [s.errors - sum(s.kinds.get(kind, 0) for kind in named) for s in seconds]
    if any(rest):
        traces.append(_bars(at, rest, "other", "var(--grey)"))
    layout = _time_layout(result, "errors") | {"barmode": "stack", "bargap": 0.1}
    if max((second.errors for second in seconds), default=0) <= 5:
        layout["yaxis"]["dtick"] = 1  # there is no half error
    return {"data": traces, "layout": layout}


def breakpoint(found: SearchResult) -> Figure:
    """p95 of every probe against its rate, coloured by verdict, with the breakpoint and the knee marked."""
    colours = {"pass": "var(--green)", "fail": "var(--red)", "invalid": "var(--grey)"}
    words = {"pass": "passes", "fail": "fails", "invalid": "invalid"}
    traces = []
    for vote, colour in colours.items():
        probes = [probe for probe in found.probes if probe.vote == vote and probe.p95 is not None]
        if probes:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": words[vote],
                    "x": [probe.rate for probe in probes], "y": [(probe.p95 or 0) * 1e3 for probe in probes],
                    "marker": {"color": colour, "size": 11, "symbol": "circle" if vote == "pass" else "x"},
                    "hovertemplate": "%{x:.4g}/s: p95 %{y:.4g} ms<extra></extra>",
                }
            )  # fmt: skip
    layout = _layout("rate, a second", "p95, ms")
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "log", "dtick": "D2"}
    layout["hovermode"] = "closest"
    for rate, text in ((found.highest_passing, "breakpoint"), (found.knee or 0.0, "knee")):
        if rate:
            layout["shapes"].append(_upright(rate))
            layout["annotations"].append(
                {
                    "x": math.log10(rate), "yref": "paper", "y": 1 if text == "breakpoint" else 0.9,
                    "text": f"{text} {rate:.4g}/s", "showarrow": False, "xanchor": "right",
                    "font": {"color": "var(--muted)", "size": 12},
                }
            )  # fmt: skip
    return {"data": traces, "layout": layout}


def ladder(rungs: Mapping[str, float | None], unit: str = "requests a second") -> Figure:
    """One horizontal bar a rung, first on top; ``None`` is a rung that was not measured. For a series of
    fixes."""
    names = [escape(name) for name in rungs]
    values = list(rungs.values())
    layout = _layout(unit, "")
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True}
    layout["xaxis"]["rangemode"] = "tozero"
    layout["hovermode"] = "closest"
    bar = {
        "type": "bar", "orientation": "h", "y": names, "x": values, "marker": {"color": "var(--blue)"},
        "text": ["not measured" if value is None else f"{value:,.4g}" for value in values],
        "textposition": "auto", "hovertemplate": "%{y}: %{x:,.4g}<extra></extra>",
    }  # fmt: skip
    return {"data": [bar], "layout": layout}


def _spectrum_line(counts: Counts, name: str, colour: str, width: float, dash: str = "solid") -> dict[str, Any]:
    n = counts.attempts
    qs: list[float] = []
    if n:
        # 20 points a decade of 1/(1 − q), from the median's side down to the slowest sample.
        last = math.log10(max(2, n))
        steps = max(2, math.ceil(last * 20))
        qs = [1 - 10 ** (-last * step / steps) for step in range(steps + 1)]
    values = counts.latencies(qs)
    return {
        "type": "scatter", "mode": "lines", "name": name,
        "line": {"color": colour, "width": width, "dash": dash},
        "x": [1 / (1 - q) for q in qs], "y": [_ms(value * 1e6) for value in values],
        "text": [f"{q * 100:.5g} %" for q in qs],
        "hovertemplate": "%{text}: %{y:.4g} ms<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _line(x: Sequence[float], y: Sequence[float | None], name: str, colour: str, dash: str = "solid") -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "connectgaps": False,
        "line": {"color": colour, "width": 2, "dash": dash}, "hovertemplate": "%{y:.4g}",
    }  # fmt: skip


def _bars(x: Sequence[float], y: Sequence[float], name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour},
        "showlegend": True,
    }


def _layout(x: str, y: str) -> dict[str, Any]:
    axis = {
        "gridcolor": "var(--grid)", "zerolinecolor": "var(--grid)", "linecolor": "var(--line)",
        "automargin": True,
    }  # fmt: skip
    return {
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "x unified",
        "font": {"color": "var(--ink)", "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {
            "bgcolor": "var(--card)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}
        },
        "margin": {"l": 60, "r": 16, "t": 34, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {**axis, "title": {"text": x, "font": {"size": 12}}},
        "yaxis": {**axis, "title": {"text": y, "font": {"size": 12}}},
        "shapes": [], "annotations": [],
    }  # fmt: skip


def _time_layout(result: RunResult, y: str) -> dict[str, Any]:
    layout = _layout("seconds since the start", y)
    layout["yaxis"]["rangemode"] = "tozero"
    if result.warmup:
        layout["shapes"].append(
            {
                "type": "rect", "xref": "x", "yref": "paper", "x0": 0, "x1": result.warmup, "y0": 0, "y1": 1,
                "fillcolor": "var(--shade)", "line": {"width": 0}, "layer": "below",
            }
        )  # fmt: skip
    return layout


def _across(y: float) -> dict[str, Any]:
    line = {"color": "var(--red)", "width": 1.5, "dash": "dash"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line}


def _upright(x: float) -> dict[str, Any]:
    line = {"color": "var(--grey)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line}


def _fold(intervals: Sequence[Interval]) -> int:
    return max(1, math.ceil(len(intervals) / _MAX_POINTS))


def _folded(intervals: Sequence[Interval]) -> list[Interval]:
    """At most 600 points: neighbouring seconds of a long run are merged, their counts summed."""
    fold = _fold(intervals)
    if fold == 1:
        return list(intervals)
    merged = []
    for begin in range(0, len(intervals), fold):
        part = intervals[begin : begin + fold]
        whole = Interval(at=part[0].at)
        for second in part:
            peak = max(whole.in_flight_max, second.in_flight_max)
            whole.add(second)
            whole.in_flight_max = peak
        merged.append(whole)
    return merged


def _ms(micros: float) -> float | None:
    return round(micros / 1e3, 4) if math.isfinite(micros) else None
