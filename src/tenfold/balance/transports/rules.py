"""When an HTTP request may be sent again, and where. Pure: what happened comes in, what to do goes out.

Theory. A client that got no answer does not know whether the server has worked. Two facts let it try again anyway:

*Nothing was sent.* The connection was refused, the name did not resolve, the handshake failed. Any request may go to
another endpoint.

*The method is idempotent* (RFC 9110, section 9.2.2): to do it twice is to do it once. It may be sent again as long as
no response has begun; after that the caller has seen a part of one answer and must not get the rest of another.

Between the two lies the race of persistent connections (RFC 9112, section 9.3.1): a server closes a connection that was
idle just as a request is written to it. That says nothing about the server, so an idempotent request gets one more try
at the *same* endpoint on a *fresh* connection, once and for free. One that is not idempotent may have been read and
done before the connection broke, and nobody can tell from this side: it is never sent again once a byte may be out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Size, size

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The methods that RFC 9110 calls idempotent."""


class Failure(Enum):
    """How far a request got before it failed. Every failure of a client library is one of these."""

    UNSENT = "unsent"
    """No connection came about: nothing was sent, and it is the endpoint's failure."""
    NOT_HERS = "not hers"
    """Nothing was sent, for want of a free connection on this side; it says nothing about the endpoint."""
    NO_ANSWER = "no answer"
    """Some of it may have been sent, and no response had begun."""
    BROKEN = "broken"
    """As `NO_ANSWER`, and it was the connection that ended: on one that had been idle, it may be the race."""
    OURS = "ours"
    """The request itself was wrong, or the caller gave up: no endpoint would do better."""


class Next(Enum):
    """What to do after a failure."""

    RAISE = "raise"
    FRESH = "fresh"
    """The same endpoint once more, on a new connection."""
    OTHER = "other"
    """Another endpoint, if there is one and the budget pays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """What a balanced transport may send again.

    ``statuses`` (502, 503, 504) of an idempotent request are tried at another endpoint. ``failures`` (500 … 599) count
    as failures of the endpoint for its ejection and its breaker. ``methods`` are the idempotent ones; a request whose
    extension ``"tenfold_idempotent"`` is true counts as one of them, false as none. ``replay`` (``"64KiB"``) is how
    much of a streamed body is kept to be sent again; a longer one is sent once.

    Raises `MisuseError` for what makes no sense.
    """

    statuses: Collection[int] = (502, 503, 504)
    failures: Collection[int] = range(500, 600)
    methods: Collection[str] = IDEMPOTENT
    replay: Size = "64KiB"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "replay", size(self.replay, "replay"))
        for name in ("statuses", "failures"):
            statuses = frozenset(getattr(self, name))
            if any(type(status) is not int or not 100 <= status <= 599 for status in statuses):
                raise MisuseError(f"{name}: expected HTTP statuses such as 503, got {sorted(statuses, key=repr)}")
            put(self, name, statuses)
        methods = frozenset(self.methods)
        if any(type(method) is not str or not method or method != method.upper() for method in methods):
            raise MisuseError(f'methods: expected names such as "GET", got {sorted(methods, key=repr)}')
        if "POST" in methods:
            raise MisuseError(
                "methods: POST is not idempotent; mark those requests that are, with "
                'extensions={"tenfold_idempotent": True}'
            )
        put(self, "methods", methods)

    def idempotent(self, method: str, said: object = None) -> bool:
        """Whether a request may be sent twice. ``said`` is what the caller says of it, None for nothing."""
        return method in self.methods if said is None else bool(said)


def after(failure: Failure, *, idempotent: bool, replayable: bool, reused: bool, refreshed: bool) -> Next:
    """What to do about a failed request.

    ``replayable``: its body can be sent once more. ``reused``: it may have been sent on a connection that had served
    another one before (a client library does not say, and asking it to costs as much as the rest of a balanced
    transport, so it may be wherever a response has ended before). ``refreshed``: it has had its try on a fresh
    connection already.
    """
    if failure is Failure.OURS:
        return Next.RAISE
    if failure is Failure.UNSENT or failure is Failure.NOT_HERS:
        return Next.OTHER
    if not idempotent or not replayable:
        return Next.RAISE
    if failure is Failure.BROKEN and reused and not refreshed:
        return Next.FRESH
    return Next.OTHER
