"""W-TinyLFU: which entry goes when level 1 is full and what counts is how often, not how lately.

Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions on Storage
13(4), 2017. New entries enter a *window* (an LRU of 1 % of the room). Who falls out of it may enter the main
part only if the sketch says that it was asked for more often than the entry that would have to go: a scan
cannot wash out what is popular, and of a loop larger than the cache a part stays. The main part is a segmented
LRU: *probation*, and *protected* (80 % of it) for whoever was hit there.

An LRU moves on a hit, and a hit may take no lock. So hits are written into a bounded buffer and played back, in
order, at the next insertion; when it overflows the oldest are lost, as in Caffeine: an estimate stays one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from tenfold.cache.entry import DEAD, SMALL, Entry
from tenfold.cache.sketch import Sketch

BUFFER: Final = 1024
_WINDOW: Final = SMALL
_PROBATION: Final = -3
_PROTECTED: Final = -4
_SAMPLED_ENTRIES: Final = 1 << 20

_Segment = OrderedDict[Hashable, Entry]


class TinyLfu:
    """The segments and the sketch. Not thread-safe by itself: `Memory` holds its lock; ``reads`` alone is
    added to without it.
    """

    __slots__ = (
        "_max_bytes",
        "_max_items",
        "_probation",
        "_protected",
        "_protected_room",
        "_sketch",
        "_window",
        "_window_bytes",
        "_window_room",
        "bytes",
        "reads",
    )

    def __init__(self, max_items: int, max_bytes: int | None) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._window_room = max(1, max_items // 100)
        self._protected_room = (max_items - self._window_room) * 8 // 10
        self._window: _Segment = OrderedDict()
        self._probation: _Segment = OrderedDict()
        self._protected: _Segment = OrderedDict()
        self._window_bytes = self.bytes = 0
        self._sketch = Sketch(min(max_items, _SAMPLED_ENTRIES))
        self.reads: deque[Entry] = deque(maxlen=BUFFER)

    def insert(self, entry: Entry) -> None:
        """Let a new entry into the window. While there is room, who falls out of it needs no leave."""
        self._replay()
        self._sketch.add(hash(entry.key))
        entry.mark = _WINDOW
        self._window[entry.key] = entry
        self._window_bytes += entry.size
        self.bytes += entry.size
        while self._window_is_full() and not self._is_full():
            self._admit(self._leave_window())

    def resize(self, entry: Entry, weight: int) -> None:
        """The entry has another weight from now on."""
        self.bytes += weight - entry.size
        if entry.mark == _WINDOW:
            self._window_bytes += weight - entry.size
        entry.size = weight

    def remove(self, entry: Entry) -> None:
        """Take out a living entry."""
        if entry.mark == _WINDOW:
            self._window_bytes -= entry.size
        del self._segment(entry)[entry.key]
        self._bury(entry)

    def evict(self) -> Entry:
        """Choose the entry that goes, and take it out. There is at least one."""
        main = self._probation or self._protected
        if self._window and (self._window_is_full() or not main):
            candidate = self._leave_window()
            if not main:
                return self._bury(candidate)
            victim = next(iter(main.values()))
            if self._sketch.estimate(hash(candidate.key)) <= self._sketch.estimate(hash(victim.key)):
                return self._bury(candidate)
            self._admit(candidate)
        else:
            victim = next(iter(main.values()))
        del main[victim.key]
        return self._bury(victim)

    def exchange(self, entry: Entry) -> Entry:
        """`insert` and `evict` in one step, for a memory that is full and counts items alone."""
        self.insert(entry)
        return self.evict()

    def clear(self) -> None:
        """Forget everything, the frequencies too."""
        for segment in (self._window, self._probation, self._protected):
            for entry in segment.values():
                entry.mark = DEAD
            segment.clear()
        self.reads.clear()
        self._sketch.clear()
        self._window_bytes = self.bytes = 0

    # -- inside

    def _is_full(self) -> bool:
        items = len(self._window) + len(self._probation) + len(self._protected)
        return items > self._max_items or (self._max_bytes is not None and self.bytes > self._max_bytes)

    def _window_is_full(self) -> bool:
        return len(self._window) > self._window_room or (
            self._max_bytes is not None and len(self._window) > 1 and self._window_bytes * 100 > self._max_bytes
        )

    def _leave_window(self) -> Entry:
        _, entry = self._window.popitem(last=False)
        self._window_bytes -= entry.size
        return entry

    def _admit(self, entry: Entry) -> None:
        entry.mark = _PROBATION
        self._probation[entry.key] = entry

    def _bury(self, entry: Entry) -> Entry:
        entry.mark = DEAD
        self.bytes -= entry.size
        return entry

    def _segment(self, entry: Entry) -> _Segment:
        if entry.mark == _WINDOW:
            return self._window
        return self._probation if entry.mark == _PROBATION else self._protected

    def _replay(self) -> None:
        """What was hit since the last insertion, in order."""
        reads = self.reads
        for _ in range(len(reads)):
            entry = reads.popleft()
            if entry.mark == DEAD:
                continue
            self._sketch.add(hash(entry.key))
            if entry.mark == _PROBATION:
                del self._probation[entry.key]
                entry.mark = _PROTECTED
                self._protected[entry.key] = entry
                if len(self._protected) > self._protected_room:
                    _, demoted = self._protected.popitem(last=False)
                    self._admit(demoted)
            else:
                self._segment(entry).move_to_end(entry.key)
