"""A result for people: a table for the terminal, and figures for a page.

Figures are plain dictionaries in the JSON schema of plotly.js with colours as ``var(--name)``, the form that the pages
of `tenfold.load.report` take, which put plotly.js into the one file they write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.units import format_duration
from tenfold.simulate.result import Moment, PolicyResult, Result

if TYPE_CHECKING:
    from rich.table import Table

HEAD: Final = (
    "policy", "p50", "p95", "p99", "wait", "errors", "in flight", "imbalance", "retries",
)  # fmt: skip
COLOURS: Final = (
    "var(--blue)", "var(--orange)", "var(--violet)", "var(--green)", "var(--red)", "var(--teal)", "var(--grey)",
)  # fmt: skip
_MAX_SERVERS: Final = 200


def rows(result: Result) -> list[tuple[str, ...]]:
    """The comparison of the policies, a line each, under `HEAD`: ``wait`` is the mean before the work starts, ``in
    flight`` the most at one server.
    """
    return [
        (
            policy.policy,
            _time(policy.latency.p50),
            _time(policy.latency.p95),
            _time(policy.latency.p99),
            format_duration(policy.mean_wait),
            f"{policy.error_share:.3%}",
            f"{policy.max_in_flight:,}",
            f"{policy.imbalance:.2f}",
            f"{policy.retries:,}",
        )
        for policy in result.policies
    ]


def table(result: Result) -> Table:
    """The same for the terminal, by rich."""
    return table_of(HEAD, rows(result))


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the terminal: names to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        made.add_column(name, justify="right" if number else "left", no_wrap=bool(number))
    for row in rows:
        made.add_row(*row)
    return made


def subtitle(result: Result) -> str:
    """What was simulated in one line."""
    first = result.policies[0]
    zones = len({server.zone for server in first.servers if server.zone})
    parts = [f"{len(first.servers):,} servers", f"{first.arrived:,} requests", f"seed {result.seed}"]
    return " · ".join([*parts, f"{zones} zones"] if zones else parts)


def figures(result: Result) -> list[tuple[str, str, dict[str, Any]]]:
    """Title, note and figure of every plot, in the order of a report."""
    return [
        ("p99 over time", "A gap: failures reach below the percentile.", over_time(result, lambda m: _ms(m.p99), "ms")),
        ("p50 over time", "", over_time(result, lambda m: _ms(m.p50), "ms")),
        ("In flight", "Most requests open at once in each interval.", over_time(result, lambda m: m.in_flight, "")),
        ("Errors", "Requests a second that came to nothing.", over_time(result, lambda m: m.errors, "a second")),
        ("Attempts by server", "Busiest first, over the mean per weight: 1 is even.", shares(result)),
    ]


def over_time(result: Result, value: Callable[[Moment], float | None], unit: str) -> dict[str, Any]:
    """One line a policy."""
    lines = [
        {
            "type": "scatter", "mode": "lines", "name": escape(policy.policy), "connectgaps": False,
            "x": [moment.at for moment in policy.series], "y": [value(moment) for moment in policy.series],
            "line": {"color": COLOURS[at % len(COLOURS)], "width": 2}, "hovertemplate": "%{y:.4g}",
        }
        for at, policy in enumerate(result.policies)
    ]  # fmt: skip
    return {"data": lines, "layout": layout("seconds", unit)}


def shares(result: Result) -> dict[str, Any]:
    """How even the load was: the servers of each policy from the busiest to the idlest."""
    lines = []
    for at, policy in enumerate(result.policies):
        loads = _loads(policy)
        lines.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": escape(policy.policy),
                "x": list(range(1, len(loads) + 1)), "y": loads, "hovertemplate": "%{y:.3g}",
                "line": {"color": COLOURS[at % len(COLOURS)], "width": 2},
            }
        )  # fmt: skip
    return {"data": lines, "layout": layout("server, by rank", "of the mean")}


def _loads(policy: PolicyResult) -> Sequence[float]:
    weighed = [server for server in policy.servers if server.weight]
    sent = sum(server.taken + server.refused for server in weighed)
    even = sent / sum(server.weight for server in weighed)
    loads = sorted(((s.taken + s.refused) / s.weight / even if even else 0.0 for s in weighed), reverse=True)
    step = max(1, -(-len(loads) // _MAX_SERVERS))
    return loads[::step]


def layout(x: str, y: str) -> dict[str, Any]:
    """Axes of these titles in the colours of the page."""
    axis = {"gridcolor": "var(--grid)", "zerolinecolor": "var(--grid)", "linecolor": "var(--line)"}
    return {
        "xaxis": {**axis, "title": {"text": x}}, "yaxis": {**axis, "title": {"text": y}, "rangemode": "tozero"},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "var(--ink)", "size": 13},
        "margin": {"l": 60, "r": 16, "t": 36, "b": 44}, "hovermode": "x unified", "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}, "hoverlabel": {"bgcolor": "var(--card)"},
    }  # fmt: skip


def _time(seconds: float | None) -> str:
    return "failed" if seconds is None else format_duration(seconds)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
