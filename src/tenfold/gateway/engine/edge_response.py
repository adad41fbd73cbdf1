"""What the edge is told of an endpoint's answer: its fields, and the route's word where they say too little.

A route's `ttl` and its times for stale use stand in for what a response does not say of itself, and never for what it
forbids: they are handed over as a targeted Cache-Control (RFC 9213), which is for this cache alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenfold.gateway.edge import Response

if TYPE_CHECKING:
    from tenfold.gateway.config import Edge
    from tenfold.gateway.engine.edge_keys import EdgeKeys
    from tenfold.gateway.framing import ResponseHead


def response_of(head: ResponseHead, options: Edge, keys: EdgeKeys | None) -> Response:
    """The response as the edge is to take it."""
    found = _dated(head, options, keys)
    return found if keys is None else keys.vary(found)


def _dated(head: ResponseHead, options: Edge, keys: EdgeKeys | None) -> Response:
    """Where the response says nothing of its freshness, what the route says."""
    pairs = []
    for line in head.plain:
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    if keys is not None:
        pairs = keys.tag(pairs)
    response = Response(head.status, pairs, head.reason)
    fields = response.fields
    length = fields.get(b"content-length", b"0")
    if length.isdigit() and int(length) > options.largest:
        return Response(head.status, (*pairs, (b"Tenfold-Cache-Control", b"no-store")), head.reason)
    if b"tenfold-cache-control" in fields or b"expires" in fields or b"cdn-cache-control" in fields:
        return response
    said = fields.get(b"cache-control", b"")
    more = []
    if not said and options.ttl and head.status == 200 and b"pragma" not in fields:
        more.append(b"max-age=%d" % options.ttl)
    low = said.lower()
    if (low or more) and b"must-revalidate" not in low and b"no-cache" not in low:
        if options.stale_while_revalidate and b"stale-while-revalidate" not in low:
            more.append(b"stale-while-revalidate=%d" % options.stale_while_revalidate)
        if options.stale_if_error and b"stale-if-error" not in low:
            more.append(b"stale-if-error=%d" % options.stale_if_error)
    if not more:
        return response
    control = b", ".join([*([said] if said else []), *more])
    return Response(head.status, (*pairs, (b"Tenfold-Cache-Control", control)), head.reason)
