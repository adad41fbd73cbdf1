"""The names of all metrics of a gateway: kind, labels, meaning, and how several processes' values become one.

Both engines go by this table, so that dashboards and alerts stay as they are when the engine is another one. Names,
units and the suffix ``_total`` are as Prometheus and OpenMetrics want them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "tenfold_gateway_"
SERVE: Final = "tenfold_serve_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. ``name`` stands without its ``prefix``; a counter's ends in ``_total``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    merge: Literal["sum", "min", "max"] = "sum"
    """What becomes of the values of several processes."""
    prefix: str = PREFIX

    @property
    def full(self) -> str:
        """The name as it is exposed."""
        return self.prefix + self.name


METRICS: Final = (
    Metric("requests_total", "counter", ("route", "pool"), "Requests that have ended, with those whose client left."),
    Metric("responses_total", "counter", ("pool", "code"), "Final responses by the class of their status."),
    Metric("response_seconds", "histogram", ("pool",),
           "From the choice of an endpoint until its answer was complete or its try had failed, for each try."),
    Metric("endpoint_requests_total", "counter", ("pool", "endpoint"), "Requests sent to an endpoint, with all tries."),
    Metric("endpoint_failures_total", "counter", ("pool", "endpoint"),
           "Of those: no connection, no answer, or a broken one."),
    Metric("endpoint_up", "gauge", ("pool", "endpoint"),
           "1 if the endpoint may be given work; with several processes, if all of them say so.", "min"),
    Metric("endpoint_weight", "gauge", ("pool", "endpoint"), "Its weight now, slow start included.", "max"),
    Metric("endpoint_in_flight", "gauge", ("pool", "endpoint"), "Requests under way at an endpoint."),
    Metric("endpoint_connections", "gauge", ("pool", "endpoint"), "Connections to an endpoint, with idle ones."),
    Metric("queue", "gauge", ("pool",), "Requests that wait for a free endpoint."),
    Metric("panic", "gauge", ("pool",), "1 if so few endpoints are ready that all are used.", "max"),
    Metric("no_endpoint_total", "counter", ("pool",), "Times that no endpoint could be given."),
    Metric("connections", "gauge", (), "Client connections."),
    Metric("in_flight", "gauge", (), "Requests under way."),
    Metric("connections_accepted_total", "counter", (), "Client connections accepted."),
    Metric("bytes_in_total", "counter", (), "Bytes read from clients."),
    Metric("bytes_out_total", "counter", (), "Bytes written to clients."),
    Metric("refused_total", "counter", (), "What came and was no request."),
    Metric("own_answers_total", "counter", (), "Errors that the gateway answered itself."),
    Metric("timeouts_total", "counter", (), "Time-outs of every kind."),
    Metric("clients_left_total", "counter", (), "Clients that went away before their answer was complete."),
    Metric("cut_total", "counter", (), "Responses that broke off when a part of them was with the client."),
    Metric("retries_total", "counter", (), "Further tries of requests of which something was sent."),
    Metric("failovers_total", "counter", (), "Further tries of requests of which nothing was sent."),
    Metric("retries_refused_total", "counter", (), "Further tries that the budget did not pay for."),
    Metric("canaries_total", "counter", (), "Requests that went to a canary."),
    Metric("tunnels_total", "counter", (), "Connections switched to another protocol."),
    Metric("upstream_connections", "gauge", (), "Connections to endpoints."),
    Metric("upstream_connects_total", "counter", (), "Connections to endpoints opened."),
    Metric("upstream_connects_failed_total", "counter", (), "Connections to endpoints that did not come about."),
    Metric("reloads_total", "counter", (), "Configurations put into force while running.", "max"),
    Metric("draining", "gauge", (), "1 if no more connections are taken.", "max"),
    Metric("edge_hits_total", "counter", (), "Requests that the cache answered."),
    Metric("edge_misses_total", "counter", (), "Requests for which the cache asked an endpoint."),
    Metric("edge_stale_total", "counter", (), "Requests that the cache answered with a stale response."),
    Metric("edge_collapsed_total", "counter", (), "Requests that waited for another one's answer."),
    Metric("edge_purged_total", "counter", (), "Responses purged."),
    Metric("edge_evicted_total", "counter", (), "Responses that made room for others."),
    Metric("edge_responses", "gauge", (), "Responses stored."),
    Metric("edge_stored_bytes", "gauge", (), "Bytes stored."),
    Metric("log_dropped_total", "counter", (), "Lines of the access log that were dropped."),
    Metric("workers", "gauge", (), "Processes that have answered."),
    Metric("live_dropped_total", "counter", (), "Messages that slow readers of live metrics did not get."),
    Metric("in_flight", "gauge", ("app",),
           "Of `tenfold serve`: requests under way and waiting, mean of the last period.", prefix="tenfold_"),
    Metric("waiting", "gauge", ("app",), "Of those, waiting for a place at a worker.", prefix=SERVE),
    Metric("workers", "gauge", ("app", "state"), "Worker processes: starting, ready, draining.", prefix=SERVE),
    Metric("workers_wished", "gauge", ("app",), "How many there are to be.", prefix=SERVE),
    Metric("crashes_total", "counter", ("app",), "Workers that ended on their own.", prefix=SERVE),
    Metric("restarts_total", "counter", ("app",), "Workers started in the place of one that crashed.", prefix=SERVE),
    Metric("recycled_total", "counter", ("app",), "Workers replaced because of a limit.", prefix=SERVE),
    Metric("decisions_total", "counter", ("app", "direction"), "Decisions: `out`, `in`, `none`.", prefix=SERVE),
)  # fmt: skip
"""The whole table, in the order of the docs."""

BY_NAME: Final = {each.full: each for each in METRICS}


def metrics_table() -> str:
    """The table as Markdown, for the docs."""
    lines = ["| name | kind | labels | |", "|---|---|---|---|"]
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.full}` | {each.kind} | {labels} | {each.text} |")
    return "\n".join(lines)
