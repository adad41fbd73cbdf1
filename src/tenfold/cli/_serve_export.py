"""``tenfold serve --export``: the policy that would be served by, as documents for another platform.

What one worker requests is, first, what the policy's own targets are shares of: 70 % of one core stays 70 % of one
core, or the exported number would mean something else than the local one. Only what no target speaks of comes from
measured use, and what was not measured is told in a comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, format_size, size
from tenfold.autoscale import ScalePolicy
from tenfold.autoscale.export import Export, Workload, azure, keda, kubernetes, requests

Platform = Literal["kubernetes", "keda", "azure"]
_USE: Final = '{"cpu": 0.31, "memory": "95MB", "response_time": "12ms"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one worker was measured to use: ``cpu`` cores and ``memory`` at its busiest, the mean ``response_time``.

    None: not measured.
    """

    cpu: float | None = None
    memory: Size | None = None
    response_time: Duration | None = None


def read_use(path: Path) -> Use:
    """The use that a JSON file tells, such as ``{"cpu": 0.31, "memory": "95MB", "response_time": "12ms"}``.

    Other fields are passed over. Raises `MisuseError` for anything else.
    """
    try:
        use = msgspec.json.decode(path.read_bytes(), type=Use)
    except OSError as error:
        raise MisuseError(f"--measured: cannot read {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise MisuseError(f"--measured: {path}: expected JSON such as {_USE}, got: {error}") from error
    if use == Use():
        raise MisuseError(f"--measured: {path}: expected one of cpu, memory, response_time at least, got none")
    return use


def export(
    platform: str,
    policy: ScalePolicy,
    *,
    name: str,
    image: str,
    port: int = 8000,
    args: tuple[str, ...] = (),
    health: str = "/health",
    drain: Duration = 30,
    use: Use | None = None,
    namespace: str = "default",
    prometheus: str = "",
    queries: Mapping[str, str] | None = None,
    environment: str = "",
    location: str = "",
    bicep: bool = False,
) -> str:
    """The text for ``platform`` ("kubernetes", "keda" or "azure"): YAML, or Bicep for Azure, with what it cannot say as
    comments above.

    ``policy``: the one served by. ``name``, ``image``, ``port``, ``args``, ``health`` (the path that says whether it
    takes requests) and ``drain`` are those of a `Workload`; ``use`` what one worker was measured to use. ``namespace``
    is Kubernetes' and KEDA's; ``prometheus`` and ``queries`` KEDA's and Azure's; ``environment`` (a resource id),
    ``location`` and ``bicep`` Azure's.

    Raises `MisuseError` for what the platform cannot do and for what is missing.
    """
    if platform not in get_args(Platform):
        raise MisuseError(f"--export: expected one of {', '.join(get_args(Platform))}, got {platform!r}")
    seen = use or Use()
    asked, notes = _requests(policy, seen)
    workload = Workload(name=name, image=image, port=port, args=args, ready=health, drain=drain, **asked)
    if platform == "kubernetes":
        made = kubernetes(workload, policy, namespace=namespace)
    elif platform == "keda":
        made = keda(workload, policy, prometheus=prometheus, queries=queries, namespace=namespace)
    else:
        made = _azure(workload, policy, seen, prometheus, queries, environment, location, bicep)
    mark = "//" if bicep and platform == "azure" else "#"
    return "".join(f"{mark} {note}\n" for note in notes) + made.text


def _azure(
    workload: Workload,
    policy: ScalePolicy,
    use: Use,
    prometheus: str,
    queries: Mapping[str, str] | None,
    environment: str,
    location: str,
    bicep: bool,
) -> Export:
    for option, value in (("--environment", environment), ("--location", location)):
        if not value:
            raise MisuseError(f"--export azure: expected {option}, got none")
    return azure(
        workload,
        policy,
        environment=environment,
        location=location,
        response_time=use.response_time,
        prometheus=prometheus,
        queries=queries,
        bicep=bicep,
    )


def _requests(policy: ScalePolicy, use: Use) -> tuple[dict[str, Any], list[str]]:
    """``cpu``, ``memory`` and ``memory_limit`` of a workload, and what is to be told of where they come from."""
    fixed = {target.name: float(target.request or 0) for target in policy.targets if target.kind == "utilization"}
    if use.response_time is not None:
        duration(use.response_time, "measured response_time")
    cpu, memory = requests(1.0 if use.cpu is None else use.cpu, size(use.memory or 1, "measured memory"))
    asked: dict[str, Any] = {}
    notes = []
    if "cpu" in fixed:
        asked["cpu"] = fixed["cpu"]
        if use.cpu is not None and cpu != fixed["cpu"]:
            notes.append(
                f"CPU: the policy's target is a share of {fixed['cpu']:g} cores, so these are requested; "
                f"{use.cpu:g} were measured."
            )
    elif use.cpu is not None:
        asked["cpu"] = cpu
    if "memory" in fixed:
        asked["memory"] = round(fixed["memory"])
        if use.memory is not None and memory > fixed["memory"]:
            raise MisuseError(
                f"measured memory: expected at most {format_size(fixed['memory'])}, of which the policy's target is a "
                f"share, with a fifth of room, got {format_size(size(use.memory))}"
            )
    elif use.memory is not None:
        asked["memory"] = memory
    lacking = [name for name in ("cpu", "memory") if name not in asked]
    if lacking:
        notes.append(
            f"Not measured, so the request is a default: {' and '.join(lacking)}. Measure a worker under load."
        )
    return asked, notes
