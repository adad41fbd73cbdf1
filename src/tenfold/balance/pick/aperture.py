"""Aperture: each of many clients talks to a few members only, and all members get the same all the same.

A thousand clients with connections to each of a thousand servers are a million connections, most of them idle. The
deterministic aperture of Finagle lays both around one ring. Members fill it side by side, each as wide as its weight;
client i of N begins at i / N and sees a piece that is a whole number of N-ths wide, just wide enough for ``least``
members. So every point of the ring is seen by the same number of clients, and each member's share of all clients
together is exactly its weight's, which random subsets of that size would miss by far. A member at the edge of a piece
counts with the part that is inside. Between the members of a piece two choices are made, drawn in proportion to these
parts, by the load that they have from here for their part; who is idle is equal, so that chance alone decides and the
shares stay exact.

Members stand on the ring in the order of a hash of their ids, so that neighbours in a list (a rack, a zone) are none on
the ring. Those outside the piece stand in when all inside have failed.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.hashing import hash64
from tenfold.balance.pick.lazily import Lazy, by_two_choices
from tenfold.balance.pick.p2c import load


class Aperture(Lazy):
    """Client ``index`` (0, 1, …) of ``clients`` that balance alike, with ``least`` (12) members each, or a few more.

    Raises `MisuseError` for an index that is none of theirs.
    """

    name = "aperture"

    def __init__(self, *, index: int, clients: int, least: int = 12) -> None:
        self.clients = whole_number(clients, "Aperture clients", least=1)
        self.index = whole_number(index, "Aperture index")
        self.least = whole_number(least, "Aperture least", least=1)
        if index >= clients:
            raise MisuseError(f"Aperture index: expected 0 to {clients - 1} of {clients} clients, got {index}")
        self._inside: list[Member] = []
        self._edges: list[float] = []
        self._parts: dict[str, float] = {}

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        shares = piece(self.members, self.index, self.clients, self.least)
        self._inside = [member for member in self.members if member.id in shares]
        self._parts = shares
        self._edges = list(accumulate(shares[member.id] for member in self._inside))

    def shares(self) -> dict[str, float]:
        """The members of this client's piece, and which part of its requests each gets while all are equally idle."""
        return dict(self._parts)

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        inside, edges = self._inside, self._edges
        last = len(inside) - 1
        i = min(bisect(edges, draw() * edges[last]), last)
        one = inside[i]
        if not last:
            return one
        left = edges[i - 1] if i else 0.0
        part = edges[i] - left
        point = draw() * (edges[last] - part)
        j = min(bisect(edges, point if point < left else point + part), last)
        other = inside[j]
        return other if other.in_flight * part < one.in_flight * self._parts[other.id] else one

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        parts = self._parts
        inside = [member for member in self._inside if member is not first]
        yield from by_two_choices(inside, lambda member: member.in_flight / parts[member.id], draw)
        yield from by_two_choices([member for member in self.members if member.id not in parts], load, draw)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        found = []
        for member in self.members:
            part = self._parts.get(member.id, 0.0)
            score = member.in_flight / part if part else math.inf
            words = f"{member.in_flight} in flight, {part:.1%} of this client's piece" if part else "outside the piece"
            found.append((score, -part, member.id, words))
        return [Reason(who, score, words) for score, _, who, words in sorted(found)]


def piece(members: Sequence[Member], index: int, clients: int, least: int) -> dict[str, float]:
    """Of the ring of members the part that a client sees: who is in it, and with which share of it (sum 1)."""
    if not members:
        return {}
    total = math.fsum(member.weight for member in members)
    steps = min(clients, math.ceil(min(1.0, least / len(members)) * clients))
    begin, end = index / clients, (index + steps) / clients
    edge, found = 0.0, {}
    for member in sorted(members, key=lambda member: (hash64(member.id), member.id)):
        low, edge = edge, edge + member.weight / total
        # The piece may go past the end of the ring, where it goes on from its beginning.
        inside = max(0.0, min(edge, end) - max(low, begin)) + max(0.0, min(edge, end - 1.0) - low)
        part = inside * clients / steps
        if part > 1e-12:
            found[member.id] = part
    return found
