"""Which endpoints one client may use: the very `Health`, `Ejector` and `SlowStart` of the balancer, on virtual time.

A check here is an event without a duration of its own: a server that is down fails it at once, a frozen one after the
time-out, any other passes; it does not stand in the server's queue. With fewer usable endpoints than the panic share
all are used, because to send everything to the last two would only kill these as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tenfold._core.units import duration
from tenfold.balance.ejector import Ejector
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.health import Health
from tenfold.balance.outlier import Ejected, OutlierEjection
from tenfold.balance.pick.base import Draw, Pick
from tenfold.balance.slow_start import SlowStart
from tenfold.simulate.events import Timeline
from tenfold.simulate.recorder import Recorder
from tenfold.simulate.scenario import Checks
from tenfold.simulate.servers import Server

RAMP_STEPS: Final = 20
SWEEP: Final = 0.1


class Oversight:
    """Keeps a pick supplied with the members that may be used, and tells the recorder of changes."""

    __slots__ = (
        "_balanced",
        "_draw",
        "_ejector",
        "_health",
        "_interval",
        "_number",
        "_panic",
        "_panicking",
        "_patience",
        "_pick",
        "_recorder",
        "_servers",
        "_since",
        "_slow_start",
        "_timeline",
        "members",
        "records",
    )

    def __init__(
        self,
        number: int,
        timeline: Timeline,
        endpoints: Sequence[Endpoint],
        servers: Mapping[str, Server],
        pick: Pick,
        recorder: Recorder,
        draw: Draw,
        *,
        panic: float = 0.5,
        check: Checks | None = None,
        eject: OutlierEjection | None = None,
        slow_start: SlowStart | None = None,
    ) -> None:
        self.members: Final = [Member(endpoint) for endpoint in sorted(endpoints, key=lambda one: one.id)]
        self.records: Final = eject is not None
        """Whether results of requests are wanted."""
        self._balanced: Final = {member.id: member for member in self.members if member.weight > 0}
        self._number = number
        self._timeline = timeline
        self._servers = servers
        self._pick = pick
        self._recorder = recorder
        self._draw = draw
        self._panic = panic
        self._panicking = False
        self._slow_start = slow_start
        self._since: dict[str, float] = {}  # of who is in slow start
        self._health: dict[str, Health] = {}
        self._interval = self._patience = 0.0
        self._ejector: Ejector | None = None
        if check is not None:
            self._interval, self._patience = duration(check.interval), duration(check.timeout)
            for id in self._balanced:
                self._health[id] = Health(rise=check.rise, fall=check.fall)
                timeline.at(draw() * self._interval, self._check, id)
        if eject is not None:
            self._ejector = Ejector(eject, draw)
            for id in self._balanced:
                self._ejector.add(id)
            timeline.at(0.0, self._sweep)
        pick.declare(list(self._balanced.values()))
        self._refresh(0.0)

    def record(self, member: Member, now: float, ok: bool, elapsed: float) -> None:
        """A try has ended."""
        ejector = self._ejector
        if ejector is not None and ejector.record(member.id, now, ok, elapsed):
            self._judge(now)

    # -- checks -------------------------------------------------------------------------------------------------

    def _check(self, now: float, id: str) -> None:
        server = self._servers[id]
        if server.up and not server.pace:
            self._timeline.at(now + self._patience, self._late, id)
        else:
            self._observe(now, id, server.up)
        self._timeline.at(now + self._interval, self._check, id)

    def _late(self, now: float, id: str) -> None:
        server = self._servers[id]
        self._observe(now, id, server.up and server.pace > 0)

    def _observe(self, now: float, id: str, ok: bool) -> None:
        health = self._health[id]
        if health.observe(ok, now):
            if health.up:
                self._back(now, id)
            self._recorder.changed(now, self._number, id, "up" if health.up else "down")
            self._refresh(now)

    # -- ejection -----------------------------------------------------------------------------------------------

    def _sweep(self, now: float, _: object) -> None:
        assert self._ejector is not None
        self._judge(now)
        self._timeline.at(max(self._ejector.due, now + SWEEP), self._sweep)

    def _judge(self, now: float) -> None:
        assert self._ejector is not None
        told = self._ejector.sweep(now)
        for one in told:
            if isinstance(one, Ejected):
                self._recorder.changed(now, self._number, one.id, f"ejected: {one.reason}")
            else:
                self._back(now, one.id)
                self._recorder.changed(now, self._number, one.id, f"returned: {one.reason}")
        if told:
            self._refresh(now)

    # -- slow start and the set ---------------------------------------------------------------------------------

    def _back(self, now: float, id: str) -> None:
        if self._slow_start is not None:
            if id not in self._since:
                self._timeline.at(now + float(self._slow_start.window) / RAMP_STEPS, self._ramp, id)
            self._since[id] = now

    def _ramp(self, now: float, id: str) -> None:
        assert self._slow_start is not None
        if self._slow_start.factor(self._since[id], now) >= 1:
            del self._since[id]
        else:
            self._timeline.at(now + float(self._slow_start.window) / RAMP_STEPS, self._ramp, id)
        self._refresh(now)

    def _refresh(self, now: float) -> None:
        """Weigh and sort out all members anew, and give the pick those that may be used."""
        ejector, health = self._ejector, self._health
        usable = []
        for id, member in self._balanced.items():
            member.ready = not (id in health and not health[id].up) and not (ejector and ejector.ejected(id))
            member.weight = float(member.endpoint.weight)
            if self._slow_start is not None and id in self._since:
                member.weight *= self._slow_start.factor(self._since[id], now)
            if member.ready:
                usable.append(member)
        panicking = len(usable) < self._panic * len(self._balanced)
        if panicking is not self._panicking:
            self._panicking = panicking
            self._recorder.changed(now, self._number, "*", "panic" if panicking else "calm")
        self._pick.rebuild(list(self._balanced.values()) if panicking else usable)
