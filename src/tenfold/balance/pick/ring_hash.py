"""Ring hash: members and keys on one circle, a key belongs to the next member's point.

Karger et al., "Consistent hashing and random trees" (1997), with as many points for a member as ketama gives it (2007):
160 for one of average weight, which leaves shares uneven by 1/√160 ≈ 8 %. A member's points come from its id alone, so
that one that leaves takes only its own keys along, about 1/n. More weight means more of the same stream of points.

Weights count against a unit, the power of two nearest to their mean: weights of 100 must not make a ring a hundred
times as large. The unit moves only when the mean goes through √2 of it; then, and only then, points of others move.

A point is its hash with the place of its member in the low bits: one array of whole numbers, which sorts and bisects
without a Python function in between. A second array says where each piece of the ring begins, some eight points long.
So a look-up takes the same few steps, and as few misses of the processor's cache, however large the ring is.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect, bisect_left
from collections.abc import Iterator
from itertools import chain
from typing import Final

from tenfold._core.units import whole_number
from tenfold.balance.pick.hashing import stream64
from tenfold.balance.pick.keyed import Keyed

_PLACE: Final = 20  # bits for the place: a million members
_MASK: Final = (1 << _PLACE) - 1
_PIECE: Final = 8


class RingHash(Keyed):
    """By `Request.key`, on a ring of ``points`` (160) for a member of average weight; ``bound`` as in `Keyed`."""

    name = "ring_hash"

    def __init__(self, *, points: int = 160, bound: float | None = None) -> None:
        super().__init__(bound=bound)
        self.points = whole_number(points, "RingHash points", least=1)
        self._ring = array("Q")
        self._pieces = array("L", [0, 0])  # where each begins; the last entry is the end of the ring
        self._shift = 64
        self._streams: dict[str, tuple[int, ...]] = {}

    def _build(self, ids: list[str], weights: list[float]) -> None:
        unit = 2.0 ** round(math.log2(math.fsum(weights) / len(weights)))
        known, self._streams = self._streams, {}
        ring: list[int] = []
        for place, (who, weight) in enumerate(zip(ids, weights, strict=True)):
            count = max(1, round(self.points * weight / unit))
            stream = known.get(who, ())
            if len(stream) < count:
                stream = tuple(number & ~_MASK for number in stream64(who, count))
            self._streams[who] = stream
            ring += [point | place for point in stream[:count]]
        ring.sort()
        self._ring = array("Q", ring)
        bits = max(0, (len(ring) // _PIECE).bit_length() - 1)
        self._shift = 64 - bits
        self._pieces = array("L", [0])
        for edge in range(1 << self._shift, 1 << 64, 1 << self._shift):
            self._pieces.append(bisect_left(ring, edge, self._pieces[-1]))
        self._pieces.append(len(ring))

    def _after(self, number: int) -> int:
        """Which point comes after that number, going round."""
        piece = number >> self._shift
        at = bisect(self._ring, number, self._pieces[piece], self._pieces[piece + 1])
        return at if at < len(self._ring) else 0

    def _owner(self, number: int) -> int:
        return self._ring[self._after(number)] & _MASK

    def _others(self, number: int) -> Iterator[int]:
        ring = self._ring
        at = self._after(number)
        for point in chain(range(at, len(ring)), range(at)):
            yield ring[point] & _MASK
