"""``tenfold up``, ``down`` and ``status``: real servers in the background."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from tenfold.servers.background import ServerStatus

Format = Literal["table", "json", "env"]


def up(
    *,
    replicas: int = 2,
    shards: int = 2,
    valkey: Annotated[bool, Parameter(negative="--no-valkey")] = True,
    format: Format = "table",
) -> int:
    """Start PostgreSQL (primary, replicas, shards) and Valkey in the background and print their URLs.

    They go on until `tenfold down`. Run again, it says that they are up and prints the same.

    Parameters
    ----------
    replicas
        Streaming replicas of the primary, 0 to 12.
    shards
        Further servers without replicas, 0 to 12.
    valkey
        Start a Valkey too.
    format
        `table` for people, `env` for a shell (`eval "$(tenfold up --format env)"`), `json` for programs.
    """
    from tenfold.servers import background

    result = asyncio.run(background.up(replicas=replicas, shards=shards, valkey=valkey))
    print(f"tenfold: {result.outcome}", file=sys.stderr)
    _show(result.servers, format)
    return 0


def down(*, keep: bool = False) -> int:
    """Stop the servers of `tenfold up` and remove their data. No error when none are up.

    Parameters
    ----------
    keep
        Leave the data; the next `tenfold up` goes on with it.
    """
    from tenfold.servers import background

    was_up = asyncio.run(background.down(keep=keep))
    print("tenfold: down" + (", data kept" if keep and was_up else "") if was_up else "tenfold: nothing was up")
    return 0


def status(*, format: Format = "table") -> int:
    """Tell role, pid and lag of each server of `tenfold up`; exit code 1 unless all of them run.

    Parameters
    ----------
    format
        `table`, `env` or `json`, as in `tenfold up`.
    """
    from tenfold.servers import background

    servers = asyncio.run(background.status())
    if not servers:
        print("tenfold: not up; start the servers with `tenfold up`", file=sys.stderr)
        return 1
    _show(servers, format)
    dead = [server.name for server in servers if not server.up]
    if dead:
        print(f"tenfold: down: {', '.join(dead)}; `tenfold up` starts them again", file=sys.stderr)
    return 1 if dead else 0


def _show(servers: list[ServerStatus], format: Format) -> None:
    if format == "json":
        print(json.dumps([{**asdict(server), "up": server.up} for server in servers], indent=2))
        return
    if format == "env":
        print("\n".join(f"export {name}={url}" for name, url in _environment(servers)))
        return
    rows = [("server", "role", "pid", "lag", "url")]
    for server in servers:
        lag = "" if server.lag_bytes is None else f"{server.lag_bytes} B"
        rows.append((server.name, server.role, str(server.pid or "down"), lag, server.url))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    print("\n".join(f"{name}={url}" for name, url in _environment(servers)))


def _environment(servers: list[ServerStatus]) -> list[tuple[str, str]]:
    counts = {"replica": 0, "shard": 0}
    pairs = []
    for server in servers:
        if server.role in counts:
            counts[server.role] += 1
            pairs.append((f"TENFOLD_{server.role.upper()}{counts[server.role]}_URL", server.url))
        elif server.role in ("primary", "cache"):
            pairs.append((f"TENFOLD_{'VALKEY' if server.role == 'cache' else 'PRIMARY'}_URL", server.url))
    return pairs
