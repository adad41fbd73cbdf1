"""A gateway's counters as samples: a name, labels and a number each, ready for JSON.

A histogram is as many samples as Prometheus makes of it (``_bucket`` with ``le``, ``_sum``, ``_count``), cumulative, so
that adding up samples of the same name and labels adds up histograms too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from tenfold.gateway.admin.names import PREFIX
from tenfold.gateway.engine.tally import BOUNDS, CLASSES

if TYPE_CHECKING:
    from tenfold.gateway.engine.gateway import Gateway
    from tenfold.gateway.engine.pool_plan import PoolPlan
    from tenfold.gateway.engine.site import Site

Sample = dict[str, Any]
"""``{"name": …, "labels": {…}, "value": …}``."""

_COUNTERS: Final = {
    "connections_accepted_total": "accepted",
    "bytes_in_total": "bytes_in",
    "bytes_out_total": "bytes_out",
    "refused_total": "refused",
    "own_answers_total": "own_answers",
    "timeouts_total": "late",
    "clients_left_total": "clients_left",
    "cut_total": "cut",
    "retries_total": "retries",
    "failovers_total": "failovers",
    "retries_refused_total": "retries_refused",
    "canaries_total": "canaries",
    "tunnels_total": "tunnels",
    "upstream_connections": "upstreams",
    "upstream_connects_total": "connects",
    "upstream_connects_failed_total": "connects_failed",
    "reloads_total": "reloads",
    "in_flight": "in_flight",
}
_EDGE: Final = {
    "edge_hits_total": "hits",
    "edge_misses_total": "misses",
    "edge_stale_total": "stale",
    "edge_collapsed_total": "collapsed",
    "edge_purged_total": "purged",
    "edge_evicted_total": "evicted",
    "edge_responses": "entries",
    "edge_stored_bytes": "bytes",
}


def sample(name: str, value: float, **labels: str) -> Sample:
    """One sample; ``name`` without the prefix."""
    return {"name": PREFIX + name, "labels": labels, "value": value}


def samples(gateway: Gateway) -> list[Sample]:
    """All of a gateway that runs."""
    site = gateway.site
    counters = site.counters
    found = [sample("connections", len(site.clients)), sample("draining", int(site.draining))]
    found += [sample(name, getattr(counters, own)) for name, own in _COUNTERS.items()]
    if site.log is not None:
        found.append(sample("log_dropped_total", site.log.dropped))
    if site.edge is not None:
        stats = site.edge.stats()
        found += [sample(name, getattr(stats, own)) for name, own in _EDGE.items()]
    found += _routes(site)
    for name, pool in site.plan.pools.items():
        found += _pool(name, pool)
    found += gateway.more_samples()
    return found


def _routes(site: Site) -> Iterator[Sample]:
    by_pool: dict[str, list[int]] = {name: [0] * len(CLASSES) for name in site.plan.pools}
    routes = [(name, route) for name, route in site.plan.routes.items()]
    for name, route in [*routes, ("", site.nowhere)]:
        several = [("" if route.pool is None else route.pool.options.name, route.answers)]
        if route.canary_pool is not None:
            several.append((route.canary_pool.options.name, route.canary_answers))
        for pool, answers in several:
            yield sample("requests_total", sum(answers), route=name, pool=pool)
            sums = by_pool.setdefault(pool, [0] * len(CLASSES))
            by_pool[pool] = [a + b for a, b in zip(sums, answers, strict=True)]
    for pool, sums in by_pool.items():
        for code, count in zip(CLASSES[1:], sums[1:], strict=True):
            yield sample("responses_total", count, pool=pool, code=code)


def _pool(name: str, pool: PoolPlan) -> Iterator[Sample]:
    state = pool.balancer.state()
    yield sample("queue", pool.queued, pool=name)
    yield sample("panic", int(state["panic"]), pool=name)
    yield sample("no_endpoint_total", state["counters"]["refused"], pool=name)
    for bound, count in zip((*map(repr, BOUNDS), "+Inf"), accumulate(pool.times.counts), strict=True):
        yield sample("response_seconds_bucket", count, pool=name, le=bound)
    yield sample("response_seconds_sum", pool.times.sum, pool=name)
    yield sample("response_seconds_count", sum(pool.times.counts), pool=name)
    for id, endpoint in state["endpoints"].items():
        tally, upstream = pool.tallies.get(id), pool.upstreams.get(id)
        at = {"pool": name, "endpoint": id}
        yield sample("endpoint_requests_total", 0 if tally is None else tally.requests, **at)
        yield sample("endpoint_failures_total", 0 if tally is None else tally.failures, **at)
        yield sample("endpoint_up", int(endpoint["ready"]), **at)
        yield sample("endpoint_weight", endpoint["weight"], **at)
        yield sample("endpoint_in_flight", endpoint["in_flight"], **at)
        yield sample("endpoint_connections", 0 if upstream is None else len(upstream.connections), **at)
