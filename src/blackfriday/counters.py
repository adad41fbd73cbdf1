"""Plain counters that outlive their worker: one memory-mapped file a process, summed by whoever is asked.

A request to ``/internal/stats`` reaches one worker of several, so counters in that worker's memory would
tell a part of the truth. Each process adds to its own file (an addition, no lock, no system call); a reader
sums the files of the folder. A killed worker's file stays, so nothing that was counted is lost.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAMES = (
    "requests",  # to what may be cached: listings, categories, products, searches; the baseline counts all reads
    "document_loads",  # statements sent to PostgreSQL for their documents, warming included
    "stock_loads",  # statements sent to PostgreSQL for their stock alone
    "warm_loads",  # of all these statements, those sent to warm the cache
    "checkouts",  # orders accepted, once it is known whether they are paid; replays excluded
    "payment_failures",  # orders left payment_pending
    "purge_failures",  # purges of the edge that were not confirmed
    "replica_reads",  # statements that a replica answered; from the rung with replicas on, as the two below
    "token_reads",  # of these, those that had to show what their customer had written before
    "primary_reads",  # statements that a replica should have answered and the primary did
    "reservations_finished",  # orders that another than their checkout has written
    "reservations_undone",  # reservations given back: their key had an order already
)
INDEX = {name: place for place, name in enumerate(NAMES)}
WIDTH = 8


def hit_rate(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The share of requests between two readings that PostgreSQL did not notice, counted where it would: at
    the origin.

    Every statement for a document or for stock counts against it, also the second one of a request; warming
    between the two readings does not. 0 without requests.
    """
    requests = after["requests"] - before["requests"]
    loads = sum(after[name] - before[name] for name in ("document_loads", "stock_loads"))
    loads -= after["warm_loads"] - before["warm_loads"]
    return max(0.0, 1 - loads / requests) if requests else 0.0


class Counters:
    """The counters of one process. ``add`` is the hot path; ``total`` reads the whole folder."""

    __slots__ = ("_file", "_folder", "_map", "_slots", "_temporary")

    def __init__(self, folder: str = "") -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="blackfriday-")
        self._folder = Path(folder or self._temporary.name)  # type: ignore[union-attr]
        self._folder.mkdir(parents=True, exist_ok=True)
        size = WIDTH * len(NAMES)
        descriptor, self._file = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".counters", dir=self._folder)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._slots = memoryview(self._map).cast("q")

    def __repr__(self) -> str:
        return f"<Counters {dict(zip(NAMES, self._slots, strict=True))} in {self._file}>"

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a counter of this process."""
        self._slots[INDEX[name]] += amount

    def put(self, name: str, value: int) -> None:
        """Set a counter of this process to what somebody else has counted."""
        self._slots[INDEX[name]] = value

    def own(self, name: str) -> int:
        """The counter of this process alone."""
        return self._slots[INDEX[name]]

    def total(self) -> dict[str, int]:
        """The sums over all processes that counted into this folder, dead ones included, and their number."""
        sums = [0] * len(NAMES)
        files = 0
        for path in sorted(self._folder.glob("*.counters")):
            data = memoryview(path.read_bytes()).cast("q")
            if len(data) == len(NAMES):  # else just being made by a starting worker
                files += 1
                sums = [a + b for a, b in zip(sums, data, strict=True)]
        return {**dict(zip(NAMES, sums, strict=True)), "workers": files}

    def close(self) -> None:
        """Release the mapping; the file stays for the readers unless the folder was this process's alone."""
        self._slots.release()
        self._map.close()
        if self._temporary is not None:
            self._temporary.cleanup()
