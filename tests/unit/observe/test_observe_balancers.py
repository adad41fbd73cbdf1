"""Balancers as Prometheus and OpenTelemetry see them: the right numbers, panic and drains too, in both the same."""

import asyncio
import random
import re

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.balance import Balancer, Endpoint, OutlierEjection, RoundRobin, Verdict
from tenfold.balance.checks import FunctionCheck
from tenfold.balance.counters import Counters
from tenfold.observe import BalancersCollector, CachesCollector, PoliciesCollector, instrument_balancers
from tenfold.observe.balancers import FAMILIES
from tenfold.resilience.registry import Registry
from tenfold.testing import FakeClock

prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")
metrics_sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
export = pytest.importorskip("opentelemetry.sdk.metrics.export", reason="needs opentelemetry-sdk")


async def nobody_asks(endpoint):
    raise AssertionError("checks run inside the balancer's block only")


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


@pytest.fixture
def balancer(clock):
    return Balancer(
        [Endpoint(name, f"http://{name}:80") for name in "abcd"],
        name="shop",
        pick=RoundRobin(),
        check=FunctionCheck(nobody_asks, fall=1),
        eject=OutlierEjection(consecutive=2),
        clock=clock,
        random=random.Random(1),
        hub=Hub(),
    )


def scraped(balancers):
    registry = prometheus_client.CollectorRegistry()
    registry.register(BalancersCollector(balancers))
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, *[value for key, value in sample.labels.items() if key != "balancer"]): sample.value
        for family in text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
        for sample in family.samples
    }


def test_requests_by_outcome_and_what_is_under_way(balancer):
    for ok in (True, True, True, False, None):
        balancer.acquire().release(ok)
    with balancer.acquire():
        found = scraped([balancer])
    assert found["tenfold_balancer_requests_total", "success"] == 3
    assert found["tenfold_balancer_requests_total", "failure"] == 1
    assert found["tenfold_balancer_requests_total", "neutral"] == 1
    assert found["tenfold_balancer_in_flight",] == 1
    assert scraped([balancer])["tenfold_balancer_in_flight",] == 0
    assert scraped([balancer])["tenfold_balancer_requests_total", "success"] == 4


def test_who_is_out_and_why(balancer, clock):
    found = scraped([balancer])
    assert found["tenfold_balancer_endpoints",] == found["tenfold_balancer_endpoints_ready",] == 4
    balancer.on_verdict("a", Verdict(False, "gone"), clock.monotonic())
    for _ in range(12):
        ticket = balancer.acquire()
        ticket.release(ticket.endpoint.id != "b")
    found = scraped([balancer])
    assert found["tenfold_balancer_ejections_total",] == 1
    assert found["tenfold_balancer_endpoints_out", "unhealthy"] == 1
    assert found["tenfold_balancer_endpoints_out", "ejected"] == 1
    assert found["tenfold_balancer_endpoints_out", "draining"] == 0
    assert found["tenfold_balancer_endpoints_ready",] == found["tenfold_balancer_endpoints_in_use",] == 2
    assert found["tenfold_balancer_endpoints",] == 4


def test_panic_is_a_gauge_and_goes_away(balancer, clock):
    assert scraped([balancer])["tenfold_balancer_panic",] == 0
    for name in "abc":
        balancer.on_verdict(name, Verdict(False, "gone"), clock.monotonic())
    found = scraped([balancer])
    assert found["tenfold_balancer_panic",] == found["tenfold_balancer_panics_total",] == 1
    assert found["tenfold_balancer_endpoints_ready",] == 1
    assert found["tenfold_balancer_endpoints_in_use",] == 4
    for _ in range(2):
        balancer.on_verdict("a", Verdict(True, "back"), clock.monotonic())
    found = scraped([balancer])
    assert (found["tenfold_balancer_panic",], found["tenfold_balancer_panics_total",]) == (0, 1)


def test_drains_failovers_retries_and_what_they_cost(balancer, clock):
    tried = []

    async def work(endpoint):
        tried.append(endpoint.id)
        if len(tried) < 3:
            raise (ConnectionRefusedError if len(tried) == 1 else ConnectionResetError)(endpoint.id)

    async def main():
        assert await balancer.drain("d", "1s")
        await balancer.run(work, idempotent=True)

    clock.run(main())
    found = scraped([balancer])
    assert found["tenfold_balancer_drains_total",] == found["tenfold_balancer_endpoints_out", "draining"] == 1
    assert found["tenfold_balancer_further_tries_total", "failover"] == 1
    assert found["tenfold_balancer_further_tries_total", "retry"] == 1
    assert found["tenfold_balancer_budget_spent_total",] == 1
    assert found["tenfold_balancer_budget_tokens",] < found["tenfold_balancer_budget_capacity_tokens",]
    for name in "abc":
        balancer.remove(name)
    with pytest.raises(Exception, match="no endpoint of 1"):
        balancer.acquire()
    assert scraped([balancer])["tenfold_balancer_refused_total",] == 1


def test_without_ejection_there_are_no_series_of_it(clock):
    found = scraped([Balancer([Endpoint("a", "http://a:80")], clock=clock, hub=Hub())])
    assert not [name for name, *_ in found if "ejections" in name]
    assert found["tenfold_balancer_endpoints",] == 1


def test_every_counter_is_shown_but_what_the_others_add_up_to():
    read = set()
    for number, name in enumerate(Counters.__slots__, start=1):
        state = {"counters": {name: number}, "endpoints": {}}
        if any(value == number for family in FAMILIES for _, value in family.read(state)):
            read.add(name)
    assert set(Counters.__slots__) - read == {"acquired"}  # those that are over, and those under way


def test_opentelemetry_is_told_the_same(balancer):
    reader = export.InMemoryMetricReader()
    provider = metrics_sdk.MeterProvider([reader], shutdown_on_exit=False)
    try:
        balancers = [balancer]
        instrument_balancers(balancers, meter_provider=provider)
        instrument_balancers(balancers, meter_provider=provider)  # shows nothing twice
        balancer.acquire().release(True)
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        told = {
            (metric.name, *[v for k, v in point.attributes.items() if k != "balancer"]): point.value
            for metric in scope.metrics
            for point in metric.data.data_points
        }
        assert all(point.attributes["balancer"] == "shop" for m in scope.metrics for point in m.data.data_points)
    finally:
        provider.shutdown()
    found = scraped([balancer])
    names = {family.name: family.prometheus + ("_total" if family.kind == "counter" else "") for family in FAMILIES}
    assert {(names[name], *rest): value for (name, *rest), value in told.items()} == found
    assert told["tenfold.balancer.requests", "success"] == 1


def test_names_follow_prometheus_manners_and_collide_with_nobody(balancer):
    registry = prometheus_client.CollectorRegistry()
    for collector in (PoliciesCollector(Registry()), CachesCollector([]), BalancersCollector([balancer])):
        registry.register(collector)
    for family in FAMILIES:
        assert re.fullmatch(r"tenfold\.balancer\.[a-z_]+", family.name)
        assert family.help.endswith(".")
        assert (family.kind == "gauge") == (family.name.split(".")[2] in {
            "in_flight", "endpoints", "endpoints_ready", "endpoints_in_use", "endpoints_out", "panic", "budget_tokens",
            "budget_capacity_tokens",
        })  # fmt: skip


def test_what_could_not_be_shown_is_refused(balancer):
    twin = Balancer([Endpoint("a", "http://a:80")], name="shop", hub=Hub())
    for show in (BalancersCollector, instrument_balancers):
        with pytest.raises(MisuseError, match="got 'shop' twice"):
            show([balancer, twin])
        with pytest.raises(MisuseError, match="got an iterator"):
            show(iter([balancer]))


def test_a_scrape_from_another_thread_during_traffic(balancer):
    async def main():
        for _ in range(20):
            tickets = [balancer.acquire() for _ in range(10)]
            found = await asyncio.to_thread(scraped, [balancer])
            assert found["tenfold_balancer_in_flight",] == 10
            for ticket in tickets:
                ticket.release(True)

    asyncio.run(main())
