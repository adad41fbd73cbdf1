"""Answers of the gateway itself: problem details (RFC 9457) that name the limit which fired.

`PROBLEMS` is the table of all of them: what a client is told, the reference (`docs/reference/gateway-problems.md`) and
the logs go by it. A problem's ``type`` is `TYPE` and its reason; where an option of the configuration drew the line,
``limit`` names it and ``limit_value`` says what it is set to (seconds, bytes or a number, as the option has it).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from tenfold.gateway.edge.dates import present_date
from tenfold.gateway.framing import Reason, Refusal

PHRASES: Final = {each.value: each.phrase.encode() for each in HTTPStatus}
TYPE: Final = "urn:problem-type:tenfold:gateway:"
"""What every ``type`` begins with; the reason follows."""

LINE_MAX: Final = 8 * 1024
"""Most bytes of a request line."""


class Problem(NamedTuple):
    """A row of the table. ``title`` is the same for every occurrence (RFC 9457 §3.1.3), ``limit`` the key of the
    configuration that drew the line, if one did, and ``unit`` what its number counts.
    """

    status: int
    title: str
    limit: str = ""
    unit: str = ""


PROBLEMS: Final[dict[str, Problem]] = {
    "header_timeout": Problem(408, "The request's head took too long", "gateway.header_timeout", "s"),
    "body_timeout": Problem(408, "The request's body came too slowly", "gateway.body_timeout", "s"),
    "head_too_large": Problem(431, "The request's head is too large", "gateway.header_max", "bytes"),
    "line_too_long": Problem(414, "The request line is too long"),
    "too_many_fields": Problem(431, "The request has too many headers", "gateway.headers_max"),
    "length_required": Problem(411, "The length of the request's body must be said", "route.body_max", "bytes"),
    "body_too_large": Problem(413, "The request's body is too large", "route.body_max", "bytes"),
    "rate_limit": Problem(429, "Too many requests", "route.rate_limit"),
    "rate_limit_store": Problem(429, "The rate limit's store does not answer", "route.rate_limit.on_store_error"),
    "concurrency": Problem(503, "Too many requests at once", "route.adaptive"),
    "concurrency_priority": Problem(503, "The places that are left are for more important requests", "route.priority"),
    "queue_full": Problem(503, "The queue for an endpoint is full", "pool.queue"),
    "queue_timeout": Problem(503, "No endpoint was free in time", "pool.queue_timeout", "s"),
    "no_place": Problem(503, "Every endpoint is busy", "pool.max_in_flight"),
    "no_endpoint": Problem(503, "No endpoint can take the request"),
    "deadline": Problem(504, "No answer before the deadline", "route.deadline", "s"),
    "callers_deadline": Problem(504, "No answer within the time that the caller gave"),
    "connect": Problem(502, "No connection to the endpoint came about"),
    "connect_timeout": Problem(504, "The endpoint could not be reached in time", "pool.connect_timeout", "s"),
    "first_byte_timeout": Problem(504, "The endpoint did not answer in time", "pool.first_byte_timeout", "s"),
    "tls_certificate": Problem(502, "The endpoint's certificate cannot be trusted", "pool.tls"),
    "tls_certificate_expired": Problem(502, "The endpoint's certificate has expired", "pool.tls"),
    "tls_certificate_not_yet_valid": Problem(502, "The endpoint's certificate is not valid yet", "pool.tls"),
    "tls_wrong_name": Problem(502, "The endpoint's certificate is for another name", "pool.tls"),
    "tls_self_signed": Problem(502, "The endpoint's certificate is self-signed", "pool.tls"),
    "tls_unknown_authority": Problem(502, "The endpoint's certificate is of an unknown authority", "pool.tls"),
    "tls_handshake": Problem(502, "The TLS handshake with the endpoint failed", "pool.tls"),
    "engine": Problem(500, "HAProxy failed by itself"),
    "upstream_stalled": Problem(504, "The endpoint took the request too slowly", "pool.body_timeout", "s"),
    "upstream_broken": Problem(502, "The endpoint closed the connection without an answer"),
    "upstream_invalid": Problem(502, "The endpoint's answer cannot be passed on"),
    "upstream_status": Problem(503, "The endpoint failed, and no other one could be tried"),
    "no_route": Problem(404, "No route is for this request"),
    "plain_http": Problem(400, "Plain HTTP came to a port that speaks TLS"),
    "dot_segments": Problem(400, "The path has dot segments"),
    "only_if_cached": Problem(504, "Nothing is stored that would answer the request"),
    "collapsed": Problem(502, "The request that this one waited for has failed"),
}
"""By reason, as ``reason`` in answers and ``fault`` in the access log have it. Others are `UNREADABLE`'s."""
UNREADABLE: Final = "not_http"
"""The type of requests that are refused because they could be read in two ways; ``reason`` is the `Reason`."""
UNREADABLE_TITLE: Final = "The request is no HTTP/1.1 that can be passed on"


class Fault(NamedTuple):
    """Why a request is answered by the gateway: ``reason`` for logs, ``detail`` for a person, ``limit`` the key of the
    configuration that drew the line, if one did.
    """

    status: int
    reason: str
    detail: str
    limit: str = ""
    retry_after: float | None = None
    value: float | str | None = None
    """What ``limit`` is set to."""
    kind: str = ""
    """The row of `PROBLEMS`, where it is another one than the reason's."""


def fault(reason: str, detail: str, *, retry_after: float | None = None, value: float | str | None = None) -> Fault:
    """A fault of that row of the table."""
    row = PROBLEMS[reason]
    return Fault(row.status, reason, detail, row.limit, retry_after, value)


HEADER_TIMEOUT: Final = fault("header_timeout", "the request's head took too long")
BODY_TIMEOUT: Final = fault("body_timeout", "the request's body came too slowly")
NO_ROUTE: Final = fault("no_route", "no route is for this request")
DOTS: Final = fault("dot_segments", 'the path has a segment "." or "..", which clients resolve themselves')
BODY_MAX: Final = fault("body_too_large", "the body is larger than the limit")
QUEUE_FULL: Final = fault("queue_full", "every endpoint is busy and the queue is full")
QUEUE_TIMEOUT: Final = fault("queue_timeout", "no endpoint was free in time")
DEADLINE: Final = fault("deadline", "no answer before the deadline")
CALLERS_DEADLINE: Final = fault("callers_deadline", "no answer within the time that the request's header gave")
CONNECT: Final = fault("connect", "no connection to the endpoint came about")
CONNECT_TIMEOUT: Final = fault("connect_timeout", "the endpoint could not be reached in time")
PLAIN_HTTP: Final = fault("plain_http", "this port speaks TLS, and plain HTTP came; ask by https")
BROKEN: Final = fault("upstream_broken", "the endpoint closed the connection without an answer")
FIRST_BYTE: Final = fault("first_byte_timeout", "the endpoint did not answer in time")
STALLED: Final = fault("upstream_stalled", "the endpoint took the request too slowly")
ONLY_IF_CACHED: Final = fault("only_if_cached", "nothing is stored, and the client wants nothing else")
COLLAPSED: Final = fault("collapsed", "the request that this one waited for has failed")


def fault_of(refusal: Refusal) -> Fault:
    """What a refused request is answered with."""
    row = PROBLEMS.get(refusal.token)
    detail = refusal.sentence
    if refusal.reason is Reason.LINE_TOO_LONG:
        detail += f" ({LINE_MAX} bytes, or gateway.header_max if that is less)"
    return Fault(
        refusal.status, refusal.token, detail, "" if row is None else row.limit, kind=UNREADABLE if row is None else ""
    )


def unreadable(refusal: Refusal) -> Fault:
    """What an endpoint's answer that is none is turned into."""
    detail = f"the endpoint's answer is none: {refusal.sentence}"
    return Fault(502, f"upstream_{refusal.token}", detail, kind="upstream_invalid")


Scope = Callable[[str], Any]
"""The options of ``"gateway"``, ``"pool"`` or ``"route"`` that hold for a request; None where there are none."""


def measured(given: Fault, scope: Scope) -> Fault:
    """The fault with the value of the option that drew the line, as far as it is known."""
    limit = given.limit
    if given.value is not None or not limit:
        return given
    table, _, name = limit.partition(".")
    value: Any = scope(table)
    for each in name.split("."):
        value = getattr(value, each, None)
    if limit == "route.body_max" and value is None:
        limit = "gateway.body_max"
        value = getattr(scope("gateway"), "body_max", None)
    if not isinstance(value, int | float | str):
        return given._replace(limit=limit)
    return given._replace(limit=limit, value=value)


def document(fault: Fault) -> dict[str, object]:
    """What a client is told, but for the request's id."""
    kind = fault.kind or fault.reason
    row = PROBLEMS.get(kind)
    title = UNREADABLE_TITLE if row is None else row.title
    told: dict[str, object] = {"type": TYPE + kind, "title": title, "status": fault.status, "detail": fault.detail}
    if fault.value is not None:
        unit = f" {row.unit}" if row is not None and row.unit else ""
        number = f"{fault.value:g}" if isinstance(fault.value, float) else fault.value
        told["detail"] = f"{fault.detail} ({fault.limit} is {number}{unit})"
    told["reason"] = fault.reason
    if fault.limit:
        told["limit"] = fault.limit
        if fault.value is not None:
            told["limit_value"] = fault.value
    return told


def render(fault: Fault, *, close: bool, request_id: bytes = b"", extra: bytes = b"", head_only: bool = False) -> bytes:
    """The bytes of the answer. ``extra`` are header lines with their ends."""
    told = document(fault)
    if request_id:
        told["request_id"] = request_id.decode("latin-1")
    body = json.dumps(told).encode()
    if fault.retry_after is not None:
        extra += b"Retry-After: %d\r\n" % max(1, int(fault.retry_after + 0.999))
    return own(fault.status, b"application/problem+json", body, close=close, extra=extra, head_only=head_only)


def own(status: int, kind: bytes, body: bytes, *, close: bool, extra: bytes = b"", head_only: bool = False) -> bytes:
    """The bytes of an answer of our own. It has a Date, as all of a server with a clock have (RFC 9110 §6.6.1)."""
    lines = [b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, PHRASES.get(status, b"Unknown"), present_date())]
    if status not in (204, 304):
        if body:
            lines.append(b"Content-Type: %b\r\n" % kind)
        lines.append(b"Content-Length: %d\r\n" % len(body))
    lines += (extra, b"Connection: close\r\n" if close else b"", b"\r\n", b"" if head_only else body)
    return b"".join(lines)


def table() -> str:
    """The table as Markdown, for the docs."""
    lines = ["| type | status | title | limit |", "|---|---|---|---|"]
    for reason, row in PROBLEMS.items():
        limit = f"`{row.limit}`" + (f" ({row.unit})" if row.unit else "") if row.limit else ""
        lines.append(f"| `{reason}` | {row.status} | {row.title} | {limit} |")
    lines.append(f"| `{UNREADABLE}` | as below | {UNREADABLE_TITLE} | |")
    lines += ["", "## Reasons of `not_http`", "", "| reason | status | |", "|---|---|---|"]
    for each in Reason:
        if each.token not in PROBLEMS and each.status not in (502, 504):
            lines.append(f"| `{each.token}` | {each.status} | {each.sentence} |")
    return "\n".join(lines)
