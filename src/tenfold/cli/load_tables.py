"""What ``tenfold load`` prints: the live line and the tables at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tenfold._core import units

if TYPE_CHECKING:
    from rich.console import Console

    from tenfold.load import ProbeProgress, Progress, RunResult, SearchResult


def progress_line(now: Progress) -> str:
    p95 = units.format_duration(now.p95) if math.isfinite(now.p95) else "-"
    return (
        f"{now.elapsed:.0f} of {now.planned:.0f} s · {now.rate:,.0f}/s · {now.answered:,} samples · "
        f"{now.errors:,} errors · {now.in_flight:,} under way · p95 {p95}"
    )


def probe_line(now: ProbeProgress) -> str:
    tail = f" · {progress_line(now.run)}" if now.run is not None else ""
    return f"probe {now.number}: {now.ask.rate:.4g}/s ({now.ask.why}){tail}"


def _ms(seconds: float | None) -> str:
    return units.format_duration(seconds) if seconds is not None and math.isfinite(seconds) else "∞"


def show_run(result: RunResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = (0.5, 0.95, 0.99)
    columns = ("step", "samples", "errors", "p50", "p95", "p99", "max", "naive p99")
    table = Table(title=f"{result.scenario} against {result.target}, seed {result.seed}", title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, counts in [(step.name, step) for step in result.steps] + [("all", result.totals)]:
        naive = counts.uncorrected.quantile(0.99) / 1e6
        table.add_row(
            name, f"{counts.attempts:,}", f"{counts.failures:,}", *map(_ms, counts.latencies(shown)),
            _ms((counts.corrected.max or 0) / 1e6), _ms(naive) if counts.uncorrected else "-",
        )  # fmt: skip
    console.print(table)
    for kind, count in sorted(result.totals.errors.items(), key=lambda item: -item[1]):
        console.print(f"  {count:,} × {kind}", markup=False)
    for line in result.objectives:
        seen = f"{line.seen:.3%}" if line.metric == "errors" and line.seen is not None else _ms(line.seen)
        limit = f"{line.limit:.3%}" if line.metric == "errors" else _ms(line.limit)
        word = "pass" if line.passed else "MISS"
        console.print(
            f"{word}  {line.step} {line.metric} {seen}, at most {limit}",
            markup=False,
        )
    for kind, text in result.tracebacks.items():
        console.print(f"first {kind}:\n{text}", markup=False)
    _notes(console, result)


def _notes(console: Console, result: RunResult) -> None:
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for reason in result.invalid:
        console.print(f"invalid: {reason}", markup=False)


def show_search(found: SearchResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="probes", title_justify="left")
    for name in ("rate", "verdict", "p50", "p95", "p99", "errors", "samples", "note"):
        table.add_column(name, justify="left" if name in ("verdict", "note") else "right")
    for probe in found.probes:
        table.add_row(
            f"{probe.rate:,.4g}/s", probe.vote, _ms(probe.p50), _ms(probe.p95), _ms(probe.p99),
            f"{probe.error_share:.2%}", f"{probe.samples:,}", probe.note,
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(found.why, markup=False)
    if found.knee is not None:
        console.print(f"the knee is at about {found.knee:.4g}/s", markup=False)
