"""A simulation of scaling for people: a table for the terminal, and figures for a page, as `report` has them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.units import format_duration
from tenfold.simulate.report import COLOURS, layout, table_of
from tenfold.simulate.scaling_result import Point, ScalingResult

if TYPE_CHECKING:
    from rich.table import Table

HEAD: Final = (
    "policy", "in the SLO", "late", "refused", "worker-seconds", "most", "changes", "turns", "as exported",
)  # fmt: skip


def rows(result: ScalingResult) -> list[tuple[str, ...]]:
    """A line for each policy under `HEAD`. ``as exported``: whether the platform decides as the policy that was
    exported to it, on the series that was seen here.
    """
    agrees = {None: "", True: "the same", False: "differs"}
    return [
        (
            one.label,
            f"{one.share:.2%}",
            f"{one.late:,}",
            f"{one.refused:,}",
            f"{one.worker_seconds:,.0f}",
            f"{one.most}",
            f"{one.changes}",
            f"{one.turns}",
            agrees[one.agrees],
        )
        for one in result.policies
    ]


def table(result: ScalingResult) -> Table:
    """The same for the terminal, by rich."""
    return table_of(HEAD, rows(result))


def subtitle(result: ScalingResult) -> str:
    """What was simulated in one line."""
    first = result.policies[0]
    return f"{first.arrived:,} requests · good within {format_duration(result.slo)} · seed {result.seed}"


def figures(result: ScalingResult) -> list[tuple[str, str, dict[str, Any]]]:
    """Title, note and figure of every plot, in the order of a report."""
    return [
        ("Workers", "As many as were wanted from each decision on.", _over_time(result, lambda p: p.wanted, "", "hv")),
        ("Arrivals", "Over the period before each decision.", _over_time(result, lambda p: p.rate, "a second")),
        ("p95", "Of what was answered.", _over_time(result, lambda p: None if p.p95 is None else p.p95 * 1e3, "ms")),
        (
            "In the SLO",
            "Of what ended in the period; what was refused is not.",
            _over_time(result, lambda p: p.good, "share"),
        ),
    ]


def _over_time(
    result: ScalingResult, value: Callable[[Point], float | None], unit: str, shape: str = "linear"
) -> dict[str, Any]:
    lines = [
        {
            "type": "scatter", "mode": "lines", "name": escape(one.label), "connectgaps": False,
            "x": [point.at for point in one.points], "y": [value(point) for point in one.points],
            "line": {"color": COLOURS[at % len(COLOURS)], "width": 2, "shape": shape}, "hovertemplate": "%{y:.4g}",
        }
        for at, one in enumerate(result.policies)
    ]  # fmt: skip
    return {"data": lines, "layout": layout("seconds", unit)}
