"""The tables of a report, as HTML. Whatever comes from outside is escaped here, in one place: `_cell`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration, format_size
from tenfold.load.result import ClientHealth, Counts, ObjectiveResult, RunResult
from tenfold.load.schedule import KINDS, Replay, from_dict
from tenfold.load.search import SearchResult
from tenfold.load.slo import QUANTILES

_SHOWN = ("p50", "p90", "p95", "p99", "p999")
_MAX_ERRORS = 12


def subtitle(result: RunResult) -> str:
    """Target, schedule, start, duration and seed in one line (not escaped)."""
    parts = [result.target, schedule_words(result.schedule), result.started_at, f"seed {result.seed}"]
    if result.warmup:
        parts.append(f"warm-up {format_duration(result.warmup)}")
    if not result.complete:
        parts.append(f"stopped after {format_duration(result.elapsed)}: {result.stopped_because}")
    return " · ".join(part for part in parts if part)


def schedule_words(schedule: dict[str, Any]) -> str:
    """A schedule's dictionary in words, without making the schedule (a log to replay may be gone)."""
    kind = str(schedule.get("kind", ""))
    if kind in KINDS and kind != Replay.kind:
        try:
            return from_dict(schedule).describe()
        except MisuseError:
            pass  # written by hand or by another version: say what stands there
    rest = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in schedule.items()
        if name != "kind"
    )
    return f"{kind or 'schedule'} ({rest})" if rest else kind


def cards(result: RunResult) -> str:
    """The figures that one looks for first, as tiles."""
    totals = result.totals
    p50, p95, p99 = totals.latencies((0.5, 0.95, 0.99))
    naive = totals.uncorrected.quantile(0.99) / 1e6
    rate = totals.attempts / result.measured if result.measured else math.nan
    tiles = [
        (f"{totals.attempts:,}", "samples after warm-up"),
        (_number(rate, "/s"), "measured rate"),
        (_latency(p50), "p50"),
        (_latency(p95), "p95"),
        (_latency(p99), "p99"),
        (_latency(naive), "p99 uncorrected"),
        (f"{totals.error_share:.3%}", f"errors ({totals.failures:,})"),
    ]
    made = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(n)}</span></div>' for v, n in tiles)
    return f'<div class="cards">{made}</div>'


def remarks(result: RunResult) -> str:
    """Why the run is invalid, and its notes."""
    lines = [f'<li class="warn">Invalid: {escape(reason)}</li>' for reason in result.invalid]
    lines += [f"<li>{escape(note)}</li>" for note in result.notes]
    return f"<ul>{''.join(lines)}</ul>"


def objectives(result: RunResult) -> str:
    """What was asked, what was seen, whether it holds."""
    rows = []
    for line in result.objectives:
        verdict = '<span class="good">held</span>' if line.passed else '<span class="bad">missed</span>'
        rows.append([line.step, line.metric, _limit(line, line.limit), _seen(line), f"{line.samples:,}", Raw(verdict)])
    return table(("step", "metric", "limit", "seen", "samples", "verdict"), rows)


def steps(result: RunResult) -> str:
    """Rate, percentiles and errors of every step and of all together; the warm-up in rows of its own."""
    span = result.measured
    rows: list[Sequence[object]] = [_step_row(step.name, step, span) for step in result.steps]
    last = _step_row("all steps", result.totals, span)
    warm = result.warmup_totals
    if warm.attempts:
        rows.append(_step_row("warm-up (not counted)", warm, result.warmup))
    head = ("step", "samples", "rate", "p50", "p90", "p95", "p99", "p99.9", "max", "errors")
    return table(head, rows, total=last)


def errors(result: RunResult) -> str:
    """Failed samples by step and kind, and the first traceback of each exception."""
    found = [(n, step, kind) for step in result.steps for kind, n in step.errors.items()]
    rows = [
        [step.name, kind, f"{n:,}", f"{n / step.attempts:.3%}" if step.attempts else "-"]
        for n, step, kind in sorted(found, key=lambda item: -item[0])
    ]
    made = table(("step", "kind", "samples", "share"), rows, text=2) if rows else "<p>No error after the warm-up.</p>"
    traces = "".join(f"<h3>{escape(kind)}</h3><pre>{escape(text)}</pre>" for kind, text in result.tracebacks.items())
    return made + traces


def clients(result: RunResult) -> str:
    """How the load generator itself fared."""
    if not result.clients:
        return "<p>Not recorded.</p>"
    rows = [_client_row(client) for client in result.clients]
    head = (
        "process", "CPU of a core", "slip p50", "slip p99", "slip max", "lag p99", "lag max", "connections",
        "requests", "received",
    )  # fmt: skip
    return table(head, rows)


def _client_row(client: ClientHealth) -> list[object]:
    slip, lag = client.schedule_slip, client.loop_lag
    times = (slip.p50, slip.p99, slip.max, lag.p99, lag.max)
    counts = (f"{client.connections_opened:,}", f"{client.requests:,}", format_size(client.bytes_in))
    return [str(client.pid), f"{client.cpu_share:.0%}", *map(_latency, times), *counts]


def environment(result: RunResult) -> str:
    """Everything recorded about the machine and the tool."""
    facts = {"tenfold": result.tool_version, **result.environment}
    rows = [[name, _words(value)] for name, value in facts.items() if value not in ("", None)]
    return table(("fact", "value"), rows, text=2)


def probes(found: SearchResult) -> str:
    """Every probe of a search in the order it was made."""
    colours = {"pass": "good", "fail": "bad", "invalid": "warn"}
    rows = [
        [
            f"{probe.rate:.4g}/s", Raw(f'<span class="{colours[probe.vote]}">{probe.vote}</span>'),
            _optional(probe.p50), _optional(probe.p95), _optional(probe.p99), f"{probe.error_share:.3%}",
            f"{probe.samples:,}", _latency(probe.seconds),
            probe.note or ("ended early" if probe.early else ""),
        ]
        for probe in found.probes
    ]  # fmt: skip
    return table(("rate", "verdict", "p50", "p95", "p99", "errors", "samples", "took", "note"), rows)


class Raw(str):
    """Markup that is known to be safe."""

    __slots__ = ()


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    total: Sequence[object] | None = None,
    text: int = 1,
) -> str:
    """An HTML table; the first ``text`` columns are set left. Cells are escaped unless they are `Raw`."""
    top = _row(head, text, "th")
    body = "".join(f"<tr>{_row(row, text)}</tr>" for row in rows)
    if total is not None:
        body += f'<tr class="total">{_row(total, text)}</tr>'
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(cells: Sequence[object], text: int, tag: str = "td") -> str:
    left = f'<{tag} class="text">'
    return "".join(f"{left if i < text else f'<{tag}>'}{_cell(c)}</{tag}>" for i, c in enumerate(cells))


def _cell(value: object) -> str:
    return value if isinstance(value, Raw) else escape(str(value))


def _step_row(name: str, counts: Counts, span: float) -> list[object]:
    values = counts.latencies([QUANTILES[q] for q in _SHOWN])
    top = counts.corrected.max
    share = f"{counts.error_share:.3%}"
    failed = Raw(f'<span class="bad">{share}</span>') if counts.failures else share
    rate = counts.attempts / span if span else math.nan
    slowest = "-" if top is None else format_duration(top / 1e6)
    return [name, f"{counts.attempts:,}", _number(rate, "/s"), *map(_latency, values), slowest, failed]


def _latency(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return "failed" if math.isinf(seconds) else format_duration(seconds)


def _optional(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _number(value: float, unit: str) -> str:
    return f"{value:,.1f}{unit}" if math.isfinite(value) else "-"


def _limit(line: ObjectiveResult, value: float) -> str:
    if line.metric in QUANTILES:
        return format_duration(value)
    return f"{value:.3%}" if line.metric == "errors" else f"{value:,.0f}"


def _seen(line: ObjectiveResult) -> str:
    return line.note or "-" if line.seen is None else _limit(line, line.seen)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
