"""What zone-aware routing and priorities share: members in groups, a policy inside each, and chance between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.pick.lazily import another, inner_pick, sort_by_id
from tenfold.balance.pick.p2c import P2C

G = TypeVar("G", str, int)


class Grouped(Pick, Generic[G]):
    """Chooses a group, then a member of it by a policy like ``inner``, of which each group has its own."""

    def __init__(self, inner: Pick | None) -> None:
        self.inner = inner_pick(P2C() if inner is None else inner, type(self).__name__)
        self.declared: Sequence[Member] | None = None
        self._picks: dict[G, Pick] = {}

    def declare(self, members: Sequence[Member]) -> None:
        self.declared = list(members)

    def rebuild(self, members: Sequence[Member]) -> None:
        self.members = sort_by_id(members)  # a new list: see lazily.py
        groups: dict[G, list[Member]] = {}
        for member in self.members:
            groups.setdefault(self._group(member), []).append(member)
        everybody = self.members if self.declared is None else self.declared
        self._picks = {group: self._picks.get(group) or another(self.inner) for group in sorted(groups)}
        for group, pick in self._picks.items():
            pick.declare([member for member in everybody if self._group(member) == group])
            pick.rebuild(groups[group])
        self._plan(groups, everybody)

    def started(self, member: Member, now: float) -> None:
        pick = self._picks.get(self._group(member))
        if pick is not None:
            pick.started(member, now)

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        pick = self._picks.get(self._group(member))
        if pick is not None:
            pick.finished(member, now, elapsed, ok)

    @abstractmethod
    def _group(self, member: Member) -> G:
        """Which group it belongs to."""

    @abstractmethod
    def _plan(self, groups: dict[G, list[Member]], everybody: Sequence[Member]) -> None:
        """Work out the shares; ``groups`` holds who may be used, ``everybody`` also who may not."""

    @abstractmethod
    def _shares(self, request: Request) -> list[tuple[G, float]]:
        """Every group and its share of such requests, in the order in which they stand in for one another."""

    def order(self, now: float, draw: Draw, request: Request = ANY) -> Iterator[Member]:
        """All members, the best first, each once."""
        members = self.members
        if not members:
            return
        shares: list[tuple[G, float]] = self._shares(request)
        chosen: G = self._chosen(shares, draw)
        had: set[str] = set()
        for group in chain((chosen,), (group for group, _ in shares if group != chosen)):
            for member in self._picks[group].order(now, draw, request):
                had.add(member.id)
                yield member
                if self.members is not members:
                    break
            if self.members is not members:
                break
        else:
            return
        for member in self.order(now, draw, request):
            if member.id not in had:
                yield member

    def _chosen(self, shares: list[tuple[G, float]], draw: Draw) -> G:
        chosen, share = shares[0]
        if share < 1.0:
            point = draw()
            for group, part in shares:
                if part > 0.0:
                    chosen = group
                    point -= part
                    if point < 0.0:
                        break
        return chosen

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        if not self.members:
            return []
        shares = self._shares(request)
        likely = sorted(range(len(shares)), key=lambda place: (-shares[place][1], place))
        reasons = []
        for rank, place in enumerate(likely):
            group, share = shares[place]
            words = self._words(group, share)
            # The inner scores do not compare between groups: the rank of the group does.
            for inner, reason in enumerate(self._picks[group].explain(now, request)):
                score = rank + inner / len(self.members)
                reasons.append(Reason(reason.id, score, f"{words}; {reason.because}"))
        return reasons

    @abstractmethod
    def _words(self, group: G, share: float) -> str:
        """What `explain` says of a group."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r}, {len(self.members)} members in {len(self._picks)} groups)"
