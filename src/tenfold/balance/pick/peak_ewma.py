"""Peak EWMA: of two members drawn at random, the one that is expected to answer sooner.

Finagle's load metric. A member's latency is an exponentially weighted moving average over time that takes a peak at
once: a sample above the average replaces it, one below it pulls it down by ``1 - exp(-dt / tau)``. So one slow answer
is enough to turn the traffic away, and only time brings it back. While nothing comes from a member its average decays
towards nothing, which is optimism: a server that was slow once gets no requests, so nothing else would ever give it
another chance. The cost is latency × (in flight + 1) / weight, and two choices keep a pick O(1).

A member of which nothing is known yet costs nothing while it is idle, and ``penalty`` for each request under way there
until it has answered one: it is tried once, not by everybody at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, format_duration
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.lazily import Lazy, by_two_choices


class Latency:
    """What is known of one member: the average as of ``at``. Stands in `Member.state`."""

    __slots__ = ("at", "average")

    def __init__(self) -> None:
        self.average = 0.0
        self.at = 0.0


class PeakEWMA(Lazy):
    """Of two drawn members the one with the less latency × (in flight + 1) / weight.

    ``tau`` (10 s) is how fast a latency is forgotten: to 37 % in that time. ``penalty`` (1 s) is what a failure counts
    as at least, since a server that refuses quickly must not look fast, and what a request under way at a member that
    never answered counts as. A request that was given up says that the latency is *at least* as long.

    Raises `MisuseError` for a tau of nothing.
    """

    name = "peak_ewma"

    def __init__(self, *, tau: Duration = 10.0, penalty: Duration = 1.0) -> None:
        self.tau = duration(tau, "PeakEWMA tau")
        self.penalty = duration(penalty, "PeakEWMA penalty")
        if self.tau == 0:
            raise MisuseError('PeakEWMA tau: expected a time to forget in, such as "10s", got 0')
        self._rate = 1.0 / self.tau

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        for member in self.members:
            if type(member.state) is not Latency:
                member.state = Latency()

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        latency = member.state
        if type(latency) is not Latency:
            return
        kept = exp((latency.at - now) * self._rate) if latency.at < now else 1.0
        average = latency.average * kept
        if ok is False and elapsed < self.penalty:
            elapsed = self.penalty
        if elapsed >= average:
            latency.average = elapsed
        elif ok is None:
            return
        else:
            latency.average = average + (elapsed - average) * (1.0 - kept)
        if latency.at < now:
            latency.at = now

    def cost(self, member: Member, now: float) -> float:
        """Latency × (in flight + 1) / weight, in seconds: the less the better."""
        latency: Latency = member.state  # type: ignore[assignment] # rebuild put it there
        average, past = latency.average, latency.at - now
        if average:
            return (average * exp(past * self._rate) if past < 0 else average) * (member.in_flight + 1) / member.weight
        return self.penalty * member.in_flight / member.weight

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        members = self.members
        count = len(members)
        i = int(draw() * count)
        one = members[i]
        if count == 1:
            return one
        j = int(draw() * (count - 1))
        other = members[j + 1 if j >= i else j]
        return other if self.cost(other, now) < self.cost(one, now) else one

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        left = [member for member in self.members if member is not first]
        return by_two_choices(left, lambda member: self.cost(member, now), draw)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        found = sorted((self.cost(member, now), member.id, member) for member in self.members)
        return [Reason(who, cost, self._because(member, now)) for cost, who, member in found]

    def _because(self, member: Member, now: float) -> str:
        load = f"{member.in_flight} in flight at weight {member.weight:g}"
        latency: Latency = member.state  # type: ignore[assignment]
        if not latency.average:
            return f"has not answered yet, {load}"
        silent = max(0.0, now - latency.at)
        average = latency.average * exp(-silent * self._rate)
        return f"about {format_duration(average)} (heard of {format_duration(silent)} ago), {load}"
