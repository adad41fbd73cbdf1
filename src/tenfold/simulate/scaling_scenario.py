"""A scenario of scaling: traffic, workers that take a while to start, an SLO, and policies to compare."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.autoscale import Behavior, ScalePolicy, Schedule, Target
from tenfold.autoscale.export import Workload, azure, keda, kubernetes, parse
from tenfold.simulate.arrivals import Arrivals
from tenfold.simulate.scenario import ScenarioError
from tenfold.simulate.service import Service

_PERIODS: Final = {"": 1.0, "kubernetes": 15.0, "keda": 15.0, "azure": 30.0}
_APP: Final = Workload(name="app", image="registry.example/app:1")
_PROMETHEUS: Final = "http://prometheus:9090"
Whole = Annotated[int, msgspec.Meta(ge=1)]


class Workers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each takes ``limit`` requests at a time and lets ``queue`` (100) wait; more are refused.

    ``starts_in`` (2 s): from the decision until it is ready. ``begin`` (the least of the policy): ready at 0.
    """

    limit: Whole
    queue: Annotated[int, msgspec.Meta(ge=0)] = 100
    starts_in: Duration = "2s"
    begin: Whole | None = None

    def __post_init__(self) -> None:
        duration(self.starts_in, "starts_in")


class Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At least ``workers`` from each ``start`` to the next ``end``: see `Schedule`."""

    start: str
    end: str
    workers: Whole
    zone: str = "UTC"
    name: str = "schedule"


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One policy: ``least`` (1) to ``most`` workers, by ``in_flight`` (mean of a worker), ``p95`` and ``schedules``.

    ``behavior``: ``"local"``, for worker processes, or ``"kubernetes"``, the default there. ``export`` (none): decide
    as ``"kubernetes"``, ``"keda"`` or ``"azure"`` would by this policy exported; ``response_time`` is Azure's.
    ``period``: how often it decides; 1 s here, 15 s on Kubernetes, 30 s on Azure.
    """

    label: str
    most: Whole
    least: Whole = 1
    in_flight: float | None = None
    p95: Duration | None = None
    behavior: Literal["local", "kubernetes"] = "local"
    schedules: tuple[Hours, ...] = ()
    export: Literal["", "kubernetes", "keda", "azure"] = ""
    response_time: Duration | None = None
    period: Duration | None = None

    def __post_init__(self) -> None:
        if self.period is not None and duration(self.period, "period") < 0.1:
            raise MisuseError(f"period: expected 100 ms or more, got {self.period!r}")
        self.exported()

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return _PERIODS[self.export] if self.period is None else duration(self.period)

    def policy(self) -> ScalePolicy:
        """As it is written here."""
        targets = [] if self.in_flight is None else [Target.in_flight(self.in_flight)]
        if self.p95 is not None:
            targets.append(Target.p95(self.p95))
        return ScalePolicy(
            least=self.least,
            most=self.most,
            targets=tuple(targets),
            behavior=Behavior.local() if self.behavior == "local" else Behavior(),
            schedules=tuple(Schedule(**msgspec.structs.asdict(hours)) for hours in self.schedules),
        )

    def exported(self) -> ScalePolicy:
        """As the platform that it is exported to reads it; the same where there is none."""
        policy = self.policy()
        if self.export == "kubernetes":
            return parse(kubernetes(_APP, policy).documents)
        if self.export == "keda":
            return parse(keda(_APP, policy, prometheus=_PROMETHEUS).documents)
        if self.export == "azure":
            made = azure(_APP, policy, environment="/e", location="l", response_time=self.response_time)
            return parse(made.documents)
        return policy


class ScalingScenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Arrivals end at ``duration``; a request is good if it is answered within ``slo``.

    ``begins``: the date and time at 0, for schedules.
    """

    name: str = "scenario"
    seed: int = 1
    duration: Duration
    slo: Duration
    begins: datetime | None = None
    arrivals: Arrivals
    service: Service
    workers: Workers
    scale: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        for name in ("duration", "slo"):
            if duration(getattr(self, name), name) == 0:
                raise MisuseError(f'{name}: expected a duration above 0 such as "60s", got 0')
        labels = [one.label for one in self.scale]
        if len(set(labels)) < len(labels):
            raise MisuseError(f"scale: expected each label once, got {', '.join(labels)}")
        if self.begins is not None and self.begins.tzinfo is None:
            raise MisuseError(
                f"begins: expected a time with its offset such as 2026-01-05T07:50:00Z, got {self.begins}"
            )
        if self.begins is None and any(one.schedules for one in self.scale):
            raise MisuseError("begins: expected the date and time at 0, because there are schedules, got none")


def scaling_from_dict(table: Mapping[str, Any]) -> ScalingScenario:
    """The scenario of a plain dictionary. Raises `ScenarioError` with the place of what is wrong."""
    try:
        return msgspec.convert(dict(table), ScalingScenario)
    except msgspec.ValidationError as exc:
        problem, _, path = str(exc).partition(" - at `")
        raise ScenarioError(problem[:1].lower() + problem[1:], path.rstrip("`").removeprefix("$").lstrip(".")) from exc


def load_scaling(path: str | Path) -> ScalingScenario | None:
    """The TOML scenario of scaling at ``path``; None where it has no ``[[scale]]`` and so is another kind.

    Raises `ScenarioError` for one that is wrong.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None  # whoever reads it next says so
    return scaling_from_dict({"name": Path(path).stem, **table}) if "scale" in table else None
