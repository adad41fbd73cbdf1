"""What one process holds of a shared limit, key by key: cells to serve without asking, and refusals to repeat.

Pure; its owner holds the lock. Four rules:

* A process holds at most ``lease`` cells of a key, those under way included, for ``life`` seconds. What is not used
  by then is forfeited (the store may have refilled, and old cells on top of new ones would be a burst).
* It asks for as much as it needs: one cell at first, double after each lease that was used up in time, and what was
  used of it after one that was not. So quiet keys and quiet processes hoard nothing.
* A refusal holds: if the store says "in 80 ms at the earliest", nobody can be admitted before (cells that are given
  back or a higher rate apart, hence at most ``_REPEAT`` seconds), and asking again would only cost.
* At most ``max_keys`` keys; the oldest goes, and its cells are forfeited.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Final

_REPEAT: Final = 0.5


class Lease:
    """One key's."""

    __slots__ = (
        "ask",
        "cells",
        "refused_cost",
        "refused_until",
        "repeat_until",
        "taken_at",
        "under_way",
        "until",
        "used",
    )

    def __init__(self) -> None:
        self.cells = 0.0
        self.until = -math.inf
        self.taken_at = 0
        self.used = 0.0
        self.ask = 1.0
        self.under_way = 0.0
        self.refused_until = self.repeat_until = -math.inf
        self.refused_cost = math.inf


class Leases:
    """All keys of one process."""

    __slots__ = ("_keys", "_life", "_max_keys", "_size", "forfeited")

    def __init__(self, size: int, life: float, max_keys: int) -> None:
        self._keys: dict[Hashable, Lease] = {}
        self.forfeited = 0.0
        self.resize(size, life, max_keys)

    def resize(self, size: int, life: float, max_keys: int) -> None:
        """Other bounds, for what is taken from now on."""
        self._size, self._life, self._max_keys = size, life, max_keys

    def spend(self, now: float, key: Hashable, cost: float) -> bool:
        """Whether the lease of ``key`` pays for the call."""
        lease = self._keys.get(key)
        if lease is None or lease.cells < cost or now >= lease.until:
            return False
        lease.cells -= cost
        lease.used += cost
        return True

    def refused(self, now: float, key: Hashable, cost: float) -> float:
        """The seconds for which a refusal of the store still holds; 0 if there is none."""
        lease = self._keys.get(key)
        if lease is None or now >= lease.repeat_until or cost < lease.refused_cost:
            return 0.0
        return lease.refused_until - now

    def want(self, now: float, key: Hashable, cost: float) -> float:
        """How many cells to ask the store for; to be followed by `grant` or `fail` with the same number."""
        lease = self._keys.get(key)
        if lease is None:
            if len(self._keys) >= self._max_keys:
                self.forfeited += self._keys.pop(next(iter(self._keys))).cells
            lease = self._keys[key] = Lease()
        if lease.until > -math.inf:
            if now < lease.until:
                if lease.cells < 1 and not lease.under_way:
                    lease.ask *= 2
            else:
                self.forfeited += lease.cells
                lease.ask = max(1.0, lease.used)
                lease.cells = lease.used = 0.0
                lease.until = -math.inf
        lease.ask = min(lease.ask, max(1.0, float(self._size)))
        # What others of this process ask for at the moment is theirs and mine together.
        extra = max(0.0, min(lease.ask, self._size - lease.cells - lease.under_way) - cost) if self._size else 0.0
        wanted = cost + math.floor(extra)
        lease.under_way += wanted
        return wanted

    def grant(self, now: float, key: Hashable, wanted: float, cost: float, granted: float, taken_at: int) -> None:
        """The store has granted so many cells; ``cost`` of them are spent by the caller at once."""
        lease = self._keys.get(key)
        if lease is None:
            self.forfeited += granted - cost
            return
        lease.under_way = max(0.0, lease.under_way - wanted)
        if now >= lease.until:
            self.forfeited += lease.cells
            lease.cells = 0.0
        if not lease.cells:
            lease.taken_at = taken_at
        lease.cells += granted - cost
        lease.used = cost
        lease.until = now + self._life

    def fail(self, key: Hashable, wanted: float) -> None:
        """The store has not answered."""
        lease = self._keys.get(key)
        if lease is not None:
            lease.under_way = max(0.0, lease.under_way - wanted)

    def refuse(self, now: float, key: Hashable, wanted: float, cost: float, wait: float) -> None:
        """The store has refused ``cost`` cells and said when to come again."""
        lease = self._keys.get(key)
        if lease is not None:
            lease.under_way = max(0.0, lease.under_way - wanted)
            lease.refused_until = now + wait
            lease.repeat_until = now + min(wait, _REPEAT)
            lease.refused_cost = cost

    def surrender(self, now: float) -> Iterator[tuple[Hashable, float, int]]:
        """Give up every lease: ``(key, cells, when they were taken)`` of those that hold something."""
        keys, self._keys = self._keys, {}
        for key, lease in keys.items():
            if lease.cells > 0 and now < lease.until:
                yield key, lease.cells, lease.taken_at

    @property
    def held(self) -> float:
        """Cells held at the moment, those included whose time is over and whom nobody has asked for since."""
        return sum(lease.cells for lease in self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)
