"""``tenfold plan``: what a rate takes, by results of load tests, or why they do not tell."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tenfold._core.units import format_duration

if TYPE_CHECKING:
    from rich.table import Table

    from tenfold.autoscale import Measured, Plan


def plan(
    *,
    rate: str,
    results: Annotated[tuple[str, ...], Parameter(name="--from", consume_multiple=True, negative="")],
    slo: str | None = None,
    headroom: str = "30%",
    database_time: str | None = None,
    max_connections: int | None = None,
    reads: float = 1.0,
    replica_rate: str | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say what a rate takes: workers, pools, database connections, replicas.

    Exit code 2: the results do not support an answer; it says what to measure.

    Parameters
    ----------
    rate
        Arrivals a second that are to be served within the SLO: "12000", "12000/s".
    results
        JSON of tenfold load breakpoint or run, each with the number of workers it was measured with: 4=four.json. A
        bare file is one worker. Three different numbers of workers tell how throughput grows, four are better.
    slo
        "p95<100ms, errors<0.1%", or the TOML file of tenfold load. Default: what each result was judged by.
    headroom
        The share of the capacity that is to be left.
    database_time
        How long a request holds a database connection, on average.
    max_connections
        As many as the database allows.
    reads
        Queries of a request that may go to a replica.
    replica_rate
        Queries a second that one replica was measured to serve.
    json
        Print the answer as one JSON object.
    """
    import msgspec

    from tenfold.autoscale import NoPlan
    from tenfold.autoscale import plan as decide
    from tenfold.cli._plan_results import objectives_of, read

    evidence = read(results, objectives_of(slo) if slo is not None else [])
    found = decide(
        rate,
        evidence.points,
        headroom=headroom,
        database_time=database_time,
        max_connections=max_connections,
        reads=reads,
        replica_rate=replica_rate,
    )
    if json:
        kind = "no plan" if isinstance(found, NoPlan) else "plan"
        told = {kind: asdict(found), "measured": [asdict(point) for point in evidence.points], "notes": evidence.notes}
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    elif isinstance(found, NoPlan):
        print("\n".join(evidence.notes), end="\n" if evidence.notes else "")
        print(f"tenfold: plan: {found.why}; measure {found.measure}", file=sys.stderr)
    else:
        _show(found, evidence.points, evidence.notes)
    sys.exit(2 if isinstance(found, NoPlan) else 0)


def _show(found: Plan, points: tuple[Measured, ...], notes: tuple[str, ...]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(_measured(found, points))
    console.print(_takes(found))
    console.print("It rests on:", highlight=False)
    for line in (*found.assumptions, *notes):
        console.print(f"- {line}", highlight=False, markup=False)


def _measured(found: Plan, points: tuple[Measured, ...]) -> Table:
    made = _table("workers", "held the SLO at", "by the law", "response time")
    for point in points:
        made.add_row(
            f"{point.workers}",
            f"{'at least ' if point.at_least else ''}{point.rate:,.0f}/s",
            "-" if found.law is None else f"{found.law.rate(point.workers):,.0f}/s",
            "-" if point.response_time is None else format_duration(float(point.response_time)),
        )
    return made


def _takes(found: Plan) -> Table:
    made = _table(f"{found.rate:,.0f}/s take", "")
    lacking = "not known: the results have no response time"
    rows = {
        "workers": f"{found.workers}",
        "capacity": f"{found.capacity:,.0f}/s, headroom {found.headroom:.1%}",
        "requests in flight": lacking if found.in_flight is None else f"{found.in_flight:,.1f}",
        "connections to each worker": lacking if found.pool is None else f"{found.pool}",
        "database pool of a worker": _or(found.database_pool, "--database-time"),
        "database connections": _or(found.database_connections, "--database-time"),
        "database replicas": _or(found.replicas, "--replica-rate"),
    }
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def _or(value: int | None, option: str) -> str:
    return f"not known: measure it and give {option}" if value is None else f"{value:,}"


def _table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(heads):
        made.add_column(name, justify="left" if number == 0 or not name else "right", no_wrap=True)
    return made
