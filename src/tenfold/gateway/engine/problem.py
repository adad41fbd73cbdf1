"""Answers of the gateway itself: problem details (RFC 9457) that name the limit which fired."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final, NamedTuple

from tenfold.gateway.framing import Reason, Refusal

PHRASES: Final = {each.value: each.phrase.encode() for each in HTTPStatus}


class Fault(NamedTuple):
    """Why a request is answered by the gateway: ``reason`` for logs, ``detail`` for a person, ``limit`` the key of the
    configuration that drew the line, if one did.
    """

    status: int
    reason: str
    detail: str
    limit: str = ""
    retry_after: float | None = None


_LIMITS: Final = {
    Reason.HEAD_TOO_LARGE: "gateway.header_max",
    Reason.LINE_TOO_LONG: "gateway.header_max",
    Reason.TOO_MANY_FIELDS: "gateway.headers_max",
}

HEADER_TIMEOUT: Final = Fault(408, "header_timeout", "the request's head took too long", "gateway.header_timeout")
BODY_TIMEOUT: Final = Fault(408, "body_timeout", "the request's body came too slowly", "gateway.body_timeout")
NO_ROUTE: Final = Fault(404, "no_route", "no route is for this request")
DOTS: Final = Fault(400, "dot_segments", 'the path has a segment "." or "..", which clients resolve themselves')
BODY_MAX: Final = Fault(413, "body_too_large", "the body is larger than the limit", "body_max")
QUEUE_FULL: Final = Fault(503, "queue_full", "every endpoint is busy and the queue is full", "pool.queue")
QUEUE_TIMEOUT: Final = Fault(503, "queue_timeout", "no endpoint was free in time", "pool.queue_timeout")
DEADLINE: Final = Fault(504, "deadline", "no answer before the deadline", "route.deadline")
CONNECT: Final = Fault(502, "connect", "no connection to the endpoint came about")
CONNECT_TIMEOUT: Final = Fault(504, "connect_timeout", "the endpoint could not be reached in time",
                               "pool.connect_timeout")  # fmt: skip
PLAIN_HTTP: Final = Fault(400, "plain_http", "this port speaks TLS, and plain HTTP came; ask by https")
BROKEN: Final = Fault(502, "upstream_broken", "the endpoint closed the connection without an answer")
FIRST_BYTE: Final = Fault(504, "first_byte_timeout", "the endpoint did not answer in time", "pool.first_byte_timeout")
STALLED: Final = Fault(504, "upstream_stalled", "the endpoint took the request too slowly", "pool.body_timeout")
ONLY_IF_CACHED: Final = Fault(504, "only_if_cached", "nothing is stored, and the client wants nothing else")
COLLAPSED: Final = Fault(502, "collapsed", "the request that this one waited for has failed")


def fault_of(refusal: Refusal) -> Fault:
    """What a refused request is answered with."""
    return Fault(refusal.status, refusal.token, refusal.sentence, _LIMITS.get(refusal.reason, ""))


def render(fault: Fault, *, close: bool, request_id: bytes = b"", extra: bytes = b"", head_only: bool = False) -> bytes:
    """The bytes of the answer. ``extra`` are header lines with their ends."""
    phrase = PHRASES.get(fault.status, b"Error")
    told: dict[str, object] = {"type": "about:blank", "title": phrase.decode(), "status": fault.status}
    told["detail"] = fault.detail
    told["reason"] = fault.reason
    if fault.limit:
        told["limit"] = fault.limit
    if request_id:
        told["request_id"] = request_id.decode("latin-1")
    body = json.dumps(told).encode()
    if fault.retry_after is not None:
        extra += b"Retry-After: %d\r\n" % max(1, int(fault.retry_after + 0.999))
    return own(fault.status, b"application/problem+json", body, close=close, extra=extra, head_only=head_only)


def own(status: int, kind: bytes, body: bytes, *, close: bool, extra: bytes = b"", head_only: bool = False) -> bytes:
    """The bytes of an answer of our own."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, PHRASES.get(status, b"Unknown"))]
    if status not in (204, 304):
        if body:
            lines.append(b"Content-Type: %b\r\n" % kind)
        lines.append(b"Content-Length: %d\r\n" % len(body))
    lines += (extra, b"Connection: close\r\n" if close else b"", b"\r\n", b"" if head_only else body)
    return b"".join(lines)
