"""What is settled for a request before its first try: its deadline, the gateway's own cookies, an answer of the route.

Theory. A caller may say how many milliseconds it still waits (`Tenfold-Timeout-Ms`). On a route with a deadline that
only ever shortens it, so anybody may; without one, only a trusted peer is heard, because a time-out has costs for
endpoints and the log. What a caller cut short says nothing of the endpoint, and is no failure of it: otherwise anybody
could have endpoints ejected by asking for a millisecond.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from tenfold.gateway.engine import problem
from tenfold.gateway.engine.canned import canned
from tenfold.gateway.engine.sticky import take
from tenfold.resilience.deadline import TIMEOUT_HEADER
from tenfold.resilience.wire import parse_timeout

if TYPE_CHECKING:
    from tenfold.gateway.engine.sending import Sending

_TIMEOUT: Final = TIMEOUT_HEADER.lower().encode()
_T: Final = b"tT"


def dated(exchange: Sending, most: float | None) -> bool:
    """Start the time for the answer's head: the route's ``most``, or what is left of the caller's, if that is less; of
    several headers the strictest counts. False: it is over already, and the request is answered.
    """
    head, size = exchange.head, len(_TIMEOUT)
    allowed = inf if most is None else most
    if any(line[0] in _T and line[:size].lower() == _TIMEOUT for line in head.plain):
        said = [parse_timeout(value) for value in head.fields.get(_TIMEOUT, ())]
        head.plain = [line for line in head.plain if line.partition(b":")[0].lower() != _TIMEOUT]
        left = min((each for each in said if each is not None), default=inf)
        if left < allowed:
            allowed, exchange.callers = left, True
            if left == 0:
                exchange.give_up(problem.CALLERS_DEADLINE)
                return False
    if allowed != inf:
        exchange.until = exchange.site.now + allowed
        exchange.site.dated.add(exchange)
    return True


def own_cookies(exchange: Sending, names: frozenset[bytes]) -> None:
    """Take what is between the gateway and the client out of what endpoints see, and go by it."""
    mine = take(exchange.head, names)
    if exchange.route.canary is not None:
        exchange.choose_pool(mine)
    if exchange.pool.sticky is not None:
        exchange.cookie = mine.get(exchange.pool.sticky.name, "")


def answer(exchange: Sending) -> None:
    """The answer of a route that answers by itself."""
    head = exchange.head
    exchange.close = not head.keep_alive or head.length != 0 or exchange.client.closing
    exchange.respond(*canned(exchange.route.route, head, close=exchange.close))
