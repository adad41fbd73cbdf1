"""What the edge wants to know of a request and of a response: plain values, as bytes, without sockets.

The engine makes a `Request` of each request that a route sends through the edge, and a `Response` of each final
response head. Field names are lower case here; a field that came in several lines is one value joined by a comma, as
RFC 9110 §5.3 has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

_PORTS: Final = {b"http": b":80", b"https": b":443"}

Pair = tuple[bytes, bytes]


def fold(pairs: Iterable[Pair]) -> dict[bytes, bytes]:
    """Fields by lower-case name; several lines of one name are joined by a comma."""
    fields: dict[bytes, bytes] = {}
    for name, value in pairs:
        name = name.lower()
        fields[name] = value if name not in fields else fields[name] + b", " + value
    return fields


def url_key(scheme: bytes, host: bytes, target: bytes) -> bytes:
    """What a response is kept under: scheme and host in lower case, no default port, and the target as it came.

    ``target`` begins with a slash (or is ``*``); the query belongs to it, a fragment does not.
    """
    return _origin(scheme, host) + target.partition(b"#")[0]


@lru_cache(maxsize=1024)
def _origin(scheme: bytes, host: bytes) -> bytes:
    scheme, host = scheme.lower(), host.lower()
    port = _PORTS.get(scheme)
    if port is not None:
        host = host.removesuffix(port)
    return scheme + b"://" + host


class Request:
    """One request. ``url`` is made by `url_key`, ``fields`` by `fold` (or handed over by the engine as it has them)."""

    __slots__ = ("fields", "method", "url")

    def __init__(self, method: bytes, url: bytes, fields: Mapping[bytes, bytes]) -> None:
        self.method = method
        self.url = url
        self.fields = fields

    def __repr__(self) -> str:
        return f"<Request {self.method!r} {self.url!r}>"


class Response:
    """The head of one final response: ``pairs`` as they came, in their order; ``fields`` the same, folded."""

    __slots__ = ("fields", "pairs", "reason", "status")

    def __init__(self, status: int, pairs: Iterable[Pair], reason: bytes = b"") -> None:
        self.status = status
        self.pairs = tuple(pairs)
        self.fields = fold(self.pairs)
        self.reason = reason

    def __repr__(self) -> str:
        return f"<Response {self.status} with {len(self.pairs)} fields>"
