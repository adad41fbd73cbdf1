"""The bytes of a response from the store: Age, Cache-Status, 304 and parts of the body."""

from __future__ import annotations

from tenfold.gateway.edge.conditional import same_representation, unchanged
from tenfold.gateway.edge.control import FOREVER
from tenfold.gateway.edge.decision import Answer, Decision
from tenfold.gateway.edge.ranges import content_range, cut, multipart, spans
from tenfold.gateway.edge.status import forwarded, hit
from tenfold.gateway.edge.stored import Stored


def status_line(decision: Decision, start: bytes, now: float) -> bytes:
    """The Cache-Status line of whatever answers this decision."""
    stored = decision.arriving or decision.stored
    fwd = decision.fwd
    ttl = None if stored is None else int(stored.fresh_until - now)
    if fwd is None:
        return hit(start, ttl or 0, decision.detail)
    return forwarded(
        start,
        fwd,
        fwd_status=decision.fwd_status,
        stored=decision.stores,
        collapsed=decision.collapsed,
        ttl=ttl if decision.stores or decision.collapsed else None,
        detail=decision.detail,
    )


def answer(decision: Decision, stored: Stored, tail: bytes, length: int | None = None) -> Answer:
    """The answer to the decision's request out of a stored response. ``tail`` ends the head: Age, Cache-Status, what
    the engine adds, and the blank line. ``length``: the body is still coming in, and will have that many bytes.
    """
    request = decision.request
    fields = request.fields
    is_head = request.method == b"HEAD"
    if stored.status == 200 and length is None:
        if unchanged(fields, stored.etag, stored.last_modified, stored.date):
            return Answer(304, stored.head_304 + tail, ())
        field = fields.get(b"range")
        if field is not None and not is_head and _applies(stored, fields.get(b"if-range")):
            wanted = spans(field, stored.length)
            if wanted is not None:
                return _parts(stored, wanted, tail)
    head = stored.head if length is None else stored.head_for(length)
    return Answer(stored.status, head + tail, () if is_head or length is not None else stored.chunks)


def _applies(stored: Stored, condition: bytes | None) -> bool:
    return condition is None or same_representation(condition, stored.etag, stored.last_modified, stored.date)


def _parts(stored: Stored, wanted: list[tuple[int, int]], tail: bytes) -> Answer:
    length = stored.length
    if not wanted:
        head = stored.head_part(416, None) + b"Content-Range: bytes */%d\r\nContent-Length: 0\r\n" % length
        return Answer(416, head + tail, ())
    if len(wanted) == 1:
        span = wanted[0]
        about = b"Content-Range: %b\r\nContent-Length: %d\r\n" % (content_range(span, length), span[1] - span[0])
        return Answer(206, stored.head_part(206, stored.kind) + about + tail, tuple(cut(stored.chunks, *span)))
    kind, pieces = multipart(stored.chunks, wanted, length, stored.kind)
    about = b"Content-Length: %d\r\n" % sum(map(len, pieces))
    return Answer(206, stored.head_part(206, kind) + about + tail, tuple(pieces))


def age(stored: Stored, now: float) -> int:
    """The value of Age: whole seconds, 2^31 at most."""
    return max(0, min(int(now - stored.born), FOREVER))
