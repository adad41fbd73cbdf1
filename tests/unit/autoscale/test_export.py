"""What is written for Kubernetes, KEDA and Azure is valid, holds the policy's numbers, and says what it leaves out.

Kubernetes' own kinds are checked against the schemas that `kubernetes-validate` ships. KEDA and Azure have none there:
they are checked against two small schemas of our own next to this file.
"""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Behavior, Rate, Rules, ScalePolicy, Schedule, Target
from tenfold.autoscale.export import Workload, azure, keda, kubernetes, parse, requests

HERE = Path(__file__).parent
SHOP = Workload(
    name="shop",
    image="registry.example/shop:1.4.2",
    args=("serve", "shop:app"),
    env={"LANG": "C.UTF-8", "DEBUG": "no"},
    cpu=0.5,
    memory="256MiB",
    alive="/alive",
)
TARGETS = (
    Target.in_flight(20),
    Target.cpu("70%", request=0.5),
    Target.memory("80%", request="256MiB"),
    Target(name="queue", kind="average", target=2.5),
)
HOURS = Schedule(name="hours", start="0 8 * * mon-fri", end="0 20 * * mon-fri", zone="Europe/Berlin", workers=6)
SLOW = Behavior(
    up=Rules(window=30, rates=(Rate("pods", 2, 60), Rate("percent", 50, 30)), select="min"),
    down=Rules(window=600, select="disabled"),
)
ENVIRONMENT = "/subscriptions/0/resourceGroups/shop/providers/Microsoft.App/managedEnvironments/shop"
PLACE = {"environment": ENVIRONMENT, "location": "westeurope"}
POLICY = ScalePolicy(least=2, most=8, targets=(*TARGETS, Target.p95("100ms")), behavior=SLOW)


def by_kind(export):
    return {document["kind"]: document for document in export.documents}


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
@pytest.mark.parametrize(
    "export",
    [
        kubernetes(SHOP, POLICY),
        kubernetes(Workload(name="a", image="b"), ScalePolicy(most=1, targets=(Target.in_flight(0.5),))),
    ],
    ids=["everything", "as little as possible"],
)
def test_kubernetes_accepts_what_is_written_for_it(export, version):
    documents = list(yaml.safe_load_all(export.text))
    assert [document["kind"] for document in documents] == [
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"
    ]  # fmt: skip
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_check_of_kubernetes_refuses_what_is_wrong():
    wrong = json.loads(json.dumps(by_kind(kubernetes(SHOP, POLICY))["HorizontalPodAutoscaler"]))
    wrong["spec"]["behavior"]["scaleUp"]["window"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_the_autoscaler_holds_the_numbers_of_the_policy():
    spec = by_kind(kubernetes(SHOP, POLICY))["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    assert [metric["type"] for metric in spec["metrics"]] == ["Pods", "Resource", "Resource", "External", "External"]
    goals = [metric[metric["type"].lower()]["target"] for metric in spec["metrics"]]
    assert goals == [
        {"type": "AverageValue", "averageValue": "20"},
        {"type": "Utilization", "averageUtilization": 70},
        {"type": "Utilization", "averageUtilization": 80},
        {"type": "AverageValue", "averageValue": "2500m"},
        {"type": "Value", "value": "100m"},
    ]
    assert spec["behavior"] == {
        "scaleUp": {
            "stabilizationWindowSeconds": 30,
            "selectPolicy": "Min",
            "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": 60},
                {"type": "Percent", "value": 50, "periodSeconds": 30},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 600,
            "selectPolicy": "Disabled",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    }


def test_the_parts_belong_together():
    kinds = by_kind(kubernetes(SHOP, POLICY, namespace="prod"))
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["Service"]["spec"]["selector"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    assert {document["metadata"]["namespace"] for document in kinds.values()} == {"prod"}
    assert "replicas" not in kinds["Deployment"]["spec"], "the number belongs to the autoscaler"
    container = pod["spec"]["containers"][0]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
    assert pod["spec"]["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 30


def test_an_own_tolerance_is_written_and_its_condition_told():
    policy = ScalePolicy(most=4, targets=(Target.in_flight(20),), behavior=Behavior(up=Rules(tolerance=0.05)))
    export = kubernetes(SHOP, policy)
    autoscaler = by_kind(export)["HorizontalPodAutoscaler"]
    assert autoscaler["spec"]["behavior"]["scaleUp"]["tolerance"] == "50m"
    assert "tolerance" not in autoscaler["spec"]["behavior"]["scaleDown"]
    assert any("HPAConfigurableTolerance" in note for note in export.notes)
    kubernetes_validate.validate(autoscaler, "1.37", strict=True)


def test_what_an_autoscaler_cannot_say_is_a_comment_above():
    policy = ScalePolicy(most=4, targets=(Target.in_flight(20),), deploy_cooldown="2m", cpu_initialization="60s")
    head = kubernetes(SHOP, policy).text.split("apiVersion")[0]
    assert "no worker is removed for 120.0 s after a deployment" in head
    assert "--horizontal-pod-autoscaler-cpu-initialization-period=60.0s" in head
    assert all(line.startswith("# ") for line in head.splitlines())


def test_a_rate_that_is_shorter_than_the_time_between_decisions_is_told():
    policy = ScalePolicy(most=4, targets=(Target.in_flight(20),), behavior=Behavior.local())
    told = "A rate for 1 s permits its number once in 15 s there, not once in 1 s."
    assert told in kubernetes(SHOP, policy).notes
    assert told in keda(SHOP, policy, prometheus="http://prometheus:9090").notes
    assert not any("A rate for" in note for note in kubernetes(SHOP, POLICY).notes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: kubernetes(SHOP, ScalePolicy(most=8, targets=TARGETS, schedules=(HOURS,))), "export to keda"),
        (lambda: kubernetes(SHOP, ScalePolicy(most=8, targets=(Target.cpu(request=1.0),))), "a share"),
        (
            lambda: kubernetes(
                SHOP, ScalePolicy(most=8, targets=TARGETS, behavior=Behavior(up=Rules(tolerance=0.12345)))
            ),
            "thousandths",
        ),
        (lambda: keda(SHOP, POLICY), "address of a Prometheus"),
        (lambda: azure(SHOP, ScalePolicy(most=1001, targets=TARGETS), **PLACE), "at most 1000"),
        (lambda: azure(SHOP, ScalePolicy(most=8, targets=(Target.in_flight(20),)), **PLACE), "goes by a rate"),
        (lambda: azure(SHOP, ScalePolicy(most=8, targets=(Target.p95("1s"),)), **PLACE), "kind value"),
        (
            lambda: azure(
                SHOP, ScalePolicy(most=8, targets=(Target.in_flight(2),)), response_time="5s", **PLACE
            ),
            "one a second at least",
        ),
        (
            lambda: azure(
                Workload(name="shop", image="x", memory="9GiB"), ScalePolicy(most=8, targets=(Target.cpu(),)), **PLACE
            ),
            "8 GiB",
        ),
        (lambda: Workload(name="Shop", image="x"), "lower case"),
        (lambda: Workload(name="shop", image=""), "registry.example"),
        (lambda: Workload(name="shop", image="x", cpu=0), "cores"),
        (lambda: Workload(name="shop", image="x", port=70_000), "at most 65535"),
        (lambda: Workload(name="shop", image="x", memory="2GB", memory_limit="1GB"), "at least the request"),
        (lambda: Workload(name="shop", image="x", ready="health"), "a path"),
        (lambda: requests(0, "1MB"), "above 0"),
        (lambda: parse([{"kind": "Deployment"}]), "documents of kind Deployment"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_sentence(make, words):
    with pytest.raises(MisuseError, match=words):
        make()


def test_keda_passes_our_check_and_holds_the_numbers():
    policy = ScalePolicy(least=2, most=8, targets=POLICY.targets, schedules=(HOURS,), behavior=SLOW)
    export = keda(SHOP, policy, prometheus="http://prometheus:9090", queries={"queue": "sum(jobs_waiting)"})
    *others, scaled = yaml.safe_load_all(export.text)
    for document in others:
        kubernetes_validate.validate(document, "1.37", strict=True)
    jsonschema.validate(scaled, json.loads((HERE / "keda_scaledobject.schema.json").read_text()))
    triggers = scaled["spec"]["triggers"]
    assert [trigger["type"] for trigger in triggers] == [
        "prometheus",
        "cpu",
        "memory",
        "prometheus",
        "prometheus",
        "cron",
    ]
    assert triggers[0]["metadata"]["query"] == 'sum(tenfold_in_flight{app="shop"})'
    assert [trigger["metadata"].get("threshold") for trigger in triggers] == ["20", None, None, "2.5", "0.1", None]
    assert triggers[3]["metadata"]["query"] == "sum(jobs_waiting)"
    assert triggers[4]["metricType"] == "Value"
    assert triggers[5]["metadata"] == {
        "timezone": "Europe/Berlin", "start": "0 8 * * mon-fri", "end": "0 20 * * mon-fri", "desiredReplicas": "6"
    }  # fmt: skip
    assert any("tolerance applies" in note for note in export.notes)


def azure_policy(**more):
    return ScalePolicy(least=1, most=30, targets=(Target.in_flight(20), Target.cpu("70%", request=0.5)), **more)


def test_azure_passes_our_check_and_holds_the_numbers():
    export = azure(SHOP, azure_policy(schedules=(HOURS,)), response_time="50ms", **PLACE)
    document = yaml.safe_load(export.text)
    jsonschema.validate(document, json.loads((HERE / "azure_container_app.schema.json").read_text()))
    template = document["properties"]["template"]
    assert template["scale"]["rules"] == [
        {"name": "in-flight", "http": {"metadata": {"concurrentRequests": "400"}}},
        {"name": "cpu", "custom": {"type": "cpu", "metadata": {"type": "Utilization", "value": "70"}}},
        {"name": "schedule-0", "custom": {"type": "cron", "metadata": {
            "timezone": "Europe/Berlin", "start": "0 8 * * mon-fri", "end": "0 20 * * mon-fri", "desiredReplicas": "6",
        }}},
    ]  # fmt: skip
    assert template["containers"][0]["resources"] == {"cpu": 0.5, "memory": "1Gi"}
    assert any("50.0 ms a request" in note for note in export.notes)


def test_azure_asks_a_prometheus_for_what_is_in_flight_where_there_is_one():
    export = azure(SHOP, azure_policy(), prometheus="http://prometheus:9090", **PLACE)
    rule = export.documents[0]["properties"]["template"]["scale"]["rules"][0]
    assert (rule["custom"]["type"], rule["custom"]["metadata"]["threshold"]) == ("prometheus", "20")


def test_azure_tells_what_it_leaves_out():
    default = azure(SHOP, azure_policy(), response_time=0.05, **PLACE)
    assert not any("windows, rates" in note for note in default.notes)
    other = azure(SHOP, azure_policy(behavior=SLOW, deploy_cooldown=60), response_time=0.05, **PLACE)
    assert any("windows, rates" in note for note in other.notes)
    assert any("after a deployment" in note for note in other.notes)


def test_azure_takes_the_smallest_size_that_it_sells():
    small = Workload(name="shop", image="x", cpu=0.3, memory="700MiB", memory_limit="1100MiB")
    export = azure(small, ScalePolicy(most=3, targets=(Target.cpu("50%", request=0.3),)), **PLACE)
    size = export.documents[0]["properties"]["template"]["containers"][0]["resources"]
    assert size == {"cpu": 0.75, "memory": "1.5Gi"}
    assert any("0.75 cores and 1.5Gi" in note for note in export.notes)


def test_bicep_says_the_same():
    export = azure(SHOP, azure_policy(), response_time=0.05, bicep=True, **PLACE)
    assert "resource app 'Microsoft.App/containerApps@" in export.text
    for line in ("minReplicas: 1", "maxReplicas: 30", "concurrentRequests: '400'", "cpu: json('0.5')", "value: '70'"):
        assert f" {line}\n" in export.text
    assert export.text.count("{") == export.text.count("}")
    assert export.text.startswith("// ")


@pytest.mark.parametrize(
    ("used", "wanted"),
    [((0.31, 100 * 2**20), (0.35, 120)), ((0.3, 1), (0.3, 1)), ((0.001, 2**20), (0.05, 2))],
)
def test_requests_are_what_was_measured_rounded_up(used, wanted):
    cores, memory = requests(*used)
    assert cores == pytest.approx(wanted[0])
    assert memory == wanted[1] * 2**20
