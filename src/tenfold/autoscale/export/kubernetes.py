"""A policy as a HorizontalPodAutoscaler, with the Deployment, Service and PodDisruptionBudget that it needs.

Everything that the policy says stands in the HPA, defaults included, so that another cluster's defaults change nothing;
`policy_of` reads it back. What an HPA cannot say is refused where a promise would be broken (schedules), and told in a
comment where only speed differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from tenfold._core.errors import MisuseError
from tenfold._core.units import size
from tenfold.autoscale.behavior import Behavior, Rate, Rules, Select, Unit
from tenfold.autoscale.export.text import yaml_of
from tenfold.autoscale.export.workload import Export, Workload, bytes_quantity, from_quantity, quantity, series
from tenfold.autoscale.metrics import Target
from tenfold.autoscale.policy import ScalePolicy

_SELECT: Final = {"max": "Max", "min": "Min", "disabled": "Disabled"}
_UNITS: Final = {"pods": "Pods", "percent": "Percent"}
_PREFIX: Final = "tenfold_"
_SYNC: Final = 15
Document = dict[str, Any]


def kubernetes(workload: Workload, policy: ScalePolicy, *, namespace: str = "default") -> Export:
    """Deployment, Service, PodDisruptionBudget and HorizontalPodAutoscaler for ``policy``.

    Raises `MisuseError` for schedules, which need KEDA, and for requests that are not those of the policy.
    """
    workload.fits(policy)
    if policy.schedules:
        names = ", ".join(schedule.name for schedule in policy.schedules)
        raise MisuseError(f"kubernetes: expected no schedules, because an HPA has none, got {names}; export to keda")
    documents = (*base(workload, namespace), _autoscaler(workload, policy, namespace))
    notes = (*_notes(policy), *common_notes(policy))
    return Export(documents, notes, yaml_of(documents, notes))


def base(workload: Workload, namespace: str) -> tuple[Document, ...]:
    """What runs: Deployment, Service and PodDisruptionBudget. The number of replicas is the autoscaler's alone."""
    meta = metadata(workload, namespace)
    select = {"app.kubernetes.io/name": workload.name}
    template = {"metadata": {"labels": select}, "spec": _pod(workload)}
    rollout = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}}
    return (
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"selector": {"matchLabels": select}, "strategy": rollout, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": select, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": select}},
        },
    )


def metadata(workload: Workload, namespace: str) -> Document:
    """Name, namespace and label of everything that belongs to ``workload``."""
    return {"name": workload.name, "namespace": namespace, "labels": {"app.kubernetes.io/name": workload.name}}


def behavior_of(behavior: Behavior) -> Document:
    """The ``behavior`` of an HPA."""
    return {"scaleUp": _rules(behavior.up), "scaleDown": _rules(behavior.down)}


def behavior_from(data: Mapping[str, Any]) -> Behavior:
    """What `behavior_of` has written."""
    return Behavior(up=_rules_from(data["scaleUp"]), down=_rules_from(data["scaleDown"]))


def policy_of(documents: Iterable[Mapping[str, Any]]) -> ScalePolicy:
    """The policy that `kubernetes` has written into ``documents``; for another's HPA it need not work.

    What an HPA does not hold (the pause after a deployment, readiness) has its default.
    """
    by_kind = {document["kind"]: document for document in documents}
    spec = by_kind["HorizontalPodAutoscaler"]["spec"]
    asked = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    return ScalePolicy(
        least=spec["minReplicas"],
        most=spec["maxReplicas"],
        targets=tuple(_target_from(metric, asked) for metric in spec["metrics"]),
        behavior=behavior_from(spec["behavior"]),
    )


def common_notes(policy: ScalePolicy) -> tuple[str, ...]:
    """What neither an HPA nor KEDA, which makes one, can say of ``policy``."""
    notes = [
        f"An HPA decides every {_SYNC} s (--horizontal-pod-autoscaler-sync-period); tenfold as often as it is asked."
    ]
    shortest = min(int(rate.period) for rules in (policy.behavior.up, policy.behavior.down) for rate in rules.rates)
    if shortest < _SYNC:
        notes.append(f"A rate for {shortest} s permits its number once in {_SYNC} s there, not once in {shortest} s.")
    if policy.deploy_cooldown:
        notes.append(f"Left out: no worker is removed for {policy.deploy_cooldown} s after a deployment.")
    if (policy.cpu_initialization, policy.readiness_delay) != (300, 30):
        notes.append(
            f"For the cluster, not for an HPA: --horizontal-pod-autoscaler-cpu-initialization-period="
            f"{policy.cpu_initialization}s --horizontal-pod-autoscaler-initial-readiness-delay="
            f"{policy.readiness_delay}s"
        )
    if any(rules.tolerance != 0.1 for rules in (policy.behavior.up, policy.behavior.down)):
        notes.append("A tolerance of its own needs Kubernetes 1.33 or newer with HPAConfigurableTolerance on.")
    return tuple(notes)


def _notes(policy: ScalePolicy) -> list[str]:
    notes = []
    if any(target.kind == "pods" for target in policy.targets):
        notes.append("Metrics of pods need an adapter that serves custom.metrics.k8s.io, such as prometheus-adapter.")
    if any(target.kind in ("value", "average") for target in policy.targets):
        notes.append("External metrics need an adapter that serves external.metrics.k8s.io.")
    return notes


def _pod(workload: Workload) -> Document:
    asked = {"cpu": quantity(workload.cpu), "memory": bytes_quantity(size(workload.memory))}
    ready = {"httpGet": {"path": workload.ready, "port": "http"}}
    alive = {"httpGet": {"path": workload.alive, "port": "http"}} if workload.alive else {"tcpSocket": {"port": "http"}}
    container: Document = {
        "name": workload.name,
        "image": workload.image,
        **({"args": list(workload.args)} if workload.args else {}),
        **({"env": [{"name": key, "value": value} for key, value in workload.env.items()]} if workload.env else {}),
        "ports": [{"name": "http", "containerPort": workload.port}],
        "resources": {"requests": asked, "limits": {"memory": bytes_quantity(size(workload.memory_limit or 0))}},
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": max(1, int(workload.starts_within))},
        "readinessProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 3},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }
    return {"terminationGracePeriodSeconds": workload.stop_within, "containers": [container]}


def _autoscaler(workload: Workload, policy: ScalePolicy, namespace: str) -> Document:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(workload, namespace),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name},
            "minReplicas": policy.least,
            "maxReplicas": policy.most,
            "metrics": [_metric(target, workload) for target in policy.targets],
            "behavior": behavior_of(policy.behavior),
        },
    }


def _metric(target: Target, workload: Workload) -> Document:
    if target.kind == "utilization":
        goal: Document = {"type": "Utilization", "averageUtilization": target.goal}
        return {"type": "Resource", "resource": {"name": target.name, "target": goal}}
    amount = quantity(float(target.target))
    if target.kind == "pods":
        goal = {"type": "AverageValue", "averageValue": amount}
        return {"type": "Pods", "pods": {"metric": {"name": series(target)}, "target": goal}}
    name = {"name": series(target), "selector": {"matchLabels": {"app": workload.name}}}
    goal = {"type": "Value", "value": amount}
    if target.kind == "average":
        goal = {"type": "AverageValue", "averageValue": amount}
    return {"type": "External", "external": {"metric": name, "target": goal}}


def _target_from(metric: Mapping[str, Any], asked: Mapping[str, str]) -> Target:
    source = metric[metric["type"].lower()]
    goal = source["target"]
    if metric["type"] == "Resource":
        name, share = source["name"], goal["averageUtilization"] / 100
        return Target(name=name, kind="utilization", target=share, request=from_quantity(asked[name]))
    name = source["metric"]["name"].removeprefix(_PREFIX)
    if metric["type"] == "Pods":
        return Target(name=name, kind="pods", target=from_quantity(goal["averageValue"]))
    if goal["type"] == "Value":
        return Target(name=name, kind="value", target=from_quantity(goal["value"]))
    return Target(name=name, kind="average", target=from_quantity(goal["averageValue"]))


def _rules(rules: Rules) -> Document:
    if from_quantity(quantity(float(rules.tolerance))) != rules.tolerance:
        raise MisuseError(f"kubernetes: expected a tolerance in whole thousandths, got {rules.tolerance}")
    return {
        "stabilizationWindowSeconds": rules.window,
        "selectPolicy": _SELECT[rules.select],
        "policies": [
            {"type": _UNITS[rate.unit], "value": rate.value, "periodSeconds": rate.period} for rate in rules.rates
        ],
        **({} if rules.tolerance == 0.1 else {"tolerance": quantity(float(rules.tolerance))}),
    }


def _rules_from(data: Mapping[str, Any]) -> Rules:
    return Rules(
        window=data["stabilizationWindowSeconds"],
        rates=tuple(
            Rate(cast(Unit, rate["type"].lower()), rate["value"], rate["periodSeconds"]) for rate in data["policies"]
        ),
        select=cast(Select, data["selectPolicy"].lower()),
        tolerance=from_quantity(data["tolerance"]) if "tolerance" in data else 0.1,
    )
