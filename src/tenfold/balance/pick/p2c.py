"""Power of two choices, the default: of two members drawn at random, the less loaded one.

Mitzenmacher, "The power of two choices in randomized load balancing" (2001), after Azar, Broder, Karlin and Upfal
(1994): n balls thrown into n bins at random leave about ln n / ln ln n in the fullest; where each ball sees two bins
and goes into the emptier, ln ln n / ln 2. One comparison buys that; a third choice hardly adds to it. It is O(1),
keeps no state, and does not herd: clients that know nothing of each other draw different pairs, where all of them
would agree on one "least loaded" member.
"""

from __future__ import annotations

from collections.abc import Iterator

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.lazily import Lazy, by_two_choices


class P2C(Lazy):
    """Of two drawn members the one with the less (in flight + 1) / weight; on a tie the one drawn first."""

    name = "p2c"

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        members = self.members
        count = len(members)
        i = int(draw() * count)
        one = members[i]
        if count == 1:
            return one
        j = int(draw() * (count - 1))
        other = members[j + 1 if j >= i else j]
        return other if (other.in_flight + 1) * one.weight < (one.in_flight + 1) * other.weight else one

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        return by_two_choices([member for member in self.members if member is not first], load, draw)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        found = sorted((load(member), member.id, member) for member in self.members)
        return [
            Reason(who, score, f"{member.in_flight} in flight at weight {member.weight:g}: wins over what scores more")
            for score, who, member in found
        ]


def load(member: Member) -> float:
    """(in flight + 1) / weight: the load that a member would have with one more."""
    return (member.in_flight + 1) / member.weight
