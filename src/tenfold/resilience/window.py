"""The evidence of one period of traffic: what was called, how it went, and whether that is too much.

Theory. Results are counted in buckets of a tenth of the window. Only the bucket of the present is written to;
those before it are kept as a ring of totals, oldest first, without the empty ones, so that turning to a new bucket
costs the same after a second and after a night.

The evidence is *the last window; and if that holds fewer than ``minimum`` calls, as many whole buckets before it
as it takes to hold them, back to ``stretch`` windows*. A busy caller is judged by its last 30 seconds. A caller with
four calls a minute never has 20 in 30 seconds, and a breaker with a plain window would watch all of them fail for
ever; here its evidence reaches five minutes back and it trips. Beyond the bound evidence is forgotten however
little there is, since an hour-old failure says nothing about now; for callers that are quieter still there is the
trip of failures in a row, forgotten after the same bound.

A bucket that has been dropped is never missed later: it was dropped either because the younger ones hold the minimum,
which stays true until they are themselves past the bound, or because it was past the bound itself. So dropping when
convenient gives the same evidence as working it out afresh each time (the property test does just that).

A quick success can only lower the shares, so nothing is worked out when one is counted: `Circuit.success` takes
the lock, looks whether the bucket has ended, and adds to its ticket. A policy that inlined this would save one method
call and have to know the lock, the edge and the threshold for it, which is not worth it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from tenfold._core.units import duration, share
from tenfold.resilience.breaker import Breaker

BUCKETS: Final = 10


class Ticket:
    """What a call holds from `Circuit.admit` until it is settled: by `success`, `failure` or `neutral`, once.

    ``edge`` is when the present bucket of its period ends, minus infinity where results need a closer look.
    ``slow_call``, ``good`` and ``run`` are the period's threshold, successes of the present bucket, and failures
    since the last success.
    """

    __slots__ = ("edge", "good", "run", "slow_call")

    def __init__(self, edge: float = -math.inf) -> None:
        self.edge = edge
        self.slow_call = math.inf
        self.good = 0
        self.run = 0


class Period(Ticket):
    """One stretch of closed or ramp traffic; all its calls share this one ticket. Guarded by its circuit's lock."""

    __slots__ = (
        "_bad",
        "_calls",
        "_consecutive",
        "_failed_at",
        "_horizon",
        "_minimum",
        "_past",
        "_past_bad",
        "_past_calls",
        "_past_slow",
        "_ratio",
        "_slow",
        "_slow_ratio",
        "_width",
        "_window",
    )

    def __init__(self, options: Breaker) -> None:
        super().__init__()
        self._past: deque[tuple[float, int, int, int]] = deque()  # (end of the bucket, calls, failures, slow)
        self._past_calls = self._past_bad = self._past_slow = 0
        self._bad = self._slow = 0
        self._failed_at = -math.inf
        self.tune(options)

    def tune(self, options: Breaker) -> None:
        """Go by other options from now on; what was counted stays, and the present bucket ends as it would have."""
        self._window = duration(options.window)
        self._width = self._window / BUCKETS
        self._horizon = self._window * options.stretch
        self._minimum = options.minimum
        self._ratio = math.inf if options.ratio is None else share(options.ratio)
        self._consecutive = math.inf if options.consecutive is None else int(options.consecutive)
        self.slow_call = math.inf if options.slow_call is None else duration(options.slow_call)
        self._slow_ratio = share(options.slow_ratio)

    def turn(self, now: float) -> int:
        """Begin the bucket that ``now`` is in, if it is a later one. Returns how many successes were in the old one,
        for the owner's total."""
        if now < self.edge:
            return 0
        good, bad = self.good, self._bad
        if good or bad:
            self._past.append((self.edge, good + bad, bad, self._slow))
            self._past_calls += good + bad
            self._past_bad += bad
            self._past_slow += self._slow
            self.good = self._bad = self._slow = 0
        if self.edge == -math.inf:
            self.edge = now + self._width
        else:
            self.edge += self._width * (int((now - self.edge) / self._width) + 1)
        self._trim()
        return good

    def end(self) -> int:
        """No more is counted here: whoever still holds the ticket has come too late. Returns as `turn` does."""
        good, self.good = self.good, 0
        self.edge = -math.inf
        return good

    def _trim(self) -> None:
        past = self._past
        # Half a bucket of slack, because the ends of buckets are sums of rounded numbers.
        window = self.edge - self._window + self._width / 2
        horizon = self.edge - self._horizon + self._width / 2
        present = self.good + self._bad
        while past:
            end, calls, bad, slow = past[0]
            if end > window or (end > horizon and self._past_calls + present - calls < self._minimum):
                break
            past.popleft()
            self._past_calls -= calls
            self._past_bad -= bad
            self._past_slow -= slow

    def fail(self, now: float) -> None:
        """Count a failure. Call `turn` before."""
        self._bad += 1
        self.run = 1 if now - self._failed_at > self._horizon else self.run + 1
        self._failed_at = now

    def drag(self) -> None:
        """Count the last call, whatever came of it, as slow."""
        self._slow += 1

    def verdict(self) -> str | None:
        """Why to open, or None: the sentence that the event and the refusals carry."""
        self._trim()
        if self.run >= self._consecutive:
            return f"{self.run} failures in a row"
        calls, bad, slow = self.totals
        if calls >= self._minimum:
            # Divided rather than multiplied: 7 / 100 is the float that 0.07 is, while 0.07 * 100 is above 7.
            if bad / calls >= self._ratio:
                return f"{bad} of {calls} calls failed"
            if slow / calls >= self._slow_ratio and self.slow_call < math.inf:
                return f"{slow} of {calls} calls were slow"
        return None

    @property
    def totals(self) -> tuple[int, int, int]:
        """``(calls, failures, slow)`` of the evidence as of the last result that was looked at closely."""
        bad = self._past_bad + self._bad
        return self._past_calls + self.good + self._bad, bad, self._past_slow + self._slow
