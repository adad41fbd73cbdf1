"""``tenfold simulate``: a scenario on a virtual clock, one line for each policy."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tenfold._core.units import format_duration

if TYPE_CHECKING:
    from tenfold.simulate import Result, ScalingScenario


def simulate(
    scenario: Path,
    *,
    policy: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    seed: int | None = None,
    requests: int | None = None,
    out: Path | None = None,
    report: Path | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Simulate servers, faults and clients under each balancing policy, or workers under each scaling policy.

    A scenario with [[scale]] is one of scaling. The same scenario and seed give the same result, byte for byte. Exit
    code 2: the scenario cannot be simulated.

    Parameters
    ----------
    scenario
        A TOML file.
    policy
        Only this policy, by its name or label; may be given several times. Any pick may be named.
    seed
        Another seed than the scenario's.
    requests
        Another number of requests.
    out
        Write the whole result as JSON.
    report
        Write one HTML file with plots.
    json
        Print the whole result as JSON instead of a table.
    """
    from tenfold.simulate import load, load_scaling
    from tenfold.simulate import simulate as run
    from tenfold.simulate.scenario import changed, label_of

    scaling = load_scaling(scenario)
    if scaling is not None:
        _scaling(scaling, policy, seed, requests, out, report, json)
        return
    asked = load(scenario)
    changes: dict[str, Any] = {"seed": seed, "requests": requests}
    if policy:
        listed = {label_of(spec): spec for spec in asked.policies}
        changes["policies"] = [listed.get(name, name) for name in policy]
    asked = changed(asked, **{name: value for name, value in changes.items() if value is not None})

    def tell(label: str) -> None:
        if sys.stderr.isatty():
            print(f"simulating {label} …", file=sys.stderr)

    began = time.perf_counter()
    found = run(asked, on_policy=tell)
    spent = time.perf_counter() - began
    if out is not None:
        found.save(out)
    if report is not None:
        _report(found, report)
    if json:
        print(found.to_json().decode(), end="")
    else:
        _show(found, spent)


def _show(found: Result, spent: float) -> None:
    from rich.console import Console

    from tenfold.simulate.report import subtitle, table

    console = Console()
    if not console.is_terminal and console.width < 110:
        console = Console(width=110)  # a file or a pipe has no width, and half a number is none
    console.print(f"{found.scenario}: {subtitle(found)}", highlight=False)
    console.print(table(found))
    for one in found.policies:
        if one.errors:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in one.errors.items())
            console.print(f"{one.policy}: {kinds}", highlight=False)
    virtual = sum(one.seconds for one in found.policies)
    console.print(f"{format_duration(virtual)} of virtual time in {format_duration(spent)}", highlight=False)


def _report(found: Result, path: Path) -> None:
    # The page is the load report's: the simulator itself knows nothing of load tests.
    from tenfold.load.report import Section, page, save, tables
    from tenfold.simulate.report import HEAD, figures, rows, subtitle

    sections = [Section("Policies", html=tables.table(HEAD, rows(found)), wide=True)]
    sections += [Section(title, figure=figure, note=note, wide=True) for title, note, figure in figures(found)]
    save(page(f"Simulation: {found.scenario}", sections, subtitle=subtitle(found)), path)


def _scaling(
    asked: ScalingScenario,
    only: tuple[str, ...],
    seed: int | None,
    requests: int | None,
    out: Path | None,
    report: Path | None,
    json: bool,
) -> None:
    import msgspec
    from rich.console import Console

    from tenfold._core.errors import MisuseError
    from tenfold.simulate import simulate_scaling
    from tenfold.simulate.scaling_report import HEAD, figures, rows, subtitle, table

    if requests is not None:
        raise MisuseError("--requests: expected none for a scenario of scaling, which ends at its duration")
    by_label = {one.label: one for one in asked.scale}
    if odd := [label for label in only if label not in by_label]:
        raise MisuseError(f"--policy: expected one of {', '.join(by_label)}, got {odd[0]!r}")
    if only:
        asked = msgspec.structs.replace(asked, scale=tuple(by_label[label] for label in only))
    found = simulate_scaling(asked if seed is None else msgspec.structs.replace(asked, seed=seed))
    if out is not None:
        found.save(out)
    if report is not None:
        from tenfold.load.report import Section, page, save, tables

        sections = [Section("Policies", html=tables.table(HEAD, rows(found)), wide=True)]
        sections += [Section(title, figure=figure, note=note, wide=True) for title, note, figure in figures(found)]
        save(page(f"Simulation: {found.scenario}", sections, subtitle=subtitle(found)), report)
    if json:
        print(found.to_json().decode(), end="")
        return
    console = Console()
    if not console.is_terminal and console.width < 120:
        console = Console(width=120)
    console.print(f"{found.scenario}: {subtitle(found)}", highlight=False, markup=False)
    console.print(table(found))
    for one in found.policies:
        if one.difference:
            console.print(f"{one.label}: {one.difference}", highlight=False, markup=False)
