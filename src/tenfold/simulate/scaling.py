"""Workers that come and go: the autoscaler's own policy in a closed loop, on the virtual clock.

A request goes to the ready worker with the fewest, the eldest of them; it waits in that worker's queue, as behind a
balancer that holds nothing back, and what waits there stays there when others come. A worker costs from the decision to
start it; one that is to leave takes no more and ends when it is empty. The policy sees means over its own period, as
one that reads counters does. Arrivals and work are the same for every policy (common random numbers), in the order in
which requests start.
"""

from __future__ import annotations

import math
from itertools import pairwise

from tenfold._core.rng import derive
from tenfold._core.units import duration
from tenfold.autoscale import Observed, PerWorker, Reading, Sample, ScalePolicy, Scaler, Total, Unavailable, Worker
from tenfold.autoscale.export.azure import RATE
from tenfold.simulate.agree import first_difference
from tenfold.simulate.events import Timeline
from tenfold.simulate.scaling_result import Point, ScaleResult, ScalingResult
from tenfold.simulate.scaling_scenario import Scale, ScalingScenario
from tenfold.simulate.servers import Attempt, Server


def simulate_scaling(scenario: ScalingScenario) -> ScalingResult:
    """Run the scenario once for each of its policies, from the same seed."""
    return ScalingResult(
        scenario=scenario.name,
        seed=scenario.seed,
        slo=duration(scenario.slo),
        policies=[_Run(scenario, spec).result() for spec in scenario.scale],
    )


class _Crew:
    """One worker: its server, when it was ordered, and what it had worked when it was last looked at."""

    __slots__ = ("area", "leaving", "ordered", "ready", "seen", "server")

    def __init__(self, server: Server, now: float, ready: bool) -> None:
        self.server = server
        self.ordered = now
        self.ready = ready
        self.leaving = False
        self.seen = now
        self.area = 0.0

    def mean(self, now: float) -> float:
        """Mean in flight since this was last asked."""
        area = self.server.mean_in_system(now) * now
        width, work = now - self.seen, area - self.area
        self.seen, self.area = now, area
        return work / width if width > 0 else float(self.server.in_system)


class _Run:
    """One policy under one scenario."""

    def __init__(self, scenario: ScalingScenario, spec: Scale) -> None:
        self.scenario, self.spec = scenario, spec
        self.slo, self.period = duration(scenario.slo), spec.seconds
        self.policy: ScalePolicy = spec.exported()
        self.scaler = Scaler(self.policy)
        self.timeline = Timeline()
        self.work = scenario.service.sampler(derive(scenario.seed, "service"))
        self.crew: list[_Crew] = []
        self.made = self.wanted = 0
        self.arrived = self.good = self.late = self.refused = 0
        self.seconds = 0.0
        self.fresh: list[float] = []
        self.fresh_arrived = self.fresh_ended = self.fresh_good = 0
        self.points: list[Point] = []
        self.totals: list[tuple[float, dict[str, float]]] = []

    def result(self) -> ScaleResult:
        """Let it happen, and count."""
        begin = self.scenario.workers.begin or self.policy.least
        for _ in range(begin):
            self._hire(0.0, ready=True)
        self._traffic()
        self.timeline.at(self.period, self._decide)
        self.timeline.run()
        now = self.timeline.now
        self.seconds += sum(now - one.ordered for one in self.crew)
        moves = [b.wanted - a.wanted for a, b in pairwise(self.points) if b.wanted != a.wanted]
        if self.points and self.points[0].wanted != begin:
            moves.insert(0, self.points[0].wanted - begin)
        difference = None
        if self.spec.export:
            difference = first_difference(
                self.spec.policy(), self.policy, self.totals, current=begin, begins=self._wall(0.0)
            )
        return ScaleResult(
            label=self.spec.label,
            arrived=self.arrived,
            good=self.good,
            late=self.late,
            refused=self.refused,
            worker_seconds=self.seconds,
            most=max((point.wanted for point in self.points), default=begin),
            changes=len(moves),
            turns=sum(1 for a, b in pairwise(moves) if a * b < 0),
            agrees=None if not self.spec.export else difference is None,
            difference="" if difference is None else str(difference),
            points=self.points,
        )

    # -- requests -----------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        following = self.scenario.arrivals.gaps(derive(self.scenario.seed, "arrivals"))
        last = duration(self.scenario.duration)

        def arrive(now: float, _: object) -> None:
            upcoming = following(now)
            if upcoming <= last:
                self.timeline.at(upcoming, arrive)
            self._send(now)

        first = following(0.0)
        if first <= last:
            self.timeline.at(first, arrive)

    def _send(self, now: float) -> None:
        self.arrived += 1
        self.fresh_arrived += 1
        one = min((one for one in self.crew if one.ready and not one.leaving), key=lambda one: one.server.in_system)
        one.server.offer(now, Attempt(None, one, one.server, now, self._ended))

    def _ended(self, now: float, attempt: Attempt, fault: str) -> None:
        self.fresh_ended += 1
        if fault:
            self.refused += 1
            return
        elapsed = now - attempt.sent
        self.fresh.append(elapsed)
        if elapsed <= self.slo:
            self.good += 1
            self.fresh_good += 1
        else:
            self.late += 1
        one: _Crew = attempt.member
        if one.leaving and not one.server.in_system:
            self._gone(now, one)

    # -- workers ------------------------------------------------------------------------------------------------

    def _hire(self, now: float, *, ready: bool) -> None:
        asked = self.scenario.workers
        server = Server(f"w{self.made}", self.timeline, self.work, workers=asked.limit, queue=asked.queue)
        self.made += 1
        self.wanted += 1
        one = _Crew(server, now, ready)
        self.crew.append(one)
        if not ready:
            self.timeline.at(now + duration(asked.starts_in), self._ready, one)

    def _ready(self, now: float, one: _Crew) -> None:
        one.ready, one.seen = True, now

    def _dismiss(self, now: float) -> None:
        """One that is not ready yet, the youngest; else the one with the fewest requests."""
        staying = [one for one in self.crew if not one.leaving]
        one = min(reversed(staying), key=lambda one: (one.ready, one.server.in_system))
        one.leaving = True
        self.wanted -= 1
        if not one.server.in_system:
            self._gone(now, one)

    def _gone(self, now: float, one: _Crew) -> None:
        self.crew.remove(one)
        self.seconds += now - one.ordered

    # -- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, now: float, _: object) -> None:
        ready = [one for one in self.crew if one.ready and not one.leaving]
        means = {one.server.id: one.mean(now) for one in ready}
        rate, in_flight = self.fresh_arrived / self.period, math.fsum(means.values())
        p95 = _quantile(self.fresh, 0.95)
        seen: dict[str, float] = {"in_flight": in_flight, RATE: rate}
        if p95 is not None:
            seen["p95_seconds"] = p95
        look = Observed(
            current=self.wanted,
            workers=tuple(
                Worker(
                    one.server.id,
                    "stopping" if one.leaving else "running" if one.ready else "pending",
                    one.ready,
                    one.ordered,
                )
                for one in self.crew
            ),
            readings=self._readings(means, seen),
            wall=self._wall(now),
        )
        decision = self.scaler.decide(look, now)
        for _number in range(decision.change):
            self._hire(now, ready=False)
        for _number in range(-decision.change):
            self._dismiss(now)
        good = self.fresh_good / self.fresh_ended if self.fresh_ended else None
        self.points.append(
            Point(
                at=now, ready=len(ready), wanted=decision.desired, rate=rate, in_flight=in_flight, p95=p95, good=good,
                why=str(decision.codes[-1]),
            )
        )  # fmt: skip
        self.totals.append((now, seen))
        self.fresh = []
        self.fresh_arrived = self.fresh_ended = self.fresh_good = 0
        if now + self.period <= duration(self.scenario.duration):
            self.timeline.at(now + self.period, self._decide)

    def _readings(self, means: dict[str, float], seen: dict[str, float]) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        for target in self.policy.targets:
            if target.per_worker:
                found[target.name] = PerWorker({name: Sample(value) for name, value in means.items()})
            elif target.name in seen:
                found[target.name] = Total(seen[target.name])
            else:
                found[target.name] = Unavailable("nothing was answered")
        return found

    def _wall(self, now: float) -> float | None:
        begins = self.scenario.begins
        return None if begins is None else begins.timestamp() + now


def _quantile(values: list[float], q: float) -> float | None:
    return sorted(values)[math.ceil(q * len(values)) - 1] if values else None
