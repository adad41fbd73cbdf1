"""A policy as the scale rules of an Azure Container App, as YAML for ``az containerapp create --yaml`` or as Bicep.

Azure's scaler is KEDA with a fixed behaviour: a wish is ``ceil(measured / target)``, up at once by the largest of 1, 4
and 100 %, down after 300 s ("Set scaling rules in Azure Container Apps: scale behavior"). So limits and targets are the
same numbers, and other windows and rates than the default are told in a comment.

A trap: ``concurrentRequests`` of an ``http`` rule is *not* the number of requests in flight but the requests of 15 s
divided by 15, a rate. By Little's law a rate is the number in flight divided by the time that one takes, so a target in
flight becomes such a rule only where that time is given; otherwise it is asked of a Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration, size
from tenfold.autoscale.behavior import Behavior
from tenfold.autoscale.export.keda import cron, schedule_from, schedule_notes, trigger
from tenfold.autoscale.export.text import bicep_of, yaml_of
from tenfold.autoscale.export.workload import Export, Workload, from_quantity
from tenfold.autoscale.metrics import Target
from tenfold.autoscale.policy import ScalePolicy

API: Final = "Microsoft.App/containerApps@2025-01-01"
_GIBI: Final = 2**30
_MOST_REPLICAS: Final = 1000
_LONGEST_NAME: Final = 32
RATE: Final = "request_rate"
"""What the target of an ``http`` rule is called when it is read back: requests a second of all replicas together."""
Document = dict[str, Any]


def azure(
    workload: Workload,
    policy: ScalePolicy,
    *,
    environment: str,
    location: str,
    response_time: Duration | None = None,
    prometheus: str = "",
    queries: Mapping[str, str] | None = None,
    bicep: bool = False,
) -> Export:
    """A Container App for ``policy`` in the ``environment`` of that resource id; ``bicep``: not as YAML.

    ``response_time``: the mean that one request takes, measured at the target, which turns requests in flight into the
    rate that Azure's ``http`` rule goes by. ``prometheus`` and ``queries``: as for KEDA.

    Raises `MisuseError` for what Azure cannot do: more than 1000 replicas, a target of the kind ``"value"``, requests
    in flight with neither a response time nor a Prometheus.
    """
    workload.fits(policy)
    if policy.most > _MOST_REPLICAS:
        raise MisuseError(f"azure: expected at most {_MOST_REPLICAS} workers, got {policy.most}")
    if len(workload.name) > _LONGEST_NAME:
        raise MisuseError(f"azure: expected a name of at most {_LONGEST_NAME} characters, got {workload.name!r}")
    seconds = None if response_time is None else duration(response_time, "response_time")
    rules = [_rule(target, workload, seconds, prometheus, queries or {}) for target in policy.targets]
    for number, schedule in enumerate(policy.schedules):
        made = cron(schedule)
        rules.append({"name": f"schedule-{number}", "custom": {"type": "cron", "metadata": made["metadata"]}})
    cpu, memory = _size(workload)
    document = {
        "name": workload.name,
        "location": location,
        "properties": {
            "environmentId": environment,
            "configuration": {
                "activeRevisionsMode": "Single",
                "ingress": {"external": True, "targetPort": workload.port, "transport": "auto"},
            },
            "template": {
                "terminationGracePeriodSeconds": min(600, workload.stop_within),
                "containers": [_container(workload, cpu, memory)],
                "scale": {"minReplicas": policy.least, "maxReplicas": policy.most, "rules": rules},
            },
        },
    }
    notes = tuple(_notes(workload, policy, cpu, memory, seconds))
    text = bicep_of("app", API, document, notes) if bicep else yaml_of([document], notes)
    return Export((document,), notes, text)


def policy_of(documents: Iterable[Mapping[str, Any]]) -> ScalePolicy:
    """The policy that `azure` has written into ``documents``, as Azure sees it: every metric is shared out among the
    replicas, an ``http`` rule is a target of `RATE`, and the behaviour is the fixed one.
    """
    template = next(one["properties"]["template"] for one in documents if "properties" in one)
    asked, scale = template["containers"][0]["resources"], template["scale"]
    crons = [rule["custom"] for rule in scale["rules"] if rule.get("custom", {}).get("type") == "cron"]
    return ScalePolicy(
        least=scale["minReplicas"],
        most=scale["maxReplicas"],
        targets=tuple(
            _target_from(rule, asked) for rule in scale["rules"] if rule.get("custom", {}).get("type") != "cron"
        ),
        schedules=tuple(schedule_from(number, one["metadata"]) for number, one in enumerate(crons)),
    )


def _target_from(rule: Mapping[str, Any], asked: Mapping[str, Any]) -> Target:
    if "http" in rule:
        return Target(name=RATE, kind="average", target=float(rule["http"]["metadata"]["concurrentRequests"]))
    kind, data = rule["custom"]["type"], rule["custom"]["metadata"]
    if kind == "prometheus":
        return Target(name=rule["name"].replace("-", "_"), kind="average", target=float(data["threshold"]))
    share = int(data["value"]) / 100
    return Target(name=kind, kind="utilization", target=share, request=from_quantity(asked[kind]))


def _rule(
    target: Target, workload: Workload, seconds: float | None, prometheus: str, queries: Mapping[str, str]
) -> Document:
    name = target.name.replace("_", "-")
    if target.kind == "utilization":
        share = {"type": "Utilization", "value": str(target.goal)}
        return {"name": name, "custom": {"type": target.name, "metadata": share}}
    if target.kind == "value":
        raise MisuseError(
            f"azure: expected no target of the kind value, because a custom rule shares its metric out among the "
            f"replicas, got {target.name}; take requests in flight or cpu"
        )
    if target.name == "in_flight" and not prometheus:
        if not seconds:
            raise MisuseError(
                "azure: expected a response_time or a prometheus, because the http rule goes by a rate and not by "
                "requests in flight"
            )
        rate = math.floor(float(target.target) / seconds)
        if rate < 1:
            raise MisuseError(f"azure: expected a rate of one a second at least, got {target.target} / {seconds} s")
        return {"name": name, "http": {"metadata": {"concurrentRequests": str(rate)}}}
    made = trigger(target, workload, prometheus, queries, "azure")
    return {"name": name, "custom": {"type": "prometheus", "metadata": made["metadata"]}}


def _container(workload: Workload, cpu: float, memory: str) -> Document:
    ready = {"httpGet": {"path": workload.ready, "port": workload.port}}
    alive: Document = {"tcpSocket": {"port": workload.port}}
    if workload.alive:
        alive = {"httpGet": {"path": workload.alive, "port": workload.port}}
    pause = max(1, math.ceil(int(workload.starts_within) / 10))
    return {
        "name": workload.name,
        "image": workload.image,
        **({"args": list(workload.args)} if workload.args else {}),
        **({"env": [{"name": key, "value": value} for key, value in workload.env.items()]} if workload.env else {}),
        "resources": {"cpu": cpu, "memory": memory},
        "probes": [
            {"type": "Startup", **ready, "periodSeconds": pause, "failureThreshold": 10},
            {"type": "Readiness", **ready, "periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 3},
            {"type": "Liveness", **alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        ],
    }


def _size(workload: Workload) -> tuple[float, str]:
    """The smallest size that Azure sells and this fits into: quarters of a core, with 2 GiB to each core."""
    quarters = max(math.ceil(round(workload.cpu * 4, 6)), math.ceil(size(workload.memory_limit or 0) / (_GIBI / 2)))
    if quarters > 16:
        raise MisuseError(f"azure: expected at most 4 cores and 8 GiB, got {workload.cpu} and {workload.memory_limit}")
    return quarters / 4, f"{quarters / 2:g}Gi"


def _notes(workload: Workload, policy: ScalePolicy, cpu: float, memory: str, seconds: float | None) -> list[str]:
    notes = [
        "Azure looks every 15 s (http) or 30 s (others) and removes replicas after 300 s; neither is the policy's."
    ]
    if policy.behavior != Behavior():
        notes.append(
            "Left out: the windows, rates and tolerances of the policy. Azure's are those of Kubernetes' default."
        )
    if cpu != workload.cpu:
        notes.append(f"The smallest size that fits is {cpu:g} cores and {memory}; a share of CPU is a share of that.")
    if seconds and any(target.name == "in_flight" for target in policy.targets):
        notes.append(
            f"concurrentRequests is a rate: the target in flight divided by {format_duration(seconds)} a request. "
            "Measure that again when the application changes."
        )
    if policy.deploy_cooldown:
        notes.append(f"Left out: no worker is removed for {policy.deploy_cooldown} s after a deployment.")
    return notes + schedule_notes(policy)
