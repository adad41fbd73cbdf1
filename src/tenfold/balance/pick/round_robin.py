"""Turns: `RoundRobin` for equals, `WeightedRoundRobin` for shares.

Smooth weighted round robin, as nginx has it, adds to every member's credit at each pick: O(n), 56 µs at 1000 endpoints.
A heap of deadlines, as Envoy has it (EDF: the k-th turn is due at k / weight), is O(log n), but members of the same
weight fall due at the same instant: weights 5, 1, 1 give ``a a a a a b c``, and beside one heavy member a thousand
light ones come in one row. So here it is EEVDF, earliest *eligible* virtual deadline first (Stoica and Abdel-Wahab,
"Earliest Eligible Virtual Deadline First", 1995). With W the sum of the weights, virtual time is V = picks / W. The
turn k = 0, 1, … of a member may be taken from V = k / weight on and is due at (k + 1) / weight; of the turns that may
be taken the one due first is. Then every member has, after every pick, had its ideal share to within one turn, and
whole weights are exact after W picks: ``a b a a c a a``. That is what nginx's smoothness is about, at two heaps' cost:
a turn goes into the heap of those that wait and later into the heap of those that may be taken, once each, so that a
pick is O(log n) amortised.

When the set or a weight changes each member keeps the part of its turn that it has waited for. A member taken out of
turn, because the one before it failed, has had its next turn with that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.lazily import Lazy

_SLACK: Final = 1e-9  # of a turn: quotients that are equal on paper may differ in the last bit
_BY_SCHEDULE: Final = 4  # as many of the others are looked for in the schedule, the rest sorted


class RoundRobin(Lazy):
    """One after the other, whatever the weights. Where it begins is drawn: clients that start together spread.

    A change of the set goes on after the member that was taken last.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._next = -1  # -1: not begun

    def rebuild(self, members: Sequence[Member]) -> None:
        before = self.members
        last = before[self._next - 1].id if before and self._next >= 0 else None
        super().rebuild(members)
        if last is not None and self.members:
            self._next = bisect_right(self.members, last, key=lambda member: member.id) % len(self.members)
        elif self.members:
            self._next = -1

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        members = self.members
        at = self._next
        if at < 0:
            at = int(draw() * len(members))
        after = at + 1
        self._next = after if after < len(members) else 0
        return members[at]

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        members = self.members
        had = {first.id}
        while len(had) < len(members):
            while members[self._next].id in had:
                self._next = (self._next + 1) % len(members)
            member = self._first(now, draw, request)
            had.add(member.id)
            yield member

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        at = max(self._next, 0)
        turns = [*self.members[at:], *self.members[:at]]
        if self._next < 0:
            return [Reason(member.id, 0.0, "none had a turn yet: the first is drawn") for member in turns]
        return [Reason(member.id, float(away), f"{away} turns away") for away, member in enumerate(turns)]


class WeightedRoundRobin(Lazy):
    """Turns in proportion to the weights, spread evenly: every member within one turn of its share at any time."""

    name = "weighted_round_robin"

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int]] = []  # (from when, which), heaps both
        self._eligible: list[tuple[float, int]] = []  # (due, which)
        self._turns: list[float] = []  # turns had since the last rebuild, less the part waited for before it
        self._debts: list[int] = []  # turns taken out of turn
        self._weights: list[float] = []
        self._picks = 0
        self._total = 0.0

    def rebuild(self, members: Sequence[Member]) -> None:
        virtual = self._picks / self._total if self.members else 0.0
        kept = {
            member.id: self._turns[at] + self._debts[at] - virtual * self._weights[at]
            for at, member in enumerate(self.members)
        }
        super().rebuild(members)
        self._weights = [member.weight for member in self.members]
        self._total = sum(self._weights)
        # Within one turn by the theorem; what was taken out of turn may go further, and is not held against anyone.
        turns = [max(-1.0, min(1.0, kept.get(member.id, 0.0))) for member in self.members]
        # Who left took its arrears along; virtual time is right only where all that is behind is ahead elsewhere.
        shift = sum(turns) / self._total if turns else 0.0
        self._turns = [had - shift * weight for had, weight in zip(turns, self._weights, strict=True)]
        self._debts = [0] * len(self.members)
        self._picks = 0
        self._eligible = []
        self._waiting = [(had / self._weights[at], at) for at, had in enumerate(self._turns)]
        heapify(self._waiting)

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        return self.members[self._take()]

    def _take(self) -> int:
        """The number of the one whose turn it is. It has had it then."""
        waiting, eligible = self._waiting, self._eligible
        while True:
            virtual = (self._picks + _SLACK) / self._total
            while waiting and (waiting[0][0] <= virtual or not eligible):
                at = heappop(waiting)[1]
                heappush(eligible, ((self._turns[at] + 1) / self._weights[at], at))
            at = heappop(eligible)[1]
            turns = self._turns[at] = self._turns[at] + 1
            heappush(waiting, (turns / self._weights[at], at))
            if not self._debts[at]:
                self._picks += 1
                return at
            self._debts[at] -= 1

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        members = self.members
        had = {first.id}
        for _ in range(min(_BY_SCHEDULE, len(members) - 1)):
            at = self._unlike(had)
            if at is None:
                break
            had.add(members[at].id)
            yield members[at]
        for at in self._by_due():
            if members[at].id not in had:
                self._debts[at] += 1
                self._picks += 1
                yield members[at]

    def _unlike(self, had: set[str]) -> int | None:
        """The next in the schedule that was not had, if it is near. Those before it keep their turns."""
        for _, at in (*sorted(self._eligible[: 2 * _BY_SCHEDULE]), *sorted(self._waiting[: 2 * _BY_SCHEDULE])):
            if self.members[at].id not in had:
                self._debts[at] += 1
                self._picks += 1
                return at
        return None

    def _by_due(self) -> list[int]:
        return sorted(range(len(self.members)), key=self._due)

    def _due(self, at: int) -> tuple[float, int]:
        return (self._turns[at] + self._debts[at] + 1) / self._weights[at], at

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        virtual = self._picks / self._total if self.members else 0.0
        found = []
        for at, member in enumerate(self.members):
            turns, weight = self._turns[at] + self._debts[at], self._weights[at]
            behind = virtual * weight - turns
            due = (turns + 1) / weight - virtual
            found.append((behind < -_SLACK, due, member.id, behind))
        reasons = []
        for place, (early, due, who, behind) in enumerate(sorted(found)):
            words = f"{abs(behind):.2g} of a turn {'ahead' if early else 'behind'}"
            reasons.append(Reason(who, float(place), f"due within {due * self._total:.3g} picks, {words}"))
        return reasons
