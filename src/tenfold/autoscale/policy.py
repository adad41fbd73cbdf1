"""How many workers there should be: the decision of the Kubernetes Horizontal Pod Autoscaler, and what it lacks.

Theory. Every target, every schedule inside its time and every forecast proposes a number (`metrics`), and the highest
counts: the HPA's rule for several metrics, which makes schedules and forecasts mere floors. So a forecast can only add
to what the measured load asks for. The wish then passes the stabilisation windows and the rates (`behavior`) and, last,
the limits.

What could not be measured never removes a worker: with a metric missing, the others may add workers and not remove any,
and with all missing nothing changes. A number outside the limits is brought inside at once, whatever windows and rates
say, and zero workers with a minimum above zero mean that somebody has switched scaling off.

Beyond the HPA there are schedules, forecasts and the pause after a deployment: for ``deploy_cooldown`` afterwards no
worker is removed, because new workers with cold caches and no traffic yet say nothing about what the old load needs.
Workers may still be added.

`Scaler` is a state machine without a clock: it remembers wishes and changes, and time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number
from tenfold.autoscale.behavior import Behavior, History
from tenfold.autoscale.metrics import Proposal, Readiness, Reading, Target, Unavailable, Worker, thousandths
from tenfold.autoscale.propose import propose
from tenfold.autoscale.schedule import Schedule

_UNMEASURED = Unavailable("it was not measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """Between ``least`` (1) and ``most`` workers, as many as the ``targets`` and ``schedules`` ask for.

    ``behavior``: how fast it may change. ``deploy_cooldown`` (0): no worker is removed for so long after a deployment.
    ``cpu_initialization`` (300 s) and ``readiness_delay`` (30 s): see `Readiness`.

    Raises `MisuseError` for what makes no sense.
    """

    most: int
    least: int = 1
    targets: tuple[Target, ...] = ()
    behavior: Behavior = field(default_factory=Behavior)
    schedules: tuple[Schedule, ...] = ()
    deploy_cooldown: Duration = 0
    cpu_initialization: Duration = 300
    readiness_delay: Duration = 30

    def __post_init__(self) -> None:
        put = object.__setattr__
        whole_number(self.least, "least workers", least=1)
        whole_number(self.most, "most workers", least=1)
        if self.least > self.most:
            raise MisuseError(f"workers: expected at most {self.most} as the least, got {self.least}")
        put(self, "targets", tuple(self.targets))
        put(self, "schedules", tuple(self.schedules))
        for name in ("deploy_cooldown", "cpu_initialization", "readiness_delay"):
            put(self, name, duration(getattr(self, name), name))
        names = [target.name for target in self.targets] + [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise MisuseError(f"targets and schedules: expected each name once, got {', '.join(names)}")
        if not self.targets and not self.schedules:
            raise MisuseError("scale policy: expected a target or a schedule at least; a fixed number needs no policy")
        for schedule in self.schedules:
            if schedule.workers > self.most:
                raise MisuseError(
                    f"schedule {schedule.name}: expected at most {self.most} workers, the limit, got {schedule.workers}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known at one moment.

    ``current``: how many workers are wanted at present, which may differ from how many there are. ``readings``: a
    metric by its name; one that is not there counts as `Unavailable`. ``demand``: what a forecast expects of a metric
    of all workers together (sum of in-flight requests, cores, …), by the target's name. ``wall``: seconds since the
    epoch, for schedules. ``deployed``: when the last deployment ended, on the clock of `Scaler.decide`.
    """

    current: int
    workers: tuple[Worker, ...] = ()
    readings: Mapping[str, Reading] = field(default_factory=dict)
    demand: Mapping[str, float] = field(default_factory=dict)
    wall: float | None = None
    deployed: float = -math.inf


class Code(StrEnum):
    """Why a decision is what it is. In brackets: the condition that an HPA shows."""

    DISABLED = "disabled"
    """No workers at all: somebody has switched scaling off (ScalingDisabled)."""
    ABOVE_LIMIT = "above limit"
    BELOW_LIMIT = "below limit"
    UNMEASURED = "unmeasured"
    """No metric could be read (FailedGet…Metric)."""
    PARTLY_UNMEASURED = "partly unmeasured"
    """Fewer workers were asked for, but not every metric could be read (FailedGet…Metric)."""
    ABOVE_TARGET = "above target"
    BELOW_TARGET = "below target"
    ON_TARGET = "on target"
    SCHEDULED = "scheduled"
    FORECAST = "forecast"
    STABILIZED = "stabilized"
    """An earlier wish inside a window holds it back (ScaleUpStabilized, ScaleDownStabilized)."""
    RATE_LIMITED = "rate limited"
    """The rates hold it back (ScaleUpLimit, ScaleDownLimit)."""
    AT_MOST = "at most"
    """More was asked for than there may be (TooManyReplicas)."""
    AT_LEAST = "at least"
    """Less was asked for than there must be (TooFewReplicas)."""
    DEPLOYED = "deployed"
    """The pause after a deployment holds it back."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One step on the way to a decision: ``code`` for a program, ``text`` for a person."""

    code: Code
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be now.

    ``wish`` is what was asked for before windows, rates and limits; ``proposals`` by whom; ``unmeasured`` the targets
    that could not be read, with why; ``reasons`` in the order in which they took effect, never empty.
    """

    current: int
    desired: int
    wish: int
    reasons: tuple[Reason, ...]
    proposals: tuple[Proposal, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    @property
    def change(self) -> int:
        """How many workers more."""
        return self.desired - self.current

    @property
    def direction(self) -> Literal["out", "in", "none"]:
        """Which way."""
        return "out" if self.change > 0 else "in" if self.change < 0 else "none"

    @property
    def codes(self) -> tuple[Code, ...]:
        """Of the reasons."""
        return tuple(reason.code for reason in self.reasons)

    def __str__(self) -> str:
        return f"{self.current} -> {self.desired} workers: {'; '.join(reason.text for reason in self.reasons)}"


class Scaler:
    """Decides by one policy, again and again, and remembers what its windows and rates need.

    Decisions count as carried out: what `decide` says is what the rates go by afterwards.
    """

    __slots__ = ("_history", "_readiness", "policy")

    def __init__(self, policy: ScalePolicy) -> None:
        self.policy = policy
        self._history = History(policy.behavior)
        self._readiness = Readiness(float(policy.cpu_initialization), float(policy.readiness_delay))

    def decide(self, seen: Observed, now: float) -> Decision:
        """What to do at ``now``, in seconds on a clock that never goes back."""
        current, policy = whole_number(seen.current, "current workers"), self.policy
        self._history.begin(current, now)
        if current == 0:
            return _final(0, 0, 0, Reason(Code.DISABLED, "there are no workers: scaling is switched off"))
        if current > policy.most:
            decision = _final(current, policy.most, policy.most, Reason(Code.ABOVE_LIMIT, f"at most {policy.most}"))
        elif current < policy.least:
            decision = _final(current, policy.least, policy.least, Reason(Code.BELOW_LIMIT, f"at least {policy.least}"))
        else:
            decision = self._by_metrics(seen, now)
        self._history.changed(decision.change, now)
        return decision

    def _by_metrics(self, seen: Observed, now: float) -> Decision:
        current = seen.current
        proposals, unmeasured = self._proposals(seen, now)
        best = max(proposals, key=lambda proposal: proposal.desired, default=None)
        wish = self.policy.least if best is None else best.desired
        if unmeasured and (best is None or wish < current):
            code = Code.UNMEASURED if best is None else Code.PARTLY_UNMEASURED
            text = "; ".join(f"{name}: {why}" for name, why in unmeasured.items())
            return Decision(current, current, wish, (Reason(code, text),), tuple(proposals), unmeasured)
        reasons = [self._why(best, current)]
        desired = self._normalised(wish, current, now, reasons)
        if desired < current and now - seen.deployed < float(self.policy.deploy_cooldown):
            reasons.append(Reason(Code.DEPLOYED, "no worker is removed so soon after a deployment"))
            desired = current
        return Decision(current, desired, wish, tuple(reasons), tuple(proposals), unmeasured)

    def _proposals(self, seen: Observed, now: float) -> tuple[list[Proposal], dict[str, str]]:
        found: list[Proposal] = []
        unmeasured: dict[str, str] = {}
        for target in self.policy.targets:
            answer = propose(
                target,
                seen.readings.get(target.name, _UNMEASURED),
                seen.workers,
                seen.current,
                now=now,
                tolerance=self.policy.behavior.tolerance,
                readiness=self._readiness,
            )
            if isinstance(answer, Unavailable):
                unmeasured[target.name] = answer.why
            else:
                found.append(answer)
            if target.name in seen.demand:
                found.append(_expected(target, seen.demand[target.name]))
        for schedule in self.policy.schedules:
            if seen.wall is None:
                unmeasured[schedule.name] = "the time of day is not known"
            elif schedule.active(seen.wall):
                found.append(Proposal(schedule.name, schedule.workers, math.nan, f"from {schedule.start}", "schedule"))
        return found, unmeasured

    def _why(self, best: Proposal | None, current: int) -> Reason:
        if best is None:
            return Reason(Code.BELOW_TARGET, "no schedule is active")
        text = f"{best.source}: {best.why}, {best.desired} workers"
        if best.origin != "target":
            return Reason(Code.SCHEDULED if best.origin == "schedule" else Code.FORECAST, text)
        if best.desired == current:
            return Reason(Code.ON_TARGET, text)
        return Reason(Code.ABOVE_TARGET if best.desired > current else Code.BELOW_TARGET, text)

    def _normalised(self, wish: int, current: int, now: float, reasons: list[Reason]) -> int:
        stable = self._history.stabilised(wish, current, now)
        if stable != wish:
            which = "lower" if stable < wish else "higher"
            reasons.append(Reason(Code.STABILIZED, f"{stable} because of {which} wishes before"))
        if stable > current:
            rate, limit = self._history.ceiling(current, now), self.policy.most
            if stable > min(rate, limit):
                code, text = (Code.RATE_LIMITED, "so fast") if rate < limit else (Code.AT_MOST, "ever")
                reasons.append(Reason(code, f"no more than {min(rate, limit)} {text}"))
            return min(stable, rate, limit)
        if stable < current:
            rate, limit = self._history.floor(current, now), self.policy.least
            if stable < max(rate, limit):
                code, text = (Code.RATE_LIMITED, "so fast") if rate > limit else (Code.AT_LEAST, "ever")
                reasons.append(Reason(code, f"no fewer than {max(rate, limit)} {text}"))
            return max(stable, rate, limit)
        return current

    def __repr__(self) -> str:
        return f"<Scaler {self.policy.least}..{self.policy.most} workers>"


def _expected(target: Target, demand: float) -> Proposal:
    """What ``target`` will ask for when all workers together have ``demand`` of it."""
    if target.kind == "value":
        raise MisuseError(
            f"demand of {target.name}: expected a target of another kind than value, because what it will be depends "
            "on the number of workers"
        )
    share = target.goal / 100 * thousandths(float(target.request or 0)) if target.request else target.goal
    wished = thousandths(demand) / share
    return Proposal(target.name, math.ceil(wished), math.nan, f"expected {wished:.3g} × the target of one", "forecast")


def _final(current: int, desired: int, wish: int, reason: Reason) -> Decision:
    return Decision(current, desired, wish, (reason,))
