"""An answer that is as good as none: whether a status is tried again, at another endpoint, and after which pause.

Theory. A 503 is an answer, and to take it for a failure repeats work that may have been done. So it is tried again only
where a route says so (`Route.retry_statuses`), only what is idempotent and was kept whole, only while no byte of the
answer is with the client, while there is an endpoint that was not tried, and as far as the budget pays (RFC 9110
§9.2.2). Where any of this fails, the answer goes to the client as it came: it says more than one of ours would.

``Retry-After`` (RFC 9110 §10.2.3) is a wish of a server that may be about all of the service, so it is believed: the
pause is what it says and the scatter of the backoff. One that is longer than `Retry.retry_after`, or that does not end
before the deadline, ends the trying.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tenfold.gateway.engine import problem
from tenfold.resilience.backoff import parse_retry_after, pause

if TYPE_CHECKING:
    from tenfold.gateway.engine.sending import Sending
    from tenfold.gateway.framing import ResponseHead
    from tenfold.resilience.retry import Retry


def wait_for(said: float | None, scatter: float, options: Retry, left: float) -> float | None:
    """The seconds until the next try, or None: there is none. ``said`` is what the peer asked for, ``left`` what the
    deadline leaves.
    """
    if said is not None and said > float(options.retry_after):
        return None
    wait = (said or 0.0) + scatter
    return wait if wait < left else None


def retry_status(exchange: Sending, head: ResponseHead) -> bool:
    """Try again instead of passing that answer on, if that may be; True: it is under way."""
    route, pool, site = exchange.route, exchange.pool, exchange.site
    options = route.route.retries
    if (
        options is None
        or exchange.attempt >= route.attempts
        or exchange.kept is None
        or not exchange.ended
        or not exchange.idempotent
        or len(pool.balancer.endpoints) <= len(set(exchange.tried))
    ):
        return False
    text = next((line.partition(b":")[2] for line in head.plain if line[:12].lower() == b"retry-after:"), None)
    said = None if text is None else parse_retry_after(text.decode("latin-1"), site.wall())
    now = site.clock()
    scatter = pause(
        options.jitter, exchange.attempt, exchange.pause, float(options.base), float(options.cap), site.random
    )
    wait = wait_for(said, scatter, options, exchange.until - now if exchange.until != inf else inf)
    if wait is None or not exchange.pays(now):
        return False
    exchange._answer_done(ok=None if head.status == 429 else False)
    detail = f"an endpoint answered {head.status}, and no other one could be tried"
    exchange.failed_by = problem.fault("upstream_status", detail, retry_after=said)._replace(status=head.status)
    exchange.pause = scatter
    site.counters.retries += 1
    site.counters.retries_status += 1
    exchange.again(wait)
    return True
