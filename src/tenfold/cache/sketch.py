"""How often was this key asked for lately? A count-min sketch that forgets, in a few bytes an entry.

Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions on Storage
13(4), 2017; the sketch is that of Cormode and Muthukrishnan (2005). Each key owns four counters of four bits, at
places that its hash chooses; asking for it adds one to them, up to 15, and the smallest of the four is the
estimate, which collisions can only raise. A *doorkeeper*, a Bloom filter, takes the first request of each key, so
that the many that come once never reach the counters. After ten requests for each entry that the cache may hold all
counters are halved and the doorkeeper is emptied: what was popular yesterday fades.

Two counters share a byte, and halving all of them is one `bytearray.translate`.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_MIX: Final = 0x9E37_79B9_7F4A_7C15  # 2^64 over the golden ratio: spreads the hashes of small integers
_HALVE: Final = bytes(((byte >> 5) << 4) | ((byte & 15) >> 1) for byte in range(256))
_COUNTERS_AN_ENTRY: Final = 16
_SAMPLE: Final = 10
MAX_COUNT: Final = 15


class Sketch:
    """Frequencies of hashes, for a cache of ``capacity`` entries. About ten bytes an entry."""

    __slots__ = ("_asked", "_door", "_mask", "_sample", "_table", "agings")

    def __init__(self, capacity: int) -> None:
        counters = 1 << max(6, (capacity * _COUNTERS_AN_ENTRY - 1).bit_length())
        self._mask = counters - 1
        self._table = bytearray(counters // 2)
        self._door = bytearray(counters // 8)
        self._sample = max(_SAMPLE, _SAMPLE * capacity)
        self._asked = 0
        self.agings = 0

    def add(self, hashed: int) -> None:
        """Somebody asked for the key with this hash."""
        self._asked += 1
        if self._asked >= self._sample:
            self._age()
        mixed = _mix(hashed)
        if self._through_the_door(mixed):
            table, mask = self._table, self._mask
            step = (mixed >> 32) | 1
            for _ in range(4):
                place = mixed & mask
                at = place >> 1
                byte = table[at]
                if place & 1:
                    if byte < 0xF0:
                        table[at] = byte + 0x10
                elif byte & 15 < MAX_COUNT:
                    table[at] = byte + 1
                mixed += step

    def estimate(self, hashed: int) -> int:
        """How often it was asked for of late: never too low before the first ageing, at most 16."""
        mixed = _mix(hashed)
        known = self._known(mixed)
        table, mask, least = self._table, self._mask, MAX_COUNT
        step = (mixed >> 32) | 1
        for _ in range(4):
            place = mixed & mask
            byte = table[place >> 1]
            count = byte >> 4 if place & 1 else byte & 15
            if count < least:
                least = count
            mixed += step
        return least + known

    def clear(self) -> None:
        """Forget everything."""
        self._table = bytearray(len(self._table))
        self._door = bytearray(len(self._door))
        self._asked = 0

    def _places(self, mixed: int) -> tuple[int, int]:
        return (mixed >> 7) & self._mask, (mixed >> 37) & self._mask

    def _known(self, mixed: int) -> bool:
        door = self._door
        first, second = self._places(mixed)
        return bool(door[first >> 3] >> (first & 7) & door[second >> 3] >> (second & 7) & 1)

    def _through_the_door(self, mixed: int) -> bool:
        """Whether the doorkeeper knows it; if not, it does from now on."""
        if self._known(mixed):
            return True
        for place in self._places(mixed):
            self._door[place >> 3] |= 1 << (place & 7)
        return False

    def _age(self) -> None:
        self._table = self._table.translate(_HALVE)
        self._door = bytearray(len(self._door))
        self._asked //= 2
        self.agings += 1


def _mix(hashed: int) -> int:
    mixed = (hashed & _MASK) * _MIX & _MASK
    return mixed ^ (mixed >> 29)
