"""CPU a request of each proxy, by kind of request, in turns.

A round gives each proxy a second of wrk with 64 connections that are kept alive; a proxy's figure is the least
of the rounds, because what comes on top is somebody else's (cold caches, neighbours on the machine). The proxy is on
one core, wrk and the backend on the other. Ratios are peer ÷ ours: above 1 we are the cheaper one.

Two floors run beside them (`bench._gateway_floor`), so that it can be seen what is possible at all: ``floor_splice_us``
is what a 1 KiB GET costs on uvloop if bytes are passed on without a look at them, and no proxy in Python can cost less;
``floor_fixed_us`` is what an answer out of memory costs if it is always the same. A peer's cost over a floor is the
ceiling of the ratio to that peer: where a ``ceiling_`` is below a mark, that mark cannot be had in Python.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any, Final

from bench._gateway_peers import Bench, Proxy, cpu

CONNECTIONS: Final = 64
PEERS: Final = ("haproxy", "nginx", "aiohttp", "caddy", "traefik", "envoy")
CACHES: Final = ("haproxy", "nginx")
_POST: Final = 'wrk.method = "POST"; wrk.body = string.rep("x", 16384)'


class Load:
    """One kind of request, for wrk."""

    def __init__(self, bench: Bench, path: str, script: str = "") -> None:
        self.core = bench.load_core
        self.path = path
        self.extra: list[str] = []
        if script:
            file = bench.root / "wrk.lua"
            file.write_text(script)
            self.extra = ["-s", str(file)]

    def run(self, port: int, seconds: float, connections: int = CONNECTIONS) -> tuple[int, float, float]:
        """Requests in all, a second, and the 99th percentile of their times in milliseconds."""
        command = ["taskset", "-c", str(self.core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
        command += [*self.extra, f"http://127.0.0.1:{port}{self.path}"]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", out)
        if bad:
            raise RuntimeError(f"port {port}{self.path}: {bad[0]}")
        total, rate = re.search(r"(\d+) requests in", out), re.search(r"Requests/sec:\s+([\d.]+)", out)
        late = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
        if total is None or rate is None or late is None:
            raise RuntimeError(f"wrk said: {out}")
        return int(total[1]), float(rate[1]), float(late[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[late[2]]


def compare(load: Load, proxies: dict[str, Proxy], rounds: int, seconds: float) -> tuple[dict[str, float], Any]:
    """The least microseconds of CPU a request, and the most requests a second, of each proxy."""
    best = dict.fromkeys(proxies, float("inf"))
    rates = dict.fromkeys(proxies, 0.0)
    for proxy in proxies.values():
        load.run(proxy.port, 1)
    for _ in range(rounds):
        for name, proxy in proxies.items():
            before = cpu(proxy.pids)
            requests, rate, _late = load.run(proxy.port, seconds)
            best[name] = min(best[name], (cpu(proxy.pids) - before) / requests * 1e6)
            rates[name] = max(rates[name], rate)
    return best, rates


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """All ratios that are about the cost of a request."""
    rounds, seconds = (1, 1) if quick else (8, 1)
    found = {"tenfold": bench.ours("plain")} | {name: bench.peer(name) for name in PEERS}
    edge = bench.ours("edge", "edge = true")
    proxies = {name: proxy for name, proxy in found.items() if proxy is not None}
    main = {name: proxy for name, proxy in proxies.items() if name in ("tenfold", "haproxy", "nginx")}
    caches = ({} if edge is None else {"tenfold": edge}) | {n: p for n, p in proxies.items() if n in CACHES}
    splice, fixed = bench.floor("splice"), bench.floor("fixed")
    plain = proxies if splice is None else proxies | {"floor": splice}
    if fixed is not None:
        caches["floor"] = fixed
    kinds = {
        "get_1k": (Load(bench, "/"), plain),
        "get_64k": (Load(bench, "/64k"), main),
        "post_16k": (Load(bench, "/post", _POST), main),
        "cached_1k": (Load(bench, "/cached"), caches),
    }
    costs: dict[str, dict[str, float]] = {}
    rates = {}
    for kind, (load, which) in kinds.items():
        costs[kind], rates[kind] = compare(load, which, rounds, seconds)

    def ratio(kind: str, peer: str, ours: str = "tenfold") -> float | None:
        cost = costs[kind]
        return round(cost[peer] / cost[ours], 3) if peer in cost and ours in cost else None

    def ceiling(kind: str, peer: str) -> float | None:
        return ratio(kind, peer, "floor")

    def floor(kind: str) -> float | None:
        cost = costs[kind].get("floor")
        return None if cost is None else round(cost, 1)

    return {
        "cpu_vs_haproxy": ratio("get_1k", "haproxy"),
        "cpu_vs_aiohttp": ratio("get_1k", "aiohttp"),
        "cpu_vs_nginx": ratio("get_1k", "nginx"),
        "cpu_vs_caddy": ratio("get_1k", "caddy"),
        "cpu_vs_traefik": ratio("get_1k", "traefik"),
        "cpu_vs_envoy": ratio("get_1k", "envoy"),
        "cpu_64k_vs_haproxy": ratio("get_64k", "haproxy"),
        "cpu_post16k_vs_haproxy": ratio("post_16k", "haproxy"),
        "edge_vs_haproxy_cache": ratio("cached_1k", "haproxy"),
        "edge_vs_nginx_cache": ratio("cached_1k", "nginx"),
        "floor_splice_us": floor("get_1k"),
        "floor_fixed_us": floor("cached_1k"),
        "ceiling_cpu_vs_haproxy": ceiling("get_1k", "haproxy"),
        "ceiling_cpu_vs_aiohttp": ceiling("get_1k", "aiohttp"),
        "ceiling_edge_vs_haproxy_cache": ceiling("cached_1k", "haproxy"),
        "ceiling_edge_vs_nginx_cache": ceiling("cached_1k", "nginx"),
        "cpu_us": {kind: {name: round(value, 1) for name, value in each.items()} for kind, each in costs.items()},
        "requests_s": {kind: {name: round(value) for name, value in each.items()} for kind, each in rates.items()},
        "rounds": rounds,
    }
