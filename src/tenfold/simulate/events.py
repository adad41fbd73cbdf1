"""The virtual clock: what happens next, and nothing in between.

Theory. A discrete-event simulation keeps what will happen in a heap by time and jumps from one event to the next
(Law, "Simulation Modeling and Analysis", ch. 1). Two events of the same instant happen in the order in which they were
put down: a sequence number stands behind the time, so that the order never depends on addresses or hashes and one seed
gives one result. Nothing is taken out of the heap: an event that lost its meaning (a server crashed before it would
have answered) looks at its subject when its time comes, and does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from tenfold._core.errors import MisuseError

Action = Callable[[float, Any], None]
"""What an event does: it is given the moment and the subject it was put down with."""


class Timeline:
    """Events in the order of their moments; ``now`` is seconds since the start, ``fired`` how many there were."""

    __slots__ = ("_heap", "_next", "_stopped", "fired", "now")

    def __init__(self) -> None:
        self._heap: Final[list[tuple[float, int, Action, Any]]] = []
        self._next = 0
        self._stopped = False
        self.now = 0.0
        self.fired = 0

    def at(self, when: float, action: Action, subject: Any = None) -> None:
        """Let ``action(when, subject)`` happen at ``when``, after all that is to happen then already.

        Raises `MisuseError` for a moment that has passed and for one that is no number.
        """
        if not when >= self.now:
            raise MisuseError(f"timeline: expected a moment of {self.now!r} or later, got {when!r}")
        heappush(self._heap, (when, self._next, action, subject))
        self._next += 1

    def run(self, until: float = math.inf) -> None:
        """Let everything happen up to ``until`` inclusive, or up to `stop`; the clock ends at the last event."""
        heap, pop = self._heap, heappop
        fired = 0
        self._stopped = False
        try:
            while heap and heap[0][0] <= until and not self._stopped:
                when, _, action, subject = pop(heap)
                self.now = when
                fired += 1
                action(when, subject)
        finally:
            self.fired += fired

    def stop(self) -> None:
        """End `run` after the event that happens now."""
        self._stopped = True

    def __len__(self) -> int:
        return len(self._heap)

    def __repr__(self) -> str:
        return f"<Timeline at {self.now:g} s, {len(self._heap)} to come, {self.fired} past>"
