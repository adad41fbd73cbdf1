"""From a scenario to a result: the same traffic under each policy.

Streams of chance are derived from the seed by name: arrivals, work and keys are the same for every policy as long as no
try is repeated (common random numbers, Law, ch. 11), so that a difference between policies is not one of luck.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import accumulate
from random import Random
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.rng import derive
from tenfold._core.units import duration, rate, share
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.pick.base import ANY, Request
from tenfold.balance.slow_start import SlowStart
from tenfold.resilience.budget import Budget, Purse
from tenfold.simulate.arrivals import Steps
from tenfold.simulate.clients import Client
from tenfold.simulate.events import Timeline
from tenfold.simulate.faults import schedule
from tenfold.simulate.oversight import Oversight
from tenfold.simulate.policies import PickFactory, Place, factory, options
from tenfold.simulate.recorder import Recorder
from tenfold.simulate.result import PolicyResult, Result, ServerResult
from tenfold.simulate.scenario import Scenario, ScenarioError, label_of
from tenfold.simulate.servers import Server

POINTS: Final = 120
"""About so many intervals a run is cut into for its curves."""
MOST_POINTS: Final = 10_000
"""After so many points they lie twice as far apart, and so on: a curve has a bound, however long the run."""


def simulate(
    scenario: Scenario,
    picks: Mapping[str, PickFactory] | None = None,
    *,
    on_policy: Callable[[str], None] | None = None,
) -> Result:
    """Run the scenario once for each policy, from the same seed.

    ``picks``: policies of one's own, by label, instead of the scenario's. ``on_policy`` is told each label before it
    runs. Raises `ScenarioError` for what cannot be simulated.
    """
    if picks is None:
        picks = {label_of(spec): factory(spec, f"policies[{number}]") for number, spec in enumerate(scenario.policies)}
    found = []
    for label, make in picks.items():
        if on_policy is not None:
            on_policy(label)
        try:
            found.append(_Run(scenario, label, make).result())
        except ScenarioError:
            raise
        except MisuseError as exc:  # for example a pick that needs what the requests lack
            hint = "; requests have keys with keys = 10000 under [clients]" if "key=" in str(exc) else ""
            raise ScenarioError(f"{exc}{hint}", label) from exc
    return Result(scenario=scenario.name, seed=scenario.seed, policies=found)


class _Run:
    """One policy under one scenario."""

    def __init__(self, scenario: Scenario, label: str, make: PickFactory) -> None:
        self.scenario = scenario
        self.label = label
        self.timeline = Timeline()
        self.recorder = Recorder(self.timeline, duration(scenario.warmup))
        self.endpoints, self.servers = self._serving()
        try:
            schedule(scenario.fault, list(self.servers.values()), self.timeline)
        except MisuseError as exc:
            raise ScenarioError(str(exc)) from exc
        self.clients = self._calling(make)
        self._width = self._interval()
        self._traffic()

    def result(self) -> PolicyResult:
        """Let it happen, and count."""
        self.timeline.at(self._width, self._tick)
        self.timeline.run()
        return self._counted()

    # -- the cast -----------------------------------------------------------------------------------------------

    def _serving(self) -> tuple[list[Endpoint], dict[str, Server]]:
        scenario = self.scenario
        common = scenario.service.sampler(derive(scenario.seed, "service"))
        endpoints, servers = [], {}
        for group in scenario.servers:
            own = group.service.sampler(derive(scenario.seed, "service", group.id)) if group.service else common
            for id in group.ids():
                endpoints.append(
                    Endpoint(
                        id, "http://simulated.invalid", weight=group.weight, zone=group.zone, priority=group.priority
                    )
                )
                servers[id] = Server(
                    id,
                    self.timeline,
                    own,
                    workers=group.workers,
                    queue=group.queue,
                    zone=group.zone,
                    factor=group.factor,
                    cancels=group.cancels,
                )
        return endpoints, servers

    def _calling(self, make: PickFactory) -> list[Client]:
        scenario, asked = self.scenario, self.scenario.clients
        eject = None if scenario.eject is None else options(OutlierEjection, scenario.eject, "eject")
        slow = None if scenario.slow_start is None else options(SlowStart, scenario.slow_start, "slow_start")
        zones = sorted({server.zone for server in self.servers.values()})
        near = duration(scenario.network.same_zone)
        far = near if scenario.network.cross_zone is None else duration(scenario.network.cross_zone)
        allowed = share(asked.budget)
        clients = []
        for number in range(asked.count):
            zone = asked.zones[number % len(asked.zones)] if asked.zones else ""
            draw = derive(scenario.seed, "client", number).random
            pick = make(Place(number, asked.count, zone))
            oversight = Oversight(
                number,
                self.timeline,
                self.endpoints,
                self.servers,
                pick,
                self.recorder,
                draw,
                panic=share(asked.panic),
                check=scenario.check,
                eject=eject,
                slow_start=slow,
            )
            client = Client(
                self.timeline,
                self.servers,
                pick,
                oversight,
                self.recorder,
                draw,
                timeout=duration(asked.timeout),
                attempts=asked.attempts if allowed else 1,
                purse=None if allowed in (0, 1) else Purse(Budget(share=allowed)),
                zone=zone,
                delays={one: near if one == zone else far for one in zones} if near or far else None,
            )
            clients.append(client)
        return clients

    # -- the traffic --------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        """Put the first arrival down; each one puts down the next. Traffic is spread over the clients at random, so
        that each of them sees a Poisson process if all of them together do.
        """
        scenario, timeline, clients = self.scenario, self.timeline, self.clients
        following = scenario.arrivals.gaps(derive(scenario.seed, "arrivals"))
        last = math.inf if scenario.duration is None else duration(scenario.duration)
        most = math.inf if scenario.requests is None else scenario.requests
        spread = derive(scenario.seed, "spread").random
        only = clients[0] if len(clients) == 1 else None
        size = len(clients)
        zones = dict.fromkeys(client.zone for client in clients)
        asks = {zone: _requests(scenario, zone, derive(scenario.seed, "keys", zone)) for zone in zones}
        first = asks[clients[0].zone]

        def arrive(now: float, number: int) -> None:
            if only is not None:
                client, ask = only, first
            else:
                client = clients[int(spread() * size)]
                ask = asks[client.zone]
            upcoming = following(now)
            if number < most and upcoming <= last and upcoming < math.inf:
                timeline.at(upcoming, arrive, number + 1)
            else:
                self._close(now)
            client.call(now, ask())

        begin = following(0.0)
        if begin > last or begin == math.inf:
            self._close(0.0)
            timeline.at(0.0, lambda _now, _subject: timeline.stop())
        else:
            timeline.at(begin, arrive, 1)

    def _close(self, now: float) -> None:
        self.recorder.closing = True
        self.timeline.at(now + duration(self.scenario.drain), lambda _now, _subject: self.timeline.stop())

    def _interval(self) -> float:
        """The width of a point of the curves: as asked, or so that there are about `POINTS`."""
        scenario = self.scenario
        if scenario.interval is not None:
            return duration(scenario.interval)
        spans = [] if scenario.duration is None else [duration(scenario.duration)]
        if scenario.requests is not None:
            arrivals = scenario.arrivals
            rates = [rate(s.rate) for s in arrivals.steps] if isinstance(arrivals, Steps) else [rate(arrivals.rate)]
            spans.append(scenario.requests / max(rates))
        return min(spans) / POINTS

    def _tick(self, now: float, _: object) -> None:
        self.recorder.tick(now, self._width)
        if len(self.recorder.series) % MOST_POINTS == 0:
            self._width *= 2
        self.timeline.at(now + self._width, self._tick)

    # -- the count ----------------------------------------------------------------------------------------------

    def _counted(self) -> PolicyResult:
        recorder, now = self.recorder, self.timeline.now
        weights = {endpoint.id: endpoint.weight for endpoint in self.endpoints}
        rows = [
            ServerResult(
                id=server.id,
                zone=server.zone,
                weight=weights[server.id],
                taken=server.taken,
                answered=server.answered,
                refused=server.refused,
                reset=server.reset,
                wasted=server.wasted,
                peak=server.peak,
                mean_in_system=server.mean_in_system(now),
                mean_wait=server.waited / server.started if server.started else 0.0,
                utilisation=server.utilisation(now),
            )
            for server in self.servers.values()
        ]
        started = sum(server.started for server in self.servers.values())
        loads = [(row.taken + row.refused) / row.weight for row in rows if row.weight]
        sent = sum(row.taken + row.refused for row in rows)
        even = sent / math.fsum(weights.values())
        return PolicyResult(
            policy=self.label,
            arrived=recorder.arrivals,
            answered=recorder.answers,
            failed=sum(recorder.failures.values()),
            refused=sum(recorder.refusals.values()),
            in_flight=recorder.open,
            errors=dict(sorted({**recorder.failures, **recorder.refusals}.items())),
            faults=dict(sorted(recorder.faults.items())),
            retries=recorder.retries,
            latency=recorder.latency(),
            mean_wait=math.fsum(server.waited for server in self.servers.values()) / started if started else 0.0,
            max_in_flight=max(row.peak for row in rows),
            imbalance=max(loads) / even if even else 0.0,
            cross_zone=recorder.crossed / sent if sent else 0.0,
            seconds=now,
            events=self.timeline.fired,
            series=recorder.series,
            changes=recorder.changes,
            changes_left_out=recorder.skipped_changes,
            servers=rows,
        )


def _requests(scenario: Scenario, zone: str, random: Random) -> Callable[[], Request]:
    """What makes the requests of a client in ``zone``: with keys, by their popularity, or all the same."""
    count = scenario.clients.keys
    if not count:
        same = Request(zone=zone) if zone else ANY
        return lambda: same
    made = [
        Request(key=f"key-{n}", client=f"198.{18 + n // 65536 % 2}.{n // 256 % 256}.{n % 256}", zone=zone)
        for n in range(count)
    ]
    draw, exponent = random.random, scenario.clients.zipf
    if not exponent:
        return lambda: made[int(draw() * count)]
    edges = list(accumulate((n + 1) ** -exponent for n in range(count)))
    total = edges[-1]
    return lambda: made[bisect(edges, draw() * total)]
