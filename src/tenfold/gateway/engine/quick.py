"""The short way of a request that what is stored answers as it is: no exchange, no decision, one look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenfold.gateway.edge import url_key

if TYPE_CHECKING:
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.route_plan import RoutePlan
    from tenfold.gateway.framing import RequestHead

_JOINED: Final = 64 * 1024
"""Bytes of a body up to which it is copied behind its head, to be written at once."""


def served(client: Client, head: RequestHead, route: RoutePlan) -> bool:
    """Answer with what is stored and fresh, where that is all there is to it; such a request never becomes an exchange.

    False, and nothing done: the long way, `CachedExchange`, finds the same and more. The caller has seen that the
    route is `RoutePlan.quick`.
    """
    site = client.site
    edge = site.edge
    if edge is None or head.method != b"GET" or head.length:
        return False
    fields = head.fields
    if fields is not client.plain_fields:
        # The same ones come again and again on a connection (`RequestReader`), and need to be judged but once.
        if not head.keep_alive or head.http10 or head.upgrade or not edge.plain(fields):
            return False
        client.plain_fields = fields
        client.origin = url_key(client.scheme.encode(), head.host or b"", b"")
    now = site.clock()
    stored = edge.plain_hit(client.origin + head.target, now)
    if stored is None:
        return False
    answer = stored.hit_head if now < stored.hit_until else edge.hit_head(stored, now)
    chunks = stored.chunks
    if len(chunks) == 1 and stored.length <= _JOINED:
        answer += chunks[0]
        chunks = ()
    kind = stored.status // 100
    route.answers[kind] += 1
    site.counters.answers[kind] += 1
    site.counters.bytes_out += len(answer)
    site.write(client.transport, answer)
    for piece in chunks:
        client.write(piece)
    return True
