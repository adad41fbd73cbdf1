"""How the story is told while it happens. `View` says nothing; `Console` draws progress bars and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blackfriday.sentences import at_the_edge, ms, on_replicas, over_shards, under_serve, without_payments

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from blackfriday.story import (
        EdgeOutcome,
        Evidence,
        Integrity,
        Outage,
        Promise,
        RungOutcome,
        SameRate,
        ScaleOutcome,
        Story,
        TenTimes,
    )


class Bar:
    """Progress of one piece of work. ``share`` runs from 0 to 1; None leaves it as it was."""

    def update(self, share: float | None, note: str = "") -> None:
        """Show how far the work is."""


class View:
    """The null view: every method may be called, none shows anything."""

    def act(self, name: str, purpose: str) -> None:
        """A new act begins."""

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        """A piece of work whose progress can be shown."""
        yield Bar()

    def say(self, text: str) -> None:
        """One line."""

    def evidence(self, found: Evidence) -> None:
        """What the find act saw."""

    def ladder(self, rungs: list[RungOutcome], fixed_rate: float | None) -> None:
        """Every rung with its breakpoint."""

    def same_rate(self, found: SameRate) -> None:
        """Before and after at one rate."""

    def ten_times(self, found: TenTimes) -> None:
        """The long run at ten times the rate."""

    def edge(self, found: EdgeOutcome) -> None:
        """What the gateway saved and cost."""

    def outage(self, found: Outage) -> None:
        """The time without payments."""

    def scale(self, found: ScaleOutcome) -> None:
        """The ramp under ``tenfold serve``."""

    def integrity(self, found: dict[str, Integrity]) -> None:
        """What was sold, stored and lost."""

    def promises(self, story: Story) -> None:
        """The table at the end."""


class Console(View):
    """Progress bars on a terminal; on anything else one plain line a piece of work."""

    def __init__(self, console: RichConsole | None = None) -> None:
        from rich.console import Console as RichConsole

        self._console = console or RichConsole(highlight=False)

    def act(self, name: str, purpose: str) -> None:
        self._console.print(f"\n[bold]{name}[/bold]  [dim]{purpose}[/dim]", soft_wrap=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if not self._console.is_terminal:
            plain = _Last()
            yield plain
            self.say(f"  {label}: {plain.note or 'done'}")
            return
        columns = (
            TextColumn("  {task.description:<30}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(label, total=1.0, note="")

            class Live(Bar):
                def update(self, share: float | None, note: str = "") -> None:
                    progress.update(task, completed=share, note=note or None)

            yield Live()
            progress.update(task, completed=1.0)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def evidence(self, found: Evidence) -> None:
        endpoints = self._table("statements one request sends to PostgreSQL", "request")
        names = list(found.endpoints[0].statements) if found.endpoints else []
        for name in names:
            endpoints.add_column(name, justify="right")
        for endpoint in found.endpoints:
            endpoints.add_row(endpoint.name, *(f"{endpoint.statements[name]:.1f}" for name in names))
        self._console.print(endpoints)
        top = self._table(f"the baseline's statements by database time, {found.requests:,} requests", "statement")
        for name in ("share", "mean", "calls/request"):
            top.add_column(name, justify="right")
        for row in found.statements:
            top.add_row(short(row.text), f"{row.share:.0%}", ms(row.mean), f"{row.calls_per_request:.2f}")
        self._console.print(top)
        for finding in found.findings:
            self.say(f"  • {finding.what}: {finding.evidence}  → {finding.rung}")

    def ladder(self, rungs: list[RungOutcome], fixed_rate: float | None) -> None:
        head, rows = cells(rungs, fixed_rate)
        if self._console.width < _WIDE:
            at = head.index(ADDS)
            head, rows = head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
        table = self._table("the ladder", head[0])
        for name in head[1:]:
            table.add_column(name, justify="left" if name == ADDS else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def same_rate(self, found: SameRate) -> None:
        self.say(
            f"  p95 of {found.step} at {found.rate:.0f}/s: {ms(found.before)} before, {ms(found.after)} after, "
            f"{-found.reduction:+.0%} (95 % interval {found.interval}): {found.verdict}"
        )

    def edge(self, found: EdgeOutcome) -> None:
        for line in at_the_edge(found):
            self.say(f"  {line}")

    def outage(self, found: Outage) -> None:
        self.say(f"  {without_payments(found)}")

    def scale(self, found: ScaleOutcome) -> None:
        for line in under_serve(found):
            self.say(f"  {line}")

    def ten_times(self, found: TenTimes) -> None:
        verdict = "held" if found.held else "not held"
        if found.invalid:
            verdict = f"no verdict, the run is invalid: {'; '.join(found.invalid)}"
        self.say(
            f"  {found.rate:.0f}/s for {found.seconds:.0f} s: p95 {ms(found.p95)}, errors {found.errors:.3%}, "
            f"{found.loads:,} of {found.reads:,} reads went to the database: {verdict}"
        )
        if found.replica_reads:
            self.say(f"  {on_replicas(found)}")

    def integrity(self, found: dict[str, Integrity]) -> None:
        table = self._table("orders and stock after the load", "shop")
        for name in ("told", "stored", "lost", "twice", "oversold", "wrong stock", "stale own reads"):
            table.add_column(name, justify="right")
        for name, row in found.items():
            stale = f"{row.stale_own_reads} of {row.own_reads}" if row.own_reads else "-"
            wrong = row.negative_stock + row.miscounted
            numbers = (row.acknowledged, row.stored, row.lost, row.duplicates, row.oversold, wrong)
            table.add_row(name, *(f"{number:,}" for number in numbers), stale)
        self._console.print(table)
        for row in found.values():
            if row.spread:
                self.say(f"  {over_shards(row)}")

    def promises(self, story: Story) -> None:
        table = self._table("promises", "promise")
        table.add_column("measured on this machine", overflow="fold")
        table.add_column("")
        for row in story.promises:
            table.add_row(row.promise, row.measured, verdict(row))
        self._console.print(table)

    def _table(self, title: str, first: str) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column(first)
        return table


class _Last(Bar):
    note = ""

    def update(self, share: float | None, note: str = "") -> None:
        self.note = note or self.note


ADDS = "what it adds"
_WIDE = 120


def cells(rungs: Sequence[RungOutcome], fixed_rate: float | None) -> tuple[list[str], list[list[str]]]:
    """The ladder as head and rows of text."""
    head = ["rung", ADDS, "breakpoint", "× baseline", "× rung before"]
    if fixed_rate is not None:
        head.append(f"p95 at {fixed_rate:.0f}/s")
    baseline = next((rung.rate for rung in rungs if rung.key == "baseline"), None)
    rows, before = [], None
    for rung in rungs:
        row = [rung.title, rung.change, _rate(rung.rate), _times(rung.rate, baseline), _times(rung.rate, before)]
        if fixed_rate is not None:
            row.append("-" if rung.fixed is None else ms(rung.fixed.p95) + ("" if rung.fixed.held else ", missed"))
        rows.append(row)
        before = rung.rate
    return head, rows


def verdict(row: Promise) -> str:
    """``kept``, ``broken`` or ``not measured``."""
    return "not measured" if row.kept is None else "kept" if row.kept else "broken"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}/s"


def _times(rate: float | None, base: float | None) -> str:
    return f"{rate / base:.1f}" if rate and base else "-"


def short(text: str, width: int = 88) -> str:
    """A statement on one line: what it reads and how, without the list of columns that it returns."""
    text = re.sub(r"\bSELECT .*? FROM ", "SELECT … FROM ", " ".join(text.split()))
    return text if len(text) <= width else text[: width - 1] + "…"
