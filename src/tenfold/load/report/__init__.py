"""One self-contained HTML file a run: verdict, tables and plots, without a request to any other host.

`render` makes the whole page of a run and `render_breakpoint` that of a search; `figures`, `tables` and
`page` are the blocks, for reports that show more than one run.
"""

from __future__ import annotations

from pathlib import Path

from tenfold._core.errors import MisuseError
from tenfold.load.report import figures, tables
from tenfold.load.report.page import Badge, Figure, Section, page
from tenfold.load.result import RunResult
from tenfold.load.search import SearchResult
from tenfold.load.slo import Verdict, verdict

__all__ = [  # noqa: RUF022 - grouped by use
    # whole pages
    "render",
    "render_breakpoint",
    "save",
    # building blocks
    "Badge",
    "Section",
    "Figure",
    "figures",
    "page",
    "run_sections",
    "tables",
]  # fmt: skip


def render(result: RunResult, title: str | None = None) -> str:
    """The page of one run. ``title`` defaults to the name of the scenario."""
    name = title or f"Load test: {result.scenario}"
    return page(name, run_sections(result), badge=badge(result), subtitle=tables.subtitle(result))


def render_breakpoint(found: SearchResult, title: str = "Breakpoint", runs: tuple[RunResult, ...] = ()) -> str:
    """The page of a search: rate against p95, every probe, and the full sections of ``runs`` where given."""
    sections = [
        Section("Latency against rate", figure=figures.breakpoint(found), wide=True),
        Section("Probes", html=tables.probes(found), wide=True),
    ]
    for run in runs:
        sections += run_sections(run)
    rate = f"{found.highest_passing:.4g}/s"
    mark = Badge(rate, "good") if found.stopped in ("precision", "ceiling") else Badge(rate, "warn")
    return page(title, sections, badge=mark, subtitle=found.why)


def run_sections(result: RunResult) -> list[Section]:
    """All that there is to say about one run, in the order in which a reader asks."""
    sections = [Section("", html=tables.cards(result), wide=True)]
    if result.invalid or result.notes:
        sections.append(Section("What to know about this run", html=tables.remarks(result), wide=True))
    if result.objectives:
        sections.append(Section("Objectives", html=tables.objectives(result), wide=True))
    sections += [
        Section("Steps", html=tables.steps(result), wide=True),
        Section("Percentile spectrum", figure=figures.spectrum(result), note=_SPECTRUM, wide=True),
        Section("Latency over time", figure=figures.latency(result), note=_LATENCY, wide=True),
        Section("Offered against achieved rate", figure=figures.rates(result), note=_RATES),
        Section("In flight", figure=figures.in_flight(result), note=_FLIGHT),
    ]
    if any(second.errors for second in result.intervals) or result.totals.errors:
        sections += [
            Section("Errors over time", figure=figures.errors(result)),
            Section("Errors by kind", html=tables.errors(result)),
        ]
    return [
        *sections,
        Section("Client health", html=tables.clients(result), wide=True),
        Section("Environment", html=tables.environment(result), wide=True),
    ]


def badge(result: RunResult) -> Badge:
    """The verdict as a word and a colour."""
    found = verdict(result)
    if found is Verdict.INVALID:
        return Badge("invalid run", "warn")
    if not result.objectives:
        return Badge("no objectives", "plain")
    return Badge("passed", "good") if found is Verdict.PASSED else Badge("missed", "bad")


def save(html: str, path: str | Path) -> None:
    """Write a page. Raises `MisuseError` where it cannot be written."""
    try:
        Path(path).write_text(html, encoding="utf-8")
    except OSError as exc:
        raise MisuseError(f"report: cannot write {path}: {exc.strerror or exc}") from exc


_SPECTRUM = (
    "Corrected latency counts from the intended start and is what users wait; uncorrected counts from the "
    "moment of sending, as closed-loop tools do. Failed samples are infinitely slow: the corrected line ends "
    "where they begin."
)
_LATENCY = "Percentiles of each second, by intended start, failures infinitely slow (a gap). Shaded: warm-up."
_RATES = "Samples a second. Where answered stays below intended, a queue grows."
_FLIGHT = "Most requests that were waiting for their answer at once, each second."
