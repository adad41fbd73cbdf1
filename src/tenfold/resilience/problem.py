"""Refusals that a client can read: RFC 9457 problem bodies, and which error of ours is which status.

"Not started" is 503 or 429 with a ``Retry-After``, so that a client may try again and where; "ran out of time"
is 504. By default ``type`` is ``about:blank``, as the RFC wants it for problems that say no more than their
status, and the member ``code`` tells them apart; who documents the types gives the prefix of their addresses.
"""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    DeadlineTooShort,
    Overloaded,
    RateLimited,
    Rejected,
    ResilienceError,
)
from tenfold.resilience.wire import format_retry_after

CONTENT_TYPE: Final = "application/problem+json"

# In this order: DeadlineTooShort is a Rejected as well, and every other Rejected comes last.
_KINDS: Final[tuple[tuple[type[ResilienceError], int, str, str], ...]] = (
    (DeadlineTooShort, 504, "deadline-too-short", "The time for this request had passed before it was started."),
    (DeadlineExceeded, 504, "deadline-exceeded", "The request was not finished in its time and has been stopped."),
    (AttemptTimeout, 504, "attempt-timeout", "Something that this request depends on did not answer in time."),
    (RateLimited, 429, "rate-limited", "Too many requests; the request was not started."),
    (Overloaded, 503, "overloaded", "The service is overloaded; the request was not started."),
    (BreakerOpen, 503, "breaker-open", "Something that this request depends on is failing; it was not called."),
    (BulkheadFull, 503, "bulkhead-full", "All places for this kind of work are taken; it was not started."),
    (Rejected, 503, "rejected", "The request was not started."),
)


def problem(
    status: int,
    *,
    code: str = "",
    detail: str = "",
    title: str = "",
    type_prefix: str = "",
    instance: str = "",
) -> bytes:
    """An ``application/problem+json`` body.

    ``type`` is ``type_prefix`` followed by ``code``, or ``about:blank`` without a prefix; ``title`` (default:
    the phrase of the status) names the kind of problem, ``detail`` explains it, ``instance`` is a URI of this
    one occurrence. What is empty is left out.
    """
    members: dict[str, object] = {
        "type": type_prefix + code if type_prefix and code else "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
    }
    members.update({key: text for key, text in (("detail", detail), ("instance", instance), ("code", code)) if text})
    return json.dumps(members, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def _known(kind: int, type_prefix: str) -> bytes:
    """The bodies of refusals are the same every time, and are wanted when there is least time to make them."""
    _, status, code, detail = _KINDS[kind]
    return problem(status, code=code, detail=detail, type_prefix=type_prefix)


def answer_to(
    error: ResilienceError, *, type_prefix: str = "", explain: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
    """Status, headers and body for an error; None for one that is not a matter of refusal or time.

    ``explain`` puts the error's own message into ``detail``: it may name what is inside, so it is for services
    whose callers are your own. Without it, the detail is one fixed sentence.
    """
    kind = next((number for number, row in enumerate(_KINDS) if isinstance(error, row[0])), None)
    if kind is None:
        return None
    _, status, code, _ = _KINDS[kind]
    if explain:
        body = problem(status, code=code, detail=str(error), type_prefix=type_prefix)
    else:
        body = _known(kind, type_prefix)
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    after = error.retry_after
    if after is None and isinstance(error, (RateLimited, Overloaded)):
        after = 1.0  # both pass by themselves, and a client that is told nothing comes back at once
    if after is not None and status != 504:
        headers.append((b"retry-after", format_retry_after(after).encode()))
    return status, headers, body
