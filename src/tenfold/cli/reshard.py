"""``tenfold reshard``: move buckets from shard to shard while the application writes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json as to_json
import sys
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.db.reshard import Progress, Reshard, Resharding, ReshardOptions

app = App(name="reshard", help="Move buckets of a ShardedCluster between shards while the application writes.")

Shards = Annotated[tuple[str, ...], Parameter(name="--shard", env_var="TENFOLD_SHARDS", negative="")]
Models = Annotated[tuple[str, ...], Parameter(name="--models", negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]


@app.command
def plan(
    *,
    shard: Shards,
    models: Models,
    buckets: str | None = None,
    to: str | None = None,
    empty: str | None = None,
    even: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Plan which buckets go where, check that they can, and keep the plan. Moves nothing.

    Parameters
    ----------
    shard
        A shard as name=URL, for each of them, the home of the map first; again with the same name for each replica.
        Default: the environment's TENFOLD_SHARDS, with spaces between them.
    models
        What the application gives to ShardedCluster, as module:name; the module is imported from the present folder.
    buckets
        Buckets to move, such as 0-99,200; with --to.
    to
        The shard that they go to.
    empty
        Or: take every bucket off this shard.
    even
        Or: spread the buckets evenly over all shards, new ones too.
    json
        Print one JSON object.
    """
    from tenfold.db.reshard.choose import numbers

    wanted = numbers(buckets) if buckets is not None else ()
    state = asyncio.run(_tool(shard, models).plan(to=to, buckets=wanted, empty=empty, even=even))
    _show(state, json, "planned; nothing has moved: tenfold reshard run")


@app.command
def run(
    *,
    shard: Shards,
    models: Models,
    finish: Annotated[bool, Parameter(negative="")] = False,
    batch: int = 2000,
    switch_rows: int = 10_000,
    lock_wait: str = "2s",
    json: Json = False,
) -> None:
    """Move what is planned, or go on after an interruption. With --finish, also drop the former rows.

    Until --finish, changes are noted for the way back, and `rollback` loses nothing.

    Parameters
    ----------
    shard
        A shard as name=URL, for each of them, the home of the map first; default: the environment's TENFOLD_SHARDS.
    models
        What the application gives to ShardedCluster, as module:name.
    finish
        End it: drop the former rows and the logs. There is no rollback afterwards.
    batch
        Rows that are read at a time.
    switch_rows
        Rows that one switch moves while writers wait; a bucket is never divided.
    lock_wait
        How long a switch waits for transactions under way before it lets the writers pass and tries again.
    json
        Print one JSON object.
    """
    from tenfold.db.reshard import ReshardOptions

    options = ReshardOptions(batch=batch, switch_rows=switch_rows, lock_wait=lock_wait)
    with _bar() as tell:
        state = asyncio.run(_tool(shard, models, options, tell).run(finish=finish))
    said = "finished" if state is None else "moved; tenfold reshard rollback loses nothing until run --finish"
    _show(state, json, said)


@app.command
def rollback(*, shard: Shards, models: Models, lock_wait: str = "2s", json: Json = False) -> None:
    """Bring every bucket back to where it was, with all that was written meanwhile, and clean up.

    Parameters
    ----------
    shard
        A shard as name=URL, for each of them, the home of the map first; default: the environment's TENFOLD_SHARDS.
    models
        What the application gives to ShardedCluster, as module:name.
    lock_wait
        How long a switch waits for transactions under way before it lets the writers pass and tries again.
    json
        Print one JSON object.
    """
    from tenfold.db.reshard import ReshardOptions

    with _bar() as tell:
        asyncio.run(_tool(shard, models, ReshardOptions(lock_wait=lock_wait), tell).rollback())
    _show(None, json, "rolled back")


@app.command
def verify(*, shard: Shards, models: Models, json: Json = False) -> int:
    """Compare live rows with their copies, and look for rows that are not where the map has them.

    Exit code 1 where there are any.

    Parameters
    ----------
    shard
        A shard as name=URL, for each of them, the home of the map first; default: the environment's TENFOLD_SHARDS.
    models
        What the application gives to ShardedCluster, as module:name.
    json
        Print one JSON object.
    """
    found = asyncio.run(_tool(shard, models).verify())
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print(f"live rows: {', '.join(f'{rows:,} on {name}' for name, rows in found.rows.items())}")
        more = f", {found.uncompared:,} not copied yet" if found.uncompared else ""
        print(f"copies: {found.compared:,} rows equal{more}")
        print("\n".join(found.misplaced) or "every row is where the map has it")
    return 1 if found.misplaced else 0


def _tool(
    shards: tuple[str, ...],
    models: tuple[str, ...],
    options: ReshardOptions | None = None,
    tell: Callable[[Progress], object] | None = None,
) -> Resharding:
    from tenfold.db.reshard import Resharding

    urls: dict[str, list[str]] = {}
    for one in (part for given in shards for part in given.split()):
        name, equals, url = one.partition("=")
        if not (name and equals and url):
            raise MisuseError(f"--shard: expected name=URL such as s0=postgresql://user@host/shop, got {name!r}")
        if url in urls.setdefault(name, []):
            raise MisuseError(f"--shard: {name} is given twice with the same URL")
        urls[name].append(url)
    return Resharding(urls, models=[_imported(one) for one in models], options=options, on_progress=tell)


def _imported(reference: str) -> Any:
    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        raise MisuseError(f"--models: expected module:name such as shop.models:Base, got {reference!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return attrgetter(attribute)(importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise MisuseError(f"--models: there is no module {error.name!r} here; go to its folder") from error
    except AttributeError as error:
        raise MisuseError(f"--models: {reference}: {error}") from error


def _show(state: Reshard | None, json: bool, said: str) -> None:
    legs = [
        {
            "source": leg.source,
            "target": leg.target,
            "phase": str(leg.phase),
            "buckets": list(leg.buckets),
            "rows": leg.rows,
        }
        for leg in (state.legs if state is not None else ())
    ]
    if json:
        print(to_json.dumps({"outcome": said.partition(";")[0], "legs": legs}, indent=2))
        return
    for number, leg in enumerate(state.legs if state is not None else ()):
        print(f"{number}: {leg.source} → {leg.target}, {len(leg.buckets):,} buckets, {leg.rows:,} rows, {leg.phase}")
    print(said)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on stderr where that is a terminal; nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        task = bars.add_task("connecting", total=None)

        def tell(progress: Progress) -> None:
            name = f"leg {progress.leg}: {progress.point}" if progress.leg >= 0 else progress.point
            bars.update(task, description=name)
            if progress.total:
                # Rows that come while it copies are copied too, so the goal moves.
                bars.update(task, completed=progress.done, total=max(progress.total, progress.done))

        yield tell
