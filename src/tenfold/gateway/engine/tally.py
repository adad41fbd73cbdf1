"""What is counted of pools, routes and endpoints: plain ints, added to where a request passes anyway.

Theory. Whoever asks for metrics asks every few seconds, and a request comes every few dozen microseconds, so all sums
are made by the one who asks. A request adds one to a list of six (its route's and pool's answers, by the first digit of
the status), one to its endpoint, and one to a bucket of its pool's response times. Buckets have fixed bounds, those of
Prometheus' client libraries with two more below, because counts of the same bounds can be added up over processes
without an error, which an average of percentiles never can.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the buckets in seconds; the last one has none."""
CLASSES: Final = ("left", "1xx", "2xx", "3xx", "4xx", "5xx")
"""What the places of a list of answers stand for; ``left``: the client went away before there was a status."""


def answers() -> list[int]:
    """A list of answers by `CLASSES`, all zero."""
    return [0] * len(CLASSES)


class Times:
    """Response times of one pool."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        """Seconds, all together."""

    def add(self, seconds: float) -> None:
        """One response."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def __repr__(self) -> str:
        return f"<Times of {sum(self.counts)} responses>"


class Tally:
    """What one endpoint was sent."""

    __slots__ = ("failures", "requests")

    def __init__(self) -> None:
        self.requests = 0
        """Requests sent to it, further tries included."""
        self.failures = 0
        """Of those: no connection, no answer, or a broken one."""

    def __repr__(self) -> str:
        return f"<Tally requests={self.requests} failures={self.failures}>"
