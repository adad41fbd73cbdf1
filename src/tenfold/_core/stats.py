"""Running statistics that forget: a decaying mean, counts over a sliding window, a rate.

They are pure: time is an argument. Every ``now`` is a number of seconds on one monotonic clock. A ``now``
earlier than one seen before counts as that one, so that two threads that read the clock and arrive in the
other order do no harm. None of these takes a lock: they belong to one event loop or stand under their owner's
lock.
"""

from __future__ import annotations

import math
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, whole_number


class Ewma:
    """Exponentially weighted moving average over *time*, for samples that come at irregular intervals.

    A sample aged ``a`` seconds weighs ``exp(-a / tau)``, so that the half-life is ``tau * ln 2``. The mean is
    the weighted sum over the sum of the weights, kept up to date by (West 1979, "Updating mean and variance
    estimates")::

        weight = weight * exp(-dt / tau) + 1
        mean  += (sample - mean) / weight

    Unlike the textbook form ``mean = mean * w + sample * (1 - w)`` this needs no first value to start from,
    counts samples of the same instant alike, and a constant stream has exactly that constant as its mean.

    Silence is another matter than samples: `value` moves from the mean towards ``rest`` at the same pace
    while nothing comes (a server that was slow and then got no requests must be tried again some time). A
    sample ends the silence.

    Give exactly one of ``half_life`` and ``tau``, more than zero. ``rest=None``: stays at the mean.
    """

    __slots__ = ("_last", "_rest", "_tau", "_weight", "mean")

    def __init__(
        self, *, half_life: Duration | None = None, tau: Duration | None = None, rest: float | None = 0.0
    ) -> None:
        if half_life is not None and tau is None:
            seconds = duration(half_life, "half_life") / math.log(2)
        elif tau is not None and half_life is None:
            seconds = duration(tau, "tau")
        else:
            raise MisuseError(f"Ewma: give exactly one of half_life and tau, got half_life={half_life!r}, tau={tau!r}")
        if seconds == 0:
            raise MisuseError('Ewma: expected a half_life or tau longer than zero, such as "10s", got 0')
        self._tau = seconds
        self._rest = rest
        self._weight = 0.0
        self._last = -math.inf
        self.mean = math.nan if rest is None else rest
        """The mean as of the last sample, without the pull of the silence since.

        Before any: ``rest``, or NaN.
        """

    def observe(self, sample: float, now: float) -> None:
        """Take in one sample.

        One that is not finite is refused with `MisuseError`: it would stay in the mean for ever.
        """
        if not math.isfinite(sample):
            raise MisuseError(f"Ewma: expected a finite sample, got {sample!r}")
        if self._weight == 0.0:
            self.mean = sample
            self._weight = 1.0
            self._last = now
            return
        self._weight = self._weight * self._kept(now) + 1.0
        self.mean += (sample - self.mean) / self._weight
        self._last = max(self._last, now)

    def value(self, now: float) -> float:
        """The mean, pulled towards ``rest`` by the time since the last sample.

        Before any: ``rest``, or NaN without one.
        """
        if self._rest is None or self._weight == 0.0:
            return self.mean
        return self._rest + (self.mean - self._rest) * self._kept(now)

    def weight(self, now: float) -> float:
        """How many samples' worth of evidence is left: near 0 means that the mean is hearsay."""
        return self._weight * self._kept(now) if self._weight else 0.0

    def _kept(self, now: float) -> float:
        return math.exp(-max(0.0, now - self._last) / self._tau)

    def __repr__(self) -> str:
        return f"<Ewma mean={self.mean:.6g} tau={self._tau:.6g} s rest={self._rest}>"


class Window:
    """Count and sum over the last ``span`` seconds, in a ring of ``buckets`` time buckets; nothing grows.

    Bucket edges are multiples of ``span / buckets``. The window is the bucket that holds ``now`` and the
    ``buckets - 1`` before it, so it reaches back by at most ``span`` and by more than ``span - span /
    buckets``: a bucket leaves as a whole, at its edge. Adding is O(1), reading O(buckets).
    """

    __slots__ = ("_counts", "_head", "_sums", "_width", "span")

    def __init__(self, span: Duration, *, buckets: int = 10) -> None:
        self.span: Final = duration(span, "span")
        if self.span == 0:
            raise MisuseError('Window: expected a span longer than zero, such as "10s", got 0')
        whole_number(buckets, "buckets", least=1)
        self._width = self.span / buckets
        self._counts = [0] * buckets
        self._sums = [0.0] * buckets
        self._head: int | None = None  # number of the newest bucket since time zero; None: nothing yet

    def add(self, now: float, value: float = 1.0, count: int = 1) -> None:
        """Count ``count`` events that make ``value`` together."""
        slot = self._advance(now) % len(self._counts)
        self._counts[slot] += count
        self._sums[slot] += value

    def count(self, now: float) -> int:
        """Events in the window."""
        self._advance(now)
        return sum(self._counts)

    def sum(self, now: float) -> float:
        """Sum of the values in the window."""
        self._advance(now)
        return math.fsum(self._sums)

    def mean(self, now: float, default: float = math.nan) -> float:
        """Mean value of the events in the window; ``default`` when there are none."""
        count = self.count(now)
        return math.fsum(self._sums) / count if count else default

    def clear(self) -> None:
        """Forget everything."""
        self._counts = [0] * len(self._counts)
        self._sums = [0.0] * len(self._sums)
        self._head = None

    def _advance(self, now: float) -> int:
        """Empty the buckets that time has passed over; the number of the newest one."""
        bucket = math.floor(now / self._width)
        head = self._head
        if head is None:
            head = self._head = bucket
        elif bucket > head:
            size = len(self._counts)
            for number in range(max(head + 1, bucket - size + 1), bucket + 1):
                self._counts[number % size] = 0
                self._sums[number % size] = 0.0
            head = self._head = bucket
        return head

    def __repr__(self) -> str:
        return f"<Window span={self.span:g} s buckets={len(self._counts)} count={sum(self._counts)}>"


class Ratio:
    """The share of good outcomes over a sliding window (a `Window` whose values are 1 and 0)."""

    __slots__ = ("_window",)

    def __init__(self, span: Duration, *, buckets: int = 10) -> None:
        self._window = Window(span, buckets=buckets)

    def add(self, good: bool, now: float) -> None:
        """Count one outcome."""
        self._window.add(now, 1.0 if good else 0.0)

    def total(self, now: float) -> int:
        """Outcomes in the window."""
        return self._window.count(now)

    def good(self, now: float) -> int:
        """Good outcomes in the window."""
        return int(self._window.sum(now))

    def bad(self, now: float) -> int:
        """Outcomes in the window that were not good."""
        return self.total(now) - self.good(now)

    def ratio(self, now: float, default: float = math.nan) -> float:
        """Good outcomes over all, 0…1.

        ``default`` when there are none: no evidence is neither good nor bad.
        """
        return self._window.mean(now, default)

    def clear(self) -> None:
        """Forget everything."""
        self._window.clear()

    def __repr__(self) -> str:
        return f"<Ratio of {self._window!r}>"


class RateMeter:
    """Events a second over a sliding window.

    Until a whole window has passed since the first event, the divisor is the time that has passed, but never
    less than one bucket: so a meter reads neither far too low while it is young nor infinite at its first
    event.
    """

    __slots__ = ("_first", "_window")

    def __init__(self, span: Duration, *, buckets: int = 10) -> None:
        self._window = Window(span, buckets=buckets)
        self._first: int | None = None

    def add(self, now: float, count: int = 1) -> None:
        """Count ``count`` events."""
        self._window.add(now, float(count), count)
        if self._first is None:
            self._first = math.floor(now / self._window._width)

    def rate(self, now: float) -> float:
        """Events a second; 0 before the first."""
        window = self._window
        count = window.count(now)
        if count == 0 or self._first is None or window._head is None:
            return 0.0
        # The window begins at an edge, and so does the meter's own life.
        oldest = max(self._first, window._head - len(window._counts) + 1)
        covered = max(now - oldest * window._width, window._width)
        return count / min(covered, window.span)

    def __repr__(self) -> str:
        return f"<RateMeter of {self._window!r}>"
