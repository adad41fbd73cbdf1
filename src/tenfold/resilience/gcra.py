"""The rate limiter of one process: the generic cell rate algorithm (GCRA), for one limit or for one a key.

Theory (ITU-T I.371, Annex A, "virtual scheduling"). A call is a *cell*. For each key one number is kept, the
*theoretical arrival time* TAT: when the bucket of cells will be empty again. A call of cost c that comes at time x
conforms if ``max(TAT, x) + c - x <= burst``; then that sum becomes the new TAT. It is the leaky bucket without its
timer: the level is ``TAT - x``. In every window of t seconds at most ``burst + rate * t`` cells are admitted.

*Time is counted in cells*: x = base + rate * now. A TAT then grows by whole numbers, which a double adds without
error, and x is rounded once for each reading and never accumulates. (10 µs added to a monotonic time of 10^6 seconds
are rounded to 0.1 ns, with each call and always the same way.) And a new rate needs no pass over the keys: ``base`` is
chosen such that the clock of cells goes on from where it stands.

*Bounded.* A TAT that has passed is as good as none, so such keys are dropped: with each new key the two oldest are
looked at. At ``max_keys`` eight are, and if all of them are in use, the one with the least to remember goes; that
key may then burst again, which is counted in ``forgotten``.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Hashable
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.ratelimit import RateLimit

_LOOK: Final = 2
_LOOK_WHEN_FULL: Final = 8
_HAIRS: Final = 64


class Meter:
    """A `RateLimit` at work in one process. Pure: time is an argument. Thread-safe."""

    __slots__ = (
        "_base",
        "_burst",
        "_keys",
        "_lock",
        "_max_keys",
        "_message",
        "_name",
        "_options",
        "_rate",
        "_tats",
        "admitted",
        "forgotten",
        "refused",
    )

    local: Final = True
    """`admit` never waits, so it serves asynchronous code too."""

    def __init__(self, options: RateLimit, *, name: str = "") -> None:
        self._lock = threading.Lock()
        self._name = name
        self._tats: dict[Hashable, float] = {}
        self._keys: deque[Hashable] = deque()  # each key of _tats once
        self._base = 0.0
        self.admitted = self.refused = self.forgotten = 0
        self._take(options, options.cells_a_second)

    def _take(self, options: RateLimit, rate: float) -> None:
        self._options = options
        self._rate = rate
        self._burst = float(options.cells)
        self._max_keys = options.max_keys
        self._message = f"the rate of {rate:g}/s (burst {self._burst:g}) is used up"

    def admit(self, now: float, key: Hashable = None, cost: float = 1) -> None:
        """Count a call of ``cost`` cells, or raise `RateLimited`.

        ``retry_after`` is exact: the same call is refused before and, if nobody else comes, admitted then. Raises
        `MisuseError` for a cost that can never be admitted.
        """
        lock = self._lock
        lock.acquire()
        try:
            tats = self._tats
            cells = self._base + now * self._rate
            tat = tats.get(key)
            if tat is None:
                if 0 < cost <= self._burst:
                    self._remember(key, cells + cost, cells)
                    self.admitted += 1
                    return
                tat = cells
            after = (tat if tat > cells else cells) + cost
            if after - cells <= self._burst and cost > 0:
                tats[key] = after
                self.admitted += 1
                return
            wait = self._refuse(now, key, cost, tat, cells)
        finally:
            lock.release()
        raise RateLimited(self._message, policy=self._name, retry_after=wait)

    # -- the rest runs under the lock

    def _refuse(self, now: float, key: Hashable, cost: float, tat: float, cells: float) -> float:
        """The seconds until the call would be admitted."""
        if not 0 < cost <= self._burst:
            raise MisuseError(
                f"rate limit: expected a cost above 0 and up to the burst of {self._burst:g}, got {cost!r}; "
                "raise burst= or split the call"
            )
        self.refused += 1
        after = max(tat, cells) + cost
        wait = (after - cells - self._burst) / self._rate
        # Rounding may leave this a hair early, and then a caller who waited just so long is refused once more.
        hair = math.ulp(now + wait)
        for _ in range(_HAIRS):
            if self._conforms(now + wait, tat, cost):
                break
            wait += hair
            hair *= 2
        return wait

    def _conforms(self, at: float, tat: float, cost: float) -> bool:
        cells = self._base + at * self._rate
        return max(tat, cells) + cost - cells <= self._burst

    def _remember(self, key: Hashable, tat: float, cells: float) -> None:
        tats, keys = self._tats, self._keys
        full = len(tats) >= self._max_keys
        used: list[Hashable] = []
        for _ in range(min(len(keys), _LOOK_WHEN_FULL if full else _LOOK)):
            oldest = keys.popleft()
            if tats[oldest] > cells:
                used.append(oldest)
            else:
                del tats[oldest]
                full = False
        if full:
            least = min(used, key=tats.__getitem__)
            used.remove(least)
            del tats[least]
            self.forgotten += 1
        keys.extend(used)  # to be looked at again after all others
        tats[key] = tat
        keys.append(key)

    # -- for its owner

    @property
    def options(self) -> RateLimit:
        """The options in force."""
        return self._options

    @property
    def burst(self) -> float:
        """The dearest call that can be admitted."""
        return self._burst

    def reconfigure(self, options: RateLimit, now: float) -> None:
        """Go on with other options; what has been used stays used, what is above a lower burst is forgiven."""
        with self._lock:
            cells = self._base + now * self._rate
            rate = options.cells_a_second
            self._base = cells - now * rate
            highest = cells + options.cells
            if options.cells < self._burst:
                self._tats = {key: min(tat, highest) for key, tat in self._tats.items()}
            self._take(options, rate)

    def state(self) -> dict[str, object]:
        """Options in force, counters and how many keys are remembered."""
        return {
            "rate": self._rate,
            "burst": self._burst,
            "keys": len(self._tats),
            "admitted": self.admitted,
            "refused": self.refused,
            "forgotten": self.forgotten,
        }

    def __len__(self) -> int:
        return len(self._tats)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        counts = f"admitted={self.admitted} refused={self.refused}"
        return f"<Meter {self._rate:g}/s burst={self._burst:g} keys={len(self._tats)} {counts}>"
