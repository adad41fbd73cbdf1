"""The table: what to do with a request for which a stored response was found (RFC 9111 §4, §4.2.4 and §5.2.1).

The first line that applies decides.

==============================================================  ==============================  ===================
the request                                                     the stored response             what is done
==============================================================  ==============================  ===================
``no-cache`` (or ``Pragma: no-cache``)                          any                             ask
``max-age`` below its age                                       any but fresh and immutable     ask
any                                                             ``no-cache``                    ask
any                                                             fresh                           serve
``min-fresh`` above what is left                                fresh                           ask
``max-stale`` up to its staleness                               stale, not strict               serve
any, without ``min-fresh``                                      stale, within its swr           serve and revalidate
any                                                             stale                           ask
==============================================================  ==============================  ===================

*Ask* is REVALIDATE where the stored response has a validator, else FORWARD; with ``only-if-cached`` it is a 504.
*Strict* are ``must-revalidate``, ``proxy-revalidate``, ``no-cache`` and ``s-maxage``.
"""

from __future__ import annotations

from enum import Enum

from tenfold.gateway.edge.control import Control
from tenfold.gateway.edge.status import Fwd
from tenfold.gateway.edge.stored import Stored


class Action(Enum):
    """What the engine does with a request."""

    SERVE = "serve"
    """Answer from the store."""
    SERVE_STALE_WHILE_REVALIDATE = "serve_stale_while_revalidate"
    """Answer from the store, and ask the origin with the decision's conditions meanwhile."""
    REVALIDATE = "revalidate"
    """Ask the origin with the decision's conditions; a 304 makes the stored response fresh again."""
    FORWARD = "forward"
    """Ask the origin as the client did."""
    WAIT = "wait"
    """Somebody else is asking the same: follow."""
    ONLY_IF_CACHED_504 = "only_if_cached_504"
    """Answer 504: the client wants nothing but what is stored."""
    FAILED = "failed"
    """The request that this one followed has failed: answer as that one was answered."""


def judge(stored: Stored, asked: Control, now: float) -> tuple[Action, Fwd | None]:
    """SERVE, SERVE_STALE_WHILE_REVALIDATE or REVALIDATE (which stands for "ask"), and why it is asked."""
    left = stored.fresh_until - now
    if asked.no_cache:
        return Action.REVALIDATE, Fwd.REQUEST
    fresh = left > 0
    too_old = asked.max_age is not None and (asked.max_age == 0 or now - stored.born > asked.max_age)
    if too_old and not (fresh and stored.immutable):
        return Action.REVALIDATE, Fwd.REQUEST
    if stored.no_cache:
        return Action.REVALIDATE, Fwd.STALE
    if asked.min_fresh is not None and left < asked.min_fresh:
        return Action.REVALIDATE, Fwd.REQUEST if fresh else Fwd.STALE
    if fresh:
        return Action.SERVE, None
    if asked.max_stale is not None and not stored.strict and -left <= asked.max_stale:
        return Action.SERVE, None
    if now < stored.swr_until:
        return Action.SERVE_STALE_WHILE_REVALIDATE, None
    return Action.REVALIDATE, Fwd.STALE


def usable_on_error(stored: Stored, now: float) -> bool:
    """Whether a stored response may stand in for an origin that fails (RFC 5861 §4)."""
    return not stored.no_cache and (now < stored.fresh_until or now < stored.sie_until)
