"""A policy as a KEDA ScaledObject, which keeps an HPA of the same numbers and adds cron and Prometheus.

KEDA hands every trigger to its HPA as a metric, a cron trigger among them, so the highest counts here as there. The
mean of the workers becomes a sum shared out among them: the same number while every worker is measured, but for a
rounding; the HPA's guesses for workers that are not do not apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.autoscale.export.kubernetes import base, behavior_from, behavior_of, common_notes, metadata
from tenfold.autoscale.export.text import yaml_of
from tenfold.autoscale.export.workload import Export, Workload, from_quantity, series
from tenfold.autoscale.metrics import Target
from tenfold.autoscale.policy import ScalePolicy
from tenfold.autoscale.schedule import Schedule

_INTERVAL: Final = 15
Document = dict[str, Any]


def keda(
    workload: Workload,
    policy: ScalePolicy,
    *,
    prometheus: str = "",
    queries: Mapping[str, str] | None = None,
    namespace: str = "default",
) -> Export:
    """Deployment, Service, PodDisruptionBudget and ScaledObject for ``policy``.

    ``prometheus``: the address that metrics other than CPU and memory are asked of. ``queries``: PromQL by a target's
    name instead of ``sum(tenfold_…{app="…"})`` (for values ``max(…)``); it must yield one number.

    Raises `MisuseError` where the address is missing, and for requests that are not those of the policy.
    """
    workload.fits(policy)
    triggers = [
        *(trigger(target, workload, prometheus, queries or {}, "keda") for target in policy.targets),
        *(cron(schedule) for schedule in policy.schedules),
    ]
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(workload, namespace),
        "spec": {
            "scaleTargetRef": {"name": workload.name},
            "minReplicaCount": policy.least,
            "maxReplicaCount": policy.most,
            "pollingInterval": _INTERVAL,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior_of(policy.behavior)}},
            "triggers": triggers,
        },
    }
    documents = (*base(workload, namespace), scaled)
    notes = (*schedule_notes(policy), *common_notes(policy))
    return Export(documents, notes, yaml_of(documents, notes))


def trigger(target: Target, workload: Workload, prometheus: str, queries: Mapping[str, str], where: str) -> Document:
    """The KEDA trigger for ``target``."""
    if target.kind == "utilization":
        share = {"value": str(target.goal)}
        return {"type": target.name, "name": target.name, "metricType": "Utilization", "metadata": share}
    if not prometheus:
        raise MisuseError(f"{where}: expected the address of a Prometheus, which {target.name} is to be asked of")
    combine = "max" if target.kind == "value" else "sum"
    return {
        "type": "prometheus",
        "name": target.name.replace("_", "-"),
        "metricType": "Value" if target.kind == "value" else "AverageValue",
        "metadata": {
            "serverAddress": prometheus,
            "query": queries.get(target.name, f'{combine}({series(target)}{{app="{workload.name}"}})'),
            "threshold": f"{target.goal / 1000:.3f}".rstrip("0").rstrip("."),
            # no answer is no metric, not a zero: it must not remove workers
            "ignoreNullValues": "false",
        },
    }


def cron(schedule: Schedule) -> Document:
    """The KEDA trigger for ``schedule``."""
    return {
        "type": "cron",
        "metadata": {
            "timezone": schedule.zone,
            "start": schedule.start,
            "end": schedule.end,
            "desiredReplicas": str(schedule.workers),
        },
    }


def policy_of(documents: Iterable[Mapping[str, Any]]) -> ScalePolicy:
    """The policy that `keda` has written into ``documents``, as KEDA's HPA sees it: means are averages now.

    Names are lost: a target is called by its trigger, a schedule by its number.
    """
    by_kind = {document["kind"]: document for document in documents}
    spec = by_kind["ScaledObject"]["spec"]
    container = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    asked = container["resources"]["requests"]
    triggers = spec["triggers"]
    return ScalePolicy(
        least=spec["minReplicaCount"],
        most=spec["maxReplicaCount"],
        targets=tuple(_target_from(one, asked) for one in triggers if one["type"] != "cron"),
        behavior=behavior_from(spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]),
        schedules=tuple(
            schedule_from(number, one["metadata"])
            for number, one in enumerate(one for one in triggers if one["type"] == "cron")
        ),
    )


def schedule_notes(policy: ScalePolicy) -> list[str]:
    """What KEDA's cron does otherwise."""
    if not policy.schedules:
        return []
    return [
        "A cron trigger counts as a metric: the tolerance applies to it, so a tenth of its workers may be lacking,\n"
        "and a time that the spring's change of clocks leaves out is skipped, where tenfold takes the next moment."
    ]


def _target_from(one: Mapping[str, Any], asked: Mapping[str, str]) -> Target:
    if one["metricType"] == "Utilization":
        request = from_quantity(asked[one["type"]])
        share = int(one["metadata"]["value"]) / 100
        return Target(name=one["type"], kind="utilization", target=share, request=request)
    name, threshold = one["name"].replace("-", "_"), float(one["metadata"]["threshold"])
    return Target(name=name, kind="value" if one["metricType"] == "Value" else "average", target=threshold)


def schedule_from(number: int, data: Mapping[str, str]) -> Schedule:
    """What `cron` has written into a trigger's metadata; its name is its number."""
    return Schedule(
        name=f"schedule {number}",
        start=data["start"],
        end=data["end"],
        zone=data["timezone"],
        workers=int(data["desiredReplicas"]),
    )
