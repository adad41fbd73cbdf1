"""Parts of the admin API that need no socket: merging, rates, slow lookers, content negotiation, frames, histograms."""

from __future__ import annotations

import json

import pytest

from tenfold.gateway.admin import METRICS, merge_pools, merge_samples, sample
from tenfold.gateway.admin.exposition import OPENMETRICS, PROMETHEUS, expose, negotiate
from tenfold.gateway.admin.live import Looker, Rates
from tenfold.gateway.admin.names import BY_NAME
from tenfold.gateway.admin.websocket import accept, frame
from tenfold.gateway.engine.tally import BOUNDS, Times


def test_samples_of_several_workers_become_one() -> None:
    one = [sample("retries_total", 2), sample("endpoint_up", 1, pool="a", endpoint="x"), sample("reloads_total", 3)]
    two = [sample("endpoint_up", 0, endpoint="x", pool="a"), sample("retries_total", 5), sample("reloads_total", 3)]
    two.append(sample("queue", 4, pool="a"))
    merged = {each["name"]: each["value"] for each in merge_samples([{"metrics": one}, {"metrics": two}])}
    assert merged == {
        "tenfold_gateway_retries_total": 7,
        "tenfold_gateway_endpoint_up": 0,  # not everybody may use it
        "tenfold_gateway_reloads_total": 3,
        "tenfold_gateway_queue": 4,
    }
    assert one[0]["value"] == 2  # what came is left as it was


def test_endpoints_are_listed_by_worker_where_workers_differ() -> None:
    def view(**more: object) -> dict[str, object]:
        return {"url": "http://a", "ready": True, "weight": 1.0, "in_flight": 2, "state": "ready", "why": "", **more}

    def state(endpoint: dict[str, object]) -> dict[str, object]:
        return {
            "pools": {"app": {"pick": "p2c", "ready": 1, "queued": 3, "panic": False, "endpoints": {"a": endpoint}}}
        }

    alike = merge_pools([state(view()), state(view())])["app"]
    assert alike["queued"] == 6
    (endpoint,) = alike["endpoints"]
    assert (endpoint["in_flight"], endpoint["ready"]) == (4, True)
    assert "workers" not in endpoint
    (endpoint,) = merge_pools([state(view()), state(view(ready=False, why="unhealthy"))])["app"]["endpoints"]
    assert (endpoint["ready"], endpoint["why"]) == (False, "unhealthy")
    assert [each["ready"] for each in endpoint["workers"]] == [True, False]


def test_rates_are_what_has_changed() -> None:
    rates = Rates()

    def take(count: float, gauge: float, now: float) -> tuple[dict[str, float], dict[str, float]]:
        told = rates.take([sample("retries_total", count), sample("queue", gauge, pool="a")], now)
        return told["rates"], told["gauges"]

    name, gauge = "tenfold_gateway_retries_total", 'tenfold_gateway_queue{pool="a"}'
    assert take(100, 1, 10.0) == ({}, {gauge: 1})
    assert take(110, 1, 12.0) == ({name: 5.0}, {})
    assert take(110, 0, 13.0) == ({}, {gauge: 0})
    assert take(4, 0, 14.0) == ({name: 4.0}, {})  # a worker was replaced and counts anew


def test_a_slow_looker_misses_messages_and_is_told_how_many() -> None:
    looker = Looker()
    taken = [looker.put(("metrics", str(number))) for number in range(100)]
    assert taken == [True] * 64 + [False] * 36
    assert looker.dropped == 36
    first = [looker.queue.get_nowait() for _ in range(10)]
    assert first[-1] == ("metrics", "9")
    assert looker.put(("metrics", "later"))
    rest = [looker.queue.get_nowait() for _ in range(looker.queue.qsize())]
    assert rest[-2:] == [("dropped", json.dumps({"messages": 36})), ("metrics", "later")]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("", PROMETHEUS),
        ("*/*", PROMETHEUS),
        ("application/json", PROMETHEUS),
        ("application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", PROMETHEUS),
        ("text/plain;q=0.3,application/openmetrics-text; version=1.0.0; q=0.8", OPENMETRICS),
        ("application/openmetrics-text;q=0", PROMETHEUS),
        ("application/openmetrics-text;q=much", PROMETHEUS),
    ],
)
def test_the_format_is_what_the_scraper_prefers(said: str, kind: str) -> None:
    assert negotiate(said) == kind


def test_the_exposition_escapes_and_ends() -> None:
    told = [sample("endpoint_up", 1, pool='a"b', endpoint="c\\d\ne")]
    plain, opened = expose(told).decode(), expose(told, OPENMETRICS).decode()
    assert 'tenfold_gateway_endpoint_up{pool="a\\"b",endpoint="c\\\\d\\ne"} 1\n' in plain
    assert opened.endswith("} 1\n# EOF\n")
    assert "# EOF" not in plain


def test_every_name_is_one_that_prometheus_takes() -> None:
    assert len(BY_NAME) == len(METRICS)
    for each in METRICS:
        assert each.full.endswith("_total") == (each.kind == "counter"), each
        assert each.text.endswith(".")


def test_times_fall_into_their_buckets() -> None:
    times = Times()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 10.1, 1e9):
        times.add(seconds)
    assert times.counts[:2] == [2, 1]  # a bound belongs to its own bucket
    assert times.counts[-2:] == [1, 2]
    assert sum(times.counts) == 6
    assert list(BOUNDS) == sorted(BOUNDS)


def test_the_handshake_of_the_rfc() -> None:
    assert accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
    assert accept(b"") is accept(b"c2hvcnQ=") is accept(b"not base64!!") is None


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, b"\x81\x00"), (125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"), (65536, b"\x81\x7f" + b"\0\0\0\0\0\1\0\0")],
)
def test_lengths_of_frames(size: int, head: bytes) -> None:
    assert frame(1, b"x" * size) == head + b"x" * size
