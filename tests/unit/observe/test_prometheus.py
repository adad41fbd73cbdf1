"""What Prometheus is shown: the right numbers under right names, in an exposition that its own tools accept."""

import asyncio
import re
import shutil
import subprocess
import sys

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.observe import PoliciesCollector
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.config import load_policies
from tenfold.resilience.errors import ResilienceError
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import Registry
from tenfold.resilience.retry import Retry
from tenfold.testing import FakeClock

prometheus_client = pytest.importorskip("prometheus_client", reason="needs prometheus-client: tenfold[observe]")


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


@pytest.fixture
def everything(registry, clock, tmp_path):
    """Policies with every part, after some calls of each kind; their owner."""
    more = {"registry": registry, "clock": clock, "hub": Hub()}
    policies = [
        Policy(
            "payments",
            deadline="2s",
            timeout="500ms",
            idempotent=True,
            retry=Retry(2),
            breaker=Breaker(consecutive=4, ratio="off"),
            limit=RateLimit("1000/s"),
            bulkhead=Bulkhead(5),
            hedge=Hedge("100ms"),
            fallback=Fallback("pending"),
            chaos=Chaos(latency="1ms", for_="10m", enabled=True, seed=1),
            **more,
        ),
        Policy("search", limit=AdaptiveLimit(), breaker=Breaker(key=lambda tenant: tenant, consecutive=2), **more),
        Policy("plain", retry=Retry(2, idempotent=True), **more),
    ]

    async def fails(*args):
        raise OSError("down")

    async def slow(*args):
        await asyncio.sleep(0.3)

    async def works(*args):
        return 7

    async def main():
        payments, search, plain = policies
        for function in (works, works, slow, fails, fails, fails):
            await payments.call(function)
        for tenant in ("a", "a", "a", "b"):
            try:
                await search.call(fails, tenant)
            except (OSError, ResilienceError):
                continue
        await search.call(works, "c")
        for function in (works, fails):
            try:
                await plain.call(function)
            except OSError:
                continue

    clock.run(main())
    path = tmp_path / "policies.toml"
    path.write_text("[policy.file]\nretry = true", encoding="utf-8")
    files = load_policies(path, registry=Registry(), clock=clock, hub=Hub())
    collector = PoliciesCollector(registry, files=[files])
    exposed = prometheus_client.CollectorRegistry()
    exposed.register(collector)
    return exposed, policies


OWNERS = ("policy", "shedder", "degradation", "file")


def samples(exposed):
    """Every sample as the parser of Prometheus' own client reads it: by name, owner and other labels by name."""
    from prometheus_client.parser import text_string_to_metric_families

    text = prometheus_client.generate_latest(exposed).decode()
    return {
        (
            sample.name,
            tuple(value for _, value in sorted(sample.labels.items(), key=lambda i: (i[0] not in OWNERS, i))),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_numbers_are_those_of_the_policies(everything):
    exposed, (payments, _, plain) = everything
    found = samples(exposed)
    assert found["tenfold_policy_calls_total", ("payments", "success")] == payments.counters.successes == 3
    assert found["tenfold_policy_calls_total", ("payments", "failure")] == payments.counters.failures == 3
    assert found["tenfold_policy_calls_total", ("payments", "cancelled")] == 0
    assert found["tenfold_policy_retries_total", ("payments",)] == payments.counters.retries
    assert (
        found["tenfold_policy_rejections_total", ("payments", "breaker")] == payments.counters.rejected["breaker"] > 0
    )
    assert found["tenfold_policy_deadline_seconds", ("payments",)] == 2.0
    assert found["tenfold_policy_timeout_seconds", ("payments",)] == 0.5
    assert found["tenfold_retry_budget_capacity_tokens", ("payments",)] == 20
    assert found["tenfold_breaker_opened_total", ("payments",)] == 1
    assert found["tenfold_breaker_results_total", ("payments", "failure")] == 4
    assert found["tenfold_bulkhead_places", ("payments",)] == 5
    assert found["tenfold_bulkhead_in_use", ("payments",)] == 0
    assert found["tenfold_ratelimit_calls_total", ("payments", "admitted")] > 0
    assert found["tenfold_hedges_total", ("payments",)] >= 1
    assert found["tenfold_hedge_delay_seconds", ("payments",)] == 0.1
    assert found["tenfold_fallback_used_total", ("payments",)] == 3
    assert found["tenfold_chaos_injections_total", ("payments", "latency")] > 0
    assert found["tenfold_adaptive_limit_places", ("search",)] > 0
    assert found["tenfold_policy_retries_total", ("plain",)] == plain.counters.retries == 1
    assert found["tenfold_config_reloads_total", (str(files_path(found)),)] == 0


def files_path(found):
    return next(labels[0] for name, labels in found if name == "tenfold_config_reloads_total")


def test_a_state_is_one_hot(everything):
    found = samples(everything[0])
    states = {labels[1]: value for (name, labels), value in found.items() if name == "tenfold_breaker_state"}
    assert states == {
        "closed": 0,
        "open": 1,
        "half_open": 0,
        "ramp": 0,
        "forced_open": 0,
        "disabled": 0,
    }


def test_circuits_by_key_are_counted_and_not_named(everything):
    found = samples(everything[0])
    states = {labels[1]: value for (name, labels), value in found.items() if name == "tenfold_breaker_circuits"}
    assert states == {"closed": 2, "open": 1, "half_open": 0, "ramp": 0, "forced_open": 0, "disabled": 0}
    assert not [labels for _, labels in found if "a" in labels]


def test_a_policy_without_a_part_has_no_series_of_it(everything):
    names = {name for name, labels in samples(everything[0]) if labels[0] == "plain"}
    assert "tenfold_policy_calls_total" in names
    assert not [name for name in names if re.match("tenfold_(breaker|bulkhead|ratelimit|hedge|fallback|chaos)", name)]
    assert "tenfold_policy_deadline_seconds" not in names


def test_the_series_of_a_policy_go_with_it(registry):
    policy = Policy("short-lived", retry=Retry(), registry=registry)
    exposed = prometheus_client.CollectorRegistry()
    exposed.register(PoliciesCollector(registry))
    assert samples(exposed)
    del policy
    assert samples(exposed) == {}


def test_each_scrape_reads_anew(registry):
    policy = Policy("p", deadline="1s", registry=registry)
    exposed = prometheus_client.CollectorRegistry()
    exposed.register(PoliciesCollector(registry))
    for expected in (1, 2):
        policy.call(len, "x")
        assert samples(exposed)["tenfold_policy_calls_total", ("p", "success")] == expected


def test_names_follow_prometheus_manners(everything):
    from prometheus_client.parser import text_string_to_metric_families

    text = prometheus_client.generate_latest(everything[0]).decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 25
    for family in families:
        assert re.fullmatch("tenfold_[a-z_]+", family.name)
        assert family.type in ("counter", "gauge")
        assert family.documentation.endswith(".")
        assert family.documentation[0].isupper() or family.documentation[0].isdigit()
        assert family.name.endswith("_total") is False  # the client adds it to the samples
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not re.search("_(ms|milliseconds|minutes|percent)(_|$)", sample.name)


def test_promtool_finds_nothing_to_say(everything):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus), so nobody has checked the metrics")
    text = prometheus_client.generate_latest(everything[0])
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_it_is_registered_once(registry):
    exposed = prometheus_client.CollectorRegistry()
    exposed.register(PoliciesCollector(registry))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        exposed.register(PoliciesCollector(registry))


def test_shedders_and_degradations_are_shown(registry):
    class Shown:
        def __init__(self, **state):
            self._state = state

        def state(self):
            return self._state

    exposed = prometheus_client.CollectorRegistry()
    shedder = Shown(
        name="api",
        limit=100,
        running=3,
        waiting=2,
        shedding=True,
        admitted={"critical": 5},
        shed={"full": {"batch": 4}},
    )
    degradation = Shown(name="shop", level=2, pin={"level": 2}, switches={"search": False})
    exposed.register(PoliciesCollector(registry, shedders=[shedder], degradations=[degradation]))
    found = samples(exposed)
    assert found["tenfold_shedder_shed_total", ("api", "batch", "full")] == 4
    assert found["tenfold_shedder_admitted_total", ("api", "critical")] == 5
    assert found["tenfold_shedder_shedding", ("api",)] == 1
    assert found["tenfold_degradation_level", ("shop",)] == 2
    assert found["tenfold_degradation_pinned", ("shop",)] == 1
    assert found["tenfold_degradation_switch", ("shop", "search")] == 0


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch, registry):
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(
        MisuseError, match=r"prometheus_client, which is not installed; say: pip install tenfold\[observe\]"
    ):
        PoliciesCollector(registry)


def test_importing_the_package_does_not_load_the_library():
    code = "import tenfold.observe, sys; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
