"""Zones and priorities: near before far, and the spare ones when the first cannot carry it all.

Zone-aware routing, as Envoy does it. Let c(z) be zone z's share of the clients and s(z) its share of what the usable
members can carry. If every zone kept its traffic, a member in z would get c(z) / s(z) times its fair part. So a client
in z stays at home entirely if s(z) ≥ c(z). Otherwise it stays with probability s(z) / c(z), and the rest goes to the
zones that have something to spare, in proportion to s - c, so that every member everywhere ends up with the same load.

Priorities, as Envoy does them too. A level whose healthy share is h carries min(1, 1.4 × h) of the load: up to two
sevenths of its members may be away before anything spills, since fleets are built with room to spare. What one level
cannot carry goes to the next. When all levels together cannot carry everything, each gets its part of what they can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import Pick, Request
from tenfold.balance.pick.grouped import Grouped


class ZoneAware(Grouped[str]):
    """The caller's zone as far as it can carry that, then the others; inside each by a policy like ``inner`` (`P2C`).

    ``zone`` is where the caller stands if `Request.zone` does not say. ``clients`` is how the clients are spread,
    ``{"eu-1": 10, "eu-2": 5}``; by default evenly over the zones that have members, usable or not.

    Raises `MisuseError` for shares that are none, and at the first member if no zone is known.
    """

    name = "zone_aware"

    def __init__(
        self, inner: Pick | None = None, *, zone: str = "", clients: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(inner)
        if not isinstance(zone, str):
            raise MisuseError(f'ZoneAware zone: expected a zone such as "eu-1", got {zone!r}')
        if clients is not None and (
            not all(_is_number(share) for share in clients.values()) or not sum(clients.values()) > 0
        ):
            raise MisuseError(f'ZoneAware clients: expected a share for each zone, such as {{"a": 2}}, got {clients!r}')
        self.zone = zone
        self.clients = None if clients is None else dict(clients)
        self._plans: dict[str | None, list[tuple[str, float]]] = {}
        self._capacity: dict[str, float] = {}
        self._clients: dict[str, float] = {}

    def _group(self, member: Member) -> str:
        return member.zone

    def _plan(self, groups: dict[str, list[Member]], everybody: Sequence[Member]) -> None:
        total = sum(member.weight for member in self.members)
        self._capacity = {zone: sum(m.weight for m in members) / total for zone, members in groups.items()}
        clients = self.clients or {member.zone: 1.0 for member in (*everybody, *self.members)}
        together = sum(clients.values())
        self._clients = {zone: share / together for zone, share in clients.items()}
        # None: for clients from a zone that nobody has heard of.
        self._plans = {zone: self._planned(zone) for zone in (None, *self._clients, *self._capacity)}

    def _planned(self, local: str | None) -> list[tuple[str, float]]:
        capacity, clients = self._capacity, self._clients
        own, needed = (0.0, 0.0) if local is None else (capacity.get(local, 0.0), clients.get(local, 0.0))
        kept = 0.0 if own == 0.0 else 1.0 if own >= needed else own / needed
        spare = {zone: max(0.0, capacity[zone] - clients.get(zone, 0.0)) for zone in capacity if zone != local}
        if sum(spare.values()) < 1e-12:
            spare = {zone: capacity[zone] for zone in spare}
        together = sum(spare.values())
        if not spare or kept > 1.0 - 1e-12:
            kept = 1.0  # also where rounding leaves a hair
        plan = [(zone, (1.0 - kept) * part / together) for zone, part in spare.items()]
        plan.sort(key=lambda pair: (-pair[1], -capacity[pair[0]], pair[0]))
        return plan if local is None or local not in capacity else [(local, kept), *plan]

    def _shares(self, request: Request) -> list[tuple[str, float]]:
        zone = request.zone or self.zone
        if not zone:
            raise MisuseError(
                'ZoneAware: expected to know where the caller stands, got no zone; give ZoneAware(zone="eu-1") or '
                "Request(zone=…)"
            )
        return self._plans.get(zone) or self._plans[None]

    def _words(self, group: str, share: float) -> str:
        return f"zone {group!r} gets {share:.1%} of this zone's requests"


class Priority(Grouped[int]):
    """The lowest `Endpoint.priority` as far as it can carry the load, then the next; inside each as ``inner`` (`P2C`).

    ``overprovision`` (1.4) is how much more a level could carry than it has to. Needs to be told who is there but may
    not be used (`Pick.declare`); without that a level counts as whole while it has a member.

    Raises `MisuseError` for a factor below 1.
    """

    name = "priority"

    def __init__(self, inner: Pick | None = None, *, overprovision: float = 1.4) -> None:
        super().__init__(inner)
        if not _is_number(overprovision) or overprovision < 1:
            raise MisuseError(f"Priority overprovision: expected 1 or more, such as 1.4, got {overprovision!r}")
        self.overprovision = float(overprovision)
        self._levels: list[tuple[int, float]] = []

    def _group(self, member: Member) -> int:
        return member.priority

    def _plan(self, groups: dict[int, list[Member]], everybody: Sequence[Member]) -> None:
        there: dict[int, float] = {}
        for member in everybody:
            there[member.priority] = there.get(member.priority, 0.0) + member.endpoint.weight
        carries = {}
        for level in sorted(groups):
            # By declared weights: one that is starting slowly is no reason to spill.
            usable = sum(member.endpoint.weight for member in groups[level])
            whole = max(there.get(level, 0.0), usable)
            carries[level] = min(1.0, self.overprovision * usable / whole) if whole > 0 else 1.0
        together = min(1.0, sum(carries.values()))
        left = 1.0
        self._levels = []
        for level, part in carries.items():
            share = min(left, part / together)
            left -= share
            self._levels.append((level, share if share > 1e-12 else 0.0))

    def _shares(self, request: Request) -> list[tuple[int, float]]:
        return self._levels

    def _words(self, group: int, share: float) -> str:
        return f"priority {group} carries {share:.1%} of the load"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
