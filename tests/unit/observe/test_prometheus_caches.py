"""Caches as Prometheus sees them: the right numbers under right names, in an exposition that its own tools accept."""

import asyncio
import re
import shutil
import subprocess
import sys

import pytest

from tenfold._core.errors import MisuseError
from tenfold.cache import Cache
from tenfold.observe import CachesCollector, PoliciesCollector
from tenfold.resilience.registry import Registry
from tenfold.testing import FakeClock

prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


@pytest.fixture
def caches(clock):
    """Two caches after look-ups of each kind."""
    shop, other = Cache("shop", clock=clock, jitter=0, max_items=10, max_bytes="1MB"), Cache("other", clock=clock)

    @shop("1m", tags=["all"])
    async def page(number):
        await asyncio.sleep(0.5)
        if number < 0:
            raise ValueError("no such page")
        return number

    async def main():
        await asyncio.gather(page(1), page(1), page(1))
        await page(1)
        with pytest.raises(ValueError, match="no such page"):
            await page(-1)
        await shop.invalidate_tags("all")
        await page(1)
        await asyncio.sleep(61)
        for number in range(1, 21):
            await page(number)

    clock.run(main())
    return [shop, other]


@pytest.fixture
def exposed(caches):
    registry = prometheus_client.CollectorRegistry()
    registry.register(CachesCollector(caches))
    return registry


def families(exposed):
    from prometheus_client.parser import text_string_to_metric_families

    return list(text_string_to_metric_families(prometheus_client.generate_latest(exposed).decode()))


def samples(exposed):
    return {
        (sample.name, sample.labels["cache"], *[v for k, v in sample.labels.items() if k != "cache"]): sample.value
        for family in families(exposed)
        for sample in family.samples
    }


def test_the_numbers_are_those_of_the_caches(exposed, caches):
    found, stats = samples(exposed), caches[0].stats()
    assert found["tenfold_cache_requests_total", "shop", "memory"] == stats.hits == 1
    assert found["tenfold_cache_requests_total", "shop", "coalesced"] == stats.coalesced == 2
    assert found["tenfold_cache_requests_total", "shop", "miss"] == stats.misses == 23
    assert found["tenfold_cache_requests_total", "shop", "level2"] == 0
    assert found["tenfold_cache_loads_total", "shop"] == 23
    assert found["tenfold_cache_load_errors_total", "shop"] == 1
    assert found["tenfold_cache_load_seconds_total", "shop"] == pytest.approx(11.5)
    assert found["tenfold_cache_invalidations_total", "shop", "here"] == 1
    assert found["tenfold_cache_entries", "shop"] == 10
    assert found["tenfold_cache_memory_bytes", "shop"] == stats.bytes > 0
    assert found["tenfold_cache_removals_total", "shop", "evicted"] == stats.evictions == 10
    assert found["tenfold_cache_removals_total", "shop", "expired"] == stats.expirations == 1
    assert found["tenfold_cache_level2_up", "shop"] == 0
    assert found["tenfold_cache_requests_total", "other", "miss"] == 0


def test_each_scrape_reads_anew_and_a_list_may_grow(exposed, caches, clock):
    third = Cache("third", clock=clock)
    caches.append(third)

    @third()
    async def f():
        return 1

    for expected in (1, 2):

        async def twice():
            await f()

        clock.run(twice())
        found = samples(exposed)
        assert sum(v for k, v in found.items() if k[:2] == ("tenfold_cache_requests_total", "third")) == expected


def test_names_follow_prometheus_manners(exposed):
    found = families(exposed)
    assert len(found) >= 15
    for family in found:
        assert re.fullmatch("tenfold_cache_[a-z0-9_]+", family.name)
        assert family.type in ("counter", "gauge")
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not re.search("_(ms|milliseconds|kb|mb|percent|ratio)(_|$)", sample.name)


def test_promtool_finds_nothing_to_say(exposed):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus), so nobody has checked the metrics")
    text = prometheus_client.generate_latest(exposed)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_stands_beside_the_policies_and_is_registered_once(exposed, caches):
    exposed.register(PoliciesCollector(Registry()))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        exposed.register(CachesCollector(caches))


def test_what_could_not_be_shown_is_refused(caches):
    with pytest.raises(MisuseError, match="got 'shop' twice"):
        CachesCollector([caches[0], Cache("shop")])
    with pytest.raises(MisuseError, match="got an iterator"):
        CachesCollector(iter(caches))


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MisuseError, match=r"CachesCollector.*say: pip install tenfold\[observe\]"):
        CachesCollector([])
