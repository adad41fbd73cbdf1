"""A client: its own view of the servers, its own pick, its time-outs and its retries.

Each client counts only what *it* has in flight, as a process that balances for itself does: with many clients the
counts are small and say little, which is what aperture and subsetting are about. A try that fails goes on to the next
in the pick's order, never to an endpoint tried before, as long as tries and the retry budget (`tenfold.resilience`)
last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import Draw, Pick, Request
from tenfold.resilience.budget import Purse
from tenfold.simulate.events import Timeline
from tenfold.simulate.oversight import Oversight
from tenfold.simulate.recorder import Recorder
from tenfold.simulate.servers import REFUSED, Attempt, Server

TIMEOUT: Final = "timeout"
NO_ENDPOINT: Final = "no endpoint"


class Call:
    """One request of a client, over all its tries."""

    __slots__ = ("began", "request", "tried")

    def __init__(self, request: Request, began: float) -> None:
        self.request = request
        self.began = began
        self.tried: list[str] | None = None


class Client:
    """One balancing client. ``attempts`` is tries in all, ``timeout`` seconds for each, ``delays`` one-way seconds to
    each server's zone.
    """

    __slots__ = (
        "_armed",
        "_attempts",
        "_delays",
        "_draw",
        "_expiring",
        "_pick",
        "_purse",
        "_recorder",
        "_servers",
        "_timeline",
        "_timeout",
        "oversight",
        "zone",
    )

    def __init__(
        self,
        timeline: Timeline,
        servers: Mapping[str, Server],
        pick: Pick,
        oversight: Oversight,
        recorder: Recorder,
        draw: Draw,
        *,
        timeout: float,
        attempts: int = 1,
        purse: Purse | None = None,
        zone: str = "",
        delays: Mapping[str, float] | None = None,
    ) -> None:
        self.zone: Final = zone
        self.oversight: Final = oversight
        self._timeline = timeline
        self._servers = servers
        self._pick = pick
        self._recorder = recorder
        self._draw = draw
        self._timeout = timeout
        self._attempts = attempts
        self._purse = purse
        self._delays = delays
        self._expiring: Final[deque[Attempt]] = deque()
        self._armed = False

    @property
    def members(self) -> Sequence[Member]:
        """All endpoints as this client sees them, usable or not."""
        return self.oversight.members

    def call(self, now: float, request: Request) -> None:
        """Make a request and see it through."""
        self._recorder.arrived(now)
        purse = self._purse
        if purse is not None and purse.hungry:
            purse.deposit()
        self._try(now, Call(request, now), "")

    def _try(self, now: float, call: Call, last: str) -> None:
        tried = call.tried
        for member in self._pick.order(now, self._draw, call.request):
            if tried is None or member.id not in tried:
                break
        else:
            if last:
                self._recorder.failed(now, call.began, last)
            else:
                self._recorder.refused(now, call.began, NO_ENDPOINT)
            return
        server = self._servers[member.id]
        if self.zone and server.zone != self.zone:
            self._recorder.crossed += 1
        delay = self._delays[server.zone] if self._delays is not None else 0.0
        attempt = Attempt(call, member, server, now, self._ended if not delay else self._ended_far)
        attempt.deadline = now + self._timeout
        expiring = self._expiring
        while expiring and expiring[0].done:
            expiring.popleft()
        expiring.append(attempt)
        if not self._armed:
            self._armed = True
            self._timeline.at(attempt.deadline, self._expire)
        member.in_flight += 1
        self._pick.started(member, now)
        if delay:
            self._timeline.at(now + delay, server.offer, attempt)
        else:
            server.offer(now, attempt)

    def _ended_far(self, now: float, attempt: Attempt, fault: str) -> None:
        assert self._delays is not None
        self._timeline.at(now + self._delays[attempt.server.zone], self._arrived, (attempt, fault))

    def _arrived(self, now: float, answer: tuple[Attempt, str]) -> None:
        self._ended(now, *answer)

    def _ended(self, now: float, attempt: Attempt, fault: str) -> None:
        if attempt.done:
            return  # given up while the answer was under way
        attempt.done = True
        member: Member = attempt.member
        member.in_flight -= 1
        elapsed = now - attempt.sent
        ok = not fault
        self._pick.finished(member, now, elapsed, ok)
        oversight = self.oversight
        if oversight.records:
            oversight.record(member, now, ok, elapsed)
        call: Call = attempt.call
        if ok:
            self._recorder.answered(now, call.began)
        else:
            self._again(now, call, member, fault)

    def _again(self, now: float, call: Call, member: Member, fault: str) -> None:
        self._recorder.fault(fault)
        if call.tried is None:
            call.tried = [member.id]
        else:
            call.tried.append(member.id)
        # As a balancer does it: where nothing was sent, the next try repeats no work and costs nothing.
        if len(call.tried) < self._attempts and (fault == REFUSED or self._afford(now)):
            self._recorder.retries += 1
            self._try(now, call, fault)
        else:
            self._recorder.failed(now, call.began, fault)

    def _afford(self, now: float) -> bool:
        purse = self._purse
        if purse is None:
            return True
        held = purse.reserve(now)
        return held is not None and purse.confirm(held, now)

    def _expire(self, now: float, _: object) -> None:
        """All tries have the same time-out, so deadlines rise along the queue and one event serves them all."""
        expiring = self._expiring
        while expiring and (expiring[0].done or expiring[0].deadline <= now):
            attempt = expiring.popleft()
            if not attempt.done:
                attempt.server.leave(now, attempt)
                self._ended(now, attempt, TIMEOUT)
        self._armed = bool(expiring)
        if expiring:
            self._timeline.at(expiring[0].deadline, self._expire)
