"""How many connections a pool needs.

Theory. By Little's law (1961) the connections in use are on average N = λ · W: statements (or transactions) a second
times the seconds for which each holds a connection. With random arrivals the number in use varies like a Poisson
variable, standard deviation √N, so a pool of just N has somebody waiting half of the time. *Square-root staffing*
(Halfin and Whitt, 1981) adds z · √N; at z = 2 about one arrival in fifty finds no connection free. More does not help:
PostgreSQL works on as many statements at once as it has processors (and spindles), and queues the rest inside, where
the queue costs memory and locks instead of an entry in a list.
"""

from __future__ import annotations

import math
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, rate

_DEVIATIONS: Final = 2.0


def connections_for(target: str | float, held: Duration) -> int:
    """Connections of one pool for ``target`` (``"500/s"``) operations that hold one for ``held`` (``"4ms"``) each.

    ⌈λW + 2√(λW)⌉, at least 2: for 500/s at 4 ms two are in use on average, and the pool has 5. Raises `MisuseError`
    for zeros.
    """
    operations, seconds = rate(target, "rate"), duration(held, "held")
    if operations == 0 or seconds == 0:
        raise MisuseError(
            f'pool_size="auto": expected a rate and a time held above 0, such as rate="500/s", held="4ms"; '
            f"got {target!r} and {held!r}"
        )
    busy = operations * seconds
    return max(2, math.ceil(busy + _DEVIATIONS * math.sqrt(busy) - 1e-9))
