"""What the policies by key share: a table that says whose a key is, and a bound on how much one member may get.

Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): no member has more under way than
``bound`` times its share of all that is under way, this request included; who is full is passed over, and the next in
the table's order gets the key. A hot key then spreads over as many members as it takes, and the keys that are not hot
stay nearly where they were. The shares together are ``bound`` times the load, so somebody always has room.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.hashing import hash64
from tenfold.balance.pick.lazily import Lazy

TABLE: Final = 65537
"""Slots of the tables, a prime: the smaller size of the Maglev paper, and Envoy's."""


class Keyed(Lazy):
    """A policy by `Request.key`. ``bound``: see above; None (default) for no bound, else more than 1, such as 1.25."""

    def __init__(self, *, bound: float | None = None) -> None:
        if bound is not None and (type(bound) not in (int, float) or not 1 < bound < math.inf):
            raise MisuseError(
                f"{type(self).__name__} bound: expected more than 1, such as 1.25, or None, got {bound!r}"
            )
        self.bound = bound
        self._own: dict[str, Member] = {}
        self._made_of: list[tuple[str, float]] | None = None
        self._under_way = 0
        self._weight = 0.0

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        self._own = {member.id: member for member in self.members}
        self._under_way = sum(member.in_flight for member in self.members)
        self._weight = math.fsum(member.weight for member in self.members)
        made_of = [(member.id, member.weight) for member in self.members]
        if made_of and made_of != self._made_of:
            self._build([who for who, _ in made_of], [weight for _, weight in made_of])
            self._made_of = made_of

    def started(self, member: Member, now: float) -> None:
        if self._own.get(member.id) is member:
            self._under_way += 1

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        if self._own.get(member.id) is member:
            self._under_way -= 1

    @abstractmethod
    def _build(self, ids: list[str], weights: list[float]) -> None:
        """Make the table. Not called when neither ids nor weights have changed."""

    @abstractmethod
    def _owner(self, number: int) -> int:
        """The place among `members` of whose the hashed key is."""

    @abstractmethod
    def _others(self, number: int) -> Iterator[int]:
        """The places of who should get it after that, all of them; a place may come several times."""

    def _number(self, request: Request) -> int:
        if not request.key:
            raise MisuseError(
                f"{type(self).__name__}: expected a key to choose by, got none; give Request(key=…), a user's id say"
            )
        return hash64(request.key)

    def has_room(self, member: Member) -> bool:
        """Whether one more request there is within the bound."""
        return self.bound is None or (
            member.in_flight * self._weight < self.bound * (self._under_way + 1) * member.weight
        )

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        number = self._number(request)
        owner = self.members[self._owner(number)]
        if self.bound is None or self.has_room(owner):
            return owner
        for at in self._others(number):
            if self.has_room(self.members[at]):
                return self.members[at]
        return owner

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        full = []
        for member in self._walk(self._number(request)):
            if member is not first:
                if self.has_room(member):
                    yield member
                else:
                    full.append(member)
        yield from full

    def _walk(self, number: int) -> Iterator[Member]:
        """All members in the table's order."""
        members = self.members
        owner = self._owner(number)
        yield members[owner]
        had = {owner}
        if len(had) < len(members):
            for at in self._others(number):
                if at not in had:
                    had.add(at)
                    yield members[at]
                    if len(had) == len(members):
                        return

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        if not self.members:
            return []
        ranked = list(enumerate(self._walk(self._number(request))))
        ranked.sort(key=lambda pair: not self.has_room(pair[1]))
        return [
            Reason(member.id, float(place), self._because(rank, member)) for place, (rank, member) in enumerate(ranked)
        ]

    def _because(self, rank: int, member: Member) -> str:
        words = "the key is its own" if rank == 0 else f"number {rank + 1} for the key"
        if self.bound is None:
            return words
        share = self.bound * (self._under_way + 1) * member.weight / self._weight
        return f"{words}, {member.in_flight} in flight of {math.ceil(share)} allowed"


def prime(value: object, name: str) -> int:
    """``value`` if it is a prime of 3 or more: then every stride visits every slot."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < 3
        or any(value % d == 0 for d in range(2, math.isqrt(value) + 1))
    ):
        raise MisuseError(f"{name}: expected a prime number of slots, such as {TABLE}, got {value!r}")
    return value
