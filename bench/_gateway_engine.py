"""The HAProxy engine beside an HAProxy that somebody wrote by hand, with the same features switched on.

Equal work is the fair comparison: what the engine costs is what it generates beside what a person would write for the
same behaviour, so both have the same pick, retries (and none for a POST), time-outs, counters that can be read, and
tell the endpoint the same: X-Forwarded-For, -Proto and -Host, Forwarded and X-Request-Id, of which nothing comes from
the client. `bench.gateway`'s ``cpu_vs_haproxy`` has a leaner HAProxy, which tells the endpoint less. Both run on one
core with one thread, in pairs of rounds, and the figure is the median of the pairs' ratios: a difference of a twentieth
is less than what a machine does by itself between the best rounds of two processes (their ratio is told as well). The
engine's figure has the process that drives HAProxy in it.
"""

from __future__ import annotations

from operator import truediv
from statistics import median
from typing import Any, Final

from bench._gateway_cost import Load
from bench._gateway_peers import Bench, Proxy, cpu
from bench._targets import free_port

BY_HAND: Final = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout tunnel 1h
  retries 2
  retry-on conn-failure empty-response
  option redispatch
  option idle-close-on-response
  option dontlognull
  http-reuse safe
frontend in
  bind 127.0.0.1:{port}
  http-request del-header Forwarded
  http-request del-header X-Real-IP
  http-request del-header x-forwarded- -m beg
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Request-Id %[uuid()]
  http-request disable-l7-retry if !{{ method GET HEAD OPTIONS PUT DELETE TRACE }}
  http-request use-service prometheus-exporter if {{ path /metrics }}
  default_backend app
backend app
  balance random(2)
  option forwarded proto host for
  server a 127.0.0.1:{backend}
  server b 127.0.0.2:{backend}
"""
_ENGINE: Final = '[engine]\nname = "haproxy"'


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """By hand ÷ engine, in CPU a request: above 1 the engine is the cheaper one."""
    engine = bench.ours("engine", engine=_ENGINE)
    hand = bench.haproxy("by-hand", BY_HAND.format(port=(port := free_port()), backend=bench.backend), port)
    if engine is None or hand is None:
        return {"haproxy_engine_vs_haproxy": None}
    rounds = 4 if quick else 20
    load = Load(bench, "/")
    costs: dict[str, list[float]] = {"engine": [], "by hand": []}
    proxies = {"engine": engine, "by hand": hand}
    for proxy in proxies.values():
        load.run(proxy.port, 1)
    for number in range(rounds):
        for name in sorted(proxies, reverse=bool(number % 2)):  # neither is always the first of a round
            costs[name].append(_cost(load, proxies[name]))
    least = {name: min(each) for name, each in costs.items()}
    return {
        "haproxy_engine_vs_haproxy": round(median(map(truediv, costs["by hand"], costs["engine"])), 3),
        "haproxy_engine_vs_haproxy_least": round(least["by hand"] / least["engine"], 3),
        "haproxy_engine_cpu_us": {name: round(each, 1) for name, each in least.items()},
    }


def _cost(load: Load, proxy: Proxy) -> float:
    before = cpu(proxy.pids)
    requests, _, _ = load.run(proxy.port, 1)
    return (cpu(proxy.pids) - before) / requests * 1e6
