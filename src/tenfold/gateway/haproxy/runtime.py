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
from typing import Final

from tenfold.gateway.haproxy.servers import Server

_MAINT: Final = 0x01 | 0x02 | 0x04
_DRAIN: Final = 0x08 | 0x10


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


def unreachable(wanted: Sequence[Server], has: Mapping[str, Present]) -> str | None:
    """A server that commands cannot make of what a backend has: one that moved, or a new one whose name must be looked
    up.
    """
    for server in wanted:
        now = has.get(server.name)
        if now is None:
            if not server.numeric:
                return server.name
        elif server.numeric and not server.address.startswith("unix@"):
            told = server.address.removeprefix("ipv6@").replace("[", "").replace("]", "")
            if now.address != told:
                return server.name
    return None


def down(text: str, wanted: Mapping[str, Sequence[Server]]) -> str:
    """What the next worker must know of ``show servers state``: the servers that checks have found down, with the
    weights of the file.
    """
    ready = {(f"pool.{pool}", each.name): each for pool, several in wanted.items() for each in several
             if each.state == "ready" and "check" in each.options}  # fmt: skip
    kept = []
    columns: list[str] = []
    for line in text.splitlines():
        fields = line.split()
        if line.startswith("#"):
            columns = line[1:].split()
            kept.append(line)
        elif len(fields) >= len(columns) > 0:
            row = dict(zip(columns, fields, strict=False))
            server = ready.get((row["be_name"], row["srv_name"]))
            if server is not None and row["srv_op_state"] == "0":
                row |= {"srv_uweight": str(server.weight), "srv_iweight": str(server.weight), "srv_admin_state": "0"}
                kept.append(" ".join(row[column] for column in columns))
    return "\n".join(["1", *kept, ""])


def table(text: str) -> list[dict[str, str]]:
    """The answer to ``show stat``: its rows by the names of columns."""
    return list(csv.DictReader(io.StringIO(text.lstrip("# "))))


_COUNTED: Final = (
    "stot", "bin", "bout", "ereq", "econ", "eresp", "wretr", "wredis", "cli_abrt", "req_tot", "hrsp_1xx", "hrsp_2xx",
    "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "cache_hits", "cache_lookups", "conn_tot", "srv_abrt", "connect",
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


def up(row: Mapping[str, str]) -> bool:
    """Whether an endpoint may be given work."""
    status = row.get("status", "")
    return status.startswith(("UP", "no check")) and (row.get("weight") or "0") != "0"


def why(row: Mapping[str, str]) -> str:
    """What the last check of an endpoint said; "" where there is none."""
    said = " ".join(filter(None, (row.get("check_status"), row.get("check_code"), row.get("last_chk"))))
    return said.removeprefix("* ")
