"""The walk that every policy shares: the first member is cheap, the others are found when asked for.

A policy says two things: whom it takes first (`Lazy._first`, the hot path), and in which order the others follow
(`Lazy._rest`, when the first one failed). If `rebuild` comes between two members of one walk, the walk goes on over the
new set, without those it had: it never yields a member that has left, and never one twice.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

from tenfold._core.errors import MisuseError
from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Pick, Request

_by_id = attrgetter("id")
P = TypeVar("P", bound=Pick)


class Lazy(Pick):
    """A policy in two steps, the first and the rest."""

    def rebuild(self, members: Sequence[Member]) -> None:
        """These may be used from now on. Sorted here as well: no table may depend on the order of a list."""
        # A new list each time: by its identity a walk under way sees that the set is another.
        self.members = sort_by_id(members)

    def first(self, now: float, draw: Draw, request: Request = ANY) -> Member | None:
        """The one to take, without the walk; None where there is nobody."""
        return self._first(now, draw, request) if self.members else None

    def after(self, first: Member, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """All others, the best first, each once."""
        return self._walk_on(first, self.members, now, draw, request)

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """All members, the best first, each once."""
        members = self.members
        if members:
            first = self._first(now, draw, request)
            yield first
            yield from self._walk_on(first, members, now, draw, request)

    def _walk_on(
        self, first: Member, members: Sequence[Member], now: float, draw: Draw, request: Request
    ) -> Iterator[Member]:
        had = {first.id}
        if self.members is members:
            for member in self._rest(first, now, draw, request):
                had.add(member.id)
                yield member
                if self.members is not members:
                    break
            else:
                return
        for member in self.order(now, draw, request):
            if member.id not in had:
                yield member

    @abstractmethod
    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        """The one to take; there is at least one member."""

    @abstractmethod
    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        """All others, the best first. Not asked on after a `rebuild`."""


def sort_by_id(members: Sequence[Member]) -> list[Member]:
    """A new list of them, in the order of their ids."""
    return sorted(members, key=_by_id)


def two_choices(count: int, draw: Draw) -> tuple[int, int]:
    """Two different numbers below ``count`` (two or more), every pair equally likely."""
    i = int(draw() * count)
    j = int(draw() * (count - 1))
    return i, j + 1 if j >= i else j


def by_two_choices(left: list[Member], cost: Callable[[Member], float], draw: Draw) -> Iterator[Member]:
    """All in ``left``, which is used up: of two drawn ones the cheaper, again and again."""
    while len(left) > 1:
        i, j = two_choices(len(left), draw)
        if cost(left[j]) < cost(left[i]):
            i = j
        left[i], left[-1] = left[-1], left[i]
        yield left.pop()
    yield from left


def inner_pick(inner: P, owner: str) -> P:
    """``inner`` if it is a fresh pick."""
    if not isinstance(inner, Pick):
        raise MisuseError(f"{owner}: expected a pick such as P2C() inside, got {inner!r}")
    if inner.members:
        raise MisuseError(
            f"{owner}: expected a fresh pick inside, got {inner!r}, which is in use elsewhere; make its own"
        )
    return inner


def another(inner: P) -> P:
    """A pick like ``inner``, which is never used itself."""
    return copy.deepcopy(inner)
