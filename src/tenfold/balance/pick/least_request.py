"""Least request: where the fewest requests are under way for the weight.

The score is (in flight + 1) / weight, the load as it would be with this request. Among equals the one that was started
longest ago is taken, so that a quiet service does not give everything to its first member.

The members stand in a binary heap by score. A change of one does not move its entry but adds a new one and leaves the
old one where it is, to be thrown away when it comes to the top (lazy deletion): an index by id says which entry of a
member counts. `heapq` does this in C, while an indexed heap that sifts in place has to do it in
Python. Pick, start and finish are O(log n) amortised; when more than half of the heap is old it is made afresh, so it
stays below 2n + 64 entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from tenfold.balance.endpoint import Member
from tenfold.balance.pick.base import ANY, Draw, Reason, Request
from tenfold.balance.pick.lazily import Lazy

_Entry = tuple[float, int, str]  # (score, when it was started last, id)


class LeastRequest(Lazy):
    """The member with the least (in flight + 1) / weight of all.

    Where many clients balance without knowing of each other they all find the same member least loaded; there, two
    choices (`P2C`) do better.
    """

    name = "least_request"

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._entries: dict[str, _Entry] = {}
        self._own: dict[str, Member] = {}
        self._starts = 0

    def rebuild(self, members: Sequence[Member]) -> None:
        super().rebuild(members)
        before = self._entries
        self._own = {member.id: member for member in self.members}
        self._entries = {
            member.id: (
                (member.in_flight + 1) / member.weight,
                before[member.id][1] if member.id in before else 0,
                member.id,
            )
            for member in self.members
        }
        self._tidy()

    def started(self, member: Member, now: float) -> None:
        if self._own.get(member.id) is member:
            self._starts += 1
            self._enter(member, self._starts)

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        if self._own.get(member.id) is member:
            self._enter(member, self._entries[member.id][1])

    def _enter(self, member: Member, start: int) -> None:
        entry = ((member.in_flight + 1) / member.weight, start, member.id)
        self._entries[member.id] = entry
        heap = self._heap
        if len(heap) < 2 * len(self._own) + 63:
            heappush(heap, entry)
        else:
            self._tidy()

    def _tidy(self) -> None:
        self._heap = list(self._entries.values())
        heapify(self._heap)

    def _first(self, now: float, draw: Draw, request: Request) -> Member:
        heap, entries = self._heap, self._entries
        while True:
            top = heap[0]
            if entries[top[2]] is top:
                return self._own[top[2]]
            heappop(heap)

    def _rest(self, first: Member, now: float, draw: Draw, request: Request) -> Iterator[Member]:
        # From the top of the heap downwards, a child being no sooner than its parent: who needs one more pays for few.
        heap, had = list(self._heap), {first.id}
        frontier = [(heap[0], 0)]
        while frontier:
            entry, at = heappop(frontier)
            for child in range(2 * at + 1, min(2 * at + 3, len(heap))):
                heappush(frontier, (heap[child], child))
            who = entry[2]
            if who not in had and self._entries[who] is entry:
                had.add(who)
                yield self._own[who]
        # Those whose load has changed during the walk.
        for _, _, who in sorted(entry for entry in self._entries.values() if entry[2] not in had):
            yield self._own[who]

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return [
            Reason(who, score, f"{self._own[who].in_flight} in flight at weight {self._own[who].weight:g}")
            for score, _, who in sorted(self._entries.values())
        ]
