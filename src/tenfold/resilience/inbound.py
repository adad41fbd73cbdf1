"""What a request brings with it: its terms, read from the headers without a clock or a socket, and the faces of
what the middleware works with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from tenfold.resilience.wire import (
    PRIORITY_HEADER,
    RETRY,
    TIMEOUT,
    Priority,
    parse_priority,
    parse_retry,
    parse_timeout,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_TIMEOUT: Final = TIMEOUT.lower().encode()
_RETRY: Final = RETRY.lower().encode()
_PRIORITY: Final = PRIORITY_HEADER.lower().encode()


class Terms(NamedTuple):
    """Until when (monotonic seconds), whether a caller retries, and how much it matters."""

    until: float
    retried: bool
    priority: Priority


def read_terms(
    headers: Iterable[tuple[bytes, bytes]],
    now: float,
    inherited: Terms,
    *,
    max_timeout: float,
    max_priority: Priority,
) -> tuple[Terms, int]:
    """The terms of a request with these ASGI headers, and how many of our headers made no sense.

    The deadline is never later than the inherited one. Of several headers of a name the strictest counts.
    """
    until, retried, priority = inherited
    asked: Priority | None = None
    malformed = 0
    for name, value in headers:
        if not name.startswith(b"tenfold-"):
            continue
        if name == _TIMEOUT:
            seconds = parse_timeout(value, most=max_timeout)
            if seconds is None:
                malformed += 1
            else:
                until = min(until, now + seconds)
        elif name == _RETRY:
            if parse_retry(value):
                retried = True
            else:
                malformed += 1
        elif name == _PRIORITY:
            found = parse_priority(value, most=max_priority)
            if found is None:
                malformed += 1
            else:
                asked = found if asked is None else min(asked, found)
    return Terms(until, retried, priority if asked is None else asked), malformed


class Meter(Protocol):
    """What a rate limit has to offer: every live `RateLimit` does.

    One that is not ``local`` (it asks a server) also has ``async def admit_async(now, key=None)``, which is
    awaited instead.
    """

    local: bool

    def admit(self, now: float, key: Hashable = None) -> object:
        """Let one call of that key pass, or raise `RateLimited` with ``retry_after``."""
        ...


@dataclass(slots=True)
class RequestCounters:
    """What a `ResilienceMiddleware` did so far. Hand one in to read it where a framework makes the middleware."""

    requests: int = 0
    malformed: int = 0
    """Headers of ours that made no sense and were ignored."""
    expired: int = 0
    """Answered 504 without calling the application: the time was over on arrival or before there was a place."""
    stopped: int = 0
    """Stopped at the deadline while the application ran."""
    shed: int = 0
    rate_limited: int = 0
    disconnected: int = 0
    """Clients who went while they waited for a place."""
    translated: int = 0
    """Refusals and time-outs raised by the application and answered as problems."""


def client_address(scope: Scope) -> Hashable:
    """The default key of the rate limit: the address of the peer, None (one rate for all) where there is none.

    Behind a proxy the peer is the proxy: let the server set the client from a header that the proxy
    overwrites (``uvicorn --proxy-headers``), or give a ``key`` of your own.
    """
    client = scope.get("client")
    return client[0] if client else None
