"""Maglev: a table of slots that the members fill in turns, each by a permutation of its own.

Eisenbud et al., "Maglev: a fast and reliable software network load balancer" (NSDI 2016). A member's permutation of the
M slots (M prime) is ``offset + k * skip``, both from its id. They take turns, and in its turn a member takes the first
slot of its permutation that is still free, until the table is full. Turns are even, so shares are: to within one slot
of M / n, where a ring's are off by 8 %. The price is that who leaves also shifts some slots of others, a few per cent
of the keys. With weights a member takes weight / largest weight of a turn in each round.

The members take turns sorted by id, so the table does not depend on the order of a list. A look-up is O(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from tenfold.balance.pick.hashing import stream64
from tenfold.balance.pick.keyed import TABLE, Keyed, prime


class Maglev(Keyed):
    """By `Request.key`, through a table of ``table`` (65537, a prime) slots; ``bound`` as in `Keyed`.

    The table should have a hundred slots or more for a member. Making it takes tens of milliseconds: that is what a
    change of the set or of a weight costs.
    """

    name = "maglev"

    def __init__(self, *, table: int = TABLE, bound: float | None = None) -> None:
        super().__init__(bound=bound)
        self.table = prime(table, "Maglev table")
        self._slots: list[int] = []

    def _build(self, ids: list[str], weights: list[float]) -> None:
        self._slots = fill(ids, weights, self.table)

    def _owner(self, number: int) -> int:
        return self._slots[number % self.table]

    def _others(self, number: int) -> Iterator[int]:
        slots = self._slots
        at = number % self.table
        for slot in chain(range(at, self.table), range(at)):
            yield slots[slot]
        yield from range(len(self.members))  # one of little weight may have no slot at all


def fill(ids: list[str], weights: list[float], size: int) -> list[int]:
    """For each slot the place of the member that has it."""
    table = [-1] * size
    seeds = [stream64(who, 2) for who in ids]
    slots = [offset % size for offset, _ in seeds]  # where each looks next
    skips = [skip % (size - 1) + 1 for _, skip in seeds]
    largest = max(weights)
    parts = [weight / largest for weight in weights]
    turns = [0] * len(ids)
    # Who has a turn in which round: those of little weight are not asked in every one. All are in the first.
    rounds: dict[int, list[int]] = {0: list(range(len(ids)))}
    free = size
    for number in range(size):
        for place in rounds.pop(number):
            turns[place] += 1
            rounds.setdefault(int(turns[place] / parts[place]), []).append(place)
            slot, skip = slots[place], skips[place]
            while table[slot] >= 0:
                slot += skip
                if slot >= size:
                    slot -= size
            table[slot] = place
            slots[place] = slot
            free -= 1
            if not free:
                return table
    raise AssertionError("the heaviest member has a turn in every round")
