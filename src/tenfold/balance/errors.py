"""What balancing raises, and how an error of somebody else's is told where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from tenfold._core.errors import TenfoldError

_TRIED: Final = "tenfold_tried"


class BalanceError(TenfoldError):
    """Root of this package's errors. ``balancer`` is the name of the one that raised it."""

    def __init__(self, message: str, *, balancer: str = "") -> None:
        super().__init__(message)
        self.balancer: Final = balancer


class NoEndpoint(BalanceError):
    """No endpoint may be used, so nothing was sent.

    ``tried`` are the ids that the caller had tried before. ``why`` counts why each of the others was not used:
    ``"full"`` (``max_in_flight``), ``"breaker"``, ``"not ready"``. ``retry_after`` is when the first breaker lets a
    call pass again, in seconds from now; None where nobody knows.
    """

    def __init__(
        self,
        message: str,
        *,
        balancer: str = "",
        tried: Iterable[str] = (),
        why: Mapping[str, int] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, balancer=balancer)
        self.tried: Final = tuple(tried)
        self.why: Final = dict(why or {})
        self.retry_after = retry_after


class NotSent(BalanceError):
    """For functions given to `Balancer.run`: the endpoint could not be reached, and nothing of the request was sent.

    ``raise NotSent("no connection") from error`` lets the next endpoint be tried even if the work must not be done
    twice.
    """


class DiscoveryTimeout(BalanceError, TimeoutError):
    """Discovery did not yield its first set of endpoints in time."""


def tried_of(error: BaseException) -> tuple[str, ...]:
    """The ids of the endpoints that were tried before ``error`` was raised, the last one last; empty if unknown.

    The error of the last try is raised as it is, so that ``except`` clauses written for one server still hold; this
    says where it came from.
    """
    found = getattr(error, _TRIED, ())
    return found if isinstance(found, tuple) else ()


def mark(error: BaseException, balancer: str, tried: Iterable[str]) -> None:
    """Write on ``error`` which endpoints were tried: for `tried_of`, and as a note in its traceback."""
    ids = tuple(tried)
    if not ids or tried_of(error):
        return
    with suppress(AttributeError):  # an exception with slots; the note below says it as well
        setattr(error, _TRIED, ids)
    error.add_note(f"balancer {balancer!r}: tried {', '.join(ids)}")
