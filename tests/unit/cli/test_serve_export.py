"""``tenfold serve --export``: valid for Kubernetes, the local policy's numbers, requests from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Behavior, ScalePolicy, Target
from tenfold.autoscale.export import parse
from tenfold.cli._serve_export import Use, export, read_use

SCHEMAS = Path(__file__).parents[1] / "autoscale"
LOCAL = ScalePolicy(least=2, most=8, targets=(Target.in_flight(20),), behavior=Behavior.local())
SHOP = {"name": "shop", "image": "registry.example/shop:1"}
PLACE = {"environment": "/subscriptions/0/managedEnvironments/shop", "location": "westeurope"}
MEASURED = Use(cpu=0.31, memory="95MB", response_time="50ms")
PROMETHEUS = "http://prometheus:9090"


def documents(platform, policy=LOCAL, **more):
    text = export(platform, policy, **{**SHOP, **more})
    return text, list(yaml.safe_load_all(text))


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
@pytest.mark.parametrize(("platform", "more"), [("kubernetes", {}), ("keda", {"prometheus": PROMETHEUS})])
def test_what_kubernetes_has_a_schema_for_is_valid(version, platform, more):
    _, found = documents(platform, use=MEASURED, args=("serve", "shop:app"), namespace="prod", **more)
    assert [one["kind"] for one in found[:3]] == ["Deployment", "Service", "PodDisruptionBudget"]
    for document in found if platform == "kubernetes" else found[:3]:
        kubernetes_validate.validate(document, version, strict=True)
    if platform == "keda":
        jsonschema.validate(found[3], json.loads((SCHEMAS / "keda_scaledobject.schema.json").read_text()))


def test_azure_is_valid_by_our_own_schema():
    _, (found,) = documents("azure", use=MEASURED, **PLACE)
    jsonschema.validate(found, json.loads((SCHEMAS / "azure_container_app.schema.json").read_text()))


def test_kubernetes_gets_the_very_policy_that_is_served_by():
    policy = ScalePolicy(
        least=2,
        most=8,
        behavior=Behavior.local(),
        targets=(Target.in_flight(20), Target.cpu("70%"), Target.p95("0.1s")),
    )
    text, found = documents("kubernetes", policy, use=MEASURED)
    assert parse(found) == policy
    assert "# CPU: the policy's target is a share of 1 cores, so these are requested; 0.31 were measured." in text


def test_keda_gets_the_same_numbers_with_the_mean_as_a_shared_sum():
    _, found = documents("keda", prometheus=PROMETHEUS)
    there = parse(found)
    assert (there.least, there.most, there.behavior) == (2, 8, LOCAL.behavior)
    assert there.targets == (Target(name="in_flight", kind="average", target=20),)


def test_azure_gets_the_rate_that_littles_law_makes_of_them():
    text, found = documents("azure", use=MEASURED, **PLACE)
    there = parse(found)
    assert (there.least, there.most, there.behavior) == (2, 8, Behavior())
    assert there.targets == (Target(name="request_rate", kind="average", target=20 / 0.05),)
    assert "# Left out: the windows, rates and tolerances of the policy." in text
    assert export("azure", LOCAL, **SHOP, use=MEASURED, bicep=True, **PLACE).startswith("// ")


@pytest.mark.parametrize(
    ("targets", "use", "asked", "words"),
    [
        ((Target.in_flight(20),), MEASURED, {"cpu": "350m", "memory": "109Mi"}, ""),
        ((Target.in_flight(20),), None, {"cpu": "1", "memory": "512000000"}, "default: cpu and memory"),
        ((Target.in_flight(20),), Use(cpu=0.31), {"cpu": "350m", "memory": "512000000"}, "default: memory"),
        ((Target.cpu("70%", request=0.5),), MEASURED, {"cpu": "500m", "memory": "109Mi"}, "a share of 0.5 cores"),
        ((Target.memory("80%", request="256MiB"),), MEASURED, {"cpu": "350m", "memory": "256Mi"}, ""),
    ],
)
def test_a_worker_requests_what_it_was_measured_to_use_unless_a_target_is_a_share_of_it(targets, use, asked, words):
    text, found = documents("kubernetes", ScalePolicy(least=2, most=8, targets=targets), use=use)
    container = found[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"] == asked
    head = text.partition("apiVersion")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert words in head if words else "easured" not in head


def test_probes_port_budget_and_the_time_to_drain_are_the_callers():
    _, (deployment, service, budget, _) = documents("kubernetes", port=9000, health="/ready", drain="45s")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 9000}]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/ready", "port": "http"}
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}, "an overloaded worker is not a dead one"
    assert pod["terminationGracePeriodSeconds"] >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + 45
    assert budget["spec"]["maxUnavailable"] == 1
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_use_is_read_from_a_file(tmp_path):
    path = tmp_path / "use.json"
    path.write_text('{"cpu": 0.31, "memory": 95000000, "response_time": 0.05, "workers": 4}')
    assert read_use(path) == Use(cpu=0.31, memory=95_000_000, response_time=0.05)
    for text, words in (("[]", "expected JSON such as"), ("{}", "at least"), ('{"cpu": "a"}', "expected JSON such as")):
        path.write_text(text)
        with pytest.raises(MisuseError, match=words):
            read_use(path)
    with pytest.raises(MisuseError, match="cannot read"):
        read_use(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("platform", "policy", "more", "words"),
    [
        ("nomad", LOCAL, {}, "one of kubernetes, keda, azure, got 'nomad'"),
        ("keda", LOCAL, {}, "address of a Prometheus"),
        ("azure", LOCAL, {}, "expected --environment"),
        ("azure", LOCAL, {"environment": "x"}, "expected --location"),
        ("azure", LOCAL, PLACE, "goes by a rate"),
        ("kubernetes", LOCAL, {"use": Use(cpu=0)}, "above 0"),
        (
            "kubernetes",
            ScalePolicy(most=8, targets=(Target.memory("80%", request="100MB"),)),
            {"use": MEASURED},
            "expected at most 100 MB",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(platform, policy, more, words):
    with pytest.raises(MisuseError, match=words) as caught:
        export(platform, policy, **SHOP, **more)
    assert "\n" not in str(caught.value)
