"""``tenfold cache``: look at a cache in a running Valkey, clear it, warm it."""

from __future__ import annotations

import asyncio
import importlib
import json as to_json
import sys
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration, format_size

if TYPE_CHECKING:
    from tenfold.cache.remote import Record, Survey
    from tenfold.cache.warm import WarmReport

app = App(name="cache", help="Look at a cache in a running Valkey, clear it, warm it.")

Server = Annotated[str, Parameter(name="--redis", env_var="TENFOLD_VALKEY_URL")]
Json = Annotated[bool, Parameter(name="--json", negative="")]


@app.command
def stats(*, redis: Server, name: str, limit: int = 100_000, json: Json = False) -> None:
    """Tell how many values of which functions are in level 2, and how the server is.

    Hits and loads are counted by each process; see `cache.stats()` or its metrics.

    Parameters
    ----------
    redis
        The server, such as redis://127.0.0.1:6379/0; default: the environment's TENFOLD_VALKEY_URL.
    name
        The cache's name: what the program gives to `Cache("shop")`.
    limit
        Count at most so many keys.
    json
        Print one JSON object.
    """
    from tenfold.cache import remote

    async def main() -> Survey:
        async with remote.connected(redis) as client:
            return await remote.survey(client, name, limit=limit)

    found = asyncio.run(main())
    if json:
        print(to_json.dumps({**asdict(found), "values": found.values, "bytes": found.bytes}, indent=2))
        return
    more = "" if found.complete else f" (of the first {limit:,} keys)"
    print(f"cache {name}: {found.values:,} values in {format_size(found.bytes)}{more}")
    print(f"  {found.leases:,} being loaded, {found.tags:,} tags known")
    rows = [("function", "values", "bytes", "expire in")]
    for function, tally in sorted(found.functions.items(), key=lambda one: -one[1].bytes):
        ends = f"{format_duration(tally.first)} … {format_duration(tally.last)}"
        rows.append((function, f"{tally.values:,}", format_size(tally.bytes), ends))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows if len(rows) > 1 else ():
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    server = found.server
    version = server.get("valkey_version") or server.get("redis_version", "?")
    room = f" of {format_size(server['maxmemory'])}" if server.get("maxmemory") else ", no limit"
    print(
        f"server {version}: {format_size(server.get('used_memory', 0))} used{room}, "
        f"{server.get('maxmemory_policy', '?')}, {server.get('evicted_keys', 0):,} keys evicted"
    )


@app.command
def explain(
    key: str,
    *,
    redis: Server,
    name: str,
    tag: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    json: Json = False,
) -> None:
    """Say what level 2 has for a key, how long it lasts, and whether it still counts.

    Exit code 1 where it would be a miss. A running process knows more: `await cache.explain(key)`.

    Parameters
    ----------
    key
        As `function.key(…)` makes it, such as 'shop.product(7)'.
    redis
        The server; default: the environment's TENFOLD_VALKEY_URL.
    name
        The cache's name.
    tag
        A tag of the entry; all of them, in the order of their declaration, make the answer certain.
    json
        Print one JSON object.
    """
    from tenfold.cache import remote

    async def main() -> Record:
        async with remote.connected(redis) as client:
            return await remote.look(client, name, key, tag or None)

    found = asyncio.run(main())
    if json:
        print(to_json.dumps(asdict(found), indent=2))
    else:
        print(f"{key}: {_words(found)}")
    sys.exit(0 if found.state in ("good", "not refuted") else 1)


def _words(found: Record) -> str:
    left = format_duration(found.left)
    if found.kind == "nothing":
        return "not in level 2: never stored, invalidated, expired or evicted"
    if found.kind == "lease":
        return "no value, but a lease: some process began to load it within the last two minutes"
    if found.kind == "unknown":
        return f"a record of another version ({found.bytes} bytes, {left} left); it counts as a miss"
    state = {
        "good": "a hit in level 2",
        "invalidated": "a miss: invalidated since it was stored, or stored with other tags",
        "not refuted": "a hit in level 2, unless one of its tags was invalidated; give them by --tag to be sure",
    }[found.state]
    return f"{state}\n  {found.bytes} bytes, {left} left, {found.tags} tags"


@app.command
def clear(
    *,
    redis: Server,
    name: str,
    key: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    tag: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    delete: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Invalidate keys, tags or everything of one cache, in all processes.

    Only keys that begin with the cache's own prefix are touched. Exit code 1 where the server did not confirm.

    Parameters
    ----------
    redis
        The server; default: the environment's TENFOLD_VALKEY_URL.
    name
        The cache's name.
    key
        Only this key; may be given several times.
    tag
        Only what carries this tag; may be given several times.
    delete
        Remove the keys as well, instead of leaving them to expire.
    yes
        Clear everything without asking.
    """
    from tenfold.cache import Cache, remote

    if delete and (key or tag):
        raise MisuseError("clear: expected --delete, or --key and --tag, got both; --delete removes the whole cache")
    cache = Cache(name, redis=redis, timeout="2s")
    if not (key or tag or yes):
        if not sys.stdin.isatty():
            raise MisuseError(f"clear: expected --yes, or --key or --tag: this would clear all of the cache {name!r}")
        if input(f"Clear all of the cache {name!r}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was cleared")
            return 1

    async def main() -> tuple[bool, int]:
        async with cache:
            if key or tag:
                done = [await cache.invalidate(*key)] if key else []
                done += [await cache.invalidate_tags(*tag)] if tag else []
                return all(done), 0
            confirmed = await cache.clear()
        if not (confirmed and delete):
            return confirmed, 0
        async with remote.connected(redis) as client:
            return True, await remote.drop(client, name)

    confirmed, dropped = asyncio.run(main())
    if not confirmed:
        print("tenfold: the server did not confirm it; nothing is certain, try again", file=sys.stderr)
        return 1
    what = ", ".join([*key, *tag]) or f"all of {name}"
    print(f"cleared {what}" + (f", {dropped:,} keys removed" if delete else ""))
    return 0


@app.command
def warm(
    function: str,
    *,
    cache: str | None = None,
    top: int = 1000,
    popular: Path | None = None,
    rate: str | None = None,
    concurrency: int | None = None,
) -> int:
    """Load the most popular keys of a function into its cache before the callers come.

    Exit code 1 where too many could not be loaded.

    Parameters
    ----------
    function
        The cached function, as module:name; the module is imported from the present folder.
    cache
        Its cache, as module:name; default: the one of its module that decorated it.
    top
        So many keys, most popular first.
    popular
        A file of `save_popular`; default: what level 2 keeps.
    rate
        Keys that start a second, such as 200/s; default: no limit.
    concurrency
        Calls that run at a time.
    """
    from tenfold.cache import WarmFailed
    from tenfold.cache.remote import cache_of

    module, target = _imported(function)
    used = cache_of(target, vars(module).values() if cache is None else [_imported(cache)[1]])

    if used._url is None:
        raise MisuseError(f"{function}: its cache has no level 2, so what is loaded here would end with this command")

    def tell(report: WarmReport) -> None:
        print(f"warmed {report.warmed:,}, {report.errors:,} errors, {report.skipped:,} of others", file=sys.stderr)

    async def main() -> WarmReport:
        async with used:
            await used.load_popular(popular)
            return await used.warm(target, used.popular(top), rate=rate, concurrency=concurrency, on_progress=tell)

    try:
        report = asyncio.run(main())
    except WarmFailed as error:
        print(f"tenfold: {error}", file=sys.stderr)
        return 1
    print(f"{report.warmed:,} keys of {function} are cached, in {format_duration(report.seconds)}")
    return 0


def _imported(reference: str) -> tuple[Any, Any]:
    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        raise MisuseError(f"expected module:name such as shop.catalogue:product, got {reference!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise MisuseError(f"{reference}: there is no module {error.name!r} here; go to its folder") from error
    try:
        return module, attrgetter(attribute)(module)
    except AttributeError as error:
        raise MisuseError(f"{reference}: {error}") from error
