"""What Prometheus and OpenTelemetry are shown of a real cluster: roles, lag, connections, reads, failovers."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from tenfold._core.errors import MisuseError
from tenfold.db import AsyncCluster, NoPrimary, PoolExhausted, create_async_cluster
from tenfold.observe import DatabasesCollector, instrument_databases
from tenfold.observe.databases import FAMILIES

prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")

READ = text("SELECT count(*) FROM items")
WRITE = text("UPDATE items SET name = name WHERE id = 1")
Found = dict[tuple[str, ...], float]


@pytest.fixture
async def cluster(items: Any) -> AsyncIterator[AsyncCluster]:
    urls = [replica.url for replica in items.replicas]
    made = create_async_cluster(
        items.primary.url, urls, name="shop", pool_size=2, pool_timeout="50ms", failover_wait="100ms"
    )
    async with made:
        await made.watch.settle()
        yield made


def scraped(*clusters: AsyncCluster) -> Found:
    from prometheus_client.parser import text_string_to_metric_families

    registry = prometheus_client.CollectorRegistry()
    registry.register(DatabasesCollector(clusters))
    return {
        (
            sample.name.removeprefix("tenfold_database_"),
            *[v for k, v in sorted(sample.labels.items()) if k != "database"],
        ): (sample.value)
        for family in text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
        for sample in family.samples
    }


async def until(cluster: AsyncCluster, *wanted: tuple[str, ...]) -> Found:
    """What is shown once each of those series is 1."""
    async with asyncio.timeout(20):
        while True:
            found = scraped(cluster)
            if all(found.get(series) == 1 for series in wanted):
                return found
            await asyncio.sleep(0.02)


async def test_roles_lag_and_reads(cluster: AsyncCluster) -> None:
    fresh = [("replica_state", f"replica {number}", "fresh") for number in (0, 1)]
    found = await until(cluster, *fresh)
    assert found["node_primary", "primary"] == found["node_role", "primary", "primary"] == 1
    assert found["node_primary", "replica 0"] == found["node_role", "replica 0", "primary"] == 0
    assert found["elections_total",] == 1
    assert ("replica_lag_seconds", "primary") not in found
    assert ("replica_state", "primary", "fresh") not in found
    assert 0 <= found["replica_lag_seconds", "replica 1"] < 10
    assert found["replica_unreplayed_bytes", "replica 1"] >= 0
    before = found
    for _ in range(5):
        await cluster.execute(READ)
    await cluster.execute(WRITE)
    await cluster.run(lambda session: session.execute(WRITE))
    found = scraped(cluster)
    assert found["reads_total", "replica"] - before["reads_total", "replica"] == 5
    assert found["sent_to_primary_total",] - before["sent_to_primary_total",] == 1
    assert (found["transactions_total",], found["commits_unknown_total",]) == (1, 0)
    assert json.loads(json.dumps(cluster.state()))["nodes"]["replica 0"]["role"] == "replica"


async def test_connections_and_a_pool_that_is_exhausted(cluster: AsyncCluster) -> None:
    async with cluster.connect(), cluster.connect():
        found = scraped(cluster)
        assert found["connections", "primary", "used", "write"] == found["connections_max", "primary", "write"] == 2
        with pytest.raises(PoolExhausted):
            async with cluster.connect():
                pass
    found = scraped(cluster)
    assert found["connections", "primary", "used", "write"] == 0
    assert found["connections", "primary", "idle", "write"] == 2
    assert found["pool_timeouts_total", "primary"] == 1
    assert found["checkouts_total", "primary"] >= 2


async def test_a_primary_that_is_gone_and_comes_back(cluster: AsyncCluster, items: Any) -> None:
    await until(cluster, ("node_primary", "primary"))
    await items.primary.kill()
    found = await until(cluster, ("node_role", "primary", "unknown"))
    assert [value for series, value in found.items() if series[0] == "node_primary"] == [0, 0, 0]
    with pytest.raises(NoPrimary):
        await cluster.execute(WRITE)
    await items.primary.start()
    found = await until(cluster, ("node_primary", "primary"))
    assert found["elections_total",] == 2
    assert found["node_failures_total", "primary"] >= 1


async def test_both_readers_tell_the_same(cluster: AsyncCluster) -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")
    await until(cluster, ("node_primary", "primary"), ("replica_state", "replica 0", "fresh"))
    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])
    try:
        instrument_databases([cluster], meter_provider=provider)
        shown = {
            metric.name: metric
            for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
            if metric.name.startswith("tenfold.database.")
        }
    finally:
        provider.shutdown()
    found = scraped(cluster)
    for family in FAMILIES:
        points = shown[family.name].data.data_points if family.name in shown else ()  # others are of shards
        series = family.prometheus.removeprefix("tenfold_database_") + ("_total" if family.kind == "counter" else "")
        labels = {
            tuple(value for key, value in sorted(point.attributes.items()) if key != "database") for point in points
        }
        assert labels == {key[1:] for key in found if key[0] == series}, family.name


async def test_a_loop_that_is_closed_leaves_no_numbers_behind(items: Any) -> None:
    cluster = create_async_cluster(items.primary.url)

    async def used() -> dict[str, Any]:
        async with cluster:
            await cluster.execute(READ)
            return cluster.state()

    state = await asyncio.to_thread(lambda: asyncio.run(used()))
    assert state["nodes"]["primary"]["connections"]["read"]["idle"] == 1
    assert cluster.state()["nodes"] == {}
    assert scraped(cluster)["reads_total", "primary"] == 1


async def test_promtool_finds_nothing_to_say(cluster: AsyncCluster) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus), so nobody has checked the metrics")
    registry = prometheus_client.CollectorRegistry()
    registry.register(DatabasesCollector([cluster]))
    exposed = prometheus_client.generate_latest(registry)
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=exposed, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_two_of_one_name_are_refused(items: Any) -> None:
    one, other = create_async_cluster(items.primary.url), create_async_cluster(items.primary.url)
    with pytest.raises(MisuseError, match=r"'database' twice.*create_async_cluster"):
        DatabasesCollector([one, other])
