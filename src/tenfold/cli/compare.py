"""``tenfold compare``: two results, or several interleaved ones, and the verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tenfold._core import units
from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.load.compare import Comparison, Metric, Outcome

_COLOURS: dict[Outcome, str] = {"better": "green", "worse": "red", "same": "cyan", "inconclusive": "yellow"}


def compare(
    *results: Path,
    margin: str = "5%",
    error_margin: str = "0.1%",
    step: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    strict: bool = False,
    force: bool = False,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Say whether result B is better than result A, with intervals.

    Exit code 0: same or better, or inconclusive (said in words). 1: worse. 2: the results cannot be compared.

    Parameters
    ----------
    results
        A and B as ``tenfold load run --out`` wrote them; or interleaved runs in the order A B A B A B.
    margin
        Relative difference of a latency that does not matter.
    error_margin
        Difference of the share of errors that does not matter, in percentage points.
    step
        Compare the samples of this step alone; may be given several times.
    strict
        Exit with 1 where the verdict is inconclusive.
    force
        Compare runs of different scenarios or schedules and invalid ones; a warning says so.
    json
        Print one JSON object.
    """
    import msgspec

    from tenfold.load.compare import CompareOptions
    from tenfold.load.compare import compare as decide
    from tenfold.load.result import RunResult

    if len(results) < 2 or len(results) % 2:
        raise MisuseError(f"compare: expected A B, or interleaved A B A B …, got {len(results)} file(s)")
    options = CompareOptions(
        margin=units.share(margin, "--margin"),
        error_margin=units.share(error_margin, "--error-margin"),
        steps=step,
        force=force,
    )
    runs = [RunResult.load(path) for path in results]
    found = decide(runs[::2], runs[1::2], options)
    if json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _show(found)
    code = 1 if found.outcome == "worse" or (strict and found.outcome == "inconclusive") else 0
    sys.exit(code)


def _show(found: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    limits = ", ".join(dict.fromkeys(f"± {_change(line, line.margin).lstrip('+')}" for line in found.metrics))
    console.print(f"B against A, {found.confidence:.0%} for the whole table, margin {limits}", highlight=False)
    table = Table("metric", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("A", "B", "difference", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for line in found.metrics:
        unknown = line.low is None and line.high is None
        ends = "-" if unknown else f"{_change(line, line.low)} … {_change(line, line.high)}"
        change = "-" if unknown and line.difference is None else _change(line, line.difference)
        verdict = Text(line.outcome, style=_COLOURS[line.outcome])
        table.add_row(line.name, _value(line, line.a), _value(line, line.b), change, ends, verdict)
    console.print(table)
    for note in dict.fromkeys(line.note for line in found.metrics if line.note):
        named = ", ".join(line.name for line in found.metrics if line.note == note)
        console.print(f"{named}: {note}", highlight=False)
    runs = " and ".join(f"{n} run{'s' if n > 1 else ''}" for n in found.runs)
    samples = " and ".join(f"{n:,}" for n in found.samples)
    console.print(f"{runs}, {samples} samples", highlight=False)
    for warning in found.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    console.print(Text(_sentence(found), style=f"bold {_COLOURS[found.outcome]}"))


def _sentence(found: Comparison) -> str:
    named = ", ".join(line.name for line in found.metrics if line.outcome == found.outcome)
    return {
        "better": f"B is better: {named}",
        "worse": f"B is worse: {named}",
        "same": "B is as good as A within the margin",
        "inconclusive": f"inconclusive ({named}): neither a difference nor equality is shown; measure longer",
    }[found.outcome]


def _value(line: Metric, value: float | None) -> str:
    if line.name == "errors":
        return "-" if value is None else f"{value:.3%}"
    return "failed" if value is None else units.format_duration(value)


def _change(line: Metric, value: float | None) -> str:
    if value is None:
        return "∞"
    return f"{value * 100:+.2f} pp" if line.name == "errors" else f"{value:+.1%}"
