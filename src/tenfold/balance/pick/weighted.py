"""Chance: `Random` for equals, `WeightedRandom` for shares.

The alias method (Walker 1977; tables built in linear time as in Vose, "A linear algorithm for generating random numbers
with a given distribution", 1991): n columns of equal width, each filled by at most two members. One draw says which
column and how high in it, so that a pick is O(1) whatever the weights are.

After the first the others follow as drawn without replacement in proportion to the weights. A draw that hits one had
before is drawn again, which leaves the shares of the others as they are; when that no longer pays, all that are left
race, each with an exponential clock of its weight (Efraimidis and Spirakis 2006), which is the same distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from typing import Final

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.lazily import Lazy

_DRAWS: Final = 8


class Random(Lazy):
    """Anyone, all equally likely, whatever the weights."""

    name = "random"

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        members = self.members
        return members[int(draw() * len(members))]

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        left = [member for member in self.members if member is not first]
        while left:
            at = int(draw() * len(left))
            left[at], left[-1] = left[-1], left[at]
            yield left.pop()

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [Reason(member.id, 0.0, f"one of {len(self.members)}, all as likely") for member in self.members]


class WeightedRandom(Lazy):
    """Anyone, as likely as its weight says."""

    name = "weighted_random"

    def __init__(self) -> None:
        self._height: list[float] = []
        self._alias: list[int] = []

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        self._height, self._alias = alias_table([member.weight for member in self.members])

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        height = self._height
        point = draw() * len(height)
        column = int(point)
        return self.members[column if point - column < height[column] else self._alias[column]]

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        had = {first.id}
        draws = 0
        while draws < _DRAWS and len(had) < len(self.members):
            draws += 1
            member = self._first(now, draw, request)
            if member.id not in had:
                had.add(member.id)
                yield member
                draws = 0
        left = [member for member in self.members if member.id not in had]
        left.sort(key=lambda member: -log(1.0 - draw()) / member.weight)
        yield from left

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        total = sum(member.weight for member in self.members)
        likely = sorted(self.members, key=lambda member: (-member.weight, member.id))
        return [
            Reason(member.id, -member.weight / total, f"{member.weight / total:.1%} of the draws") for member in likely
        ]


def alias_table(weights: Sequence[float]) -> tuple[list[float], list[int]]:
    """How high in each column its own member reaches (0…1), and who has the rest of it."""
    count, total = len(weights), sum(weights)
    left = [weight * count / total for weight in weights]
    height, alias = [1.0] * count, list(range(count))
    small = [at for at, part in enumerate(left) if part < 1.0]
    large = [at for at, part in enumerate(left) if part >= 1.0]
    while small and large:
        less, more = small.pop(), large[-1]
        height[less], alias[less] = left[less], more
        left[more] -= 1.0 - left[less]
        if left[more] < 1.0:
            small.append(large.pop())
    return height, alias  # what is left over is a full column but for rounding
