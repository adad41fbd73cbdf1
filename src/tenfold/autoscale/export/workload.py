"""What is to be run where the policy goes: image, port, probes, and what one worker needs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, share, size, whole_number
from tenfold.autoscale.metrics import Target
from tenfold.autoscale.policy import ScalePolicy

_LABEL: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_MEBI: Final = 2**20
_BINARY: Final = {"Mi": _MEBI, "Gi": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One application as containers of one worker each.

    ``name``: as DNS has it, at most 63 characters. ``image`` and ``args``; ``env``: settings that are no secrets.
    ``port`` (8000) it listens on. ``cpu`` (1.0 cores) and ``memory`` (512 MB) that one worker requests, see `requests`;
    ``memory_limit``: where it is stopped (twice the request). ``ready`` (``"/health"``): the path that says whether it
    takes requests; ``alive`` (``""``): one that fails only when it must be restarted; without one only the port is
    asked. ``starts_within`` (60 s) it must be ready, and ``drain`` (30 s) is what it may take to end its requests.

    Raises `MisuseError` for what makes no sense.
    """

    name: str
    image: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 8000
    cpu: float = 1.0
    memory: Size = 512_000_000
    memory_limit: Size | None = None
    ready: str = "/health"
    alive: str = ""
    starts_within: Duration = 60
    drain: Duration = 30

    def __post_init__(self) -> None:
        put = object.__setattr__
        if type(self.name) is not str or _LABEL.fullmatch(self.name) is None:
            raise MisuseError(f'workload name: expected lower case letters, digits and "-", got {self.name!r}')
        if type(self.image) is not str or not self.image or any(character.isspace() for character in self.image):
            raise MisuseError(f'workload image: expected one such as "registry.example/shop:1.4.2", got {self.image!r}')
        if type(self.cpu) not in (int, float) or not 0.001 <= self.cpu <= 1024:
            raise MisuseError(f"workload cpu: expected cores such as 0.5, got {self.cpu!r}")
        if whole_number(self.port, "workload port", least=1) > 65535:
            raise MisuseError(f"workload port: expected at most 65535, got {self.port}")
        put(self, "args", tuple(self.args))
        put(self, "memory", size(self.memory, "workload memory"))
        limit = 2 * size(self.memory) if self.memory_limit is None else size(self.memory_limit, "workload memory_limit")
        put(self, "memory_limit", limit)
        if limit < size(self.memory) or size(self.memory) == 0:
            raise MisuseError(f"workload memory_limit: expected at least the request, {self.memory}, got {limit}")
        for name in ("ready", "alive"):
            path = getattr(self, name)
            if (path or name == "ready") and not (path.startswith("/") and path.isprintable() and " " not in path):
                raise MisuseError(f'workload {name}: expected a path such as "/health", got {path!r}')
        for name in ("starts_within", "drain"):
            put(self, name, math.ceil(duration(getattr(self, name), f"workload {name}")))

    @property
    def stop_within(self) -> int:
        """Seconds from the order to stop until the end: five for balancers to hear of it, ``drain``, and five more."""
        return 5 + int(self.drain) + 5

    def fits(self, policy: ScalePolicy) -> None:
        """Raise `MisuseError` where shares in ``policy`` are shares of something other than this requests."""
        for target in policy.targets:
            if target.kind == "utilization":
                mine = self.cpu if target.name == "cpu" else float(size(self.memory))
                if mine != target.request:
                    raise MisuseError(
                        f"workload {target.name}: expected {target.request}, of which the policy's target is a share, "
                        f"got {mine}"
                    )


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be applied, as plain data, and ``notes`` of what it cannot say; ``text`` is both for a file."""

    documents: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    text: str


def requests(cpu_used: float, memory_used: Size, *, headroom: str | float = 0.2) -> tuple[float, int]:
    """What to request for a worker that was measured to use so much at its busiest: cores, and bytes.

    ``headroom`` (20 %) is added to the memory alone: CPU above a request is slowed, memory above a limit is killed.
    Cores are rounded up to 0.05, bytes to a MiB.
    """
    if type(cpu_used) not in (int, float) or not 0 < cpu_used < 1024:
        raise MisuseError(f"cpu_used: expected cores above 0, got {cpu_used!r}")
    cores = max(1, math.ceil(round(cpu_used * 20, 6))) / 20
    room = size(memory_used, "memory_used") * (1 + share(headroom, "headroom"))
    return cores, max(1, math.ceil(room / _MEBI)) * _MEBI


def quantity(value: float) -> str:
    """A Kubernetes quantity in whole thousandths at most: ``"20"``, ``"100m"``."""
    milli = math.ceil(round(value * 1000, 6))
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def from_quantity(text: str | float) -> float:
    """The number of a quantity that is written here: plain, thousandths (``m``), ``Mi`` or ``Gi``."""
    text = str(text)
    if text[-2:] in _BINARY:
        return float(text[:-2]) * _BINARY[text[-2:]]
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def bytes_quantity(count: int) -> str:
    """Bytes as a Kubernetes quantity: ``"512Mi"`` where it is whole."""
    return str(count) if count % _MEBI else f"{count // _MEBI}Mi"


def series(target: Target) -> str:
    """What the metric of ``target`` is called outside."""
    return f"tenfold_{target.name}"
