"""Several workers' answers as one: what counts is added up, what is a state is listed by worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tenfold.gateway.admin.names import BY_NAME

_MERGES: Final[dict[str, Any]] = {"sum": lambda a, b: a + b, "min": min, "max": max}


def merge_samples(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of all ``metrics`` answers, one for each name and labels; what `names` does not know is summed."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]] = {}
    for answer in answers:
        for each in answer["metrics"]:
            key = each["name"], tuple(sorted(each["labels"].items()))
            known = found.get(key)
            if known is None:
                found[key] = dict(each)
            else:
                metric = BY_NAME.get(each["name"])
                known["value"] = _MERGES["sum" if metric is None else metric.merge](known["value"], each["value"])
    return list(found.values())


def merge_counters(answers: Sequence[dict[str, int]]) -> dict[str, int]:
    """Dictionaries of numbers, added up."""
    found: dict[str, int] = {}
    for answer in answers:
        for name, value in answer.items():
            found[name] = found.get(name, 0) + value
    return found


def merge_state(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ``state`` of all: counters added up, and every worker's own state as it is."""
    return {
        "workers": len(answers),
        "draining": any(each.get("draining", False) for each in answers),
        "clients": sum(each.get("clients", 0) for each in answers),
        "counters": merge_counters([each.get("counters", {}) for each in answers]),
        "pools": merge_pools(answers),
        "each": list(answers),
    }


def merge_pools(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pools of ``state`` answers by name, with their endpoints merged (`merge_endpoints`)."""
    names = dict.fromkeys(name for each in answers for name in each.get("pools", {}))
    found = {}
    for name in names:
        several = [each["pools"][name] for each in answers if name in each.get("pools", {})]
        found[name] = {
            "pick": several[0].get("pick"),
            "ready": min(each.get("ready", 0) for each in several),
            "panic": any(each.get("panic", False) for each in several),
            "queued": sum(each.get("queued", 0) for each in several),
            "endpoints": merge_endpoints([each.get("endpoints", {}) for each in several]),
        }
    return found


def merge_endpoints(several: Sequence[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each endpoint once: what all workers say alike, requests under way added up, and where they differ (a worker's
    checks may see what another one's do not) the states by worker.
    """
    found = []
    for id in sorted({id for each in several for id in each}):
        views = [(number, each[id]) for number, each in enumerate(several) if id in each]
        first = views[0][1]
        worst = next((view for _, view in views if not view["ready"]), first)
        endpoint = {
            "id": id,
            "url": first["url"],
            "state": first.get("state", "ready"),
            "ready": all(view["ready"] for _, view in views),
            "why": worst.get("why", ""),
            "weight": first["weight"],
            "declared_weight": first.get("declared_weight"),
            "in_flight": sum(view["in_flight"] for _, view in views),
            "requests": sum(view.get("requests", 0) for _, view in views),
            "failures": sum(view.get("failures", 0) for _, view in views),
        }
        if len({(view["ready"], view.get("state"), view["weight"]) for _, view in views}) > 1:
            endpoint["workers"] = [
                {"worker": number, **{key: view.get(key) for key in ("ready", "state", "why", "weight")}}
                for number, view in views
            ]
        found.append(endpoint)
    return found
