"""OpenTelemetry is shown level 2 as it is, by a reader in a thread of its own while the loop works."""

import asyncio

import pytest

from tenfold.cache import Cache
from tenfold.observe import instrument_caches

metrics_sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")


def process(url):
    cache = Cache("shop", redis=url)

    @cache("1m", name="product")
    async def product(number: int) -> int:
        return number

    return cache, product


async def collect(reader):
    """By metric and outcome, if there is one. In another thread, as a periodic exporter does it."""
    data = await asyncio.to_thread(reader.get_metrics_data)
    (scope,) = data.resource_metrics[0].scope_metrics
    return {
        (metric.name, point.attributes.get("outcome")): point.value
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_a_hit_in_level_two_and_its_end(valkey, until):
    writer, write = process(valkey.url)
    cache, read = process(valkey.url)
    reader = export.InMemoryMetricReader()
    provider = metrics_sdk.MeterProvider([reader], shutdown_on_exit=False)
    instrument_caches([cache], meter_provider=provider)
    async with writer, cache:
        assert await write(7) == 7
        assert [await read(7), await read(7)] == [7, 7]
        found = await collect(reader)
        assert found["tenfold.cache.requests", "level2"] == cache.stats().l2_hits == 1
        assert found["tenfold.cache.requests", "memory"] == 1
        assert found["tenfold.cache.loads", None] == 0
        assert found["tenfold.cache.level2_up", None] == 1

        await valkey.kill()
        assert await read(8) == 8  # whatever level 2 does
        await until(lambda: not cache.stats().l2_up)
        found = await collect(reader)
        assert found["tenfold.cache.level2_up", None] == 0
        assert found["tenfold.cache.level2_failures", None] == cache.stats().l2_failures > 0
    provider.shutdown()
