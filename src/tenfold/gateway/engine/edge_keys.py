"""What a route adds to the key of its stored responses: request headers, cookies; and which header has the tags.

Theory. RFC 9111 §4.1 has a second key beside the URL: the request's values of the fields that Vary names. Headers and
cookies that a route names are part of that one, as if the response's Vary had named them too, so that a purge of the
URL and an unsafe method still find all of it. A cookie counts by its own value and not by the whole Cookie field: it
stands among the fields as ``cookie:NAME``, which no client can send. Clients see the Vary that the backend said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenfold.gateway.edge import url_key
from tenfold.gateway.engine.users import cookie_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tenfold.gateway.config import Config, Edge
    from tenfold.gateway.edge import Response
    from tenfold.gateway.framing import RequestHead

TAGS: Final = b"surrogate-key"
OURS: Final = frozenset((TAGS, b"tenfold-cache-control"))
"""Fields of responses that are for the edge and not for clients."""
MOST_VARIANTS: Final = 10_000
"""Responses of one URL where routes have keys of their own."""

Pair = tuple[bytes, bytes]


class EdgeKeys:
    """The keys of one route."""

    __slots__ = ("_cookies", "_names", "_tags", "ours")

    def __init__(self, options: Edge) -> None:
        names = [name.lower().encode() for name in options.headers]
        self._cookies = [(b"cookie:" + name.encode(), name.encode()) for name in options.cookies]
        self._names = b", ".join([*names, *(name for name, _ in self._cookies)])
        self._tags = options.tag_header.lower().encode()
        self.ours: Final = OURS | {self._tags}

    @classmethod
    def of(cls, options: Edge | None) -> EdgeKeys | None:
        """None where a route has none of its own."""
        if options is None or not (options.headers or options.cookies or options.tag_header.lower().encode() != TAGS):
            return None
        return cls(options)

    def ask(self, fields: dict[bytes, bytes], head: RequestHead) -> None:
        """Put the cookies of the key among the request's fields."""
        if self._cookies:
            lines = head.fields.get(b"cookie", ())
            for name, cookie in self._cookies:
                value = cookie_of(lines, cookie)
                if value is not None:
                    fields[name] = value.encode("latin-1")

    def tag(self, pairs: Iterable[Pair]) -> list[Pair]:
        """A response's fields with the tags where the edge looks for them, and none from elsewhere."""
        if self._tags == TAGS:
            return list(pairs)
        kept = ((TAGS if name.lower() == self._tags else name, value, name) for name, value in pairs)
        return [(name, value) for name, value, came in kept if came.lower() != TAGS]

    def vary(self, response: Response) -> Response:
        """Let the edge tell responses apart by this route's keys too."""
        if self._names:
            said = response.fields.get(b"vary")
            response.fields[b"vary"] = self._names if said is None else said + b", " + self._names
        return response


def keys_of(config: Config) -> list[object]:
    """What the keys of a configuration depend on: where it changes, nothing that is stored may be found any more."""
    return [
        (each.name, each.host, each.path, each.edge.query, each.edge.headers, each.edge.cookies, each.edge.tag_header)
        for each in config.routes
        if each.edge is not None
    ]


def key_of(scheme: bytes, head: RequestHead, options: Edge | None) -> bytes:
    """What a request's response is stored under, as far as that is its URL."""
    target = head.target
    if options is not None and options.query is not None:
        path, _, query = target.partition(b"?")
        wanted = {name.encode() for name in options.query}
        kept = sorted(part for part in query.split(b"&") if part.partition(b"=")[0] in wanted)
        target = path + (b"?" + b"&".join(kept) if kept else b"")
    return url_key(scheme, head.host or b"", target)
