"""Rendezvous, or highest random weight: every member has a score for the key, the best one gets it.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998). A member's score depends on nothing
but the key, its own id and its own weight. So when it leaves exactly its own keys move, each to the next in that key's
order; when it comes it takes exactly those it is best for. With weights the score is an exponential clock of the rate
``weight``, and who rings first has the key: ``-ln(1 - u) / weight`` is the least with probability weight / sum.

Asked of every member that is O(n) for each pick, 141 µs at 1000. Here the keys are first put into M slots (M prime),
and the winner of each slot is worked out when the set changes: a pick is one look-up, and all said above holds exactly
for the slots. What makes the table affordable is where u comes from: position / M in a permutation of the slots,
``offset + k * skip``, both from the id. It can be read both ways. Forwards, a member names the slots that it is quick
for in the order of its quickness, and it is enough to follow all members up to the time t at which ``exp(-t * sum of
weights)`` of the slots are still open. Backwards, for those few, the position of a slot comes from the inverse of the
stride. With t = (ln n + 1) / sum that is M (ln n + 2) steps instead of M n.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from heapq import heapify, heappop
from itertools import islice
from math import ceil, exp, fsum, inf, log, log1p

from tenfold.balance.pick.hashing import stream64
from tenfold.balance.pick.keyed import TABLE, Keyed, prime


class Rendezvous(Keyed):
    """By `Request.key`, through ``table`` (65537, a prime) slots; ``bound`` as in `Keyed`.

    Shares are uneven by about 0.7 √(members / slots). Making the table takes tens of milliseconds: that is what a
    change of the set or of a weight costs.
    """

    name = "rendezvous"

    def __init__(self, *, table: int = TABLE, bound: float | None = None) -> None:
        super().__init__(bound=bound)
        self.table = prime(table, f"{type(self).__name__} table")
        self._slots: list[int] = []
        self._clocks: list[tuple[int, int, float]] = []  # offset, inverse of the stride, weight

    def _build(self, ids: list[str], weights: list[float]) -> None:
        size = self.table
        times = _times(size)
        strides = []
        self._clocks = []
        for who, weight in zip(ids, weights, strict=True):
            offset, skip = stream64(who, 2)
            strides.append(skip % (size - 1) + 1)
            self._clocks.append((offset % size, pow(strides[-1], -1, size), weight))
        horizon = (log(len(ids)) + 1.0) / fsum(weights)
        best, slots = [inf] * size, [-1] * size
        for place, (slot, _, weight) in enumerate(self._clocks):
            skip = strides[place]
            for time in islice(times, ceil(size * (1.0 - exp(-horizon * weight)))):
                time /= weight
                if time < best[slot]:
                    best[slot] = time
                    slots[slot] = place
                slot += skip
                if slot >= size:
                    slot -= size
        for slot, time in enumerate(best):
            # Beyond the horizon somebody else, not followed so far, may be quicker.
            if time > horizon:
                slots[slot] = min(self._scores(slot))[1]
        self._slots = slots

    def _scores(self, slot: int) -> list[tuple[float, int]]:
        times, size = _times(self.table), self.table
        return [
            (times[(slot - offset) * inverse % size] / weight, place)
            for place, (offset, inverse, weight) in enumerate(self._clocks)
        ]

    def _owner(self, number: int) -> int:
        return self._slots[number % self.table]

    def _others(self, number: int) -> Iterator[int]:
        left = self._scores(number % self.table)
        heapify(left)
        while left:
            yield heappop(left)[1]


@lru_cache(maxsize=4)
def _times(size: int) -> list[float]:
    """When a member of weight 1 rings for the slots of its permutation, first to last."""
    return [-log1p(-(place + 0.5) / size) for place in range(size)]
