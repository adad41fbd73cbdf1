"""Which keys are asked for most, at no cost to a hit.

*Where the counts come from.* A hit adds to its entry's own counter, as it does anyway for the eviction. So a
count has two parts: what former lives of the key brought together, kept here, and what the present entry counts.
They are put together at *misses*, because only a miss lets entries go: each miss is counted, and every 64th looks
at a slice of level 1. Nothing runs on a hit, and nothing runs by a timer.

*How they are kept.* The `capacity` most frequent keys are held by name with their counts, as in Space-Saving
(Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data streams", ICDT 2005).
All others are in a count-min sketch (Cormode, Muthukrishnan: "An improved data stream summary", J. Algorithms
2005): four rows of counters, a key adds to one of each, and the least of the four is never below the truth. With
conservative update (Estan, Varghese, SIGCOMM 2002) only the least ones grow, which keeps the error small. A key
whose estimate passes the least of the held ones takes its place, and the count of the one that leaves goes into
the sketch, so nothing is lost but precision. (An entry's hits are added to its estimate only if they alone are a
quarter of the least: the others would hardly pass it.)

*Ageing.* Each `half_life` halves every count, as TinyLFU does (Einziger, Friedman, Manes, ACM ToS 2017), so last
year's bestseller makes room. *Merging* what several processes kept takes the larger count, not the sum: then
merging twice changes nothing.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from heapq import heapify, heapreplace
from typing import Any, Final, NamedTuple

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number

ROWS: Final = 4
SLICE: Final = 128
EVERY: Final = 64
_MOST: Final = 2**32 - 1
_VERSION: Final = 1
_WORTH: Final = 4
_four: Final = struct.Struct("<4I").unpack


class PopularKey(NamedTuple):
    """A key and about how often it was asked for, halved with age."""

    key: str
    times: int


class Life(NamedTuple):
    """An entry of level 1 as seen at one moment: which one it is, its key, its hits so far."""

    entry: int
    key: str
    hits: int


class Sketch:
    """A count-min sketch with conservative update. ``width`` is a power of two."""

    __slots__ = ("_rows", "width")

    def __init__(self, width: int = 8192, rows: list[array[int]] | None = None) -> None:
        if width < 1 or width & (width - 1):
            raise MisuseError(f"width: expected a power of two, got {width}")
        self.width = width
        self._rows = rows or [array("I", bytes(4 * width)) for _ in range(ROWS)]

    def estimate(self, key: str) -> int:
        """At least what was added for ``key``."""
        return self._least(self._places(key))

    def add(self, key: str, count: int = 1) -> int:
        """Count ``key``; the new estimate."""
        places = self._places(key)
        return self._raise(places, min(_MOST, self._least(places) + count))

    def at_least(self, key: str, count: int) -> None:
        """Let the estimate of ``key`` be no less than ``count``."""
        self._raise(self._places(key), min(_MOST, count))

    def halve(self, times: int) -> None:
        """Age by ``times`` half-lives."""
        for row in self._rows:
            for at, count in enumerate(row):
                if count:
                    row[at] = count >> times

    def merge(self, other: Sketch) -> None:
        """The larger of each pair. Another width cannot be merged and is left out."""
        if other.width == self.width:
            for at, (mine, theirs) in enumerate(zip(self._rows, other._rows, strict=True)):
                self._rows[at] = array("I", map(max, mine, theirs))

    def dump(self) -> bytes:
        """All counters, compressed."""
        return zlib.compress(b"".join(row.tobytes() for row in self._rows), 6)

    @classmethod
    def read(cls, width: int, packed: bytes) -> Sketch:
        """What `dump` wrote. Raises `ValueError`."""
        unpack = zlib.decompressobj()
        data = unpack.decompress(packed, 4 * width * ROWS + 1)  # no more than it may be
        if len(data) != 4 * width * ROWS:
            raise ValueError("the sketch has another size")
        rows = [array("I", data[4 * width * row : 4 * width * (row + 1)]) for row in range(ROWS)]
        return cls(width, rows)

    def _places(self, key: str) -> tuple[int, int, int, int]:
        # Not hash(): another process, which reads what this one kept, has another seed.
        one, two, three, four = _four(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        mask = self.width - 1
        return one & mask, two & mask, three & mask, four & mask

    def _least(self, places: tuple[int, int, int, int]) -> int:
        first, second, third, fourth = self._rows
        one, two, three, four = places
        return min(first[one], second[two], third[three], fourth[four])

    def _raise(self, places: tuple[int, int, int, int], goal: int) -> int:
        for row, at in zip(self._rows, places, strict=True):
            if row[at] < goal:
                row[at] = goal
        return goal


class Popularity:
    """The most frequent keys of one cache in one process.

    ``capacity`` keys are held by name (default 2,000); ``half_life`` is in seconds (default one hour).
    """

    __slots__ = ("_aged", "_capacity", "_counts", "_half_life", "_heap", "_lives", "_sketch", "_slice", "_turn")

    def __init__(self, capacity: int = 2000, *, width: int = 8192, half_life: float = 3600.0, now: float = 0.0) -> None:
        self._capacity = whole_number(capacity, "capacity", least=1)
        self._half_life = half_life
        self._aged = now
        self._counts: dict[str, int] = {}
        self._lives: dict[str, tuple[int, int]] = {}
        self._heap: list[tuple[int, str]] = []
        self._sketch = Sketch(width)
        self._turn = 0
        self._slice: list[Any] = []

    def missed(self, key: str) -> bool:
        """Count a miss. True if it is time to `fold` a slice of level 1."""
        self._add(key, 1)
        self._turn += 1
        return self._turn % EVERY == 0

    def next_slice(self, entries: Iterable[Any]) -> list[Any]:
        """The next `SLICE` of ``entries``, in turns: each comes once before any comes again."""
        if not self._slice:
            self._slice = list(entries)
        part = self._slice[-SLICE:]
        del self._slice[-SLICE:]
        return part

    def fold(self, lives: Iterable[Life], now: float) -> None:
        """Take over what these entries have counted since they were seen last. ``now``: monotonic seconds."""
        self._age(now)
        # Most entries are far from the top; to ask the sketch for each would be most of the work.
        worth = -(-self._least()[0] // _WORTH) if len(self._counts) == self._capacity else 1
        for entry, key, hits in lives:
            held = self._counts.get(key)
            if held is not None:
                before, counted = self._lives.get(key, (0, 0))
                # Another entry is another life. A lower counter of the same one was lowered by the eviction.
                gained = hits if before != entry else max(0, hits - counted)
                self._counts[key] = held + gained
                self._lives[key] = (entry, hits)
            elif hits and hits >= worth:
                count = hits + self._sketch.estimate(key)
                if self._admit(key, count):
                    self._lives[key] = (entry, hits)

    def top(self, count: int) -> list[PopularKey]:
        """The most frequent keys first; at most as many as are held by name."""
        ranked = sorted(self._counts.items(), key=lambda one: (-one[1], one[0]))
        return [PopularKey(key, times) for key, times in ranked[:count]]

    def dump(self) -> bytes:
        """Everything, for a file or for level 2."""
        return msgspec.msgpack.encode((_VERSION, self._counts, self._sketch.width, self._sketch.dump()))

    def merge(self, dumped: bytes) -> int:
        """Take over what a `dump` knows: the larger count of each key. The number of keys that it named.

        Raises `MisuseError` for bytes that are no dump of this version.
        """
        try:
            version, counts, width, packed = msgspec.msgpack.decode(dumped, type=tuple[int, dict[str, int], int, bytes])
            if version != _VERSION or not 0 < width <= 2**20:
                raise ValueError(f"version {version}")
            self._sketch.merge(Sketch.read(width, packed))
        except (msgspec.MsgspecError, zlib.error, ValueError) as error:
            raise MisuseError(
                f"popular keys: expected what `save_popular` wrote, got something else ({error})"
            ) from error
        for key, count in sorted(counts.items(), key=lambda one: -one[1]):
            if (held := self._counts.get(key)) is not None:
                self._counts[key] = max(held, count)
            else:
                self._admit(key, count)
        return len(counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"Popularity({len(self._counts)}/{self._capacity} keys)"

    # -- inside

    def _add(self, key: str, by: int) -> None:
        held = self._counts.get(key)
        if held is not None:
            self._counts[key] = held + by
        else:
            self._admit(key, self._sketch.add(key, by))

    def _admit(self, key: str, count: int) -> bool:
        """Hold ``key`` by name if there is room or if it is more frequent than the least of those held."""
        if len(self._counts) < self._capacity:
            self._counts[key] = count
            self._heap.append((count, key))
            if len(self._counts) == self._capacity:
                heapify(self._heap)
            return True
        least, last = self._least()
        if count <= least:
            return False
        del self._counts[last]
        self._lives.pop(last, None)
        self._sketch.at_least(last, least)
        self._counts[key] = count
        heapreplace(self._heap, (count, key))
        return True

    def _least(self) -> tuple[int, str]:
        """The least of those held. Counts only grow between ageings, so the heap is put right from its top."""
        while True:
            count, key = self._heap[0]
            if (now := self._counts[key]) == count:
                return count, key
            heapreplace(self._heap, (now, key))

    def _age(self, now: float) -> None:
        times = int((now - self._aged) // self._half_life)
        if times <= 0:
            return
        self._aged += times * self._half_life
        times = min(times, 32)
        self._sketch.halve(times)
        self._counts = {key: count >> times for key, count in self._counts.items()}
        self._heap = [(count, key) for key, count in self._counts.items()]
        heapify(self._heap)
