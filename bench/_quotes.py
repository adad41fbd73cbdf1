"""What the pages quote of the database's results, and whether they quote it rightly: ``python -m bench._quotes`` writes
the numbers of ``results/db.json`` into the pages.

A quotation is a piece of a page with fields in the place of its numbers, as `str.format` has them: a path into the
result, and how it is shown. ``k`` shows whole thousands, ``%`` a share in per cent. Spaces and line ends are one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Formatter
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
RESULT: Final = ROOT / "bench" / "results" / "db.json"
WHERE: Final = "(AMD EPYC, 2 cores, {date:date}; [bench/results/db.json](../../bench/results/db.json)"
QUOTATIONS: Final[dict[str, tuple[str, ...]]] = {
    "docs/concepts/failover.md": (
        "{promote_to_first_write_ms} ms from the order to the first write, {promote_itself_ms} of them the promotion "
        "itself " + WHERE,
    ),
    "docs/concepts/hot-rows.md": (
        "purchases a second " + WHERE,
        "| pgbench, commits flushed | {everyday[hot_stock_single_row_tps]:,} | {everyday[hot_stock_buckets_tps]:,} | "
        "{everyday[hot_stock_vs_single_row]:.1f} × |",
        "| pgbench, not flushed | {everyday[hot_stock_single_row_tps_without_fsync]:,} | "
        "{everyday[hot_stock_buckets_tps_without_fsync]:,} | {everyday[hot_stock_vs_single_row_without_fsync]:.1f} × |",
        "| SQLAlchemy | {everyday[hot_stock_single_row_tps_python]:,} | {everyday[hot_stock_buckets_tps_python]:,} | "
        "{everyday[hot_stock_vs_single_row_python]:.1f} × |",
    ),
    "docs/concepts/read-your-writes.md": (
        "resumed at random " + WHERE,
        "**{stale_reads_with_token} of {pairs:,} reads were stale, and {reads_on_replicas:.1%} % of them ran on "
        "replicas**; in {reads_at_once:.0%} % of them nothing had to be asked first. The same reads without a token: "
        "{control_stale_share:.1%} % were stale.",
        "| read by primary key in a session, processor µs | {peers[read_cpu_us][tenfold, session]:.0f} | "
        "{peers[read_cpu_us][advanced-alchemy, session]:.0f} | {peers[read_cpu_us][hasql, SQLAlchemy session]:.0f} |",
        "| the same over a connection | {peers[read_cpu_us][tenfold, read-only connection]:.0f} | – | "
        "{peers[read_cpu_us][hasql, SQLAlchemy connection]:.0f} | {peers[read_cpu_us][hasql, asyncpg]:.0f} (text",
        "| one statement by itself (`cluster.execute`) | {peers[read_cpu_us][tenfold, execute]:.0f} |",
        "| choosing the server, µs (two replicas) | {peers[decision_us][tenfold]:.1f} | "
        "{peers[decision_us][advanced-alchemy]:.1f} | {peers[decision_us][hasql]:.0f} | "
        "{peers[decision_us][hasql]:.0f} |",
        "| of 25 statements for the primary, sent to a replica | {peers[wrong_routes][tenfold][to_a_replica]} | "
        "{peers[wrong_routes][advanced-alchemy][to_a_replica]} |",
        "| stale, of {peers[pairs]:,} reads right after a commit | {peers[stale_share][tenfold]:.0%} % "
        "({peers[tenfold_reads_on_replicas]:.1%} % on replicas) | {peers[stale_share][advanced-alchemy]:.1%} % | "
        "{peers[stale_share][hasql, SQLAlchemy]:.1%} % | {peers[stale_share][hasql, asyncpg]:.1%} % |",
        "three promotions | {peers[first_write_ms][tenfold][0]}, {peers[first_write_ms][tenfold][1]}, "
        "{peers[first_write_ms][tenfold][2]} | not within {peers[looked_for_s]} s | "
        "{peers[first_write_ms][hasql, SQLAlchemy][0]}, {peers[first_write_ms][hasql, SQLAlchemy][1]}, "
        "{peers[first_write_ms][hasql, SQLAlchemy][2]} | {peers[first_write_ms][hasql, asyncpg][0]}, "
        "{peers[first_write_ms][hasql, asyncpg][1]}, {peers[first_write_ms][hasql, asyncpg][2]} |",
        "tenfold's reads are stale like the others': {peers[stale_share][tenfold without tokens]:.1%} %. Plain "
        "SQLAlchemy on one replica takes {peers[read_cpu_us][SQLAlchemy, engine.begin()]:.0f} µs with "
        "`engine.begin()`, {peers[read_cpu_us][SQLAlchemy, session]:.0f} in a session and "
        "{peers[read_cpu_us][SQLAlchemy, autocommit]:.0f} in autocommit",
        "it ran {peers[wrong_routes][advanced-alchemy][without_an_error]} without an error",
        "took {peers[first_write_ms][SQLAlchemy, all hosts][0]}, {peers[first_write_ms][SQLAlchemy, all hosts][1]} and "
        "{peers[first_write_ms][SQLAlchemy, all hosts][2]} ms to the first write",
        "What it costs to be routed: {route_overhead_us:.1f} µs for a cached statement. A read of one statement by "
        "itself (`cluster.execute`) takes {read_vs_sqlalchemy_begin:.2f} × the processor time of `engine.begin()`",
        "in a session it takes {session_vs_sqlalchemy_session:.2f} × what it takes in SQLAlchemy's own",
    ),
    "docs/concepts/sharding.md": (
        "with a network of 1 ms to each shard {shards[scatter_ms][one_millisecond_away][tenfold]:.1f} ms against "
        "{shards[scatter_ms][one_millisecond_away][extension]:.1f} ({shards[scatter_vs_sequential]:.1f} ×)",
        "{shards[scatter_ms][local][tenfold]:.1f} ms against {shards[scatter_ms][local][extension]:.1f} "
        "({shards[scatter_vs_sequential_local]:.1f} ×) " + WHERE,
    ),
    "docs/how-to/database-everyday.md": (
        "{everyday[upsert_copy_rows_per_s]:k} a second went in this way, {everyday[upsert_executemany_rows_per_s]:k} "
        "by SQLAlchemy's executemany",
        "and {everyday[upsert_values_rows_per_s]:k} by `VALUES` lists of 1000 " + WHERE,
        "a transaction of one statement took {everyday[tags_route_in_text_us]:.0f} µs with the route in its text, "
        "{everyday[tags_route_and_trace_in_name_us]:.0f} with a trace in the name too, and "
        "{everyday[tags_trace_in_text_us]:.0f} with the trace in the text.",
        "took {everyday[begin_bare_us]:.0f} µs, {everyday[begin_with_deadline_us]:.0f} with a deadline sent along with "
        "BEGIN (which is to say that it cost nothing that could be seen), and {everyday[begin_then_set_us]:.0f} with a "
        "`SET LOCAL` of its own",
    ),
}
_NUMBER: Final = r"(\d[\d,]*(?:\.\d+)?)"
_DATE: Final = r"(\d{4}-\d\d-\d\d)"
_FIELDS: Final = Formatter()


def wrong(page: str, quotations: tuple[str, ...], result: dict[str, Any]) -> list[str]:
    """A sentence for each quotation that is not on the page, and for each of its numbers that is another."""
    found = []
    for quotation in quotations:
        match = re.search(_pattern(quotation), page)
        if match is None:
            found.append(f"not on the page: {quotation}")
            continue
        for is_, (path, should) in zip(match.groups(), _values(quotation, result), strict=True):
            if is_ != should:
                found.append(f"{path}: the page says {is_}, the result {should}")
    return found


def corrected(page: str, quotations: tuple[str, ...], result: dict[str, Any]) -> str:
    """The page with the result's numbers."""
    for quotation in quotations:
        match = re.search(_pattern(quotation), page)
        if match is None:
            continue
        values = [should for _, should in _values(quotation, result)]
        for group in range(len(values), 0, -1):  # from behind: places before it stay what they were
            page = page[: match.start(group)] + values[group - 1] + page[match.end(group) :]
    return page


def _pattern(quotation: str) -> str:
    parts = []
    for literal, path, spec, _ in _FIELDS.parse(quotation):
        parts.append(r"\s+".join(re.escape(word) for word in re.split(r"\s+", literal)))
        if path is not None:
            parts.append(_DATE if spec == "date" else _NUMBER)
    return "".join(parts)


def _values(quotation: str, result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, _shown(_FIELDS.get_field(path, (), result)[0], spec or ""))
        for _, path, spec, _ in _FIELDS.parse(quotation)
        if path is not None
    ]


def _shown(value: Any, spec: str) -> str:
    if spec == "date":
        return str(value)[:10]
    if spec == "k":
        return f"{round(value, -3):,}"
    if spec.endswith("%"):
        return format(100 * value, f"{spec[:-1]}f")
    return format(value, spec)


def main() -> None:
    """Correct the pages."""
    result = json.loads(RESULT.read_text())
    for name, quotations in QUOTATIONS.items():
        path = ROOT / name
        path.write_text(corrected(path.read_text(), quotations, result))
        for sentence in wrong(path.read_text(), quotations, result):
            print(f"{name}: {sentence}")


if __name__ == "__main__":
    main()
