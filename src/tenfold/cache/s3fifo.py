"""S3-FIFO: which entry goes when level 1 is full.

Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023. Most objects of a
skewed workload are never asked for again, so new ones first pass a *small* queue that holds a tenth of the
room. Who was hit while there moves to the *main* queue; who was not leaves at once, and only the hash of its key
is remembered in a *ghost* list. A key that comes back while its ghost is remembered goes straight to main. The
main queue is a FIFO with second chances: of the hits since the last turn at most three count, and each turn that
an entry survives costs one of them. A hit adds to a counter and moves nothing, which is why it is cheap and needs
no lock. We promote after one hit, not two.

The counter itself is never lowered, so that it stays the exact number of hits; ``entry.mark`` moves instead.

Deleted entries leave a tombstone in their queue (a deque has no cheap removal from the middle); when tombstones
outnumber the living, both queues are rebuilt. A ghost that was called back leaves its place in the order behind,
so that the same key, if it becomes a ghost again at once, may be forgotten early: harmless.
"""

from __future__ import annotations

from collections import deque

from tenfold.cache.entry import DEAD, SMALL, Entry

_SPARE = 64


class S3Fifo:
    """The queues. Not thread-safe by itself: `Memory` holds its lock."""

    __slots__ = (
        "_ghost",
        "_ghost_order",
        "_ghost_room",
        "_max_bytes",
        "_small_room",
        "dead",
        "main",
        "main_items",
        "small",
        "small_bytes",
        "small_items",
    )

    def __init__(self, max_items: int, max_bytes: int | None) -> None:
        self._small_room = max_items // 10
        self._max_bytes = max_bytes
        self.small: deque[Entry] = deque()
        self.main: deque[Entry] = deque()
        self.small_items = self.small_bytes = self.main_items = self.dead = 0
        self._ghost: set[int] = set()
        self._ghost_order: deque[int] = deque()
        self._ghost_room = max(1, max_items * 9 // 10)

    def insert(self, entry: Entry) -> None:
        """Queue a new entry."""
        if self._ghost:
            ghost = hash(entry.key)
            if ghost in self._ghost:
                self._ghost.discard(ghost)
                entry.mark = 0
                self.main.append(entry)
                self.main_items += 1
                return
        entry.mark = SMALL
        self.small.append(entry)
        self.small_items += 1
        self.small_bytes += entry.size

    def resize(self, entry: Entry, weight: int) -> None:
        """The entry has another weight from now on."""
        if entry.mark == SMALL:
            self.small_bytes += weight - entry.size
        entry.size = weight

    def remove(self, entry: Entry) -> None:
        """Take out a living entry; its tombstone stays until it comes up or is swept."""
        if entry.mark == SMALL:
            self.small_items -= 1
            self.small_bytes -= entry.size
        else:
            self.main_items -= 1
        entry.mark = DEAD
        self.dead += 1
        if self.dead > _SPARE + self.small_items + self.main_items:
            self.small = deque(one for one in self.small if one.mark != DEAD)
            self.main = deque(one for one in self.main if one.mark != DEAD)
            self.dead = 0

    def evict(self) -> Entry:
        """Choose the entry that goes, and take it out. There is at least one."""
        max_bytes = self._max_bytes
        while True:
            if (
                self.small_items > self._small_room
                or not self.main_items
                or (max_bytes is not None and self.small_bytes * 10 > max_bytes)
            ):
                entry = self.small.popleft()
                if entry.mark == DEAD:
                    self.dead -= 1
                    continue
                self.small_items -= 1
                self.small_bytes -= entry.size
                if entry.n == 0:
                    entry.mark = DEAD
                    ghost = hash(entry.key)
                    self._ghost.add(ghost)
                    self._ghost_order.append(ghost)
                    if len(self._ghost_order) > self._ghost_room:  # as many as the main queue may have entries
                        self._ghost.discard(self._ghost_order.popleft())
                    return entry
                entry.mark = entry.n
                self.main_items += 1
            else:
                entry = self.main.popleft()
                if entry.mark == DEAD:
                    self.dead -= 1
                    continue
                hits = entry.n - entry.mark
                if hits <= 0:
                    entry.mark = DEAD
                    self.main_items -= 1
                    return entry
                entry.mark = entry.n - (hits if hits < 3 else 3) + 1
            self.main.append(entry)

    def exchange(self, entry: Entry) -> Entry:
        """`insert` and `evict` in one step, for a memory that is full and counts items alone.

        What most insertions come to, a new entry in and a small one out that nobody asked for, in a straight line.
        """
        ghosts = self._ghost
        if hash(entry.key) in ghosts:
            self.insert(entry)
            return self.evict()
        entry.mark = SMALL
        small = self.small
        small.append(entry)
        if self.small_items >= self._small_room or not self.main_items:
            oldest = small[0]
            if not oldest.n and oldest.mark == SMALL:
                small.popleft()
                oldest.mark = DEAD
                ghost = hash(oldest.key)
                ghosts.add(ghost)
                order = self._ghost_order
                order.append(ghost)
                if len(order) > self._ghost_room:
                    ghosts.discard(order.popleft())
                return oldest
        self.small_items += 1
        return self.evict()

    def clear(self) -> None:
        """Forget everything, the ghosts too."""
        for queue in (self.small, self.main):
            for entry in queue:
                entry.mark = DEAD
            queue.clear()
        self._ghost.clear()
        self._ghost_order.clear()
        self.small_items = self.small_bytes = self.main_items = self.dead = 0

    @property
    def ghosts(self) -> int:
        """Evicted keys whose hash is remembered."""
        return len(self._ghost)
