"""What is asked and told at run time: differences between what should be and what is, and counters. Pure.

Theory. HAProxy's commands are one by one, without transactions, and a worker forgets all of them at a reload. So the
truth is here: what should be is written to the file first, for every worker to come, and told to the present one; and
every few seconds what the worker says (``show servers state``) is compared with it, which also repairs what somebody
else did on the socket.

Counters begin at nothing in each worker and end with it. They are kept as sums of differences, each worker's apart.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tenfold.gateway.haproxy.servers import Server

_MAINT: Final = 0x01 | 0x02 | 0x04
_DRAIN: Final = 0x08 | 0x10
PREFIX: Final = "tenfold_gateway_"


@dataclass(frozen=True, slots=True)
class Present:
    """A server as the worker has it."""

    address: str
    weight: int
    state: str


def present(text: str) -> dict[str, dict[str, Present]]:
    """The answer to ``show servers state``, by backend and server."""
    found: dict[str, dict[str, Present]] = {}
    columns: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            columns = line[1:].split()
            continue
        fields = line.split()
        if len(fields) < 8 or not columns:
            continue
        row = dict(zip(columns, fields, strict=False))
        admin = int(row["srv_admin_state"])
        state = "maint" if admin & _MAINT else "drain" if admin & _DRAIN else "ready"
        found.setdefault(row["be_name"], {})[row["srv_name"]] = Present(
            f"{row['srv_addr']}:{row.get('srv_port', '')}", int(row["srv_uweight"]), state
        )
    return found


def commands(backend: str, wanted: Sequence[Server], has: Mapping[str, Present]) -> Iterator[str]:
    """What makes of the servers that a backend has those that are wanted; of a line each, which may be several
    commands.
    """
    for server in wanted:
        at = f"{backend}/{server.name}"
        now = has.get(server.name)
        if now is None:
            yield f"add server {at} {server.address} weight {server.weight} {' '.join(server.options)}"
            if "check" in server.options:
                yield f"enable health {at}"
            if server.state != "maint":
                yield f"set server {at} state {server.state}"
            continue
        weight = 0 if server.state == "drain" else server.weight
        if now.weight != weight:
            yield f"set server {at} weight {weight}"
        if now.state != server.state:
            yield f"set server {at} state {server.state}"
    names = {server.name for server in wanted}
    for name, now in has.items():
        if name not in names:
            if now.state != "maint":
                yield f"set server {backend}/{name} state maint"
            yield f"del server {backend}/{name}"


def table(text: str) -> list[dict[str, str]]:
    """The answer to ``show stat``: its rows by the names of columns."""
    return list(csv.DictReader(io.StringIO(text.lstrip("# "))))


_COUNTED: Final = (
    "stot", "bin", "bout", "ereq", "econ", "eresp", "wretr", "wredis", "cli_abrt", "req_tot", "hrsp_1xx", "hrsp_2xx",
    "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "cache_hits", "cache_lookups", "conn_tot",
)  # fmt: skip
Key = tuple[str, str, str]


class Totals:
    """Sums over workers that come and go."""

    __slots__ = ("_last", "_sums")

    def __init__(self) -> None:
        self._last: dict[int, dict[Key, int]] = {}
        self._sums: dict[Key, int] = {}

    def feed(self, pid: int, rows: Sequence[Mapping[str, str]]) -> None:
        """What the worker ``pid`` has counted so far."""
        last = self._last.setdefault(pid, {})
        for row in rows:
            for column in _COUNTED:
                value = row.get(column)
                if value:
                    key = row["pxname"], row["svname"], column
                    now, before = int(value), last.get(key, 0)
                    self._sums[key] = self._sums.get(key, 0) + (now - before if now >= before else now)
                    last[key] = now

    def keep(self, pids: Sequence[int]) -> None:
        """Forget where workers stood that are no more; what they counted stays."""
        for pid in [pid for pid in self._last if pid not in pids]:
            del self._last[pid]

    def get(self, proxy: str, name: str, column: str) -> int:
        """A sum; 0 for what was never told."""
        return self._sums.get((proxy, name, column), 0)


def samples(
    rows: Sequence[Mapping[str, str]], totals: Totals, servers: Mapping[str, Sequence[Server]], edge: bool, reloads: int
) -> list[dict[str, Any]]:
    """The metrics, under the names that all engines share."""
    found: list[dict[str, Any]] = []

    def add(name: str, value: float, **labels: str) -> None:
        found.append({"name": PREFIX + name, "labels": labels, "value": value})

    now = {(row["pxname"], row["svname"]): row for row in rows}
    front = now.get(("in", "FRONTEND"), {})
    add("connections", int(front.get("scur") or 0))
    add("connections_accepted_total", totals.get("in", "FRONTEND", "conn_tot"))
    add("bytes_in_total", totals.get("in", "FRONTEND", "bin"))
    add("bytes_out_total", totals.get("in", "FRONTEND", "bout"))
    add("refused_total", totals.get("in", "FRONTEND", "ereq"))
    add("reloads_total", reloads)
    retries = failovers = 0
    for pool, several in servers.items():
        backend = f"pool.{pool}"
        add("requests_total", totals.get(backend, "BACKEND", "stot"), pool=pool)
        for code in range(1, 6):
            add("responses_total", totals.get(backend, "BACKEND", f"hrsp_{code}xx"), pool=pool, code=f"{code}xx")
        add("queue", int(now.get((backend, "BACKEND"), {}).get("qcur") or 0), pool=pool)
        retries += totals.get(backend, "BACKEND", "wretr")
        failovers += totals.get(backend, "BACKEND", "wredis")
        for server in several:
            row = now.get((backend, server.name), {})
            labels = {"pool": pool, "endpoint": server.id}
            add("endpoint_requests_total", totals.get(backend, server.name, "stot"), **labels)
            failures = sum(totals.get(backend, server.name, column) for column in ("econ", "eresp"))
            add("endpoint_failures_total", failures, **labels)
            add("endpoint_up", int(up(row)), **labels)
            add("endpoint_weight", int(row.get("weight") or 0), **labels)
            add("endpoint_in_flight", int(row.get("scur") or 0), **labels)
    add("retries_total", retries)
    add("failovers_total", failovers)
    if edge:
        hits = sum(totals.get(f"pool.{pool}", "BACKEND", "cache_hits") for pool in servers)
        lookups = sum(totals.get(f"pool.{pool}", "BACKEND", "cache_lookups") for pool in servers)
        add("edge_hits_total", hits)
        add("edge_misses_total", lookups - hits)
    return found


def up(row: Mapping[str, str]) -> bool:
    """Whether an endpoint may be given work."""
    status = row.get("status", "")
    return status.startswith(("UP", "no check")) and (row.get("weight") or "0") != "0"
