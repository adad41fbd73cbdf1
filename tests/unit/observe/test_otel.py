"""What OpenTelemetry is shown: the right numbers under right names, once, for as long as there is somebody to show."""

import asyncio
import gc
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from tenfold import __version__
from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.cache import Cache
from tenfold.cache.counters import CacheStats
from tenfold.observe import CachesCollector, PoliciesCollector, instrument_caches, instrument_policies
from tenfold.observe.caches import FAMILIES
from tenfold.observe.policies import policy_groups
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.config import load_policies
from tenfold.resilience.policy import Policy
from tenfold.resilience.registry import Registry
from tenfold.resilience.retry import Retry
from tenfold.testing import FakeClock

metrics_sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


@pytest.fixture
def reader():
    return export.InMemoryMetricReader()


@pytest.fixture
def provider(reader, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "")
    made = metrics_sdk.MeterProvider([reader], shutdown_on_exit=False)
    yield made
    made.shutdown()


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

    @shop("1m", stale="1h")
    async def old(number):
        return number

    async def main():
        await asyncio.gather(page(1), page(1), page(1))
        await page(1)
        with pytest.raises(ValueError, match="no such page"):
            await page(-1)
        await shop.invalidate_tags("all")
        await old(1)
        await page(1)
        await asyncio.sleep(61)
        await old(1)
        for number in range(1, 21):
            await page(number)

    clock.run(main())
    return [shop, other]


def collected(reader):
    """What is exported: metrics by name; none stands there twice."""
    data = reader.get_metrics_data()
    found = [
        metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert len({metric.name for metric in found}) == len(found)
    return {metric.name: metric for metric in found}


def values(reader):
    """By metric, owner and the other attributes in their order."""
    return {
        (name, *point.attributes.values()): point.value
        for name, metric in collected(reader).items()
        for point in metric.data.data_points
    }


# -- caches


def test_the_numbers_are_those_of_stats(caches, provider, reader):
    instrument_caches(caches, meter_provider=provider)
    found, stats = values(reader), caches[0].stats()
    assert stats.stale_hits == stats.refreshes == stats.load_errors == stats.hits == 1
    assert stats.coalesced == 2
    assert stats.evictions > 0
    for outcome, value in (
        ("memory", stats.hits),
        ("stale", stats.stale_hits),
        ("level2", stats.l2_hits),
        ("coalesced", stats.coalesced),
        ("miss", stats.misses),
    ):
        assert found["tenfold.cache.requests", "shop", outcome] == value
    assert sum(v for k, v in found.items() if k[:2] == ("tenfold.cache.requests", "shop")) == stats.requests
    assert found["tenfold.cache.loads", "shop"] == stats.loads
    assert found["tenfold.cache.load", "shop"] == stats.load_seconds == pytest.approx(11.5)
    assert found["tenfold.cache.load_errors", "shop"] == 1
    assert found["tenfold.cache.refreshes", "shop"] == 1
    assert found["tenfold.cache.invalidations", "shop", "here"] == stats.invalidations == 1
    assert found["tenfold.cache.entries", "shop"] == stats.entries == 10
    assert found["tenfold.cache.memory", "shop"] == stats.bytes > 0
    assert found["tenfold.cache.removals", "shop", "evicted"] == stats.evictions
    assert found["tenfold.cache.removals", "shop", "expired"] == stats.expirations
    assert found["tenfold.cache.level2_up", "shop"] == 0
    assert found["tenfold.cache.requests", "other", "miss"] == 0


def test_every_number_of_the_stats_is_shown():
    shown = {}
    for number, field in enumerate(fields(CacheStats), start=1):
        shown[float(number)] = {field.name: number}
    read = {value for family in FAMILIES for one in shown.values() for _, value in family.read(one)}
    assert read == set(shown)


def test_attributes_name_the_cache_and_the_outcome(caches, provider, reader):
    instrument_caches(caches, meter_provider=provider)
    points = collected(reader)["tenfold.cache.requests"].data.data_points
    assert {(point.attributes["cache"], point.attributes["outcome"]) for point in points} == {
        (cache, outcome)
        for cache in ("shop", "other")
        for outcome in ("memory", "stale", "level2", "coalesced", "miss")
    }
    assert all(set(point.attributes) == {"cache", "outcome"} for point in points)


def test_counters_are_monotonic_sums_and_the_rest_are_gauges(caches, provider, reader):
    instrument_caches(caches, meter_provider=provider)
    found = collected(reader)
    assert len(found) == len(FAMILIES)
    for family in FAMILIES:
        metric = found[family.name]
        assert (metric.unit, metric.description) == (family.unit, family.help)
        if family.kind == "counter":
            assert isinstance(metric.data, export.Sum)
            assert metric.data.is_monotonic
            assert metric.data.aggregation_temporality == export.AggregationTemporality.CUMULATIVE
        else:
            assert isinstance(metric.data, export.Gauge)


def test_a_reader_that_wants_differences_gets_them(clock):
    cache = Cache("c", clock=clock)

    @cache()
    async def f():
        return 1

    counter = metrics_sdk.ObservableCounter
    reader = export.InMemoryMetricReader(preferred_temporality={counter: export.AggregationTemporality.DELTA})
    provider = metrics_sdk.MeterProvider([reader], shutdown_on_exit=False)
    instrument_caches([cache], meter_provider=provider)
    clock.run(f())
    assert values(reader)["tenfold.cache.requests", "c", "miss"] == 1
    for calls in (3, 2):
        for _ in range(calls):
            clock.run(f())
        found = values(reader)
        assert found["tenfold.cache.requests", "c", "memory"] == calls
        assert found["tenfold.cache.requests", "c", "miss"] == 0
    provider.shutdown()


def test_each_collection_takes_one_snapshot_and_each_a_new_one(clock, provider, reader):
    cache, looks = Cache("c", clock=clock), []

    class Counting:
        name = "c"

        def stats(self):
            looks.append(cache.stats())
            return looks[-1]

    @cache()
    async def f():
        return 1

    shown = [Counting()]
    for _ in range(3):
        instrument_caches(shown, meter_provider=provider)
    looks.clear()
    for expected in (1, 2, 3):
        clock.run(f())
        found = values(reader)
        assert sum(v for k, v in found.items() if k[0] == "tenfold.cache.requests") == expected
        assert len(looks) == expected


def test_a_list_may_grow_and_shrink(caches, clock, provider, reader):
    instrument_caches(caches, meter_provider=provider)
    caches.append(Cache("third", clock=clock))
    assert values(reader)["tenfold.cache.entries", "third"] == 0
    del caches[0]
    assert {key[1] for key in values(reader)} == {"other", "third"}


def test_a_cache_is_kept_with_its_list_and_not_without_it(clock, provider, reader):
    cache, mine = Cache("mine", clock=clock), []
    mine.append(cache)
    instrument_caches(mine, meter_provider=provider)
    del cache
    gc.collect()
    assert {key[1] for key in values(reader)} == {"mine"}  # as in Prometheus: the list holds it
    mine.clear()
    assert values(reader) == {}


# -- registered more than once


def test_registered_twice_it_is_shown_once(caches, provider, reader, caplog):
    instrument_caches(caches, meter_provider=provider)
    before = values(reader)
    instrument_caches(caches, meter_provider=provider)
    instrument_caches([caches[1]], meter_provider=provider)
    assert values(reader) == before
    assert caplog.records == []  # nor does the SDK complain of a duplicate


def test_each_instrument_is_made_once(caches, registry, provider):
    made = []

    class Watched:
        def get_meter(self, *scope):
            self.meter = provider.get_meter(*scope)
            return self

        def __getattr__(self, name):
            create = getattr(self.meter, name)
            return lambda *of: made.append(of[0]) or create(*of)

    watched = Watched()
    for cache in caches:
        instrument_caches([cache], meter_provider=watched)
        instrument_policies(registry, meter_provider=watched)
    assert len(made) == len(set(made)) > len(FAMILIES)


def test_whoever_comes_later_is_shown_by_the_same_instruments(caches, provider, reader):
    instrument_caches([caches[0]], meter_provider=provider)
    assert {key[1] for key in values(reader)} == {"shop"}
    instrument_caches([caches[1]], meter_provider=provider)
    assert {key[1] for key in values(reader)} == {"shop", "other"}


def test_two_providers_are_two_audiences(caches, provider, reader):
    second = export.InMemoryMetricReader()
    other = metrics_sdk.MeterProvider([second], shutdown_on_exit=False)
    instrument_caches([caches[0]], meter_provider=provider)
    instrument_caches([caches[1]], meter_provider=other)
    assert {key[1] for key in values(reader)} == {"shop"}
    assert {key[1] for key in values(second)} == {"other"}
    other.shutdown()


GLOBAL = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tenfold.cache import Cache
from tenfold.observe import instrument_caches

instrument_caches([Cache("early")])
reader = InMemoryMetricReader()
metrics.set_meter_provider(provider := MeterProvider([reader]))
instrument_caches([Cache("late")])
instrument_caches([Cache("explicit")], meter_provider=provider)
scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
print(json.dumps([
    [scope.scope.name, scope.scope.version, sorted(p.attributes["cache"] for p in metric.data.data_points)]
    for scope in scopes for metric in scope.metrics if metric.name == "tenfold.cache.entries"
]))
"""


def test_the_global_provider_may_be_set_before_or_after():
    done = subprocess.run([sys.executable, "-c", GLOBAL], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [["tenfold", __version__, ["early", "explicit", "late"]]]
    assert done.stderr == ""


# -- policies


@pytest.fixture
def registry():
    return Registry()


def failing(*args):
    raise OSError("down")


def test_the_numbers_are_those_of_the_policies(registry, clock, provider, reader, tmp_path):
    more = {"registry": registry, "clock": clock, "hub": Hub()}
    payments = Policy(
        "payments",
        deadline="2s",
        retry=Retry(2, idempotent=True),
        breaker=Breaker(consecutive=4, ratio="off"),
        bulkhead=Bulkhead(5),
        **more,
    )
    plain = Policy("plain", deadline="1s", **more)
    path = tmp_path / "policies.toml"
    path.write_text("[policy.file]\nretry = true", encoding="utf-8")
    files = load_policies(path, registry=Registry(), clock=clock, hub=Hub())
    instrument_policies(registry, files=[files], meter_provider=provider)

    for expected in (1, 2):
        plain.call(len, "x")
        assert values(reader)["tenfold.policy.calls", "plain", "success"] == expected
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            payments.call(failing)
    found, state = values(reader), payments.state()
    assert found["tenfold.policy.calls", "payments", "failure"] == state["failures"] == 2
    assert found["tenfold.policy.retries", "payments"] == state["retries"] > 0
    assert found["tenfold.policy.deadline", "payments"] == 2
    assert found["tenfold.bulkhead.places", "payments"] == 5
    assert found["tenfold.breaker.opened", "payments"] == 1
    assert found["tenfold.breaker.results", "payments", "failure"] == state["breaker"]["counters"]["failures"] == 4
    states = {key[2]: value for key, value in found.items() if key[0] == "tenfold.breaker.state"}
    assert states["open"] == 1
    assert sum(states.values()) == 1
    assert found["tenfold.config.reloads", str(path)] == 0
    assert not [key for key in found if key[1] == "plain" and key[0].startswith("tenfold.breaker")]


def test_a_policy_that_is_gone_takes_its_series_with_it(registry, provider, reader):
    instrument_policies(registry, meter_provider=provider)
    policy = Policy("short-lived", deadline="1s", registry=registry)
    policy.call(len, "x")
    assert {key[1] for key in values(reader)} == {"short-lived"}
    del policy
    assert values(reader) == {}  # neither the reader nor its last look keeps it alive
    again = Policy("short-lived", deadline="1s", registry=registry)
    assert values(reader)["tenfold.policy.calls", again.name, "success"] == 0


def test_policies_and_caches_stand_side_by_side(caches, registry, provider, reader):
    policy = Policy("shop", deadline="1s", registry=registry)
    for _ in range(2):
        instrument_policies(registry, meter_provider=provider)
        instrument_caches(caches, meter_provider=provider)
    found = values(reader)
    assert found["tenfold.policy.deadline", policy.name] == 1
    assert found["tenfold.cache.entries", "shop"] == 10


# -- names


def test_names_and_units_follow_opentelemetrys_manners():
    class Any:
        def state(self):
            return {}

    groups = policy_groups(Registry(), [Any()], [Any()], [Any()])
    families = [*FAMILIES, *[family for group in groups for family in group.families]]
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 60
    for family in families:
        assert re.fullmatch(r"tenfold(\.[a-z][a-z0-9_]*)+", family.name)
        assert re.fullmatch(r"s|By|\{[a-z]+\}|", family.unit)
        assert not re.search("_(seconds|bytes|total)$", family.name)
        # A name is not the namespace of another.
        assert not [name for name in names if name.startswith(family.name + ".")]


def test_prometheus_shows_the_same_numbers_under_the_translated_names(caches, registry, provider, reader):
    prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")
    policy = Policy("payments", deadline="2s", retry=Retry(), breaker=Breaker(), registry=registry)
    policy.call(len, "x")
    exposed = prometheus_client.CollectorRegistry()
    exposed.register(CachesCollector(caches))
    exposed.register(PoliciesCollector(registry))
    scraped = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in exposed.collect()
        for sample in family.samples
    }
    instrument_caches(caches, meter_provider=provider)
    instrument_policies(registry, meter_provider=provider)
    translated = {}
    for name, metric in collected(reader).items():
        suffix = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
        suffix += "_total" if isinstance(metric.data, export.Sum) else ""
        for point in metric.data.data_points:
            translated[(name.replace(".", "_") + suffix, *sorted(point.attributes.items()))] = point.value
    assert translated == scraped
    assert len(translated) > 60


# -- misuse


def test_what_could_not_be_shown_is_refused(caches, provider, reader):
    instrument_caches(caches, meter_provider=provider)
    before = values(reader)
    with pytest.raises(MisuseError, match=r"instrument_caches: .*each cache, got 'shop' twice"):
        instrument_caches([Cache("shop")], meter_provider=provider)
    with pytest.raises(MisuseError, match="got an iterator"):
        instrument_caches(iter(caches), meter_provider=provider)
    with pytest.raises(MisuseError, match="expected a MeterProvider, not one of its meters"):
        instrument_caches(caches, meter_provider=provider.get_meter("mine"))
    assert values(reader) == before


def test_a_name_taken_later_is_logged_and_shows_nothing_wrong(caches, provider, reader, caplog):
    instrument_caches(caches, meter_provider=provider)
    assert values(reader)["tenfold.cache.entries", "shop"] == 10
    caches.append(Cache("shop"))
    assert values(reader) == {}
    assert "got 'shop' twice" in str(caplog.records[0].exc_info[1])
    del caches[-1]
    assert values(reader)["tenfold.cache.entries", "shop"] == 10


@pytest.mark.parametrize("show", [lambda: instrument_caches([]), lambda: instrument_policies(Registry())])
def test_without_the_library_a_sentence_says_what_to_install(monkeypatch, show):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(
        MisuseError, match=r"^instrument_\w+: expected opentelemetry-api.*say: pip install tenfold\[observe\]"
    ):
        show()


def test_importing_the_package_does_not_load_the_library():
    code = "import tenfold.observe, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
