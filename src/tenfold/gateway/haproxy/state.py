"""What is told of an HAProxy that is driven: its pools and endpoints, and its metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.admin.names import PREFIX
from tenfold.gateway.config import Config
from tenfold.gateway.haproxy import runtime
from tenfold.gateway.haproxy.numbers import Numbers
from tenfold.gateway.haproxy.servers import Server

Wanted = Mapping[str, Sequence[Server]]


def pools(config: Config, endpoints: Mapping[str, Sequence[Endpoint]], wanted: Wanted, numbers: Numbers) -> Any:
    """The pools of ``state``, as the admin API has them."""
    found: dict[str, Any] = {}
    for pool in config.pools:
        backend = f"pool.{pool.name}"
        declared = {each.id: each for each in endpoints[pool.name]}
        told = {
            server.id: _endpoint(declared[server.id], server, backend, numbers)
            for server in wanted[pool.name]
            if server.id in declared
        }
        found[pool.name] = {
            "pick": str(pool.pick),
            "ready": sum(each["ready"] for each in told.values()),
            "panic": False,
            "queued": numbers.now(backend, "BACKEND", "qcur"),
            "endpoints": told,
        }
    return found


def _endpoint(endpoint: Endpoint, server: Server, backend: str, numbers: Numbers) -> dict[str, Any]:
    row, total = numbers.rows.get((backend, server.name), {}), numbers.totals.get
    return {
        "url": endpoint.url,
        "address": server.address,
        "state": server.state,
        "status": row.get("status", "unknown"),
        "ready": runtime.up(row),
        "why": runtime.why(row),
        "weight": server.weight,
        "declared_weight": endpoint.weight,
        "in_flight": numbers.now(backend, server.name, "scur"),
        "requests": total(backend, server.name, "stot"),
        "failures": sum(total(backend, server.name, column) for column in ("econ", "eresp")),
    }


def counters(numbers: Numbers) -> dict[str, int]:
    """The counters of ``state``."""
    total = numbers.totals.get
    return {
        "requests": total("in", "FRONTEND", "req_tot"),
        "accepted": total("in", "FRONTEND", "conn_tot"),
        "bytes_in": total("in", "FRONTEND", "bin"),
        "bytes_out": total("in", "FRONTEND", "bout"),
        "refused": total("in", "FRONTEND", "ereq"),
        **{f"answered_{n}xx": total("in", "FRONTEND", f"hrsp_{n}xx") for n in range(1, 6)},
    }


class _Samples(list[dict[str, Any]]):
    def add(self, name: str, value: float, **labels: str) -> None:
        self.append({"name": PREFIX + name, "labels": labels, "value": value})


def samples(config: Config, wanted: Wanted, numbers: Numbers, reloads: int, draining: bool) -> list[dict[str, Any]]:
    """The metrics, under the names that all engines share. HAProxy counts by pool; a route is told where a pool has
    but one.
    """
    found, total, now = _Samples(), numbers.totals.get, numbers.now
    found.add("connections", now("in", "FRONTEND", "scur"))
    found.add("connections_accepted_total", total("in", "FRONTEND", "conn_tot"))
    found.add("bytes_in_total", total("in", "FRONTEND", "bin"))
    found.add("bytes_out_total", total("in", "FRONTEND", "bout"))
    found.add("refused_total", total("in", "FRONTEND", "ereq"))
    found.add("reloads_total", reloads)
    found.add("draining", int(draining))
    for pool, several in wanted.items():
        _pool(found, config, pool, several, numbers)
    backends = [f"pool.{pool}" for pool in wanted]
    for name, column in (
        ("retries_total", "wretr"), ("failovers_total", "wredis"), ("clients_left_total", "cli_abrt"),
        ("cut_total", "srv_abrt"), ("upstream_connects_failed_total", "econ"), ("upstream_connects_total", "connect"),
    ):  # fmt: skip
        found.add(name, sum(total(backend, "BACKEND", column) for backend in backends))
    found.add("in_flight", sum(now(backend, "BACKEND", "scur") for backend in backends))
    if any(route.edge is not None for route in config.routes):
        hits = total("in", "FRONTEND", "cache_hits")
        found.add("edge_hits_total", hits)
        found.add("edge_misses_total", total("in", "FRONTEND", "cache_lookups") - hits)
    return found


def _pool(found: _Samples, config: Config, pool: str, several: Sequence[Server], numbers: Numbers) -> None:
    backend, total, now = f"pool.{pool}", numbers.totals.get, numbers.now
    routes = [
        route.name
        for route in config.routes
        if route.pool == pool or (route.canary is not None and route.canary.pool == pool)
    ]
    found.add(
        "requests_total", total(backend, "BACKEND", "stot"), route=routes[0] if len(routes) == 1 else "", pool=pool
    )
    for code in range(1, 6):
        found.add("responses_total", total(backend, "BACKEND", f"hrsp_{code}xx"), pool=pool, code=f"{code}xx")
    found.add("queue", now(backend, "BACKEND", "qcur"), pool=pool)
    for server in several:
        at = {"pool": pool, "endpoint": server.id}
        found.add("endpoint_requests_total", total(backend, server.name, "stot"), **at)
        failures = sum(total(backend, server.name, column) for column in ("econ", "eresp"))
        found.add("endpoint_failures_total", failures, **at)
        found.add("endpoint_up", int(runtime.up(numbers.rows.get((backend, server.name), {}))), **at)
        found.add("endpoint_weight", now(backend, server.name, "weight"), **at)
        found.add("endpoint_in_flight", now(backend, server.name, "scur"), **at)
        open_now = now(backend, server.name, "used_conn_cur") + now(backend, server.name, "idle_conn_cur")
        found.add("endpoint_connections", open_now, **at)
