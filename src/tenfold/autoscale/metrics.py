"""What is to be kept where, and what is measured of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, share, size

Kind = Literal["utilization", "pods", "value", "average"]
"""What a target is compared with.

``"utilization"``: the use of a resource as a share of what the workers request. ``"pods"``: the mean of the workers.
``"value"``: one number for all, which workers in proportion would bring to the target. ``"average"``: one number for
all, divided by the number of workers.
"""
Origin = Literal["target", "schedule", "forecast"]
Phase = Literal["running", "pending", "stopping", "failed"]
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_KINDS: Final = ", ".join(get_args(Kind))
RESOURCES: Final = ("cpu", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Keep the metric ``name`` at ``target``; what that means is the `Kind`.

    ``target``: for ``"utilization"`` a share of the request (``"70%"``, whole percent, above 1 written as a number
    such as ``1.5``), else in the unit of the metric, at least 0.001 of it. ``request``: what one worker asks for, in
    cores (``cpu``) or bytes (``memory``); for ``"utilization"`` only.

    Raises `MisuseError` for what makes no sense.
    """

    name: str
    kind: Kind
    target: str | float
    request: str | float | None = None

    def __post_init__(self) -> None:
        if type(self.name) is not str or _NAME.fullmatch(self.name) is None:
            raise MisuseError(f'target name: expected lower case such as "in_flight", got {self.name!r}')
        if self.kind not in get_args(Kind):
            raise MisuseError(
                f"target {self.name} kind: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}"
            )
        put = object.__setattr__
        if self.kind == "utilization":
            put(self, "target", _percent(self.target, self.name))
            put(self, "request", _request(self.request, self.name))
        else:
            put(self, "target", _positive(self.target, f"target {self.name}"))
            if self.request is not None:
                raise MisuseError(f"target {self.name}: a request goes with the kind utilization, got {self.kind}")

    @classmethod
    def cpu(cls, target: str | float = "70%", *, request: float = 1.0) -> Target:
        """Keep the CPU time of the workers at a share of ``request`` (1.0) cores each."""
        return cls(name="cpu", kind="utilization", target=target, request=request)

    @classmethod
    def memory(cls, target: str | float = "80%", *, request: Size) -> Target:
        """Keep the memory of the workers at a share of ``request`` each."""
        return cls(name="memory", kind="utilization", target=target, request=size(request, "memory request"))

    @classmethod
    def in_flight(cls, target: float = 20) -> Target:
        """Keep the mean number of requests in flight in a worker at ``target`` (20)."""
        return cls(name="in_flight", kind="pods", target=target)

    @classmethod
    def p95(cls, target: Duration) -> Target:
        """Keep the 95th percentile of the response time at ``target``."""
        return cls(name="p95_seconds", kind="value", target=duration(target, "target p95"))

    @property
    def goal(self) -> int:
        """The target in whole percent or thousandths, as it is reckoned with."""
        return round(float(self.target) * 100) if self.kind == "utilization" else thousandths(float(self.target))

    @property
    def per_worker(self) -> bool:
        """Whether it is measured worker by worker."""
        return self.kind in ("utilization", "pods")


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as the policy sees it. Times are on the clock that `Scaler.decide` is given.

    ``started``: when it began; minus infinity: it has always been there. ``changed``: when it last became ready or
    ceased to be.
    """

    name: str
    phase: Phase = "running"
    ready: bool = True
    started: float = -math.inf
    changed: float = -math.inf


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured of one worker: ``value``, ``at`` a time (infinity: now), over ``window`` seconds before."""

    value: float
    at: float = math.inf
    window: float = 0.0


@dataclass(frozen=True, slots=True)
class PerWorker:
    """A metric worker by worker; a worker that is not in it was not measured."""

    samples: Mapping[str, Sample] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Total:
    """A metric of all workers together."""

    value: float


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A metric that could not be read. ``why`` is for a person."""

    why: str


Reading = PerWorker | Total | Unavailable


@dataclass(frozen=True, slots=True)
class Proposal:
    """How many workers the ``source`` of that name asks for.

    ``ratio`` is measured / target, NaN where there is none; ``why`` is for a person; ``origin`` is what the source is.
    """

    source: str
    desired: int
    ratio: float
    why: str
    origin: Origin = "target"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far measured / target may be from 1 before anything changes, upwards and downwards."""

    up: float = 0.1
    down: float = 0.1

    def holds(self, ratio: float) -> bool:
        """Whether ``ratio`` is near enough to 1."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Readiness:
    """When the CPU time of a young worker counts.

    Within ``initialization`` seconds of its start: while it is ready, and only samples taken wholly since it became
    so. After that it does not count if it is not ready and never was, that is, changed within ``delay`` of its start.
    """

    initialization: float = 300.0
    delay: float = 30.0

    def counts(self, worker: Worker, sample: Sample, now: float) -> bool:
        """Whether ``sample`` says something about what ``worker`` will need."""
        if worker.started + self.initialization > now:
            return worker.ready and sample.at >= worker.changed + sample.window
        return worker.ready or worker.started + self.delay <= worker.changed


def thousandths(value: float) -> int:
    """``value`` in whole thousandths, rounded up, as a Kubernetes quantity is."""
    return math.ceil(round(value * 1000, 6))


def _percent(value: str | float, name: str) -> float:
    text = f"target {name}"
    number = share(value, text) if isinstance(value, str) else _positive(value, text)
    if number < 0.01 or abs(number * 100 - round(number * 100)) > 1e-6:
        raise MisuseError(f'{text}: expected whole percent such as "70%" or 0.7, at least one, got {value!r}')
    return round(number * 100) / 100


def _request(value: str | float | None, name: str) -> float:
    if name not in RESOURCES:
        raise MisuseError(f"target {name}: expected cpu or memory for the kind utilization; for others take pods")
    if value is None:
        raise MisuseError(f"target {name}: expected a request, because utilization is a share of it, got none")
    return _positive(_bytes(value) if name == "memory" else value, f"{name} request")


def _bytes(value: str | float) -> int:
    return size(value if isinstance(value, str) else math.ceil(value), "memory request")


def _positive(value: str | float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.001 <= value < 1e15:
        raise MisuseError(f"{name}: expected a number of at least 0.001, got {value!r}")
    return float(value)
